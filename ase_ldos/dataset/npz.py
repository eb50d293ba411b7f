"""Files of snapshots: one each, many packed into one, or a data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ase_ldos.dataset.compact import is_compact, load_compact
from ase_ldos.dataset.folder import is_dataset, load_dataset
from ase_ldos.dataset.packed_npz import pack_records, unpack_records
from ase_ldos.dataset.schema import SHAPES
from ase_ldos.dataset.snapshot import Snapshot, snapshot_from_arrays, snapshot_to_arrays
from ase_ldos.files import PathLike, atomic_write, reading

__all__ = [
    "PathLike",
    "Snapshot",
    "load_snapshot",
    "load_snapshots",
    "pack_snapshots",
    "save_snapshot",
    "snapshot_from_arrays",
    "snapshot_to_arrays",
]


def load_snapshot(path: PathLike) -> Snapshot:
    """Read one ``.npz`` file, without pickle, and check it.

    Raises:
        ValueError: not a snapshot, a key is missing, misshaped or not finite, or the file is cut off.
    """
    with reading(path, "a snapshot"):
        if is_compact(path):
            return load_compact(path)
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
        if is_dataset(path):
            return load_dataset(path)
        files = sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))
        if not files:
            raise ValueError(f"folder {path} has no .npz file; snapshots are expected there")
        return load_snapshots(files)
    with reading(path, "a file of snapshots"):
        if is_compact(path):
            return [load_compact(path)]
        arrays = _read_arrays(path)
        if "format" not in arrays:
            return [snapshot_from_arrays(path.stem, arrays, str(path))]
        records = unpack_records(arrays, arrays, str(path))
        return [
            snapshot_from_arrays(_name(record, i), record, f"{path}, record {i}") for i, record in enumerate(records)
        ]


def save_snapshot(path: PathLike, snapshot: Snapshot) -> None:
    """Write one snapshot as compressed ``.npz``; the file appears complete or not at all.

    Raises:
        ValueError: the name does not end in ``.npz``.
        OSError: the folder is missing or the disk full.
    """
    _write_arrays(path, snapshot_to_arrays(snapshot))


def pack_snapshots(
    path: PathLike, snapshots: Iterable[Snapshot], *, density: bool = True, eigenvalues: bool = True
) -> None:
    """Write many snapshots without LDOS into one compressed file that :func:`load_snapshots` reads.

    Density is stored as float16 and eigenvalues as float32, all else as it is. The LDOS and its dense mesh are
    left out.

    Args:
        path: the file, ``.npz``.
        snapshots: what to write.
        density: whether to store the densities, most of the size.
        eigenvalues: whether to store the states of the self-consistent mesh; the DOS stays.

    Raises:
        ValueError: there is no snapshot, or a name stands twice.
    """
    small = {"density": np.float16, "eigenvalues": np.float32, "k_weights": np.float32}
    left_out = {"ldos", "ldos_scale"} | (set() if density else {"density"})
    left_out |= {name for name in SHAPES if name.endswith("_dense")}
    left_out |= set() if eigenvalues else {"eigenvalues", "k_weights"}
    dos = {"energies", "dos", "ldos_sigma"}
    records = []
    for snapshot in snapshots:
        # without the dense mesh nobody could tell up to where its DOS holds all states
        out = left_out if snapshot.complete_below is None else left_out | dos
        arrays = {key: value for key, value in snapshot_to_arrays(snapshot).items() if key not in out}
        records.append(
            {"name": np.array(snapshot.name)} | {k: v.astype(small[k]) if k in small else v for k, v in arrays.items()}
        )
    names = [str(record["name"]) for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"name {twice[0]!r} stands twice; every snapshot needs a name of its own")
    _write_arrays(path, pack_records(records))


def _name(record: dict[str, np.ndarray], number: int) -> str:
    if "name" not in record:
        raise ValueError(f"record {number} has no name")
    return str(record.pop("name"))


def _read_arrays(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays that a snapshot or a packed file may hold; others, however large, are not read."""
    if not Path(path).is_file():
        raise ValueError(f"there is no snapshot file {path}")
    known = {*SHAPES, "name"}
    known |= {f"{key}.shape" for key in known} | {"format", "count"}
    with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, not an archive of several")
        arrays = {key: archive[key] for key in archive.files if key in known}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"key {key!r} holds no array")
    return arrays


def _write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a snapshot is written as .npz; the name given is {path.name!r}")
    try:
        with atomic_write(path) as draft:
            np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error
