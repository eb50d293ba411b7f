"""Where a model comes from: its data and its pseudopotentials, for its energies and its provenance."""

from __future__ import annotations

from typing import Any

from ase_ldos.dataset.provenance import describe_source
from ase_ldos.formats.pseudopotential import check_functional, read_pseudopotential
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.training.settings import Recipe, data_paths, find_source


def core_charges(recipe: Recipe) -> dict[str, CoreCharge]:
    """The partial core charges of the recipe's pseudopotentials, by chemical symbol.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it is of another element, or its valence charge or functional is not the model's.
    """
    found = {}
    for symbol, name in recipe.model.pseudopotentials.items():
        pseudo = read_pseudopotential(find_source(recipe, name))
        if pseudo.symbol != symbol or pseudo.valence != recipe.model.valence.get(symbol):
            raise ValueError(
                f"{name} is a pseudopotential of {pseudo.symbol} with {pseudo.valence:g} valence electrons; "
                f"the recipe has {symbol} with {recipe.model.valence.get(symbol)}"
            )
        check_functional(name, pseudo.functional, recipe.model.functional)
        if pseudo.core is not None:
            found[symbol] = pseudo.core
    return found


def describe_sources(recipe: Recipe) -> dict[str, Any]:
    """Names and hashes of a recipe's data and pseudopotentials, for a model's provenance.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: labels were made with another functional than the model's, or with a core charge that the model
            would lack; the message tells what to add.
    """
    data = [describe_source(path) for path in data_paths(recipe)]
    known = core_charges(recipe)
    for source in data:
        for symbol, pseudo in source.get("labels", {}).get("pseudopotentials", {}).items():
            if "functional" in pseudo:
                check_functional(f"{source['name']} ({pseudo['file']})", pseudo["functional"], recipe.model.functional)
            if pseudo["core_charge"] and symbol not in known:
                raise ValueError(
                    f"{source['name']} was labelled with {pseudo['file']}, which has a partial core charge that the "
                    f'energy needs; add pseudopotentials = {{ {symbol} = "{pseudo["file"]}" }} to the recipe\'s [model]'
                )
    files = recipe.model.pseudopotentials
    return {"data": data, "pseudopotentials": [describe_source(find_source(recipe, name)) for name in files.values()]}
