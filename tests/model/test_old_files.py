"""Model files of version 1, with the names that it had, still load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model


def write_version_1(model: LDOSModel, path: Path) -> None:
    """The file that version 1 wrote of a calibrated model."""
    save_model(model, path)
    with safe_open(path, framework="pt") as file:
        tensors = {key.replace("extrapolation", "novelty"): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["ase_ldos"])
    metadata = header["metadata"]
    metadata["smearing"], metadata["novelty"] = metadata.pop("broadening"), metadata.pop("extrapolation")
    save_file(tensors, path, metadata={"ase_ldos": json.dumps(header | {"version": 1})})


def test_a_file_of_version_1_is_the_same_model(be_model: LDOSModel, tmp_path: Path) -> None:
    n_inputs = be_model.network.n_inputs
    be_model.extrapolation_mean = torch.rand(1, n_inputs, dtype=torch.float64)
    be_model.extrapolation_whitening = torch.rand(1, n_inputs, n_inputs, dtype=torch.float64)
    be_model.metadata = replace(be_model.metadata, broadening=0.3, extrapolation={"threshold": 2.0})
    write_version_1(be_model, tmp_path / "old.safetensors")
    loaded = load_model(tmp_path / "old.safetensors")
    assert loaded.metadata == be_model.metadata
    assert loaded.state_dict().keys() == be_model.state_dict().keys()
    for name, value in be_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
