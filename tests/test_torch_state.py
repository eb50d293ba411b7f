"""The guard around a calculation: nothing that the process has set gets in, and all of it is there afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

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


@contextmanager
def setting(change: Callable[[object], None], value: object, before: object) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(before)


CASES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "nothing": lambda: torch.enable_grad(),
    "precision": lambda: setting(torch.set_float32_matmul_precision, "medium", "highest"),
    "dtype": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": lambda: torch.inference_mode(),
    "no grad": lambda: torch.no_grad(),
}


@pytest.mark.parametrize("case", CASES)
def test_inside_it_is_torchs_own_and_afterwards_what_it_was(case: str) -> None:
    with CASES[case]():
        before = state()
        with standard_torch_state():
            assert state() == ("ieee", torch.float32, torch.device("cpu"), False, False, True)
            x = torch.ones(2, requires_grad=True)
            (slope,) = torch.autograd.grad((x * x).sum(), x)
            assert slope.tolist() == [2.0, 2.0]
        assert state() == before


def test_an_error_restores_it_too() -> None:
    with CASES["dtype"]():
        with pytest.raises(ValueError, match="inside"), standard_torch_state():
            raise ValueError("inside")
        assert torch.get_default_dtype() == torch.bfloat16


def test_it_may_be_entered_again_and_by_several_threads() -> None:
    seen = []

    def work() -> None:
        with standard_torch_state(), standard_torch_state():
            seen.append(precision())

    with CASES["precision"]():
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == ["ieee"] * 8
        assert precision() == "bf16"
