"""Checkpoints without pickle: nested states as one safetensors file with a JSON header and a checksum of both."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ase_ldos.files import atomic_write, reading

_HEADER = "ase_ldos_checkpoint"
_CHECKSUM = "sha256"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``; a run interrupted at any time leaves the old file or the new one, never half of one.

    Args:
        path: the file.
        state: dicts, lists and tuples of tensors, numbers, strings, booleans and None, nested as deep as wanted
            (state dicts of modules, optimisers and schedulers are).

    Raises:
        ValueError: something else is in the state.
        OSError: the file cannot be written.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    header = json.dumps(_flatten(state, tensors, "state"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {_HEADER: header, _CHECKSUM: _checksum(header, tensors)})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file; it appears complete or not at all.

    Raises:
        OSError: it cannot be written, whose number the library hides in its message.
    """
    with atomic_write(path) as draft:
        try:
            save_file(tensors, draft, metadata=metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, f"{path} could not be written: {os.strerror(code)}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``write_checkpoint`` wrote; tensors arrive on the CPU.

    A run that goes on may replace the file while it is read: then the new one is read.

    Raises:
        ValueError: the file is damaged or no checkpoint.
    """
    while True:
        before = _identity(path)
        try:
            return _read_checkpoint(path)
        except ValueError:
            if _identity(path) == before:
                raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at the path now."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_checkpoint(path: Path) -> dict[str, Any]:
    with reading(path, "a checkpoint of ase-ldos"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = metadata.get(_HEADER)
            if header is None:
                raise ValueError("its header is missing")
            # copies lie aligned in memory as those of the run did, so that kernels round in the same way
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        # files of earlier versions have none
        if metadata.get(_CHECKSUM, "") not in ("", _checksum(header, tensors)):
            raise ValueError("its content is not what was written")
        state = _restore(json.loads(header), tensors)
        if not isinstance(state, dict):
            raise ValueError("it holds no state")
        return state


def _checksum(header: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of what a checkpoint holds: a disk that lost some of it must not be believed."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flatten(value: object, tensors: dict[str, Tensor], name: str) -> object:
    """JSON of ``value``: tensors move into ``tensors``, containers are tagged, as JSON has no tuples and int keys."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int | float):
                raise ValueError(f"a checkpoint cannot hold the key {key!r} of {name}")
        return {"dict": [[key, _flatten(item, tensors, f"{name}.{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_flatten(item, tensors, f"{name}.{index}") for index, item in enumerate(value)]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"a checkpoint cannot hold {name} of type {type(value).__name__}")


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401 - JSON of any kind
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _restore(item, tensors) for key, item in content}
    items = [_restore(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
