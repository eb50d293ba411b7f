"""Data of one format into another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from tqdm import tqdm

from ase_ldos.dataset.compact import save_compact
from ase_ldos.dataset.folder import write_dataset
from ase_ldos.dataset.npz import load_snapshots, pack_snapshots, save_snapshot
from ase_ldos.dataset.provenance import read_record, write_record
from ase_ldos.dataset.snapshot import Snapshot, snapshot_from_arrays
from ase_ldos.files import PathLike, atomic_write, check_file_names, check_output, check_output_folder, reading
from ase_ldos.formats.cube import read_ldos_cubes, write_cube, write_ldos_cubes


def snapshot_from_atoms(atoms: Atoms, name: str) -> Snapshot:
    """Energy, forces and stress that ASE atoms carry, as a snapshot without LDOS.

    ``free_energy`` is taken where the atoms have it, else ``energy``. Without a stress, one is made of a virial W in
    ``atoms.info`` (eV, keys ``virial`` or ``virials``): σ = −W/V.

    Raises:
        ValueError: the atoms carry no energy, numbers that are not finite, or are not periodic.
    """
    from ase_ldos.geometry.structure import check_atoms

    check_atoms(atoms.positions, atoms.cell.array, atoms.pbc)
    results = {} if atoms.calc is None else atoms.calc.results
    if "energy" not in results and "free_energy" not in results:
        raise ValueError(f"structure {name} carries no energy; a label needs one")
    arrays = {"numbers": atoms.numbers, "cell": atoms.cell.array, "positions": atoms.positions}
    arrays["free_energy"] = np.asarray(results["free_energy"] if "free_energy" in results else results["energy"])
    if "forces" in results:
        arrays["forces"] = np.asarray(results["forces"])
    stress = _stress(atoms, results)
    if stress is not None:
        arrays["stress"] = stress
    return snapshot_from_arrays(name, arrays, f"structure {name}")


def _stress(atoms: Atoms, results: Mapping[str, Any]) -> np.ndarray | None:
    """Stress ``[3, 3]``, eV/Å³, of the atoms' results or of their virial."""
    stress = results.get("stress")
    if stress is None:
        virial = next((atoms.info[key] for key in ("virial", "virials") if key in atoms.info), None)
        if virial is None:
            return None
        stress = -np.asarray(virial, dtype=float) / atoms.get_volume()
    stress = np.asarray(stress)
    return voigt_6_to_full_3x3_stress(stress) if stress.size == 6 else stress.reshape(3, 3)


def atoms_from_snapshot(snapshot: Snapshot) -> Atoms:
    """A snapshot as ASE atoms with energy, free energy, forces and stress, as far as they are known."""
    atoms = snapshot.to_atoms()
    results: dict[str, float | np.ndarray | None] = {
        "energy": snapshot.free_energy,
        "free_energy": snapshot.free_energy,
        "forces": snapshot.forces,
        "stress": None if snapshot.stress is None else full_3x3_to_voigt_6_stress(snapshot.stress),
    }
    atoms.calc = SinglePointCalculator(atoms, **{key: value for key, value in results.items() if value is not None})
    atoms.info["name"] = snapshot.name
    return atoms


def read_any(sources: Sequence[PathLike], energies: np.ndarray | None = None) -> list[Snapshot]:
    """Read snapshots from whatever the files are.

    ``.npz`` files and folders of them, data sets, MALA's ``NAME.info.json``, a series of LDOS ``.cube`` files (one
    snapshot together), and everything else that ASE reads, e.g. extxyz with energies and forces.

    Args:
        sources: files and folders.
        energies: energy grid of MALA's and cube files, eV, ``[energy]``.

    Raises:
        ValueError: a file is missing or wrong, or the energies are missing.
    """
    paths = [Path(source) for source in sources]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ValueError(f"there is no file or folder {missing[0]}")
    snapshots: list[Snapshot] = []
    cubes = [path for path in paths if path.suffix == ".cube"]
    if cubes:
        snapshots.append(read_ldos_cubes(cubes, _needed(energies, "cube files"), name=cubes[0].stem))
    for path in paths:
        if path.is_dir() or path.suffix == ".npz":
            snapshots += load_snapshots(path)
        elif path.name.endswith(".info.json"):
            from ase_ldos.formats.mala import read_mala_snapshot

            snapshots.append(read_mala_snapshot(path, _needed(energies, "MALA's files")))
        elif path.suffix != ".cube":
            snapshots += _read_with_ase(path)
    return snapshots


def _needed(energies: np.ndarray | None, what: str) -> np.ndarray:
    if energies is None:
        raise ValueError(f"{what} do not say their energies; give --energies FIRST SPACING NUMBER")
    return energies


def _read_with_ase(path: Path) -> list[Snapshot]:
    name = path.stem
    with reading(path, "a file of structures with energies that ASE reads"):
        frames = read(path, ":")
        return [
            snapshot_from_atoms(atoms, str(atoms.info.get("name", f"{name}_{i:04d}"))) for i, atoms in enumerate(frames)
        ]


