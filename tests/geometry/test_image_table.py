"""Images found for many places at once, against the search place by place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import GridBatches
from ase_ldos.geometry.image_table import ImageRoom, ImageTable
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure

CORNERS = 0.6 * np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)


def crystals() -> dict[str, Atoms]:
    skewed = bulk("Be", "hcp", a=2.27, c=3.57)
    skewed.set_cell(skewed.cell[:] @ np.array([[1.02, 0.9, -0.07], [0.05, 0.98, 0.12], [0.2, -0.11, 1.01]]), True)
    wide = bulk("Al", "fcc", a=4.05, cubic=True).repeat((1, 1, 5))
    wide.positions += (40.0, -3.0, 11.0)  # outside the cell
    slab = Atoms("Be3", positions=[[0, 0, 1], [1, 1, 1.5], [2, 0, 20]], cell=[4, 4, 25], pbc=True)
    return {"skewed": skewed, "outside": wide, "vacuum": slab}


@pytest.mark.parametrize("name", crystals())
@pytest.mark.parametrize("corners", [None, CORNERS], ids=["points", "bodies"])
@pytest.mark.parametrize("more", [None, 0, 500], ids=["tight", "room", "more room than candidates"])
def test_same_images_as_place_by_place(name: str, corners: np.ndarray | None, more: int | None) -> None:
    structure, cutoff = Structure.from_atoms(crystals()[name]), 4.3
    fractional = np.random.default_rng(0).random((23, 3))
    places = fractional @ structure.cell.numpy()
    kinds = np.arange(len(structure)) % 2
    table = ImageTable(structure, places, (cutoff, 2.5), corners=corners, kinds=kinds, n_kinds=2)
    shape = np.zeros((1, 3)) if corners is None else corners
    images = Images(structure, cutoff + 1.1)
    room = None if more is None else ImageRoom()
    if room is not None and more:
        room.fit([[more, more]] * 2)
    found = table.near(slice(3, 20), torch.float64, room)
    if more:
        assert found.owners.shape[1] >= 2 * more
    assert sum(group.rows.stop - group.rows.start for group in found.groups) == found.owners.shape[1]
    for row, place in enumerate(places[3:20]):
        near = images.near_block(place, shape, cutoff)
        owners, vectors = images.atoms[near].numpy(), (images.positions[near] - torch.as_tensor(place)).numpy()
        bounds = np.linalg.norm(vectors, axis=1) - (vectors @ shape.T).max(axis=1, initial=0.0) / np.maximum(
            np.linalg.norm(vectors, axis=1), 1e-12
        )
        for kind, group in enumerate(found.groups):
            mine = kinds[owners] == kind
            real = int(mine.sum())
            own, own_vectors = found.owners[row, group.rows], found.vectors[row, group.rows]
            order, theirs = np.lexsort(vectors[mine].round(6).T), np.lexsort(own_vectors[:real].numpy().round(6).T)
            np.testing.assert_allclose(own_vectors[:real].numpy()[theirs], vectors[mine][order], atol=1e-9)
            np.testing.assert_array_equal(own[:real].numpy()[theirs], owners[mine][order])
            # what fills up the row is far from everything
            assert bool((own_vectors[real:].norm(dim=1) > cutoff + 2).all())
            assert group.counts[0] >= real
            assert group.counts[1] >= (bounds[mine] <= 2.5).sum()


def test_room_stays_while_it_suffices_and_only_grows() -> None:
    room = ImageRoom()
    first = room.fit([[100, 30], [0, 0]])
    assert first == [[112, 40], [0, 0]]
    assert room.fit([[112, 2], [0, 0]]) is first
    second = room.fit([[90, 41], [8, 1]])
    assert second == [[112, 48], [16, 8]]
    assert room.fit([[100, 30], [0, 0]]) is second
    assert room.fit([[10]]) == [[16]]


@pytest.mark.parametrize("shape", [(8, 12, 18), (7, 11, 13)], ids=["divisible", "prime"])
@pytest.mark.parametrize("done", [0, 5])
def test_batches_hold_each_point_once(shape: tuple[int, int, int], done: int) -> None:
    structure = Structure.from_atoms(crystals()["skewed"])
    grid = Grid(structure.cell, shape)
    ranges = grid.equal_block_ranges(60)
    batches = GridBatches(
        structure,
        grid,
        (4.0,),
        ranges,
        kinds=np.zeros(2, dtype=int),
        n_kinds=1,
        points=200,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    expected = torch.cat([grid.numbers(block) for block in ranges[done:]])
    found = list(batches.iterate(done))
    assert torch.equal(torch.cat([batch.flat for batch in found]), expected)
    assert sum(batch.n_blocks for batch in found) == len(ranges) - done
    place = 0
    for batch in found:
        points = grid.points(batch.flat).unflatten(0, (batch.n_blocks, -1))
        torch.testing.assert_close(points - points.mean(dim=1, keepdim=True), batch.points.expand_as(points))
        # images are where their atoms are, up to lattice vectors
        images = points.mean(dim=1, keepdim=True) + batch.atoms
        steps = (images - structure.positions[batch.owners]) @ torch.linalg.inv(structure.cell)
        real = batch.atoms.norm(dim=-1) < 6.5
        assert float((steps - steps.round())[real].abs().max()) < 1e-9
        place += len(batch.flat)
    assert place == len(expected)


@pytest.mark.parametrize("shape", [(18, 18, 30), (36, 40, 48), (2, 3, 97), (64, 64, 64), (7, 11, 13)])
def test_equal_blocks(shape: tuple[int, int, int]) -> None:
    grid = Grid(torch.diag(torch.tensor(shape, dtype=torch.float64) * 0.25), shape)
    ranges = grid.equal_block_ranges(2048)
    numbers = torch.cat([grid.numbers(block) for block in ranges])
    assert torch.equal(numbers.sort().values, torch.arange(grid.n_points))
    sizes = {block.n_points for block in ranges}
    assert max(sizes) <= 2048
    shapes = [block.shape for block in ranges]
    assert sorted(shapes) == shapes or len(set(shapes)) == 1  # those of one shape together
    if shape[2] != 97:
        assert len(set(shapes)) == 1
        assert max(sizes) >= min(512, grid.n_points)
