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
    """

    settings: TrainingSettings
    out: Path
    checkpoint: Path
    init_from: str | os.PathLike[str] | None = None
    bars: bool = False


def train_committee(trainings: Sequence[MemberTraining], workers: int = 1, *, bytes_each: float = 0.0) -> list[str]:
    """Train the models of a committee; they share nothing but the labels.

    Several at a time run in processes of their own; see ``run_side_by_side``. Only the first shows its bars then.

    Args:
        trainings: what is to be trained.
        workers: how many at a time, fewer where memory has no room for them.
        bytes_each: what one training will take; see ``training_bytes``.

    Returns:
        Of each why its end was not reached, with the best weights saved; empty if it was.

    Raises:
        ValueError: from ``train_model``.
        BrokenProcessPool: from ``run_side_by_side``.
    """
    n_processes = wanted = min(workers, len(trainings))
    available = available_memory()
    if available is not None and n_processes * bytes_each > available:
        n_processes = max(1, int(available / bytes_each))
        logger.info(
            "%d of %d trainings at a time, of %.1f GB each: %.1f GB are free",
            n_processes,
            wanted,
            bytes_each / 1e9,
            available / 1e9,
        )
    side_by_side = n_processes > 1
    quiet = [
        replace(training, bars=training.bars and (place == 0 or not side_by_side))
        for place, training in enumerate(trainings)
    ]
    return run_side_by_side(_train, quiet, n_processes)


def training_bytes(frames: Sequence[Atoms], spacing: float, n_inputs: int, n_energies: int) -> float:
    """About what a training on labels of these cells holds in memory.

    Per point of the grid the derivatives of the inputs in positions and strain, in half precision, the inputs and the
    LDOS in single precision; half as much again for what is made of them, as measured.

    Args:
        frames: the cells.
        spacing: of the grid, Å.
        n_inputs: of the network.
        n_energies: nodes of the LDOS.
    """
    total = 0.0
    for atoms in frames:
        points = atoms.get_volume() / spacing**3
        total += points * ((3 * len(atoms) + 6) * n_inputs * 2 + 4 * (n_inputs + n_energies))
    return 1.6 * total


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
    )
    return trained.failure
