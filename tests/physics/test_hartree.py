"""Hartree energy and potential."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.hartree import hartree_energy, hartree_potential
from ase_ldos.units import COULOMB

TRICLINIC = torch.tensor([[3.0, 0.2, -0.1], [-1.0, 2.7, 0.4], [0.5, 0.8, 4.0]], dtype=torch.float64)


def wave(shape: tuple[int, int, int], miller: tuple[int, int, int]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64) / n for n in shape]
    s = torch.meshgrid(*axes, indexing="ij")
    return torch.cos(2 * math.pi * sum(m * x for m, x in zip(miller, s)) + 0.3)


def random_density(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 10, 12), (7, 9, 11)])
@pytest.mark.parametrize("miller", [(1, 0, 0), (2, -1, 3), (0, 0, 2), (-1, 2, 0)])
def test_plane_wave_in_a_triclinic_cell(shape: tuple[int, int, int], miller: tuple[int, int, int]) -> None:
    grid = Grid(TRICLINIC, shape)
    g = 2 * math.pi * torch.linalg.inv(TRICLINIC) @ torch.tensor(miller, dtype=torch.float64)
    field = wave(shape, miller)
    kernel = 4 * math.pi * COULOMB / float(g @ g)
    # n = n0 + A cos(G·r): E = π e² A² V / G², whatever n0
    assert float(hartree_energy(0.7 + 0.2 * field, grid)) == pytest.approx(
        kernel * 0.04 / 4 * float(grid.volume), rel=1e-12
    )
    torch.testing.assert_close(hartree_potential(0.7 + 0.2 * field, grid), 0.2 * kernel * field, rtol=0, atol=1e-11)


def test_gaussian_in_a_large_cell_is_that_of_free_space() -> None:
    # one electron of width σ: e²/(2 √π σ), less the interaction with images and background, −2.837297 e²/2L
    # and the background's 2π e² σ²/2 · 2/L³
    side, width = 12.0, 0.7
    grid = Grid(side * torch.eye(3, dtype=torch.float64), (48, 48, 48))
    squared = (grid.points() - side / 2).square().sum(-1).reshape(grid.shape)
    density = torch.exp(-squared / (2 * width**2)) / (2 * math.pi * width**2) ** 1.5
    expected = COULOMB * (
        1 / (2 * math.sqrt(math.pi) * width) - 2.837297479480619 / (2 * side) + 2 * math.pi * width**2 / side**3
    )
    assert float(hartree_energy(density, grid)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(3, 5, 7), (6, 8, 10)])
def test_potential_is_the_derivative_and_twice_the_energy(shape: tuple[int, int, int]) -> None:
    grid = Grid(TRICLINIC, shape)
    smooth = wave(shape, (1, 1, 0)) + 0.3 * wave(shape, (0, -1, 2)) + 2
    density = smooth.requires_grad_()
    energy = hartree_energy(density, grid)
    (gradient,) = torch.autograd.grad(energy, density)
    potential = hartree_potential(density.detach(), grid)
    torch.testing.assert_close(gradient / grid.voxel_volume, potential, rtol=0, atol=1e-11)
    assert float(grid.integrate(density.detach() * potential)) == pytest.approx(2 * float(energy.detach()), rel=1e-12)


def test_derivatives_in_density_and_strain() -> None:
    def energy(density: Tensor, strain: Tensor) -> Tensor:
        return hartree_energy(density, Grid(TRICLINIC @ (torch.eye(3, dtype=torch.float64) + strain), (4, 3, 4)))

    inputs = (random_density(4, 3, 4).requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True))
    assert gradcheck(energy, inputs, eps=1e-5, atol=1e-7)
    assert gradgradcheck(energy, inputs, eps=1e-5, atol=1e-6)


def test_translation_by_a_grid_step_and_supercell() -> None:
    grid = Grid(TRICLINIC, (6, 5, 4))
    density = random_density(6, 5, 4)
    energy = float(hartree_energy(density, grid))
    assert float(hartree_energy(density.roll((2, -1, 1), (0, 1, 2)), grid)) == pytest.approx(energy, rel=1e-12)
    double = Grid(TRICLINIC * torch.tensor([[1.0], [2.0], [1.0]], dtype=torch.float64), (6, 10, 4))
    assert float(hartree_energy(density.repeat(1, 2, 1), double)) == pytest.approx(2 * energy, rel=1e-12)


def test_beryllium(be_files: list[Path]) -> None:
    for path in be_files:
        with np.load(path) as data:
            density = torch.as_tensor(data["density"])
            energy = hartree_energy(density, Grid(torch.as_tensor(data["cell"]), tuple(density.shape)))
            assert float(energy) == pytest.approx(float(data["hartree"]), abs=5e-3), path.name


def test_density_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="must agree"):
        hartree_energy(torch.ones(4, 4, 4), Grid(TRICLINIC, (4, 4, 6)))
