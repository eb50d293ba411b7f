"""The DFT set-up behind a folder of labels, recorded beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ase_ldos.dataset.provenance import read_record, write_record
from ase_ldos.files import PathLike
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.dft_settings import Recipe

#: Labels that differ in these must not share a folder; all else (k-points, mixing, LDOS) may.
_FIXED = ("cutoff", "electronic_temperature", "pulay")


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
    # where they are the usual ones they stay out, so that records of earlier versions say the same set-up
    for key, usual in (("occupations", "smearing"), ("kpoint_shift", (0, 0, 0))):
        if table[key] == usual:
            del table[key]
    return dict(json.loads(json.dumps(table)))


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
