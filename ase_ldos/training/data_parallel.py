"""Data-parallel training: the snapshots of a step are shared over the ranks, their gradients are added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ase_ldos.communicator import Communicator
from ase_ldos.training.losses import LDOSLoss, ModelWithOffsets
from ase_ldos.training.precompute import TrainingSnapshot

#: All that ``LDOSLoss`` may report.
_NAMES = ("energy", "forces", "stress", "density", "dos", "ldos")


class SharedLoss:
    """Mean of a loss over the snapshots of a step, for ``training.loop.fit`` with the same communicator.

    The value is this rank's part of the mean; the numbers recorded are those of all snapshots. Offsets of groups
    follow after the step's last snapshot, in the order of the snapshots, so that the result does not depend on how many
    ranks there are.

    Args:
        loss: of one snapshot.
        communicator: the ranks.
    """

    def __init__(self, loss: LDOSLoss, communicator: Communicator) -> None:
        self.loss, self.communicator = loss, communicator

    def __call__(self, trained: nn.Module, batch: Sequence[TrainingSnapshot]) -> tuple[Tensor, dict[str, float]]:
        """Part of the loss, and the root of each squared error."""
        assert isinstance(trained, ModelWithOffsets)
        mine = set(self.communicator.partition(range(len(batch))))
        # a rank without a snapshot still has a (vanishing) gradient
        value = torch.stack([0 * parameter.sum().double() for parameter in trained.parameters()]).sum()
        numbers = torch.zeros(len(batch), len(_NAMES) + 1, 2, dtype=torch.float64)
        for place, snapshot in enumerate(batch):
            if place not in mine:
                self.loss.skip(trained)
                continue
            part, metrics, error = self.loss.evaluate(trained, snapshot)
            value = value + part / len(batch)
            for column, number in enumerate([*(metrics.get(name) for name in _NAMES), error]):
                if number is not None:
                    numbers[place, column] = torch.tensor([number, 1.0])
        self.communicator.all_reduce(numbers)
        for snapshot, (error, known) in zip(batch, numbers[:, -1].tolist()):
            if known:
                trained.follow(snapshot.group, error)
        sums = numbers[:, :-1].sum(dim=0).tolist()
        return value, {name: total / count for name, (total, count) in zip(_NAMES, sums) if count}
