"""Training the models of a committee: one after the other, or side by side in processes of their own."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ase import Atoms

from ase_ldos.active_learning.side_by_side import run_side_by_side
from ase_ldos.training.settings import TrainingSettings
from ase_ldos.training.train import train_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemberTraining:
    """One training of a committee.

    Attributes:
        settings: what and how.
        out: the model file.
        checkpoint: where an interrupted training resumes.
        init_from: file or name of the model to train on from; None: from scratch.
        bars: show progress bars.
        inputs_folder: see ``train_model``.
    """

    settings: TrainingSettings
    out: Path
    checkpoint: Path
    init_from: str | os.PathLike[str] | None = None
    bars: bool = False
    inputs_folder: Path | None = None


def train_committee(
    trainings: Sequence[MemberTraining], workers: int = 1, *, bytes_each: float = 0.0, bytes_shared: float = 0.0
) -> list[str]:
    """Train the models of a committee; they share nothing but the labels.

    Several at a time run in processes of their own; see ``run_side_by_side``. Only the first shows its bars then.

    Args:
        trainings: what is to be trained.
        workers: how many at a time, fewer where memory has no room for them.
        bytes_each: what each training will take of its own; see ``training_bytes``.
        bytes_shared: what they share.

    Returns:
        Of each why its end was not reached, with the best weights saved; empty if it was.

    Raises:
        ValueError: from ``train_model``.
        BrokenProcessPool: from ``run_side_by_side``.
    """
    n_processes = wanted = min(workers, len(trainings))
    available = available_memory()
    if available is not None and n_processes * bytes_each + bytes_shared > available:
        n_processes = max(1, int((available - bytes_shared) / bytes_each))
        logger.info(
            "%d of %d trainings at a time, of %.1f GB each and %.1f GB that they share: %.1f GB are free",
            n_processes,
            wanted,
            bytes_each / 1e9,
            bytes_shared / 1e9,
            available / 1e9,
        )
    side_by_side = n_processes > 1
    quiet = [
        replace(training, bars=training.bars and (place == 0 or not side_by_side))
        for place, training in enumerate(trainings)
    ]
    return run_side_by_side(_train, quiet, n_processes)


def training_bytes(frames: Sequence[Atoms], spacing: float, n_inputs: int, n_energies: int) -> tuple[float, float]:
    """About what a training on labels of these cells holds in memory, of its own and shared with others in files.

    Per point of the grid the LDOS in single precision is a training's own, and the derivatives of the inputs in
    positions and strain, in half precision, and the inputs in single precision are shared; half as much again for what
    is made of them, as measured.

    Args:
        frames: the cells.
        spacing: of the grid, Å.
        n_inputs: of the network.
        n_energies: nodes of the LDOS.
    """
    own = shared = 0.0
    for atoms in frames:
        points = atoms.get_volume() / spacing**3
        own += 1.6 * points * 4 * n_energies
        shared += 1.6 * points * ((3 * len(atoms) + 6) * n_inputs * 2 + 4 * n_inputs)
    return own, shared


def available_memory() -> float | None:
    """Bytes that programs may still take, as Linux estimates them; None elsewhere."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
    return None


def _train(training: MemberTraining) -> str:
    trained = train_model(
        training.settings,
        out=training.out,
        checkpoint=training.checkpoint,
        init_from=training.init_from,
        progress=training.bars,
        inputs_folder=training.inputs_folder,
    )
    return trained.failure
