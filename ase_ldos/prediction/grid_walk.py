"""The walk over a grid as the device likes it: block by block on a CPU, batches of equal blocks on a GPU.

Which one it is decides nothing but speed: both give the same points in blocks that are numbered, and hidden features.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch import Tensor

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.grid_batches import BATCH_POINTS, BlockBatch, GridBatches
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, Block, iterate_blocks
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.batch_graphs import BatchGraphs

#: Points of the largest single block on a GPU, for features that know no batches: calls are dear there.
_SINGLE_BLOCK = 2**14


def default_points(device: torch.device) -> int:
    """Grid points that are handled at once where the user does not say."""
    return BATCH_POINTS if device.type == "cuda" else DEFAULT_BLOCK


def hidden_of_batch(model: LDOSModel, batch: BlockBatch, image_states: Tensor | None) -> tuple[Tensor]:
    """Hidden features of a batch without a graph of derivatives, for a recording."""
    with torch.no_grad():
        return (model.hidden(batch, image_states),)


class GridWalk:
    """Blocks of a grid, and the hidden features at their points.

    Args:
        model: on the device that is to work.
        structure: the atoms, anywhere.
        grid: the points; its cell may be anywhere.
        points: grid points that are handled at once.
        graphs: record what is done to batches of small grids; see ``batch_graphs``.

    Attributes:
        structure: where the blocks come from: with batches on the CPU, else on the model's device.
        batched: whether blocks come in batches.
        graphs: None where nothing is recorded.
        atom_state: of the atoms, see ``PointFeatures``.
        ranges: of all blocks.
    """

    def __init__(
        self, model: LDOSModel, structure: Structure, grid: Grid, points: int, graphs: BatchGraphs | None = None
    ) -> None:
        self.model, self.grid, self._points = model, grid, points
        self.batched = model.device.type == "cuda" and isinstance(model.descriptor, BatchedFeatures)
        suits = graphs is not None and self.batched and graphs.suit(grid.n_points)
        self.graphs = graphs if suits else None
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
        """The state of a block's images; None of a batch where the state is the species, which it knows."""
        if isinstance(block, BlockBatch) and not self.atom_state.is_floating_point():
            return None
        return self.atom_state[block.owners]

    def hidden(self, block: Block | BlockBatch, out: Tensor | None = None) -> Tensor:
        """Hidden features of a block's points, ``[grid, hidden]``."""
        if self.graphs is None or torch.is_grad_enabled() or not isinstance(block, BlockBatch):
            return self.model.hidden(block, self.image_states(block), out)
        (recorded,) = self.run_graph("hidden", hidden_of_batch, block, ())
        return recorded.clone() if out is None else out.copy_(recorded)

    def run_graph(
        self, kind: Hashable, work: Callable[..., tuple[Tensor, ...]], batch: BlockBatch, others: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Results of ``work(model, batch, image states, *others)`` by a recording, whose next run overwrites them.

        Args:
            kind: tells this work from others.
            work: of a batch like this one; waits for nothing.
            batch: of this walk.
            others: further tensors.
        """
        assert self.graphs is not None
        states = self.image_states(batch)
        inputs = [batch.points, batch.atoms, *(() if states is None else (states,)), *others]
        model, flat, owners, groups = self.model, batch.flat, batch.owners, batch.groups

        def on(points: Tensor, atoms: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            # a leaf of a derivative: a descriptor keeps nothing that depends on points, which would not be recorded
            moved = BlockBatch(flat, points.detach().requires_grad_(), atoms.detach(), owners, groups)
            return work(model, moved, *((None, *rest) if states is None else rest))

        shape = tuple((group.rows.start, group.rows.stop, group.counts) for group in groups)
        return self.graphs.run(model, (kind, shape), on, inputs)

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
                kinds=species_indices(self.structure.numbers, features.species).numpy(),
                n_kinds=len(features.species),
                points=min(self._points, features.batch_points),
                dtype=self.model.dtype,
                device=self.model.device,
                room=None if self.graphs is None else self.graphs.room,
            )
            self._known = (ranges, batches)
        return self._known[1]
