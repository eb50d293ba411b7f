"""Inputs of a network and their derivatives in files: trainings on the same cells need not evaluate them again.

They depend on the descriptor, the scaler, the structure and its grid, on nothing that is trained. Of the time of a
short training on some hundred cells they take a third, and most of its memory. From a file they are mapped into memory:
several trainings on one machine share one copy, and what does not fit is read again from the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ase_ldos.descriptors.protocol import FixedFeatures
from ase_ldos.files import atomic_write
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure

logger = logging.getLogger(__name__)

Inputs = tuple[Tensor, Tensor | None]


class InputFiles:
    """A folder with inputs and Jacobians of snapshots, each under the digest of all that they depend on.

    Args:
        folder: made where it is not there; what lies in it may be deleted at any time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def order(self, number: int) -> list[int]:
        """An order in which to look at so many snapshots: another one in each process, so that they share the work."""
        return np.random.default_rng(os.getpid()).permutation(number).tolist()

    def get(self, key: str, make: Callable[[], Inputs]) -> Inputs:
        """What lies under a key; what is not there, or is damaged, is made and kept if the disk has room for it."""
        path = self.folder / f"{key}.safetensors"
        try:
            return _read(path)
        except (FileNotFoundError, SafetensorError, KeyError):
            inputs, slopes = make()
        content = {"inputs": inputs} if slopes is None else {"inputs": inputs, "slopes": slopes}
        try:
            with atomic_write(path) as draft:
                save_file(content, draft)
            return _read(path)
        except (OSError, SafetensorError) as error:
            logger.info("inputs stay in memory: %s", error)
            return inputs, slopes


def input_key(
    descriptor: FixedFeatures,
    mean: Tensor,
    projection: Tensor,
    structure: Structure,
    grid: Grid,
    jacobian: torch.dtype | None,
) -> str:
    """Digest of all that inputs and Jacobian depend on, the version of this package among it."""
    words = [version("ase-ldos"), descriptor.settings(), grid.shape, str(jacobian)]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for tensor in (mean, projection, structure.numbers, structure.cell, structure.positions):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:40]


def _read(path: Path) -> Inputs:
    found = load_file(path)
    return found["inputs"], found.get("slopes")
