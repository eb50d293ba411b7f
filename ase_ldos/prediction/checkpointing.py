"""Sums over the grid that outlive an interruption: a small file with the state, and fields in memory-mapped files.

What is written into a mapped field is in the system's hands at once, so a checkpoint of a large calculation costs no
more than its few sums, and what was done after the last one is done again with the very same numbers. The state holds
a checksum for each block of a field, and is written when the field is on the disk. Where a field is no longer what the
state says, its pass over the grid starts again.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import astuple
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ldos.checkpoint import read_checkpoint, write_checkpoint
from ase_ldos.communicator import Communicator
from ase_ldos.files import check_output_folder, locked, reserve
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.request import PredictionRequest

logger = logging.getLogger(__name__)


class PredictionCheckpoint:
    """The checkpoint of one rank of one prediction; while it is open, no other process can open it.

    Args:
        folder: where its files lie; None keeps nothing.
        fingerprint: of the prediction: the state of another one is refused.
        name: of this rank's files.
        interval: s, between two checkpoints.

    Raises:
        ValueError: the folder holds another calculation, a damaged one, or one that is running.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path | None, fingerprint: str, name: str = "rank0of1", interval: float = 20.0) -> None:
        self.folder, self.interval, self._name, self._fingerprint = folder, interval, name, fingerprint
        self._written = time.monotonic()
        self._state: dict[str, Any] = {}
        self._mapped: dict[str, np.memmap[Any, Any]] = {}
        self._open = ExitStack()
        if folder is None:
            return
        check_output_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(folder / f"{name}.lock", f"another process calculates in {folder}; name another folder")
        self._open.enter_context(lock)
        try:
            self._read(folder)
        except BaseException:
            self._open.close()
            raise

    def _read(self, folder: Path) -> None:
        if not self._path.exists():
            self._write_state()
            return
        try:
            state = read_checkpoint(self._path)
        except ValueError as error:
            raise ValueError(f"{error}; remove the folder {folder} to start again") from error
        if state.get("fingerprint") != self._fingerprint:
            raise ValueError(f"{folder} holds another calculation; remove it or name another folder")
        self._state = state["stages"]

    @classmethod
    def of(
        cls, folder: Path | None, model: LDOSModel, request: PredictionRequest, communicator: Communicator
    ) -> PredictionCheckpoint:
        """The checkpoint of this very prediction, on this rank."""
        if folder is None:
            return cls(None, "")
        settings = (
            request.grid_shape,
            request.chunk_size,
            request.thermal_energy,
            request.fermi_guess,
            astuple(request.thresholds),
            str(model.dtype),
            model.device.type,
            sorted(model.metadata.level_constants.items()),
        )
        digest = hashlib.sha256(repr(settings).encode())
        structure = request.structure
        for tensor in (structure.numbers, structure.positions, structure.cell, *model.state_dict().values()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return cls(folder, digest.hexdigest(), f"rank{communicator.rank}of{communicator.size}")

    def __enter__(self) -> PredictionCheckpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let other processes have the folder."""
        self._mapped = {}
        self._open.close()

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._name}.safetensors"

    def stage(self, name: str) -> dict[str, Any]:
        """What was last written of a stage; empty if nothing was."""
        return dict(self._state.get(name, {}))

    def is_due(self) -> bool:
        """Whether it is time for the next ``write``."""
        return self.folder is not None and time.monotonic() - self._written > self.interval

    def write(self, name: str, state: dict[str, Any], *, always: bool = False) -> None:
        """Write the state of a stage if it is time, or ``always``; tensors, numbers and strings."""
        if self.folder is None or not (always or self.is_due()):
            return
        self._state[name] = state
        for mapped in self._mapped.values():
            mapped.flush()  # on the disk before a state tells of it
        self._write_state()
        self._written = time.monotonic()

    def _write_state(self) -> None:
        write_checkpoint(self._path, {"fingerprint": self._fingerprint, "stages": self._state})

    def field(
        self,
        name: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        counts: Sequence[int] = (),
        checksums: Sequence[int] = (),
    ) -> tuple[Tensor, bool]:
        """Memory for a field: mapped onto a file on the CPU, plain and empty on other devices and without a folder.

        Args:
            name: of the field.
            shape: ``[field, own grid]``.
            dtype: its number type.
            device: where it lies.
            counts: points of each block.
            checksums: of the blocks that the state says were done, see ``checksum``.

        Returns:
            the field, and whether it holds these blocks; if not, they have to be done again.

        Raises:
            OSError: the disk has no space for it.
        """
        if self.folder is None or device.type != "cpu":
            return torch.empty(shape, dtype=dtype, device=device), False
        path, number_type = self.folder / f"{self._name}.{name}", torch.empty(0, dtype=dtype).numpy().dtype
        n_bytes = shape[0] * shape[1] * number_type.itemsize
        there = path.is_file() and path.stat().st_size == n_bytes
        if not there:
            reserve(path, n_bytes)
        self._mapped[name] = np.memmap(path, dtype=number_type, mode="r+", shape=shape)
        field = torch.from_numpy(self._mapped[name])
        if not checksums:
            return field, False
        ends = list(accumulate(counts))[: len(checksums)]
        blocks = zip(ends, counts, checksums)
        intact = there and all(checksum(field[:, end - count : end]) == known for end, count, known in blocks)
        if not intact:
            logger.warning("%s is missing or damaged: what it held is calculated again", path)
        return field, intact


def checksum(values: Tensor) -> int:
    """CRC-32 of the numbers of a block on the CPU."""
    return zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy().data)
