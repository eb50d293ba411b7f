"""The real-space grid: points, reciprocal vectors, integrals, blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ase_ldos.geometry.grid import Grid, grid_shape

CELL = torch.tensor([[3.0, 0.2, -0.1], [-1.0, 2.7, 0.4], [0.5, 0.8, 4.0]], dtype=torch.float64)
SHAPES = [(4, 6, 8), (3, 5, 7), (1, 2, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_points_are_in_c_order(shape: tuple[int, int, int]) -> None:
    grid = Grid(CELL, shape)
    points = grid.points().reshape(*shape, 3)
    for index in np.ndindex(*shape):
        expected = (np.array(index) / shape) @ CELL.numpy()
        np.testing.assert_allclose(points[index].numpy(), expected, atol=1e-14)
    some = torch.tensor([grid.n_points - 1, 0, grid.n_points // 2])
    torch.testing.assert_close(grid.points(some), grid.points()[some], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_indices_are_those_of_numpy(shape: tuple[int, int, int]) -> None:
    flat = torch.arange(math.prod(shape))
    expected = np.stack(np.unravel_index(flat.numpy(), shape), axis=-1)
    np.testing.assert_array_equal(Grid(CELL, shape).indices(flat).numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_reciprocal_vectors_are_those_of_the_transform(shape: tuple[int, int, int]) -> None:
    grid = Grid(CELL, shape)
    vectors = grid.g_vectors()
    assert vectors.shape == (shape[0], shape[1], shape[2] // 2 + 1, 3)
    # the wave cos(G·r) has exactly the coefficient that G belongs to (and its partner, outside the half)
    index = (shape[0] - 1, shape[1] // 3, 1)
    wave = torch.cos(grid.points() @ vectors[index]).reshape(shape)
    expected = torch.zeros(vectors.shape[:3], dtype=torch.complex128)
    expected[index] = 0.5
    torch.testing.assert_close(torch.fft.rfftn(wave, norm="forward"), expected, rtol=0, atol=1e-13)
    turns = CELL @ vectors[index] / (2 * math.pi)
    torch.testing.assert_close(turns, torch.tensor([-1.0 if shape[0] > 1 else 0.0, index[1], 1.0]).double())


@pytest.mark.parametrize("shape", SHAPES)
def test_half_weights_give_parsevals_sum(shape: tuple[int, int, int]) -> None:
    grid = Grid(CELL, shape)
    field = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    power = torch.fft.rfftn(field, norm="ortho").abs() ** 2
    assert float((power * grid.half_weights()).sum()) == pytest.approx(float((field**2).sum()), rel=1e-12)
    assert float(grid.half_weights().sum()) == shape[2]


def test_integrals() -> None:
    grid = Grid(CELL, (4, 6, 8))
    volume = abs(np.linalg.det(CELL.numpy()))
    assert float(grid.volume) == pytest.approx(volume, rel=1e-14)
    assert float(grid.voxel_volume) == pytest.approx(volume / 192, rel=1e-14)
    field = torch.rand(4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert grid.integrate(field).dtype == torch.float64
    assert float(grid.integrate(field)) == pytest.approx(float(field.double().mean()) * volume, rel=1e-12)
    torch.testing.assert_close(grid.integrate(field.flatten()), grid.integrate(field))
    stacked = torch.stack((field, 2 * field))
    torch.testing.assert_close(grid.integrate(stacked)[1], 2 * grid.integrate(field))
    # a wave that fits the cell integrates to nothing
    wave = torch.cos(grid.points() @ grid.g_vectors()[1, 2, 3]).reshape(grid.shape)
    assert float(grid.integrate(wave)) == pytest.approx(0, abs=1e-12)


def test_everything_follows_a_strain() -> None:
    def properties(strain: torch.Tensor) -> tuple[torch.Tensor, ...]:
        grid = Grid(CELL @ (torch.eye(3, dtype=torch.float64) + strain), (2, 3, 2))
        return grid.points(), grid.g_vectors(), grid.voxel_volume

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(properties, strain)
    assert torch.autograd.gradgradcheck(properties, strain)


@pytest.mark.parametrize("spacing", [0.15, 0.25, 0.6, 50.0])
def test_sizes_are_even_fast_and_near_the_spacing(spacing: float) -> None:
    shape = grid_shape(CELL.numpy(), spacing)
    for n, length in zip(shape, CELL.norm(dim=1).tolist()):
        assert n % 2 == 0
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1, f"{n} is no product of 2, 3 and 5"
        assert length / n <= spacing / 0.97
        # sizes lie close: no more than about a third above what is needed, where there are many
        assert n <= max(2, 1.34 * length / spacing + 2)
    assert Grid.with_spacing(CELL, spacing).shape == shape


@pytest.mark.parametrize("spacing", [0.0, -0.2, math.nan])
def test_spacing_must_be_positive(spacing: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        grid_shape(CELL.numpy(), spacing)


@pytest.mark.parametrize("max_points", [1, 7, 64, 100, 10**6])
@pytest.mark.parametrize("shape", [(6, 10, 12), (5, 1, 7)])
def test_blocks_cover_each_point_once(max_points: int, shape: tuple[int, int, int]) -> None:
    grid = Grid(CELL, shape)
    blocks = [grid.numbers(block) for block in grid.block_ranges(max_points)]
    assert all(len(block) <= max_points for block in blocks)
    torch.testing.assert_close(torch.cat(blocks).sort().values, torch.arange(grid.n_points))


def test_blocks_are_compact() -> None:
    grid = Grid(6 * torch.eye(3, dtype=torch.float64), (24, 24, 24))
    for block in grid.block_ranges(512):
        points = grid.points(grid.numbers(block))
        assert float((points - points.mean(0)).norm(dim=1).max()) < 1.01 * math.sqrt(3) * 3.5 * 0.25


def test_points_of_a_box_about_its_centre() -> None:
    grid = Grid(CELL, (6, 10, 12))
    ranges = grid.block_ranges(50)
    for block, centre in zip(ranges, grid.centres(ranges), strict=True):
        expected = grid.points(grid.numbers(block))
        torch.testing.assert_close(centre, expected.mean(dim=0), rtol=0, atol=1e-12)
        torch.testing.assert_close(centre + grid.offsets(block.shape), expected, rtol=0, atol=1e-12)


def test_reciprocal_vectors_in_rows() -> None:
    grid = Grid(CELL, (6, 10, 12))
    assert torch.equal(grid.g_vectors(slice(2, 5)), grid.g_vectors()[2:5])
