"""From fields in pieces, packed block after block on many ranks, to fields on the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import BlockRange, Grid


def gather_fields(own: Tensor, grid: Grid, ranges: Sequence[BlockRange], communicator: Communicator) -> Tensor | None:
    """Collect fields on rank 0, in the order of the grid.

    Args:
        own: this rank's part, block after block, ``[field, own grid]``.
        grid: of the fields.
        ranges: of all blocks, as ``communicator.partition`` shares them.
        communicator: the ranks.

    Returns:
        ``[field, grid]`` in C order on rank 0; None on the others.
    """
    if not communicator.is_root:
        communicator.send(own)
        return None
    result = torch.empty(len(own), *grid.shape, dtype=own.dtype, device=own.device)
    for rank in range(communicator.size):
        blocks = communicator.partition(ranges, rank)
        part = own
        if rank > 0:
            size = sum(block.n_points for block in blocks)
            part = communicator.receive(torch.empty(len(own), size, dtype=own.dtype, device=own.device), rank)
        place = 0
        for block in blocks:
            i, j, k = (slice(first, first + n) for first, n in zip(block.first, block.shape))
            result[:, i, j, k] = part[:, place : place + block.n_points].unflatten(1, block.shape)
            place += block.n_points
    return result.flatten(1)
