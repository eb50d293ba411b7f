"""What describes the surroundings of a point, fixed or learned: made from settings, and given the atoms."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.registry import make_descriptor
from ase_ldos.geometry.grid_blocks import species_indices
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.se3_transformer.network import SE3Transformer

#: Both map (points, atoms, what is known of each atom) to features of the points.
Surroundings: TypeAlias = Descriptor | SE3Transformer


def make_surroundings(settings: dict[str, Any], generator: torch.Generator | None = None) -> Surroundings:
    """Build the descriptor, or the graph network with fresh weights, whose ``settings()`` these are.

    Args:
        settings: as ``settings()`` of either gives them.
        generator: source of the weights; by default a new one with seed 0.

    Raises:
        ValueError: an unknown kind or settings that do not fit it.
    """
    if settings.get("kind") != SE3Transformer.KIND:
        return make_descriptor(settings)
    options = {key: value for key, value in settings.items() if key not in ("kind", "species")}
    try:
        return SE3Transformer(tuple(settings.get("species", ())), generator=generator, **options)
    except TypeError as error:
        raise ValueError(f"settings of the network {SE3Transformer.KIND!r} do not fit: {error}") from error


def prepare_atoms(surroundings: Surroundings, structure: Structure) -> Tensor:
    """What the points need to know of each atom, found once per structure.

    Returns:
        Species indices ``[atom]`` for a descriptor; for a graph network the coefficients that its layers give,
        ``[atom, coefficient]``, differentiable in positions and cell.

    Raises:
        ValueError: an atom's element is not among the species.
    """
    if isinstance(surroundings, SE3Transformer):
        return surroundings.prepare(structure)
    return species_indices(structure.numbers, surroundings.species)
