"""From a trained model to one for a recipe's elements, with all its weights.

The model keeps every element that it knows, whether the recipe names it or not: its features and weights belong to
them. Elements of the recipe that it does not know can join where the features do not change with their number, in a
``compressed_power_spectrum``: they need weights of the channels in the recipe, and data.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ase.data import atomic_numbers, chemical_symbols

from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.networks.registry import make_point_features
from ase_ldos.training.settings import TrainingSettings

#: The kind of features whose number does not depend on that of the elements.
_OPEN = "compressed_power_spectrum"


def features_with_elements(start: PointFeatures, wanted: PointFeatures) -> dict[str, Any] | None:
    """Settings of the features of a model that is to know a recipe's elements too.

    Args:
        start: of the model to start from.
        wanted: of the recipe.

    Returns:
        ``None`` where the two are not of one kind, so that one cannot go on from the other.

    Raises:
        ValueError: elements that cannot join, or channels that differ for an element that both have.
    """
    found, asked = start.settings(), wanted.settings()
    # what says which the elements are; features that differ in nothing else are of one kind
    elements = {"species", "channels"} if found["kind"] == _OPEN else {"species"}
    if {k: v for k, v in found.items() if k not in elements} != {k: v for k, v in asked.items() if k not in elements}:
        return None
    new = [number for number in wanted.species if number not in start.species]
    names, known = (", ".join(chemical_symbols[n] for n in numbers) for numbers in (new, start.species))
    if new and found["kind"] != _OPEN:
        raise ValueError(
            f"the model to start from knows {known}, not {names}; elements can join a model only where its descriptor "
            f"is a {_OPEN}: train from scratch, or start from such a model"
        )
    settings = found | {"species": [*start.species, *new]}
    if found["kind"] == _OPEN:
        theirs, ours = found["channels"], asked["channels"]
        for symbol in theirs.keys() & ours.keys():
            if list(theirs[symbol]) != list(ours[symbol]):
                raise ValueError(
                    f"channels of {symbol} are {list(ours[symbol])}, in the model to start from "
                    f"{list(theirs[symbol])}; they must be the same"
                )
        settings["channels"] = {**theirs, **{symbol: ours[symbol] for symbol in ours if symbol not in theirs}}
    return settings


def with_elements(
    start: LDOSModel, settings: TrainingSettings, features: dict[str, Any], level_constants: dict[str, float]
) -> LDOSModel:
    """The model with the elements of the features, its weights unchanged; the same object where nothing is new.

    Args:
        start: the model.
        settings: whose valence charges new elements take.
        features: see ``features_with_elements``.
        level_constants: of new elements, eV Å³.

    Raises:
        ValueError: another valence charge of an element that the model knows: its LDOS holds other electrons.
    """
    for symbol, charge in settings.model.valence.items():
        if start.metadata.valence.get(symbol, charge) != charge:
            raise ValueError(
                f"the settings give {symbol} {charge:g} valence electrons, the model to start from has "
                f"{start.metadata.valence[symbol]:g}; labels of another pseudopotential need a model of their own"
            )
    new = [number for number in features["species"] if number not in start.descriptor.species]
    if not new:
        return start
    metadata = replace(
        start.metadata,
        valence={**start.metadata.valence, **settings.model.valence},
        level_constants={**start.metadata.level_constants, **level_constants},
        extrapolation={},
    )
    model = LDOSModel(
        make_point_features(features),
        start.network,
        start.energies,
        metadata,
        mean=start.mean,
        projection=start.projection,
        ldos_scale=start.ldos_scale,
    )
    # for what the training data do not show; they grow by the new elements when the model is calibrated
    model.extrapolation_mean, model.extrapolation_whitening = start.extrapolation_mean, start.extrapolation_whitening
    return model


def new_species(start: LDOSModel, settings: TrainingSettings) -> tuple[int, ...]:
    """Atomic numbers of a recipe that the model does not know."""
    numbers = (atomic_numbers[symbol] for symbol in settings.model.valence)
    return tuple(number for number in numbers if number not in start.descriptor.species)
