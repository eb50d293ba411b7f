"""Names of devices."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.devices import find_device


def pretend(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert find_device(name) == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device(name) == torch.device("cuda:1")
    assert find_device("cuda:0") == torch.device("cuda:0")  # who names one gets it
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="there are 2 CUDA devices"):
        find_device(name)


def test_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    assert find_device("auto") == torch.device("cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="finds no CUDA device"):
        find_device("cuda")
    with pytest.raises(ValueError, match="cannot be used"):
        find_device("gpu0")
