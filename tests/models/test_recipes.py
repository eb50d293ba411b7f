"""The recipes that come with the package say what they mean to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

import ase_ldos
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.networks.registry import make_point_features
from ase_ldos.networks.se3_transformer.network import SE3Transformer
from ase_ldos.training.settings import load_recipe

RECIPES = Path(ase_ldos.__file__).parent / "models" / "recipes"


def test_the_graph_network_can_start_from_be() -> None:
    be, graph = load_recipe(RECIPES / "be" / "training.toml"), load_recipe(RECIPES / "be-se3" / "training.toml")
    species = [atomic_numbers[symbol] for symbol in graph.model.valence]
    network = make_point_features({**graph.model.descriptor, "species": species})
    alone = make_point_features({**be.model.descriptor, "species": species})
    assert isinstance(network, SE3Transformer)
    assert isinstance(network.spectrum, PowerSpectrum)
    assert network.spectrum.settings() == alone.settings()
    assert (graph.data, graph.hold_back, graph.hold_back_offset) == (be.data, be.hold_back, be.hold_back_offset)
    np.testing.assert_array_equal(graph.model.energies, be.model.energies)
    for name in ("n_inputs", "hidden", "activation", "broadening", "valence"):
        assert getattr(graph.model, name) == getattr(be.model, name)
