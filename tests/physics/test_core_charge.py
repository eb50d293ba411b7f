"""Partial core charges: Gaussians, whose every property is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.core_charge import CoreCharge, core_density

WIDTH, CHARGE = 0.42, 1.5  # Å, electrons
CELL = torch.tensor([[6.0, 0.0, 0.0], [1.5, 6.5, 0.0], [0.0, -1.0, 7.0]], dtype=torch.float64)


def gaussian(width: float = WIDTH, charge: float = CHARGE) -> CoreCharge:
    g = 0.05 * np.arange(601)
    values = charge * np.exp(-0.5 * (g * width) ** 2)
    return CoreCharge(0.05, tuple(values), tuple(-g * width**2 * values))


def test_interpolation_is_good_between_the_nodes() -> None:
    g = torch.linspace(0, 29.99, 997, dtype=torch.float64)
    exact = CHARGE * torch.exp(-0.5 * (g * WIDTH) ** 2)
    torch.testing.assert_close(gaussian().form_factor(g), exact, atol=1e-8, rtol=0)
    assert not gaussian().form_factor(torch.tensor([30.01, 99.0])).any()
    probe = torch.tensor([0.0, 0.03, 1.0, 2.345], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian().form_factor, (probe[1:],))


def test_density_is_the_sum_of_gaussians() -> None:
    positions = torch.tensor([[0.3, 0.2, 0.1], [2.0, 3.0, 4.0], [4.0, 1.0, 2.0]], dtype=torch.float64)
    structure = Structure(torch.tensor([12, 12, 4]), positions, CELL)
    grid = Grid(CELL, (24, 24, 30))
    density = core_density(structure, grid, {"Mg": gaussian()})
    assert density is not None
    assert float(grid.integrate(density)) == pytest.approx(2 * CHARGE, abs=1e-10)
    images = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3) @ CELL
    squares = torch.cdist(grid.points(), (positions[:2, None] + images).reshape(-1, 3)) ** 2
    direct = CHARGE * (2 * math.pi * WIDTH**2) ** -1.5 * torch.exp(-0.5 * squares / WIDTH**2).sum(dim=1)
    torch.testing.assert_close(density.flatten(), direct, atol=2e-4, rtol=0)
    both = core_density(structure, grid, {"Mg": gaussian(), "Be": gaussian(0.6, 0.5)})
    assert both is not None
    assert float(grid.integrate(both)) == pytest.approx(2 * CHARGE + 0.5, abs=1e-10)
    assert core_density(structure, grid, {"Al": gaussian()}) is None


def test_density_follows_atoms_and_strain() -> None:
    positions = torch.tensor([[0.3, 0.2, 0.1], [2.0, 2.5, 3.0]], dtype=torch.float64)
    structure = Structure(torch.tensor([12, 12]), positions, CELL)
    weights = torch.linspace(0, 1, 560, dtype=torch.float64).reshape(8, 7, 10)

    def total(moved: Tensor, strain: Tensor) -> Tensor:
        strained = replace(structure, positions=moved).strained(strain)
        grid = Grid(strained.cell, (8, 7, 10))
        density = core_density(strained, grid, {"Mg": gaussian()})
        assert density is not None
        return (density * weights).sum()

    start = positions.clone().requires_grad_(), (0.01 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(total, start)
    assert torch.autograd.gradgradcheck(total, start)
