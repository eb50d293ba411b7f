"""Training, evaluation and calibration on a GPU give what they give on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from predicted_labels import predicted_snapshot, rattled_beryllium

from ase_ldos.cli.main import main
from ase_ldos.dataset.npz import save_snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.training import loop
from ase_ldos.training.train import TrainedModel, train_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SETTINGS = """
name = "toy"
data = ["{folder}"]
validation = {{ every = 2, offset = 1 }}

[model]
valence = {{ Be = 2.0 }}
broadening = 0.3
energy_window = [-5.0, 12.0]
energy_spacing = 0.2881355932203390
{descriptor}
hidden = [8]
electronic_temperature = 3000.0
grid_spacing = 0.6

[[stages]]
name = "ldos"
steps = 5

[[stages]]
name = "everything"
epochs = 3
learning_rate = 3e-3
validate_every = 1
batch_size = 2
ema_decay = 0.9
weights = {{ ldos_points = 50 }}
"""
DESCRIPTORS = {
    "power spectrum": "descriptor = { cutoff = 4.2, n_radial = 2, lmax = 2 }\nn_components = 10",
    "graph network": "descriptor = { kind = 'se3_transformer', cutoff = 4.2, atom_cutoff = 3.6, lmax = 1, "
    "channels = 4, heads = 2, n_radial = 2, fields = 4, point_heads = 0, spectrum_radial = 2, spectrum_lmax = 1 }\n"
    "n_components = 8",
}


@pytest.fixture
def folder(be_model: LDOSModel, tmp_path: Path) -> Path:
    """Four snapshots that a model predicted, with LDOS."""
    for seed in range(4):
        snapshot = predicted_snapshot(f"be_{seed}", rattled_beryllium(seed), be_model, grid_shape=(4, 4, 6))
        save_snapshot(tmp_path / f"be_{seed}.npz", snapshot)
    return tmp_path


@pytest.mark.parametrize("descriptor", DESCRIPTORS)
def test_training(descriptor: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "training.toml"
    recipe.write_text(SETTINGS.format(folder=folder, descriptor=DESCRIPTORS[descriptor]))

    def train(device: str, **options: object) -> TrainedModel:
        return train_model(recipe, device=device, progress=False, **options)

    cpu, gpu = train("cpu"), train("cuda")
    assert gpu.model.device.type == "cuda"
    # later steps differ: the optimiser divides by the size of the gradient, also where that is rounding alone
    for stage, history in cpu.histories.items():
        one, other = history.records[0].train, gpu.histories[stage].records[0].train
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=2e-3, abs=1e-6), (stage, name)
    # interrupted after the first epoch on whole snapshots, and resumed on the device
    plain, calls = loop._Run.save, []

    def save(run: loop._Run, path: Path) -> None:
        plain(run, path)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "save", save)
    checkpoint = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train("cuda", checkpoint=checkpoint)
    resumed = train("cuda", checkpoint=checkpoint)
    assert resumed.finished
    for name, value in gpu.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_file: Path) -> None:
    tables = []
    for device in ("cpu", "cuda"):
        assert main(["evaluate", str(small_file), str(folder), "--json", "--device", device]) == 0
        tables.append(json.loads(capsys.readouterr().out)["summary"])
    for name, value in tables[0].items():
        assert tables[1][name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
    models = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.safetensors"
        arguments = ["calibrate", str(small_file), str(folder), "--every", "2", "--device", device, "--out", str(out)]
        assert main(arguments) == 0
        models.append(load_model(out))
    one, other = models
    assert other.metadata.extrapolation["threshold"] == pytest.approx(one.metadata.extrapolation["threshold"], rel=1e-6)


@pytest.fixture
def small_file(be_model: LDOSModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_model(be_model, path)
    return path


@pytest.mark.parametrize("command", ["train", "evaluate", "calibrate"])
def test_a_device_that_is_not_there(
    command: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    small_file: Path,
) -> None:
    recipe = folder / "training.toml"
    recipe.write_text(SETTINGS.format(folder=folder, descriptor=DESCRIPTORS["power spectrum"]))
    arguments = [str(recipe)] if command == "train" else [str(small_file), str(folder)]
    assert main([command, *arguments, "--device", "cuda:9"]) == 2
    assert "cuda:9" in capsys.readouterr().err
