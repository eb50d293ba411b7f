"""Names of devices, the same wherever one can be chosen."""

from __future__ import annotations

import os

import torch


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name: ``"auto"`` is CUDA where there is a device, else the CPU.

    CUDA without a number is the device of this process: under torchrun that of its ``LOCAL_RANK``, as several processes
    cannot talk to each other from one GPU.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {str(name)!r} cannot be used: {str(error).splitlines()[0]}") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device {str(name)!r} cannot be used: torch finds no CUDA device")
    count = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if number >= count:
        raise ValueError(
            f"device 'cuda:{number}' cannot be used: there are {count} CUDA devices, and each process needs its own"
        )
    return torch.device("cuda", number)
