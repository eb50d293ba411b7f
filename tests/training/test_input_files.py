"""Inputs kept in files are those that are evaluated anew, for one training and the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from predicted_labels import labelled
from recipes import recipe_head, recipe_with_labels

from ase_ldos.geometry.grid import Grid
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.training import input_files, precompute
from ase_ldos.training.input_files import InputFiles, input_key
from ase_ldos.training.settings import TrainingSettings
from ase_ldos.training.train import train_model

RECIPE = (
    recipe_head("kept")
    + """
[[stages]]
name = "everything"
epochs = 2
learning_rate = 3e-3
weights = { ldos_points = 200 }
"""
)


@pytest.fixture
def settings(be_model: LDOSModel, tmp_path: Path) -> TrainingSettings:
    return recipe_with_labels(be_model, tmp_path, "kept", RECIPE, 4)


def test_trainings_with_files_are_those_without(
    settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train_model(settings, progress=False).model
    folder = tmp_path / "new" / "inputs"
    kept = train_model(settings, progress=False, inputs_folder=folder).model
    files = sorted(folder.iterdir())
    assert len(files) == 4
    times = [path.stat().st_mtime_ns for path in files]

    def nothing(*_: object) -> None:
        raise AssertionError("inputs are evaluated once more")

    monkeypatch.setattr(precompute, "_inputs", nothing)
    again = train_model(settings, progress=False, inputs_folder=folder).model
    for name, weights in plain.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], weights, rtol=0, atol=0)
        torch.testing.assert_close(again.state_dict()[name], weights, rtol=0, atol=0)
    assert [path.stat().st_mtime_ns for path in files] == times
    with pytest.raises(AssertionError, match="once more"):  # inputs of another number of components are others
        train_model(
            replace(settings, model=replace(settings.model, n_components=5)), progress=False, inputs_folder=folder
        )


def test_damaged_files_are_made_anew(tmp_path: Path) -> None:
    files, made = InputFiles(tmp_path), []

    def make() -> input_files.Inputs:
        made.append(1)
        return torch.ones(3, 2), torch.ones(9, 6, dtype=torch.float16)

    for _ in range(2):
        inputs, slopes = files.get("key", make)
        assert inputs.shape == (3, 2)
        assert slopes is not None
        assert slopes.dtype == torch.float16
    assert len(made) == 1
    (tmp_path / "key.safetensors").write_bytes(b"half of a file")
    files.get("key", make)
    assert len(made) == 2
    inputs, slopes = files.get("energies alone", lambda: (torch.ones(1, 1), None))
    assert slopes is None


def test_a_full_disk_leaves_them_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(input_files, "save_file", full)
    inputs, _ = InputFiles(tmp_path).get("key", lambda: (torch.full((2, 2), 7.0), None))
    assert inputs.sum() == 28
    assert list(tmp_path.iterdir()) == []


def test_the_key_tells_all_that_matters_apart(be_model: LDOSModel) -> None:
    structure = labelled(be_model, 0).structure
    grid, descriptor = Grid(structure.cell, (8, 8, 8)), be_model.descriptor.fixed
    assert descriptor is not None

    def key(
        *, shape: tuple[int, int, int] = (8, 8, 8), shift: float = 0.0, scale: float = 1.0, dtype: torch.dtype | None
    ) -> str:
        moved = replace(structure, positions=structure.positions + shift)
        return input_key(descriptor, be_model.mean, scale * be_model.projection, moved, Grid(grid.cell, shape), dtype)

    half = torch.float16
    keys = [key(dtype=half), key(dtype=None), key(dtype=half, shift=1e-9), key(dtype=half, scale=1.01)]
    keys.append(key(dtype=half, shape=(8, 8, 10)))
    assert len(set(keys)) == len(keys)
    assert key(dtype=half) == keys[0]


def test_every_snapshot_is_in_the_order(tmp_path: Path) -> None:
    assert sorted(InputFiles(tmp_path).order(7)) == list(range(7))
