"""Where data come from: hashes of what a model learned from, and the DFT set-up behind a folder of labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase_ldos.dataset.folder import dataset_hash, file_hash, is_dataset
from ase_ldos.dataset.npz import PathLike
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.dft_settings import Recipe

#: File beside labels that tells their set-up.
RECORD = "provenance.json"
#: Labels that differ in these must not share a folder; all else (k-points, mixing, LDOS) may.
_FIXED = ("cutoff", "electronic_temperature", "pulay")


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
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def extend_record(folder: PathLike, recipe: Recipe, symbols: set[str]) -> dict[str, Any]:
    """Add a recipe and its pseudopotentials to the record of a folder, which it returns.

    Raises:
        ValueError: the folder's labels have another pseudopotential, cutoff or electronic temperature.
    """
    record = {"recipes": [], "pseudopotentials": {}, "programs": []} | read_record(folder)
    table = recipe_table(recipe)
    for symbol in sorted(symbols):
        found = _describe_pseudopotential(recipe, symbol)
        known = record["pseudopotentials"].setdefault(symbol, found)
        if known["sha256"] != found["sha256"]:
            raise ValueError(
                f"the labels in {folder} were made with the pseudopotential {known['file']} of {symbol}, whose content "
                f"is not that of {found['file']}; choose another folder"
            )
    for key in _FIXED:
        others = [old[key] for old in record["recipes"] if old.get(key, table[key]) != table[key]]
        if others:
            raise ValueError(f"the labels in {folder} have {key} {others[0]}, not {table[key]}; choose another folder")
    if table not in record["recipes"]:
        record["recipes"].append(table)
    write_record(folder, record)
    return record


def recipe_table(recipe: Recipe) -> dict[str, Any]:
    """A recipe as it stands in a record: without the folder of pseudopotentials, which is this machine's."""
    table = asdict(recipe) | {"pseudo_dir": None, "pseudopotentials": dict(recipe.pseudopotentials)}
    return dict(json.loads(json.dumps(table)))


def write_record(folder: PathLike, record: dict[str, Any]) -> None:
    """Write a record; it appears complete or not at all."""
    path = Path(folder) / RECORD
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True))
    temporary.replace(path)


def _describe_pseudopotential(recipe: Recipe, symbol: str) -> dict[str, Any]:
    pseudo = read_pseudopotential(recipe.pseudopotential_path(symbol))
    return {
        "file": recipe.pseudopotentials[symbol],
        "sha256": pseudo.sha256,
        "kind": pseudo.kind,
        "functional": pseudo.functional,
        "valence": pseudo.valence,
        "core_charge": pseudo.has_core_charge,
    }
