"""Structures that a user asks for: an uploaded file, an example, or a crystal that is built.

An upload is read under a name of ours and by a reader from a list: its own name only helps to tell the format.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states

from ase_ldos.simulation.stacking import polytype
from ase_ldos.web.limits import Limits
from ase_ldos.web.request_fields import take_choice, take_integer, take_number, take_text

#: Formats of one file that hold structures; those of ASE that run code, unpickle, or open other files are not here.
FORMATS = frozenset(
    "aims aims-output castep-castep castep-cell cfg cif cjson crystal cube dftb dlp4 elk espresso-in espresso-out "  # noqa: SIM905
    "extxyz gen gpaw-out gromacs gromos lammps-data lammps-dump-text mol mustem nomad-json onetep-out "
    "proteindatabank qbox res rmc6f sdf siesta-xv struct struct_out sys traj turbomole v-sim vasp vasp-out "
    "vasp-xdatcar vasp-xml xsd xsf xyz".split()
)

#: Layers of the crystals with a fault, see ``ase_ldos.simulation.stacking``.
FAULTS = {
    "none": "",
    "I1": "hhhhhhc",
    "I2": "hhhhcc",
    "E": "hhhhccc",
    "fcc-intrinsic": "cccchh",
    "fcc-extrinsic": "cccchch",
}
LATTICES = ("hcp", "fcc", "bcc", "sc", "diamond")
#: Lattice constants a and c of the bundled models' own DFT set-ups, Å; other elements have ASE's.
LATTICE_CONSTANTS = {("Be", "hcp"): (2.245, 3.531), ("Al", "fcc"): (4.04, 4.04)}

#: Name → title, elements, and how to build it.
EXAMPLES: dict[str, dict[str, Any]] = {
    "be-hcp": {"title": "Beryllium, hcp", "element": "Be", "lattice": "hcp"},
    "be-hot": {
        "title": "Beryllium, 16 atoms, rattled",
        "element": "Be",
        "lattice": "hcp",
        "supercell": [2, 2, 2],
        "rattle": 0.08,
    },
    "be-fault": {
        "title": "Beryllium, stacking fault I₂",
        "element": "Be",
        "lattice": "hcp",
        "fault": "I2",
        "supercell": [1, 1, 1],
    },
    "al-fcc": {"title": "Aluminium, fcc", "element": "Al", "lattice": "fcc", "cubic": True},
}


def make_structure(spec: Mapping[str, Any], limits: Limits) -> tuple[Atoms, list[str]]:
    """The atoms that a request describes, periodic in three directions, and remarks about what was done to them.

    Args:
        spec: ``{"source": "file", "name", "content" (base64), "index"}``, ``{"source": "example", "name"}`` or
            ``{"source": "build", "element", "lattice", "a", "c", "supercell", "fault", "rattle", "strain", "seed"}``.
        limits: of the server.

    Raises:
        ValueError: it cannot be made, or has too many atoms; the message is for the user.
    """
    source = take_choice(spec, "source", None, ("file", "example", "build"))
    if source == "file":
        atoms = _read_upload(spec)
    elif source == "example":
        name = take_choice(spec, "name", None, EXAMPLES)
        atoms = _build({"seed": 1} | EXAMPLES[name], limits)
    else:
        atoms = _build(spec, limits)
    remarks = _make_periodic(atoms)
    if len(atoms) > limits.atoms:
        raise ValueError(f"the structure has {len(atoms)} atoms; this server takes at most {limits.atoms}")
    return atoms, remarks


def _read_upload(spec: Mapping[str, Any]) -> Atoms:
    name = take_text(spec, "name", "", 200)
    index = take_integer(spec, "index", -1, -(10**6), 10**6)
    try:
        content = base64.b64decode(take_text(spec, "content", None, 10**9), validate=True)
    except binascii.Error as error:
        raise ValueError(f"content must be base64: {error}") from error
    if not content:
        raise ValueError("the file is empty")
    problems = []
    with TemporaryDirectory(prefix="ase-ldos-upload-") as folder:
        path = Path(folder) / "structure"
        path.write_bytes(content)
        for file_format in _file_formats(name, content):
            try:
                return _read_as(path, index, file_format)
            except ValueError as error:
                problems.append(str(error))
    raise ValueError("; ".join(problems))


def _read_as(path: Path, index: int, file_format: str) -> Atoms:
    """The atoms of a file, without labels, constraints and results: these are not what is to be predicted.

    Raises:
        ValueError: ASE finds no atoms in it.
    """
    from ase.io import read

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = read(path, index=index, format=file_format)
    except MemoryError:
        raise
    except Exception as error:  # the readers of some forty formats raise anything
        reason = " ".join(f"{type(error).__name__} {error}".replace(str(path), "the file").split())[:300]
        raise ValueError(f"ASE cannot read the file as {file_format}: {reason}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"ASE finds no atoms in the file as {file_format}")
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _file_formats(name: str, content: bytes) -> list[str]:
    """ASE's names of the formats it may have, from what the file is called and how it begins.

    Raises:
        ValueError: not known, or not among those that are taken.
    """
    from ase.io import formats

    base = name.replace("\\", "/").rsplit("/", 1)[-1].lower()
    suffix = base.rsplit(".", 1)[-1] if "." in base else ""
    known = formats.ioformats
    # those whose names are words (POSCAR, geometry.in) first, then the suffix, then the first bytes
    found = [form.name for form in known.values() if form.globs and form.match_name(name.rsplit("/", 1)[-1])]
    found += [form.name for form in known.values() if suffix and suffix in (*form.extensions, form.name)]
    found += [form.name for form in known.values() if form.magic and form.match_magic(content[:50000])]
    taken = ["extxyz" if form == "xyz" else str(form) for form in found if form in FORMATS]
    if taken:
        return list(dict.fromkeys(taken))
    raise ValueError(
        f"the format of {name or 'the file'!r} is {found[0] if found else 'not known'}; this server reads "
        "extxyz, CIF, POSCAR, cube, Quantum ESPRESSO, FHI-aims, LAMMPS data and some thirty more text formats of ASE"
    )


def _build(spec: Mapping[str, Any], limits: Limits) -> Atoms:
    element = take_choice(spec, "element", None, chemical_symbols[1:])
    lattice = take_choice(spec, "lattice", "hcp", LATTICES)
    fault = take_choice(spec, "fault", "none", FAULTS)
    default_a, default_c = default_constants(element, lattice)
    a = take_number(spec, "a", default_a, 1.0, 20.0, unit=" Å")
    c = take_number(spec, "c", a * default_c / default_a, 1.0, 60.0, unit=" Å")
    sizes = spec.get("supercell", [1, 1, 1])
    if not isinstance(sizes, list) or len(sizes) != 3:
        raise ValueError("supercell must be three whole numbers")
    repeat = [take_integer({"supercell": n}, "supercell", None, 1, 64) for n in sizes]
    layers = len(FAULTS[fault])
    per_cell = layers or {"hcp": 2, "diamond": 2}.get(lattice, 4 if spec.get("cubic") else 1)
    n_atoms = per_cell * repeat[0] * repeat[1] * repeat[2]
    if n_atoms > limits.atoms:
        raise ValueError(f"the structure would have {n_atoms} atoms; this server takes at most {limits.atoms}")
    if fault != "none":
        if lattice not in ("hcp", "fcc"):
            raise ValueError("a stacking fault needs close-packed layers: hcp or fcc")
        spacing, height = (a, c) if lattice == "hcp" else (a / np.sqrt(2), 2 * a / np.sqrt(3))
        atoms = polytype(element, spacing, height, FAULTS[fault], (1, 1))
    elif lattice == "hcp":
        atoms = bulk(element, "hcp", a=a, c=c)
    else:
        atoms = bulk(element, lattice, a=a, cubic=bool(spec.get("cubic", False)))
    atoms = make_supercell(atoms, np.diag(repeat))
    strain = take_number(spec, "strain", 0.0, -20.0, 20.0, unit=" %")
    atoms.set_cell(atoms.cell[:] * (1 + strain / 100), scale_atoms=True)
    rattle = take_number(spec, "rattle", 0.0, 0.0, 0.5, unit=" Å")
    if rattle:
        atoms.rattle(rattle, seed=take_integer(spec, "seed", 1, 0, 2**31 - 1))
    return atoms


def default_constants(element: str, lattice: str) -> tuple[float, float]:
    """Lattice constants a and c, Å: those of a bundled model or of ASE's reference state.

    Of another lattice than these the volume per atom is theirs, which metals hardly change; without any known lattice
    of the element it is that of touching atoms.
    """
    known = LATTICE_CONSTANTS.get((element, lattice))
    if known is not None:
        return known
    state: Any = reference_states[atomic_numbers[element]] or {}
    if state.get("symmetry") == lattice and "a" in state:
        a = float(state["a"])
        return a, a * float(state.get("c/a") or np.sqrt(8 / 3))
    # volume per atom of each lattice in units of a³, hcp with the ideal c/a
    parts = {"hcp": 1 / np.sqrt(2), "fcc": 1 / 4, "bcc": 1 / 2, "sc": 1.0, "diamond": 1 / 8}
    a, c = next((found for (name, _), found in LATTICE_CONSTANTS.items() if name == element), (0.0, 0.0))
    own = next((other for name, other in LATTICE_CONSTANTS if name == element), str(state.get("symmetry")))
    if a == 0.0 and own in parts and "a" in state:
        a = float(state["a"])
        c = a * float(state.get("c/a") or np.sqrt(8 / 3))
    if a == 0.0:
        volume = (2 * float(covalent_radii[atomic_numbers[element]])) ** 3 / np.sqrt(2)
    else:
        volume = np.sqrt(3) / 4 * a**2 * c if own == "hcp" else parts[own] * a**3
    a = float((volume / parts[lattice]) ** (1 / 3))
    return a, a * float(np.sqrt(8 / 3))


def _make_periodic(atoms: Atoms) -> list[str]:
    """Make the cell periodic in three directions; says what was changed.

    Raises:
        ValueError: positions or cell are not numbers, or a cell without volume.
    """
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()):
        raise ValueError("positions or cell of the structure are not finite numbers")
    remarks = []
    if not atoms.cell.any(axis=1).all():
        atoms.center(vacuum=4.0, axis=[axis for axis in range(3) if not atoms.cell[axis].any()])
        remarks.append("The file has no full cell: 4 Å of vacuum were added around the atoms.")
    elif not atoms.pbc.all():
        remarks.append("The structure is taken as periodic in all three directions.")
    atoms.pbc = True
    if atoms.get_volume() < 1e-3 * len(atoms):
        raise ValueError(f"the cell has a volume of {atoms.get_volume():.3g} Å³ for {len(atoms)} atoms")
    return remarks
