"""Ions, Hartree, exchange and correlation."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import (
    INTERACTIONS,
    LocalDensity,
    interaction_matrix,
    ion_potential,
)

GRID = Grid1D(30.0, 120)
BUMP = 2 * torch.exp(-((GRID.x - 0.7) ** 2)) / math.sqrt(math.pi)


def test_ions_attract_by_their_charge_over_the_soft_distance() -> None:
    v = ion_potential(GRID.x, torch.tensor([[1.0, -1.0], [2.0, -2.0]]), torch.tensor([[3.0, 1.0]] * 2))
    assert v.shape == (2, 120)
    expected = -3 / math.sqrt(1 + 4.0**2) - 1 / math.sqrt(1 + 8.0**2)
    assert float(v[1, GRID.x == 6.0]) == pytest.approx(expected, rel=1e-14)


def test_far_away_the_hartree_potential_is_that_of_all_electrons() -> None:
    v = BUMP @ interaction_matrix(GRID)
    assert float(v[-1]) == pytest.approx(2 / (float(GRID.x[-1]) - 0.7), rel=5e-3)


@pytest.mark.parametrize("name", ["independent", "exact_exchange", "lda"])
def test_potentials_are_derivatives_of_energies(name: str) -> None:
    """v = δE/δn: the directional derivative of the energy, by central differences."""
    functional, matrix = INTERACTIONS[name], interaction_matrix(GRID)
    direction = torch.sin(GRID.x) * BUMP

    def energy(step: float) -> float:
        density = BUMP + step * direction
        return float(GRID.integrate(functional.energy_density(density, density @ matrix)))

    slope = float(GRID.integrate(functional.potential(BUMP, BUMP @ matrix) * direction))
    assert (energy(1e-4) - energy(-1e-4)) / 2e-4 == pytest.approx(slope, rel=1e-6, abs=1e-12)
    assert (abs(slope) > 1e-2) == (name != "independent")


@pytest.mark.parametrize("density", [0.05, 0.4, 1.3])
def test_exchange_is_that_of_the_gas(density: float) -> None:
    """n ε_x = −(2/π²) ∫_0^∞ sin²(k_F s) / (s² √(1 + s²)) ds, by quadrature."""
    fermi = math.pi * density / 2
    value = sum(
        quad(lambda s: (math.sin(fermi * s) / s) ** 2 / math.hypot(1, s), *limits, limit=2000)[0]
        for limits in ((1e-9, 20.0), (20.0, 400.0))
    )
    n = torch.tensor([density], dtype=torch.float64)
    correlation = n * LocalDensity()._correlation(0.5 / n)
    exchange = LocalDensity().energy_density(n, torch.zeros(1)) - correlation
    assert float(exchange) == pytest.approx(-2 * value / math.pi**2, rel=1e-4)


def test_correlation_of_the_gas() -> None:
    """Negative, small beside exchange in a dense gas, and −(α/2A) rs² as rs → 0, as random phases give it."""
    rs = torch.tensor([1e-3, 0.5, 2.0, 10.0], dtype=torch.float64)
    correlation = LocalDensity()._correlation(rs)
    assert float(correlation[0]) == pytest.approx(-1.511 / (2 * 18.4) * 1e-6, rel=2e-2)
    assert (correlation < 0).all()
    assert (correlation > -0.1).all()
