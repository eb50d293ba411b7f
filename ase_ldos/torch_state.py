"""A known state of torch around a calculation: what the process has set for itself neither reaches it nor is changed.

A result must not depend on a default that somebody set for another purpose: reduced precision of matrix products
(bfloat16 units of a CPU turn −30.90 eV/atom of beryllium into −41.98), automatic casts, inference mode, default dtype
and device. Inside the guard all of these are torch's own; at its end they are what they were.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

#: What is set for the whole process is set by one thread at a time; a thread may enter again.
_LOCK = threading.RLock()


def _after_fork() -> None:
    """A forked child has neither the threads of torch's pool, for which it would wait for ever, nor a lock's owner."""
    global _LOCK
    _LOCK = threading.RLock()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def standard_torch_state() -> Iterator[None]:
    """Torch's own settings for a while: IEEE float32 products, no autocast, float32 and CPU as defaults, gradients on.

    Precision and default dtype belong to the process, not to a thread: threads that enter wait for each other.
    """
    with _LOCK, ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        stack.enter_context(ieee_products())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def ieee_products() -> Iterator[None]:
    """Products of float32 matrices in float32, on every backend, without autocast."""
    with torch.autocast("cuda", enabled=False), _ieee_backends():
        yield


@contextmanager
def _ieee_backends() -> Iterator[None]:
    backends = [
        backend.matmul for backend in (torch.backends.mkldnn, torch.backends.cuda) if hasattr(backend, "matmul")
    ]
    if not all(hasattr(backend, "fp32_precision") for backend in backends) or len(backends) < 2:
        # before torch 2.9 there is one setting for all
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
        return
    # the older function raises where somebody has used the newer settings; these always tell what holds
    found = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, found):
            backend.fp32_precision = precision
