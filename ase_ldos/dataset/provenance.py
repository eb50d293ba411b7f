"""Where data come from: hashes of what a model learned from, and the record of the set-up beside a folder of labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ase_ldos.dataset.folder import dataset_hash, file_hash, is_dataset
from ase_ldos.files import PathLike, read_json, write_json

#: File beside labels that tells their set-up.
RECORD = "provenance.json"


def content_hash(path: PathLike) -> str:
    """SHA-256 of a data set, of a file, or of all ``.npz`` files of a folder with their names.

    Raises:
        ValueError: there is nothing of that name, or a data set of another version.
    """
    path = Path(path)
    if is_dataset(path):
        return dataset_hash(path)
    if path.is_file():
        return file_hash(path)
    files = sorted(file for file in path.glob("*.npz") if not file.name.startswith("."))
    if not files:
        raise ValueError(f"{path} is neither a file nor a folder of .npz files")
    lines = [f"{file.name} {file_hash(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_source(path: PathLike) -> dict[str, Any]:
    """Name and hash of a file, folder or data set, and the DFT set-up of its labels where it is recorded."""
    path = Path(path)
    record = read_record(path) if path.is_dir() else {}
    return {"name": path.name, "sha256": content_hash(path)} | ({"labels": record} if record else {})


def read_record(folder: PathLike) -> dict[str, Any]:
    """The set-up behind a folder of labels; empty if it is not recorded.

    Raises:
        ValueError: the record is damaged.
    """
    path = Path(folder) / RECORD
    return read_json(path) if path.exists() else {}


def write_record(folder: PathLike, record: dict[str, Any]) -> None:
    """Write a record; it appears complete or not at all."""
    write_json(Path(folder) / RECORD, record)
