"""A CUDA device without CUDA, for tests: import this before torch (or ``pytest -p fakecuda``). See README.md."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

_spec = importlib.util.find_spec("torch")
assert _spec is not None
assert _spec.origin is not None
_libraries = Path(_spec.origin).parent / "lib"
for _path in (
    *(_libraries / f"lib{name}.so" for name in ("torch_global_deps", "c10", "torch_cpu")),
    Path(__file__).with_name("libfakecuda_hooks.so"),
):
    ctypes.CDLL(str(_path), ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
import torchgen  # noqa: E402

# after torch, whose libraries it needs
_fakecuda = importlib.import_module("_fakecuda")
_FUNCTIONS = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"


def _operators_without_device_check() -> set[str]:
    """Operators that check devices themselves, and there let a number on the CPU pass."""
    entries = re.split(r"^- func: ", _FUNCTIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {entry[: entry.index("(")] for entry in entries if "device_check: NoCheck" in entry}


def _deepcopy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """The original copies the bytes of a storage, of which it knows no such device."""
    if not tensor.is_cuda:
        return _original_deepcopy(tensor, memo)
    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, tensor.requires_grad)
        memo[id(tensor)] = copy
    return memo[id(tensor)]


_fakecuda.setup(_operators_without_device_check())
_original_deepcopy = torch.Tensor.__deepcopy__
torch.Tensor.__deepcopy__ = _deepcopy  # type: ignore[method-assign]
# what torch's Python side asks the driver
for _name, _answer in {
    "_lazy_init": None,
    "is_available": True,
    "is_initialized": True,
    "device_count": 1,
    "current_device": 0,
    "empty_cache": None,
    "synchronize": None,
    "reset_peak_memory_stats": None,
    "get_device_name": "fake device",
    "is_bf16_supported": True,
}.items():
    setattr(torch.cuda, _name, lambda *_, answer=_answer: answer)
torch.cuda.max_memory_allocated = lambda *_: _fakecuda.peak_bytes()  # type: ignore[assignment]
torch._C._cuda_isInBadFork = lambda: False  # type: ignore[attr-defined]

reset, launches, waits, peak_bytes = _fakecuda.reset, _fakecuda.launches, _fakecuda.waits, _fakecuda.peak_bytes


_status = 0
_original_exit, _original_hook = sys.exit, sys.excepthook


def _exit(status: Any = None) -> NoReturn:  # noqa: ANN401 - as sys.exit
    global _status
    _status = int(status) if isinstance(status, (int, bool)) else int(status is not None)
    _original_exit(status)


def _excepthook(*error: Any) -> None:  # noqa: ANN401 - as sys.excepthook
    global _status
    _status = 1
    _original_hook(*error)


def _end() -> None:
    """Leave without tidying up: now and then the thread of the device meets an interpreter that is gone, and aborts."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_status)


sys.exit, sys.excepthook = _exit, _excepthook  # type: ignore[assignment]
atexit.register(_end)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Known as a plugin of pytest, which does not end by ``sys.exit``."""
    global _status
    _status = int(exitstatus)


def report(lines: int = 25) -> str:
    """The counts since the last ``reset(by_line=True)``, and the lines of the package that have most of them."""
    text = [f"{launches()} launches, {waits()} waits for the device, at most {peak_bytes() / 2**20:.1f} MiB"]
    for title, counts in (("waits", _fakecuda.wait_lines()), ("launches", _fakecuda.launch_lines())):
        text.append(title)
        text += [f"{count:8d}  {line}" for line, count in sorted(counts.items(), key=lambda item: -item[1])[:lines]]
    return "\n".join(text)
