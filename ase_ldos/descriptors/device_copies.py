"""Constants that are wanted on a device again and again: a transfer makes the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class DeviceCopies:
    """A constant, and copies of it on other devices and in other number types, each made once.

    Args:
        values: the constant, on the CPU.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._copies: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __getstate__(self) -> dict[str, Tensor]:
        """The constant alone: the copies are of no use elsewhere."""
        return {"values": self.values}

    def __setstate__(self, state: dict[str, Tensor]) -> None:
        self.__init__(state["values"])  # type: ignore[misc]

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The constant on a device, in another number type or its own."""
        key = (dtype or self.values.dtype, device)
        if key not in self._copies:
            self._copies[key] = self.values.to(device=device, dtype=key[0])
        return self._copies[key]

    def like(self, other: Tensor) -> Tensor:
        """The constant on the device and in the number type of another tensor."""
        return self.on(other.device, other.dtype)
