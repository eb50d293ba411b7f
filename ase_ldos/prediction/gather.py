"""From fields in pieces, packed block after block on many ranks, to fields on the grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import BlockRange, Grid

#: Points that are put into their places at once on a GPU.
_NUMBERS = 2**24


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
        _put(part, blocks, grid, result)
    return result.flatten(1)


def _put(part: Tensor, blocks: Sequence[BlockRange], grid: Grid, result: Tensor) -> None:
    """Put packed fields where they belong: on a CPU block by block, on a GPU equal blocks by their points' numbers."""
    place = 0
    if not part.is_cuda:
        for block in blocks:
            i, j, k = (slice(first, first + n) for first, n in zip(block.first, block.shape))
            result[:, i, j, k] = part[:, place : place + block.n_points].unflatten(1, block.shape)
            place += block.n_points
        return
    flat = result.flatten(1)  # a view
    for shape, group in groupby(blocks, key=lambda block: block.shape):
        members = list(group)
        inner = grid.numbers(BlockRange((0, 0, 0), shape), part.device)
        first = torch.tensor([grid.number(block.first) for block in members]).to(part.device)
        for starts in first.split(max(1, _NUMBERS // len(inner))):
            numbers = (starts[:, None] + inner).flatten()
            flat[:, numbers] = part[:, place : place + len(numbers)]
            place += len(numbers)
