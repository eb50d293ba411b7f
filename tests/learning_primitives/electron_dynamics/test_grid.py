"""The grid and its plane waves."""

from __future__ import annotations

import math

import pytest
import torch

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D


def test_plane_waves_are_differentiated_integrated_and_interpolated_exactly() -> None:
    grid = Grid1D(7.0, 32)
    wave = 2 * math.pi * 3 / 7.0
    values = 1.5 + torch.sin(wave * grid.x + 0.3)
    torch.testing.assert_close(grid.integrate(values), torch.tensor(10.5, dtype=torch.float64))
    torch.testing.assert_close(grid.differentiate(values), wave * torch.cos(wave * grid.x + 0.3))
    torch.testing.assert_close(grid.differentiate(values, 2), -(wave**2) * (values - 1.5), rtol=0, atol=1e-11)
    torch.testing.assert_close(grid.kinetic_matrix @ values, wave**2 / 2 * (values - 1.5), rtol=0, atol=1e-11)
    points = torch.tensor([-3.5, -0.123, 1.7, 3.5], dtype=torch.float64)
    torch.testing.assert_close(grid.interpolate(values, points), 1.5 + torch.sin(wave * points + 0.3))
    complex_wave = torch.exp(-1j * wave * grid.x)
    torch.testing.assert_close(grid.differentiate(complex_wave), -1j * wave * complex_wave)
    torch.testing.assert_close(grid.interpolate(complex_wave, points), torch.exp(-1j * wave * points))


def test_the_grid_points_are_interpolated_as_they_are() -> None:
    """The highest wave included, which sines and cosines share."""
    grid = Grid1D(5.0, 16)
    values = torch.randn(16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(grid.interpolate(values, grid.x), values)


def test_bad_grids() -> None:
    with pytest.raises(ValueError, match="positive number of bohr, got -1"):
        Grid1D(-1.0, 16)
    with pytest.raises(ValueError, match="even number of points, 4 or more, got 15"):
        Grid1D(5.0, 15)
    with pytest.raises(ValueError, match=r"in the box \|x\| ≤ 2.5 bohr, got 3"):
        Grid1D(5.0, 16).interpolate(torch.zeros(16), torch.tensor([3.0]))
