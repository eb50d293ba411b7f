"""LDOSModel: shapes, the file on disk, damaged and foreign files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import find_model, load_model, save_model
from ase_ldos.networks.mlp import MLP


def rewrite(path: Path, **changes: object) -> Path:
    """Copy a model file with other entries in its header."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["ase_ldos"])
    header.update(changes)
    target = path.with_name("changed.safetensors")
    save_file(load_file(path), target, metadata={"ase_ldos": json.dumps(header)})
    return target


@pytest.fixture
def be_model(either_model: LDOSModel) -> LDOSModel:
    """Every test here runs with a fixed descriptor and with the graph network."""
    return either_model


@pytest.fixture
def model_file(be_model: LDOSModel, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_model(be_model, path)
    return path


def test_round_trip(be_model: LDOSModel, model_file: Path) -> None:
    loaded = load_model(model_file)
    assert loaded.metadata == be_model.metadata
    assert loaded.descriptor.settings() == be_model.descriptor.settings()
    assert loaded.dtype == torch.float64
    assert not loaded.training
    assert torch.equal(loaded.energies, be_model.energies)
    for name, value in be_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert {path.name for path in model_file.parent.iterdir()} == {model_file.name}


def test_energies_stay_float64(be_model: LDOSModel) -> None:
    single = be_model.float()
    assert single.dtype == torch.float32
    assert single.energies.dtype == torch.float64
    assert single.head[0].dtype == torch.float64


def test_head_and_hidden_give_the_ldos(be_model: LDOSModel) -> None:
    inputs = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight, bias = be_model.head
    expected = be_model.network(inputs) * be_model.ldos_scale
    torch.testing.assert_close(be_model.network.features(inputs) @ weight.T + bias, expected, rtol=0, atol=1e-14)


def test_charges_follow_the_valence(alloy_model: LDOSModel) -> None:
    assert alloy_model.charges(torch.tensor([4, 12, 12])).tolist() == [2.0, 2.0, 2.0]


def test_no_such_model_names_the_bundled_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file nonsense and no bundled model"):
        load_model("nonsense")
    with pytest.raises(FileNotFoundError, match="no model file"):
        load_model(tmp_path)


def test_bundled_name_and_path_are_the_same_file(bundled: str) -> None:
    path = find_model(bundled)
    assert find_model(path) == path
    assert path.stat().st_size < 5e6
    model = load_model(bundled)
    assert model.metadata.valence == {"Be": 2.0}
    assert model.metadata.errors
    assert model.metadata.provenance


def test_damaged_files(model_file: Path, tmp_path: Path) -> None:
    content = model_file.read_bytes()
    for damaged in (b"", b"not a model", content[: len(content) // 2], b"\xff" * 100):
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a model of ase-ldos, or is damaged"):
            load_model(tmp_path / "damaged.safetensors")


def test_foreign_files(model_file: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="but not a model of ase-ldos"):
        load_model(tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="but not a model of ase-ldos"):
        load_model(rewrite(model_file, format="another program's model"))


def test_a_newer_version_is_refused(model_file: Path) -> None:
    with pytest.raises(ValueError, match="has model format 99; this version of ase-ldos reads 1"):
        load_model(rewrite(model_file, version=99))


@pytest.mark.parametrize(
    "changes",
    [
        {"descriptor": {"kind": "tea leaves", "species": [4]}},
        {"descriptor": {"kind": "power_spectrum", "species": [4], "cutoff": 5.0, "n_radial": 4, "lmax": 2}},
        {"descriptor": {"kind": "se3_transformer", "species": [4], "lmax": 3}},
        {"descriptor": {"kind": "se3_transformer", "species": [4], "sharpness": 3}},
        {"network": {"n_inputs": 10, "n_outputs": 59, "hidden": [16, 16]}},
        {"network": None},
        {"metadata": {"valence": {"Be": 2.0}}},
        {"metadata": {"name": "x", "valence": {"Mg": 2.0}}},
        {"ldos_scale": "large"},
    ],
)
def test_a_header_that_does_not_fit(model_file: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is not a model of ase-ldos, or is damaged"):
        load_model(rewrite(model_file, **changes))


def test_missing_tensors(model_file: Path, tmp_path: Path) -> None:
    with safe_open(model_file, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(model_file)
    del tensors["energies"]
    save_file(tensors, tmp_path / "less.safetensors", metadata=header)
    with pytest.raises(ValueError, match="is not a model of ase-ldos, or is damaged"):
        load_model(tmp_path / "less.safetensors")


def test_unknown_metadata_are_passed_over(model_file: Path) -> None:
    changed = rewrite(model_file, metadata={"name": "x", "valence": {"Be": 2.0}, "of_a_later_version": 1})
    assert load_model(changed).metadata.name == "x"


def test_parts_that_do_not_fit_together() -> None:
    descriptor, metadata = PowerSpectrum((4,), n_radial=2, lmax=1), ModelMetadata("x", {"Be": 2.0})
    size, energies = descriptor.n_features, torch.linspace(0, 1, 5)
    with pytest.raises(ValueError, match="must have shapes"):
        LDOSModel(descriptor, MLP(3, 5), energies, metadata)
    with pytest.raises(ValueError, match="5 outputs, the energy grid 4 nodes"):
        LDOSModel(descriptor, MLP(size, 5), energies[:4], metadata)
    with pytest.raises(ValueError, match="no valence charge for Be"):
        LDOSModel(descriptor, MLP(size, 5), energies, ModelMetadata("x", {"Mg": 2.0}))
