"""What every exchange-correlation functional of the package must hold to, whichever are registered."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.exchange_correlation import FUNCTIONALS, xc_energies, xc_potential
from ase_ldos.units import BOHR, HARTREE

SHAPE = (4, 3, 5)
CELL = torch.tensor([[2.4, 0.1, 0.0], [-1.0, 2.1, 0.2], [0.1, 0.3, 3.5]], dtype=torch.float64)
#: Correlation energy of the uniform electron gas, hartree per electron, by r_s: Perdew and Wang 1992, table I.
CORRELATION = {1.0: -0.0598, 2.0: -0.0448, 5.0: -0.0282, 10.0: -0.0186}


@pytest.fixture(params=list(FUNCTIONALS))
def functional(request: pytest.FixtureRequest) -> str:
    """The name of one."""
    return request.param


def density() -> Tensor:
    """Between 0.1 and 0.3 e/Å³."""
    return 0.1 + 0.2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("radius", CORRELATION)
def test_uniform_electron_gas(functional: str, radius: float) -> None:
    grid = Grid(CELL, SHAPE)
    n = 3 / (4 * math.pi * radius**3)
    energy, _ = xc_energies(torch.full(SHAPE, n / BOHR**3, dtype=torch.float64), grid, functional)
    per_electron = float(energy) / (n * float(grid.volume) / BOHR**3 * HARTREE)
    exchange = -0.75 * (3 * n / math.pi) ** (1 / 3)
    assert per_electron - exchange == pytest.approx(CORRELATION[radius], abs=1e-4)


def test_potential_is_the_derivative_of_the_energy(functional: str) -> None:
    """Along a direction of its own, and along n itself, which is the second number that is returned."""
    grid, n = Grid(CELL, SHAPE), density()
    potential = xc_potential(n, grid, functional)
    change = torch.rand(SHAPE, generator=torch.Generator().manual_seed(8), dtype=torch.float64) - 0.5
    for direction in (change, n):
        ends = [float(xc_energies(n + sign * 1e-5 * direction, grid, functional)[0]) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(grid.integrate(potential * direction)), rel=1e-7)
    assert float(xc_energies(n, grid, functional)[1]) == pytest.approx(float(grid.integrate(potential * n)), rel=1e-9)


def test_stress_is_the_derivative_in_strain(functional: str) -> None:
    n = density()

    def energy(strain: Tensor) -> Tensor:
        return xc_energies(n, Grid(CELL @ (torch.eye(3, dtype=torch.float64) + strain), SHAPE), functional)[0]

    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (stress,) = torch.autograd.grad(energy(strain), strain)
    for row, column in ((0, 0), (2, 1)):
        unit = torch.zeros(3, 3, dtype=torch.float64)
        unit[row, column] = 1e-5
        difference = float(energy(unit) - energy(-unit)) / 2e-5
        assert difference == pytest.approx(float(stress[row, column]), rel=1e-6, abs=1e-7)


def test_two_derivatives_are_finite_wherever_the_density_is_small(functional: str) -> None:
    n = torch.linspace(-1e-3, 1e-3, math.prod(SHAPE), dtype=torch.float64).reshape(SHAPE).requires_grad_()
    energy, integral = xc_energies(n, Grid(CELL, SHAPE), functional)
    (first,) = torch.autograd.grad(energy - integral, n, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), n)
    for value in (energy, integral, first, second):
        assert bool(torch.isfinite(value).all())


def test_a_name_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="b3lyp"):
        xc_energies(density(), Grid(CELL, SHAPE), "b3lyp")