def _write_folder(out: Path, snapshots: Iterable[Snapshot]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for snapshot in snapshots:
        save_snapshot(out / f"{snapshot.name}.npz", snapshot)


def _write_compact(out: Path, snapshots: Iterable[Snapshot]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for snapshot in snapshots:
        save_compact(out / f"{snapshot.name}.npz", snapshot)


def _write_mala(out: Path, snapshots: Iterable[Snapshot]) -> None:
    from ase_ldos.formats.mala import write_mala_snapshot

    for snapshot in snapshots:
        write_mala_snapshot(out, snapshot)


def _write_densities(out: Path, snapshots: Iterable[Snapshot]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for snapshot in snapshots:
        if snapshot.density is None:
            raise ValueError(f"{snapshot.name} has no density")
        write_cube(
            out / f"{snapshot.name}.cube", snapshot.to_atoms(), snapshot.density, comment="electron density, 1/bohr^3"
        )


def _write_ldos(out: Path, snapshots: Iterable[Snapshot]) -> None:
    for snapshot in snapshots:
        write_ldos_cubes(out / snapshot.name, snapshot)


def _write_openpmd(out: Path, snapshots: Iterable[Snapshot]) -> None:
    from ase_ldos.formats.openpmd import write_openpmd

    out.mkdir(parents=True, exist_ok=True)
    for snapshot in snapshots:
        write_openpmd(out / f"{snapshot.name}.h5", snapshot)


def _write_extxyz(out: Path, snapshots: Iterable[Snapshot]) -> None:
    with atomic_write(out) as draft:
        write(draft, [atoms_from_snapshot(snapshot) for snapshot in snapshots], format="extxyz")


#: Formats that can be written.
WRITERS: dict[str, Callable[[Path, Iterable[Snapshot]], None]] = {
    "npz": _write_folder,
    "compact": _write_compact,
    "packed": pack_snapshots,
    "dataset": write_dataset,
    "mala": _write_mala,
    "density-cube": _write_densities,
    "ldos-cube": _write_ldos,
    "openpmd": _write_openpmd,
    "extxyz": _write_extxyz,
}
#: Those that write one file; the others write a file or a folder for each snapshot, by its name.
ONE_FILE = frozenset({"packed", "extxyz"})


def convert(
    sources: Sequence[PathLike],
    out: PathLike,
    to: str,
    *,
    energies: np.ndarray | None = None,
    ldos_bits: int | None = None,
    progress: bool = False,
) -> list[Snapshot]:
    """Read snapshots of any known format and write them in another.

    Args:
        sources: see :func:`read_any`.
        out: a folder; a file for ``"packed"`` and ``"extxyz"``.
        to: a key of ``WRITERS``.
        energies: see :func:`read_any`.
        ldos_bits: keep so many bits of the LDOS' significand, of ten; files shrink by a tenth for each one dropped.
        progress: show a bar.

    Returns:
        What was written.

    Raises:
        ValueError: an unknown format, bits outside 1 … 10, names that are equal or cannot be those of files, or what
            reading and writing refuse.
        OSError: nothing can be written there.
    """
    if to not in WRITERS:
        raise ValueError(f"the format {to!r} is unknown; known are {', '.join(WRITERS)}")
    if to in ONE_FILE:
        check_output(out)
    else:
        check_output_folder(out)
    snapshots = read_any(sources, energies)
    if to not in ONE_FILE:
        check_file_names(snapshot.name for snapshot in snapshots)
    if ldos_bits is not None:
        snapshots = [
            snapshot if snapshot.ldos is None else replace(snapshot, ldos=round_significand(snapshot.ldos, ldos_bits))
            for snapshot in snapshots
        ]
    WRITERS[to](Path(out), tqdm(snapshots, unit="structure", disable=not progress))
    records = [record for source in sources if Path(source).is_dir() and (record := read_record(source))]
    # a mixture of set-ups has no single record
    if Path(out).is_dir() and records and all(record == records[0] for record in records[1:]):
        write_record(out, records[0])
    return snapshots


def round_significand(values: np.ndarray, bits: int) -> np.ndarray:
    """float16 numbers rounded to ``bits`` bits behind the leading one, of ten: within 2^−(bits + 1) of each.

    Raises:
        ValueError: other numbers than float16, or bits outside 1 … 10.
    """
    if values.dtype != np.float16:
        raise ValueError(f"the numbers are {values.dtype}; only float16 can be rounded")
    if not 1 <= bits <= 10:
        raise ValueError(f"{bits} bits of the significand are asked for; float16 has 1 to 10")
    drop = 10 - bits
    pattern = np.ascontiguousarray(values).view(np.uint16).astype(np.uint32)
    # half of the last kept bit is added, then the rest is cut off; a carry into the exponent is right
    rounded = (pattern + ((1 << drop) >> 1)) >> drop << drop
    return rounded.astype(np.uint16).view(np.float16)
