"""Sums over the grid that outlive an interruption: a small file with the state, and fields in memory-mapped files.

What is written into a mapped field is in the system's hands at once, so a checkpoint of a large calculation costs no
more than its few sums, and what was done after the last one is done again with the very same numbers.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ase_ldos.checkpoint import read_checkpoint, write_checkpoint
from ase_ldos.communicator import Communicator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.request import PredictionRequest


class PredictionCheckpoint:
    """The checkpoint of one rank of one prediction.

    Args:
        folder: where its files lie; None keeps nothing.
        fingerprint: of the prediction: the state of another one is refused.
        name: of this rank's files.
        interval: s, between two checkpoints.

    Raises:
        ValueError: the folder holds another calculation, or a damaged one.
    """

    def __init__(self, folder: Path | None, fingerprint: str, name: str = "rank0of1", interval: float = 20.0) -> None:
        self.folder, self.interval, self._name, self._fingerprint = folder, interval, name, fingerprint
        self._written = time.monotonic()
        self._state: dict[str, Any] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            state = read_checkpoint(self._path)
            if state.get("fingerprint") != fingerprint:
                raise ValueError(f"{folder} holds another calculation; remove it or name another folder")
            self._state = state["stages"]

    @classmethod
    def of(
        cls, folder: Path | None, model: LDOSModel, request: PredictionRequest, communicator: Communicator
    ) -> PredictionCheckpoint:
        """The checkpoint of this very prediction, on this rank."""
        settings: tuple[object, ...] = (
            request.grid_shape,
            request.chunk_size,
            request.thermal_energy,
            str(model.dtype),
        )
        if request.uncertainty:
            settings = (*settings, "uncertainty")
        digest = hashlib.sha256(repr(settings).encode())
        if folder is not None:
            structure = request.structure
            for tensor in (structure.numbers, structure.positions, structure.cell, *model.state_dict().values()):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return cls(folder, digest.hexdigest(), f"rank{communicator.rank}of{communicator.size}")

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._name}.safetensors"

    def stage(self, name: str) -> dict[str, Any]:
        """What was last written of a stage; empty if nothing was."""
        return dict(self._state.get(name, {}))

    def write(self, name: str, state: dict[str, Any], *, always: bool = False) -> None:
        """Write the state of a stage if it is time, or ``always``; tensors, numbers and strings."""
        if self.folder is None or not (always or time.monotonic() - self._written > self.interval):
            return
        self._state[name] = state
        write_checkpoint(self._path, {"fingerprint": self._fingerprint, "stages": self._state})
        self._written = time.monotonic()

    def field(self, name: str, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for a field: mapped onto a file, with what was written there before, or plain and empty."""
        if self.folder is None or device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device)
        path = self.folder / f"{self._name}.{name}"
        size = shape[0] * shape[1]
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).reshape(shape)
