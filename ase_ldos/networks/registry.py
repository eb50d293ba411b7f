"""Features of points, fixed or learned, from their settings; networks of other packages included.

A network registers as a descriptor does (entry points ``ase_ldos.networks``); beside species and settings it is given
``generator``, the source of its initial weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.descriptors.registry import DESCRIPTORS
from ase_ldos.networks.density_operator import DensityOperator
from ase_ldos.networks.fno import FourierNeuralOperator
from ase_ldos.networks.se3_transformer.network import SE3Transformer
from ase_ldos.registry import Registry

#: Called with the species, ``generator`` and the settings as keyword arguments; modules of torch.
NETWORKS: Registry[Callable[..., PointFeatures]] = Registry(
    "network", "ase_ldos.networks", {"se3_transformer": SE3Transformer}
)

#: Networks that act on whole grids instead of points; called with their settings and ``generator``.
GRID_NETWORKS: Registry[Callable[..., nn.Module]] = Registry(
    "grid network", "ase_ldos.grid_networks", {"fno": FourierNeuralOperator, "density_operator": DensityOperator}
)


def make_point_features(settings: dict[str, Any], generator: torch.Generator | None = None) -> PointFeatures:
    """Build the descriptor, or the network with fresh weights, whose ``settings()`` these are.

    Args:
        settings: as ``settings()`` of either gives them.
        generator: source of a network's weights; by default a new one with seed 0.

    Raises:
        ValueError: an unknown kind or settings that do not fit it.
    """
    options = dict(settings)
    kind, species = options.pop("kind", None), tuple(options.pop("species", ()))
    if kind in NETWORKS:
        make, options = NETWORKS[kind], options | {"generator": generator}
    elif kind in DESCRIPTORS:
        make = DESCRIPTORS[kind]
    else:
        known = sorted({*DESCRIPTORS, *NETWORKS})
        raise ValueError(f"unknown kind {kind!r} of descriptor or network; known: {', '.join(known)}")
    try:
        return make(species, **options)
    except TypeError as error:
        raise ValueError(f"settings of {kind!r} do not fit: {error}") from error
