"""What tests/gpu/run.sh measures runs without a GPU too, as far as recipes and labels go."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
def test_training_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    training = runpy.run_path(str(Path(__file__).with_name("measure.py")))["training"]
    monkeypatch.setitem(training.__globals__, "DEVICE", torch.device("cpu"))
    found = training(60.0)
    assert found["s_per_epoch"]
    assert all(seconds > 0 for seconds in found["s_per_epoch"].values())
