"""The guard around a calculation: nothing that the process has set gets in, and all of it is there afterwards."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from torch_settings import TORCH_SETTINGS

from ase_ldos.torch_state import standard_torch_state


def precision() -> str:
    """What a product of float32 matrices on the CPU is made in; torch from 2.9 on tells it by backend."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        return {"highest": "ieee", "medium": "bf16"}[torch.get_float32_matmul_precision()]
    return "ieee" if matmul.fp32_precision == "none" else matmul.fp32_precision


def state() -> tuple[object, ...]:
    return (
        precision(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("case", [*TORCH_SETTINGS, "nothing"])
def test_inside_it_is_torchs_own_and_afterwards_what_it_was(case: str) -> None:
    with TORCH_SETTINGS.get(case, nullcontext)():
        before = state()
        with standard_torch_state():
            assert state() == ("ieee", torch.float32, torch.device("cpu"), False, False, True)
            x = torch.ones(2, requires_grad=True)
            (slope,) = torch.autograd.grad((x * x).sum(), x)
            assert slope.tolist() == [2.0, 2.0]
        assert state() == before


def test_an_error_restores_it_too() -> None:
    with TORCH_SETTINGS["default dtype bfloat16"]():
        with pytest.raises(ValueError, match="inside"), standard_torch_state():
            raise ValueError("inside")
        assert torch.get_default_dtype() == torch.bfloat16


def test_it_may_be_entered_again_and_by_several_threads() -> None:
    seen = []

    def work() -> None:
        with standard_torch_state(), standard_torch_state():
            seen.append(precision())

    with TORCH_SETTINGS["precision of products"]():
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == ["ieee"] * 8
        assert precision() == "bf16"
