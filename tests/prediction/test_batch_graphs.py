"""What a CUDA graph would hold, without a GPU: fixed shapes, no wait, when it is recorded anew, how to do without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from ase.build import bulk
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import BlockBatch, GridBatches
from ase_ldos.geometry.image_table import ImageRoom
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.backward import _RECORDED, _derivatives
from ase_ldos.prediction.batch_graphs import BatchGraphs, Work
from ase_ldos.prediction.grid_walk import GridWalk, hidden_of_batch

#: Operators whose result's shape or value the host would have to wait for.
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "unique",
    "masked_select",
    "item",
    "equal",
    "is_nonzero",
    "repeat_interleave",
)


class Rerun:
    """Stands in for a CUDA graph: does the work again on the same memory, and writes to the same results."""

    def __init__(self, work: Work, inputs: Sequence[Tensor]) -> None:
        self._work, self._inputs = work, inputs
        self.results = tuple(part.clone() for part in work(*inputs))

    def replay(self) -> None:
        for kept, found in zip(self.results, self._work(*self._inputs)):
            kept.copy_(found)


class Trace(TorchDispatchMode):
    """Every operator, with the shapes of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204
        found = func(*args, **(kwargs or {}))
        parts = found if isinstance(found, tuple | list) else (found,)
        self.calls.append((str(func), *(tuple(part.shape) for part in parts if isinstance(part, Tensor))))
        return found


def make_walk(model: LDOSModel, seed: int, room: ImageRoom | None, rattle: float = 0.02) -> tuple[GridWalk, BlockBatch]:
    """A walk over a cell and its first batch, as a GPU would have them, on the CPU."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.rattle(rattle, seed=seed)
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, (12, 6, 10))
    model = model.double().eval().requires_grad_(False).with_fused_scaler()
    walk = GridWalk(model, structure, grid, 10**6)
    features = model.descriptor
    assert isinstance(features, BatchedFeatures)
    batches = GridBatches(
        structure,
        grid,
        features.batch_radii(model.dtype),
        grid.equal_block_ranges(200),
        kinds=species_indices(structure.numbers, features.species).numpy(),
        n_kinds=len(features.species),
        points=10**6,
        dtype=model.dtype,
        device=torch.device("cpu"),
        room=room,
    )
    (batch,) = batches.iterate()
    assert batch.n_blocks > 1
    return walk, batch


def pull_on(model: LDOSModel, batch: BlockBatch) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (len(batch.flat), model.network.n_features)
    return torch.randn(shape, dtype=model.dtype, generator=generator)


@pytest.mark.parametrize("strained", [False, True])
def test_replays_give_what_the_ordinary_way_gives(either_model: LDOSModel, strained: bool) -> None:
    graphs = BatchGraphs(record=Rerun)
    for seed in (1, 2, 3):
        walk, padded = make_walk(either_model, seed, graphs.room)
        walk.graphs = graphs
        pull = pull_on(walk.model, padded)
        with torch.no_grad():
            hidden = walk.hidden(padded)
        found = walk.run_graph(("derivatives", strained), _RECORDED[strained], padded, (pull,))
        plain_walk, plain = make_walk(either_model, seed, None)
        expected = _derivatives(plain_walk.model, plain, plain_walk.image_states(plain), pull, strained)
        torch.testing.assert_close(hidden, expected[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-10)
        sums = []
        for batch, parts in ((padded, found), (plain, expected)):
            by_atoms = torch.zeros(4, 3, dtype=torch.float64)
            sums.append(by_atoms.index_add_(0, batch.owners.flatten(), parts[1]))
        torch.testing.assert_close(*sums, rtol=0, atol=1e-9)
        if strained:
            torch.testing.assert_close(found[2], expected[2], rtol=0, atol=1e-9)
    assert (graphs.recorded, graphs.replayed) == (2, 6)


def test_what_is_recorded_depends_on_no_position_and_waits_for_nothing(either_model: LDOSModel) -> None:
    room, traces = ImageRoom(), []
    for seed in (1, 2):
        walk, batch = make_walk(either_model, seed, room)
        points = batch.points.clone().requires_grad_()
        moved = replace(batch, points=points)
        states, pull = walk.image_states(batch), pull_on(walk.model, batch)
        for _ in range(2):  # the first makes what is kept
            with Trace() as trace:
                hidden_of_batch(walk.model, moved, states)
                _RECORDED[True](walk.model, moved, states, pull)
        traces.append(trace.calls)
    assert len(traces[0]) > 50
    assert traces[0] == traces[1]
    names = {str(call[0]) for call in traces[0]}
    assert not [name for name in names if any(f".{wait}" in name for wait in WAITS)]


def test_recorded_anew_when_there_is_no_room_and_for_another_model(be_model: LDOSModel) -> None:
    graphs = BatchGraphs(record=Rerun)

    def step(walk: GridWalk, batch: BlockBatch) -> Tensor:
        walk.graphs = graphs
        with torch.no_grad():
            return walk.hidden(batch)

    step(*make_walk(be_model, 1, graphs.room))
    step(*make_walk(be_model, 2, graphs.room))
    assert graphs.recorded == 1
    # another structure, with more images near a block
    walk, batch = make_walk(be_model, 1, graphs.room)
    counts = [[2 * n for n in group.counts] for group in batch.groups]
    assert graphs.room.fit(counts) != [list(group.counts) for group in batch.groups]
    step(*make_walk(be_model, 2, graphs.room))
    assert graphs.recorded == 2
    walk, batch = make_walk(be_model, 1, graphs.room)
    with torch.no_grad():
        be_model.network.head.weight.mul_(2)
        next(be_model.network.parameters()).mul_(1.5)
    other, batch = make_walk(be_model, 1, graphs.room)
    assert other.model is not walk.model
    found = step(other, batch)
    assert graphs.recorded == 3
    with torch.no_grad():
        torch.testing.assert_close(found, other.model.hidden(batch, None), rtol=1e-12, atol=1e-12)


def test_all_goes_on_where_nothing_can_be_recorded(be_model: LDOSModel, caplog: pytest.LogCaptureFixture) -> None:
    def record(work: Work, inputs: Sequence[Tensor]) -> Rerun:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = BatchGraphs(record=record)
    walk, batch = make_walk(be_model, 1, graphs.room)
    walk.graphs = graphs
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(walk.hidden(batch), walk.model.hidden(batch, None))
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graph could be recorded, going on without: operation not permitted when stream is capturing"
    ]
    assert graphs.failed
    assert not graphs.suit(10)


def test_large_grids_are_not_recorded() -> None:
    graphs = BatchGraphs(record=Rerun, maximum_points=1000)
    assert graphs.suit(1000)
    assert not graphs.suit(1001)


def test_old_recordings_are_let_go(be_model: LDOSModel) -> None:
    graphs = BatchGraphs(record=Rerun)
    values = [torch.arange(float(n)) for n in range(1, 21)]
    for value in values:
        (found,) = graphs.run(be_model, "square", lambda part: (part * part,), (value,))
        torch.testing.assert_close(found, value * value)
    assert graphs.recorded == len(values)
    graphs.run(be_model, "square", lambda part: (part * part,), values[-1:])
    assert graphs.recorded == len(values)
    graphs.run(be_model, "square", lambda part: (part * part,), values[:1])
    assert graphs.recorded == len(values) + 1
