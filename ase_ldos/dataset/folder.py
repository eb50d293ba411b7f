"""The data set on disk: a folder per snapshot with memory-mapped arrays and a JSON file.

    DATASET/dataset.json          format and version
    DATASET/NAME/snapshot.json    single numbers; shape, type and hash of each array
    DATASET/NAME/KEY.npy          the arrays

An array is read only where it is touched, so that a few points of a large LDOS cost no more than themselves.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ase_ldos.dataset.schema import SHAPES
from ase_ldos.dataset.snapshot import Snapshot, snapshot_from_arrays, snapshot_to_arrays
from ase_ldos.files import PathLike, check_file_names, read_json, write_json

FORMAT = "ase-ldos dataset"
VERSION = 1
_INDEX = "dataset.json"
_ENTRY = "snapshot.json"


def is_dataset(folder: PathLike) -> bool:
    """Whether a folder is a data set of this kind, of whatever version."""
    return (Path(folder) / _INDEX).is_file()


def write_dataset(folder: PathLike, snapshots: Iterable[Snapshot]) -> None:
    """Write or extend a data set; each snapshot appears complete or not at all.

    Args:
        folder: made if need be.
        snapshots: what to add; an iterator is consumed one by one.

    Raises:
        ValueError: a name is there already or cannot be a folder's, the data set is of another version, or the disk
            is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if is_dataset(folder):
        _check_version(folder)
    else:
        write_json(folder / _INDEX, {"format": FORMAT, "version": VERSION})
    for snapshot in snapshots:
        target = folder / snapshot.name
        check_file_names([snapshot.name])
        if target.exists():
            raise ValueError(f"snapshot {snapshot.name!r} cannot be added to {folder}: choose a name that is new")
        temporary = folder / f".{snapshot.name}.{os.getpid()}"
        try:
            temporary.mkdir()
            _write_entry(temporary, snapshot)
            temporary.rename(target)
        except OSError as error:
            raise ValueError(f"snapshot {snapshot.name} could not be written to {folder}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def load_dataset(folder: PathLike, names: Iterable[str] | None = None) -> list[Snapshot]:
    """Open the snapshots of a data set; their arrays are memory-mapped and read-only.

    Args:
        folder: of the data set.
        names: which snapshots; default: all, sorted by name.

    Raises:
        ValueError: not a data set, another version, an unknown name, or an array that is missing or cut off.
    """
    folder = Path(folder)
    _check_version(folder)
    chosen = snapshot_names(folder) if names is None else list(names)
    return [_load_entry(folder, name) for name in chosen]


def snapshot_names(folder: PathLike) -> list[str]:
    """Names of the snapshots in a data set, sorted."""
    return sorted(path.parent.name for path in Path(folder).glob(f"[!.]*/{_ENTRY}"))


def dataset_hash(folder: PathLike) -> str:
    """SHA-256 of the data set's content (from the hashes in its JSON files), for a model's provenance.

    Raises:
        ValueError: not a data set, or another version.
    """
    folder = Path(folder)
    _check_version(folder)
    digest = hashlib.sha256()
    for name in snapshot_names(folder):
        digest.update(name.encode() + b"\0" + (folder / name / _ENTRY).read_bytes())
    return digest.hexdigest()


def check_hashes(folder: PathLike) -> None:
    """Read every array and compare it with its hash.

    Raises:
        ValueError: an array is not what was written; the message names it.
    """
    folder = Path(folder)
    _check_version(folder)
    for name in snapshot_names(folder):
        for key, entry in read_json(folder / name / _ENTRY)["arrays"].items():
            if file_hash(folder / name / f"{key}.npy") != entry["sha256"]:
                raise ValueError(f"{folder / name / key}.npy is damaged: its hash is not that of its snapshot.json")


def _write_entry(folder: Path, snapshot: Snapshot) -> None:
    scalars: dict[str, float | str] = {}
    arrays: dict[str, dict[str, Any]] = {}
    for key, array in snapshot_to_arrays(snapshot).items():
        if SHAPES[key] == ():
            scalars[key] = array.item() if array.dtype.kind == "U" else float(array)
            continue
        path = folder / f"{key}.npy"
        np.save(path, np.ascontiguousarray(array))
        arrays[key] = {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": file_hash(path)}
    write_json(folder / _ENTRY, {"name": snapshot.name, "values": scalars, "arrays": arrays})


def _load_entry(folder: Path, name: str) -> Snapshot:
    path = folder / name / _ENTRY
    if not path.is_file():
        known = ", ".join(snapshot_names(folder)[:5])
        raise ValueError(f"{folder} has no snapshot {name!r}; it has {known} …")
    entry = read_json(path)
    arrays: dict[str, np.ndarray] = {key: np.array(value) for key, value in entry["values"].items()}
    for key, expected in entry["arrays"].items():
        file = path.parent / f"{key}.npy"
        try:
            arrays[key] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{file} is missing or cut off: {error}") from error
        if list(arrays[key].shape) != expected["shape"] or arrays[key].dtype.str != expected["dtype"]:
            raise ValueError(f"{file} holds {arrays[key].dtype.str} {arrays[key].shape}; snapshot.json says {expected}")
    return snapshot_from_arrays(name, arrays, str(path.parent))


def _check_version(folder: Path) -> None:
    if not is_dataset(folder):
        raise ValueError(f"{folder} is not a data set (it has no {_INDEX})")
    index = read_json(folder / _INDEX)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        raise ValueError(
            f"{folder} is {index.get('format')!r} of version {index.get('version')}; "
            f"this release reads {FORMAT!r} of version {VERSION}"
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
