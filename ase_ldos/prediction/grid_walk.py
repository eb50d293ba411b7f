"""The walk over a grid as the device likes it: block by block on a CPU, batches of equal blocks on a GPU.

Which one it is decides nothing but speed: both give the same points in blocks that are numbered, and hidden features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.grid_batches import BATCH_POINTS, BlockBatch, GridBatches
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, Block, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel

#: Points of the largest single block on a GPU, for features that know no batches: calls are dear there.
_SINGLE_BLOCK = 2**14


def default_points(device: torch.device) -> int:
    """Grid points that are handled at once where the user does not say."""
    return BATCH_POINTS if device.type == "cuda" else DEFAULT_BLOCK


class GridWalk:
    """Blocks of a grid, and the hidden features at their points.

    Args:
        model: on the device that is to work.
        structure: the atoms, anywhere.
        grid: the points; its cell may be anywhere.
        points: grid points that are handled at once.

    Attributes:
        structure: where the blocks come from: with batches on the CPU, else on the model's device.
        batched: whether blocks come in batches.
        atom_state: of the atoms, see ``PointFeatures``.
        ranges: of all blocks.
    """

    def __init__(self, model: LDOSModel, structure: Structure, grid: Grid, points: int) -> None:
        self.model, self.grid, self._points = model, grid, points
        self.batched = model.device.type == "cuda" and isinstance(model.descriptor, BatchedFeatures)
        self.structure = structure.to("cpu" if self.batched else model.device)
        with torch.no_grad():
            self.atom_state = model.encode_atoms(self.structure)
        if self.batched:
            self.ranges = grid.equal_block_ranges(min(points, DEFAULT_BLOCK))
        else:
            self.ranges = grid.block_ranges(points if model.device.type == "cpu" else min(points, _SINGLE_BLOCK))
        self._known: tuple[Sequence[BlockRange], GridBatches] | None = None

    def blocks(self, ranges: Sequence[BlockRange] | None = None, done: int = 0) -> Iterator[Block | BlockBatch]:
        """Blocks (of ``ranges``; default is all) from the ``done``-th on."""
        ranges = self.ranges if ranges is None else ranges
        if done >= len(ranges):
            return
        if self.batched:
            yield from self._batches(ranges).iterate(done)
            return
        cutoff, dtype = self.model.descriptor.cutoff, self.model.dtype
        yield from iterate_blocks(self.structure, self.grid, cutoff, dtype=dtype, ranges=ranges[done:])

    def image_states(self, block: Block | BlockBatch) -> Tensor | None:
        """The state of a block's images; None of a batch, which knows its species."""
        return None if isinstance(block, BlockBatch) else self.atom_state[block.owners]

    def hidden(self, block: Block | BlockBatch, out: Tensor | None = None) -> Tensor:
        """Hidden features of a block's points, ``[grid, hidden]``."""
        return self.model.hidden(block, self.image_states(block), out)

    def _batches(self, ranges: Sequence[BlockRange]) -> GridBatches:
        """Batches of these blocks; their table of images serves the next walk too."""
        if self._known is None or self._known[0] is not ranges:
            features = self.model.descriptor
            assert isinstance(features, BatchedFeatures)
            batches = GridBatches(
                self.structure,
                self.grid,
                features.batch_radii(self.model.dtype),
                ranges,
                kinds=self.atom_state.numpy(),
                n_kinds=len(features.species),
                points=self._points,
                dtype=self.model.dtype,
                device=self.model.device,
            )
            self._known = (ranges, batches)
        return self._known[1]
