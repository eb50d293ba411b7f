"""The settings that come with the package say what they mean to, and need nothing but the package's labels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ase.data import atomic_numbers

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.model_file import BUNDLED, list_models, load_model
from ase_ldos.networks.registry import make_point_features
from ase_ldos.networks.se3_transformer.network import SE3Transformer
from ase_ldos.training.settings import load_data, load_settings

#: The repository's folder of models: an installed package has no labels.
MODELS = Path(__file__).resolve().parents[2] / "ase_ldos" / "models"


def test_the_graph_network_can_start_from_be() -> None:
    be, graph = (load_settings(BUNDLED / name / "training.toml") for name in ("be", "be-se3"))
    species = [atomic_numbers[symbol] for symbol in graph.model.valence]
    network = make_point_features({**graph.model.descriptor, "species": species})
    alone = make_point_features({**be.model.descriptor, "species": species})
    assert isinstance(network, SE3Transformer)
    assert isinstance(network.spectrum, PowerSpectrum)
    assert network.spectrum.settings() == alone.settings()
    assert [f"../be/{source}" for source in be.data] == list(graph.data)
    assert graph.validation == be.validation
    assert graph.model.energies.tolist() == be.model.energies.tolist()
    for name in ("n_components", "hidden", "activation", "broadening", "valence"):
        assert getattr(graph.model, name) == getattr(be.model, name)


@pytest.mark.parametrize("name", list_models())
def test_every_model_can_be_trained_from_the_repository(name: str) -> None:
    settings, model = load_settings(MODELS / name / "training.toml"), load_model(name)
    data = load_data(settings)
    training, validation = data.chosen(None)
    assert len(training) > 4 * len(validation) > 40
    for stage in settings.stages:
        assert any(item.ldos is not None for item in data.chosen(stage.data)[0])
    # what is held back the model in the folder has not seen, though labels came later
    assert not {item.name for item in validation} & set(model.metadata.provenance["training"])
    assert settings.model.energies.tolist() == model.energies.tolist()


@pytest.mark.parametrize("name", list_models())
def test_a_card_states_the_errors_of_its_model(name: str) -> None:
    text, errors = (BUNDLED / name / "card.md").read_text(encoding="utf-8"), load_model(name).metadata.errors
    rows = {row[0]: float(row[1]) for row in re.findall(r"^\| ([\w ]+) \| ([\d.]+) \|", text, re.MULTILINE)}
    for row, key in (("free energy", "energy"), ("forces", "forces"), ("density", "density"), ("LDOS", "ldos")):
        assert rows[row] == pytest.approx(errors[key], abs=0.06)
    assert (BUNDLED / name / "history.md").is_file()
