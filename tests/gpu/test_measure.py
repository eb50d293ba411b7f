"""What tests/gpu/run.sh measures runs without a GPU too, as far as recipes and labels go."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_training_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).with_name("measure.py")
    spec = importlib.util.spec_from_file_location("measure", path)
    assert spec is not None
    assert spec.loader is not None
    measure = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measure)
    monkeypatch.setattr(measure, "DEVICE", torch.device("cpu"))
    found = measure.training(60.0)
    assert found["s_per_epoch"]
    assert all(seconds > 0 for seconds in found["s_per_epoch"].values())
