"""Gaussian cube files: any field in any unit, and the LDOS as a series of them.

A cube file holds numbers without a unit. Its lengths are in bohr, and densities are by convention in 1/bohr³, which
VESTA, VMD and ASE expect; Quantum ESPRESSO's ``pp.x`` writes the LDOS in 1/(Ry bohr³).
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.cube import read_cube as _ase_read_cube
from ase.io.cube import write_cube as _ase_write_cube

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.files import PathLike, atomic_write, check_file_names, reading
from ase_ldos.geometry.fourier_resampling import resample
from ase_ldos.units import BOHR, RYDBERG

#: The unit 1/bohr³ of densities in cube files, in 1/Å³.
DENSITY_UNIT = 1 / BOHR**3
#: The unit 1/(Ry bohr³) in which Quantum ESPRESSO's pp.x writes the LDOS, in 1/(eV Å³).
LDOS_UNIT = 1 / (RYDBERG * BOHR**3)


def write_cube(
    path: PathLike, atoms: Atoms, field: np.ndarray, *, unit: float = DENSITY_UNIT, comment: str = ""
) -> None:
    """Write a field on a periodic grid; the file appears complete or not at all.

    Args:
        path: the file.
        atoms: the structure.
        field: ``[nx, ny, nz]``, e.g. the density in e/Å³; point (i, j, k) lies at i/nx a₁ + j/ny a₂ + k/nz a₃.
        unit: of the numbers in the file, in the field's unit: the file holds ``field / unit``. By default 1/bohr³
            for a field in 1/Å³; 1 writes the numbers as they are.
        comment: first line of the file; tell the unit there.

    Raises:
        ValueError: the field does not have three axes.
        OSError: the folder does not exist or cannot be written to.
    """
    if np.ndim(field) != 3:
        raise ValueError(f"a cube file holds a field with three axes; this one has shape {np.shape(field)}")
    with atomic_write(path) as draft, draft.open("w", encoding="utf-8") as file:
        _ase_write_cube(file, atoms, np.asarray(field, dtype=float) / unit, comment=comment or None)


def read_cube(path: PathLike, *, unit: float = DENSITY_UNIT) -> tuple[Atoms, np.ndarray]:
    """Read a cube file.

    Args:
        path: the file.
        unit: of the numbers in the file, see :func:`write_cube`.

    Returns:
        The atoms, periodic, about the first point of the grid (a file whose grid begins elsewhere is shifted), and the
        field, ``[nx, ny, nz]``; by default in 1/Å³.

    Raises:
        ValueError: no such file, it is cut off, holds orbitals, or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no cube file {path}")
    with reading(path, "a whole cube file"):
        text = _in_bohr(path.read_text(encoding="utf-8"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = _ase_read_cube(io.StringIO(text), read_data=True)
        atoms, field = content["atoms"], np.asarray(content["data"], dtype=float)
        atoms.positions -= np.asarray(content.get("origin", np.zeros(3)))
        atoms.pbc = True
        if not all(np.all(np.isfinite(array)) for array in (field, atoms.positions, atoms.cell.array)):
            raise ValueError("it holds numbers that are not finite")
        return atoms, field * unit


def _in_bohr(text: str) -> str:
    """The text with lengths in bohr: negative numbers of points say that they are in Å, and ASE does not read these."""
    lines = text.splitlines()
    if len(lines) < 7:
        raise ValueError(f"it has {len(lines)} lines; a header alone has 6 and one for each atom")
    n_atoms = int(lines[2].split()[0])
    if n_atoms < 0:
        raise ValueError("it holds orbitals (a negative number of atoms); fields alone are read")
    counts = [int(line.split()[0]) for line in lines[3:6]]
    if 0 in counts or len(lines) < 7 + n_atoms or len({count < 0 for count in counts}) > 1:
        raise ValueError(f"its header tells {n_atoms} atoms and {counts} points, which do not fit the file")
    points = abs(math.prod(counts))
    # a point takes two characters at the least: a header that tells more of them would cost memory in vain
    if points > len(text):
        raise ValueError(f"its header tells {points} points, more than the file can hold")
    if counts[0] > 0:
        return text
    for place, start in ((2, 1), *((n, 1) for n in (3, 4, 5)), *((6 + n, 2) for n in range(n_atoms))):
        words = lines[place].split()
        lengths = [f"{float(word) / BOHR:.12f}" for word in words[start : start + 3]]
        words = [str(abs(int(words[0]))), *words[1:start], *lengths, *words[start + 3 :]]
        lines[place] = " ".join(words)
    return "\n".join(lines) + "\n"


def read_ldos_cubes(
    paths: Sequence[PathLike],
    energies: np.ndarray,
    *,
    name: str = "cubes",
    sigma: float | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Snapshot:
    """Read the LDOS from the cube files of ``pp.x`` with ``plot_num = 3``, one energy each.

    Files are taken in the order of the numbers in their names (``tmp.pp001…``, ``tmp.pp002…``).

    Args:
        paths: the files.
        energies: their energies, eV, ``[energy]``.
        name: of the snapshot.
        sigma: standard deviation of the Gaussian in the data, eV (``degauss_ldos`` / √2).
        shape: grid onto which the fields are resampled; default: their own.

    Raises:
        ValueError: another number of files than of energies, or files of different grids or structures.
    """
    ordered = sorted((Path(path) for path in paths), key=_numbers_in_name)
    if len(ordered) != len(energies):
        raise ValueError(f"there are {len(ordered)} cube files and {len(energies)} energies; one file each is expected")
    atoms, first = read_cube(ordered[0], unit=LDOS_UNIT)
    shape = first.shape if shape is None else shape
    ldos = np.empty((*shape, len(ordered)), dtype=np.float32)
    for i, path in enumerate(ordered):
        other, field = read_cube(path, unit=LDOS_UNIT) if i else (atoms, first)
        if field.shape != first.shape or np.abs(other.positions - atoms.positions).max(initial=0) > 1e-4:
            raise ValueError(f"{path} has another grid or structure than {ordered[0]}; a series of one run is expected")
        ldos[..., i] = resample(field, shape)
    volume = atoms.get_volume()
    return Snapshot(
        name=name,
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        positions=atoms.positions,
        energies=np.asarray(energies, dtype=float),
        ldos=ldos,
        ldos_scale=1.0,
        ldos_sigma=sigma,
        dos=ldos.mean(axis=(0, 1, 2), dtype=float) * volume,
    )


def write_ldos_cubes(folder: PathLike, snapshot: Snapshot) -> list[Path]:
    """Write the LDOS as a series of cube files in the units of ``pp.x``, ``NAME_001.cube`` and so on.

    Raises:
        ValueError: the snapshot has no LDOS, or a name that cannot be that of a file.
    """
    ldos = snapshot.ldos_values()
    check_file_names([snapshot.name])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i, energy in enumerate(snapshot.energies if snapshot.energies is not None else ()):
        paths.append(folder / f"{snapshot.name}_{i + 1:03d}.cube")
        comment = f"LDOS in 1/(Ry bohr^3) at {energy:.4f} eV"
        write_cube(paths[-1], snapshot.to_atoms(), ldos[..., i], unit=LDOS_UNIT, comment=comment)
    return paths


def _numbers_in_name(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.stem))
