"""One labelled structure: what a DFT calculation says about it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_ldos.data.keys import SHAPES, check_arrays
from ase_ldos.data.packed import pack_records, unpack_records

if TYPE_CHECKING:
    from ase import Atoms

    from ase_ldos.structure import Structure

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A structure with its labels; a label that is not known is ``None``.

    The fields are the keys of the ``.npz`` files, in eV, Å, e and K.

    Attributes:
        name: the file's stem, or the name within a packed file.
        numbers: atomic numbers ``[atom]``.
        cell: lattice vectors as rows ``[3, 3]``.
        positions: Cartesian positions ``[atom, 3]``.
        energies: energy grid of LDOS and DOS ``[energy]``, increasing.
        ldos: float16 ``[nx, ny, nz, energy]``; times ``ldos_scale`` it is in 1/(eV Å³), spin included.
        ldos_scale: see ``ldos``.
        ldos_sigma: standard deviation of the Gaussian in LDOS and DOS.
        dos: ``[energy]``, 1/eV.
        density: electron density ``[nx, ny, nz]``, e/Å³.
        free_energy: Mermin's free energy (Quantum ESPRESSO's line ``!``).
        band_energy: ∫ ε f D dε, a part of ``free_energy`` as the next five are.
        smearing_TS: −TS.
        one_electron: kinetic, local and non-local energy.
        hartree: Hartree energy.
        xc: exchange-correlation energy.
        ewald: ion-ion energy.
        fermi_level: Fermi level on the self-consistent k-mesh.
        fermi_level_dense: the same on the dense mesh.
        forces: ``[atom, 3]``.
        stress: ``[3, 3]``, ASE's sign.
        kpoints: self-consistent k-mesh ``[3]``.
        k_weights: ``[k]``; they sum to 2.
        eigenvalues: ``[k, band]``.
        kpoints_dense: dense k-mesh ``[3]``.
        k_weights_dense: ``[k_dense]``.
        eigenvalues_dense: ``[k_dense, band_dense]``.
        electronic_temperature: of the Fermi-Dirac occupation.
        fft_grid: the DFT code's own grid ``[3]``.
        ecutwfc_Ry: plane-wave cutoff in Ry.
        valence: electrons per atom of the pseudopotentials, averaged over the atoms.
    """

    name: str
    numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    energies: np.ndarray | None = None
    ldos: np.ndarray | None = None
    ldos_scale: float | None = None
    ldos_sigma: float | None = None
    dos: np.ndarray | None = None
    density: np.ndarray | None = None
    free_energy: float | None = None
    band_energy: float | None = None
    smearing_TS: float | None = None  # noqa: N815 (T and S are the physics' names)
    one_electron: float | None = None
    hartree: float | None = None
    xc: float | None = None
    ewald: float | None = None
    fermi_level: float | None = None
    fermi_level_dense: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    kpoints: np.ndarray | None = None
    k_weights: np.ndarray | None = None
    eigenvalues: np.ndarray | None = None
    kpoints_dense: np.ndarray | None = None
    k_weights_dense: np.ndarray | None = None
    eigenvalues_dense: np.ndarray | None = None
    electronic_temperature: float | None = None
    fft_grid: np.ndarray | None = None
    ecutwfc_Ry: float | None = None  # noqa: N815 (Ry is the unit)
    valence: float | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def family(self) -> str:
        """Cell type: the name up to its number; snapshots of one family share a k-mesh and its error."""
        return self.name.rsplit("_", 1)[0]

    @property
    def has_ldos(self) -> bool:
        """Whether the local density of states is known."""
        return self.ldos is not None

    @property
    def complete_below(self) -> float | None:
        """Energy below which LDOS and DOS hold all states: the least of the highest band, if it is known, eV."""
        return None if self.eigenvalues_dense is None else float(self.eigenvalues_dense.max(axis=1).min())

    @property
    def n_electrons(self) -> float | None:
        """Number of valence electrons, if ``valence`` is known."""
        return None if self.valence is None else self.valence * len(self)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Shape of the grid of LDOS or density."""
        field = self.density if self.ldos is None else self.ldos
        return None if field is None else (field.shape[0], field.shape[1], field.shape[2])

    @property
    def structure(self) -> Structure:
        """The structure as tensors."""
        from ase_ldos.structure import Structure

        return Structure.from_arrays(self.numbers, self.positions, self.cell)

    def to_atoms(self) -> Atoms:
        """The structure as ASE atoms."""
        from ase import Atoms

        return Atoms(self.numbers, positions=self.positions, cell=self.cell, pbc=True)

    def ldos_values(self) -> np.ndarray:
        """The LDOS in 1/(eV Å³), float32 ``[nx, ny, nz, energy]``.

        Raises:
            ValueError: the snapshot has no LDOS.
        """
        if self.ldos is None or self.ldos_scale is None:
            raise ValueError(f"{self.name} has no LDOS; only energies, forces and density can be learned from it")
        return self.ldos.astype(np.float32) * np.float32(self.ldos_scale)


def load_snapshot(path: PathLike) -> Snapshot:
    """Read one ``.npz`` file, without pickle, and check it.

    Raises:
        ValueError: not a snapshot, a key is missing, misshaped or not finite, or the file is cut off.
    """
    arrays = _read_arrays(path)
    if "format" in arrays:
        raise ValueError(f"{path} holds many snapshots; read it with load_snapshots")
    return snapshot_from_arrays(Path(path).stem, arrays, str(path))


def load_snapshots(source: PathLike | Iterable[PathLike]) -> list[Snapshot]:
    """Read all snapshots of a folder, a data set, a file (also a packed one), or several of these.

    Within a folder they are sorted by name; those of a data set stay on disk and are read where they are touched.

    Raises:
        ValueError: nothing is there, or a file is wrong (see :func:`load_snapshot`).
    """
    if not isinstance(source, str | os.PathLike):
        return [snapshot for path in source for snapshot in load_snapshots(path)]
    path = Path(source)
    if path.is_dir():
        from ase_ldos.data.dataset import is_dataset, load_dataset

        if is_dataset(path):
            return load_dataset(path)
        files = sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))
        if not files:
            raise ValueError(f"folder {path} has no .npz file; snapshots are expected there")
        return load_snapshots(files)
    arrays = _read_arrays(path)
    if "format" not in arrays:
        return [snapshot_from_arrays(path.stem, arrays, str(path))]
    records = unpack_records(arrays, arrays, str(path))
    return [
        snapshot_from_arrays(str(record.pop("name")), record, f"{path}, record {i}") for i, record in enumerate(records)
    ]


def save_snapshot(path: PathLike, snapshot: Snapshot) -> None:
    """Write one snapshot as compressed ``.npz``; the file appears complete or not at all.

    Raises:
        ValueError: the name does not end in ``.npz``.
        OSError: the folder is missing or the disk full.
    """
    _write_arrays(path, snapshot_to_arrays(snapshot))


def pack_snapshots(path: PathLike, snapshots: Iterable[Snapshot], *, density: bool = True) -> None:
    """Write many snapshots without LDOS into one compressed file that :func:`load_snapshots` reads.

    Density is stored as float16 and eigenvalues as float32, all else as it is.

    Args:
        path: the file, ``.npz``.
        snapshots: what to write.
        density: whether to store the densities, most of the size.

    Raises:
        ValueError: there is no snapshot, or a name stands twice.
    """
    small = {"density": np.float16, "eigenvalues": np.float32, "k_weights": np.float32}
    left_out = {"ldos", "ldos_scale", "energies", "dos", "ldos_sigma"} | (set() if density else {"density"})
    left_out |= {name for name in SHAPES if name.endswith("_dense")}
    records = []
    for snapshot in snapshots:
        arrays = {key: value for key, value in snapshot_to_arrays(snapshot).items() if key not in left_out}
        records.append(
            {"name": np.array(snapshot.name)} | {k: v.astype(small[k]) if k in small else v for k, v in arrays.items()}
        )
    names = [str(record["name"]) for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"name {twice[0]!r} stands twice; every snapshot needs a name of its own")
    _write_arrays(path, pack_records(records))


def snapshot_from_arrays(name: str, arrays: Mapping[str, np.ndarray], source: str) -> Snapshot:
    """Make a snapshot of arrays after checking them; keys that a snapshot does not know are ignored.

    Raises:
        ValueError: see :func:`load_snapshot`.
    """
    check_arrays(arrays, source)
    known = {key: arrays[key] for key in SHAPES if key in arrays}
    values: dict[str, Any] = {key: float(value) if SHAPES[key] == () else value for key, value in known.items()}
    if "density" in values and values["density"].dtype == np.float16:
        values["density"] = values["density"].astype(np.float32)
    return Snapshot(name=name, **values)


def snapshot_to_arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """All known labels of a snapshot as arrays, without its name."""
    values = {field.name: getattr(snapshot, field.name) for field in fields(snapshot) if field.name != "name"}
    return {key: np.asarray(value) for key, value in values.items() if value is not None}


def _read_arrays(path: PathLike) -> dict[str, np.ndarray]:
    if not Path(path).is_file():
        raise ValueError(f"there is no snapshot file {path}")
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable .npz file (cut off or of another kind): {error}") from error


def _write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a snapshot is written as .npz; the name given is {path.name!r}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
