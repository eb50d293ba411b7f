"""Electronic entropy and heat capacity against differences, thermodynamics and Sommerfeld's expansion."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ase_ldos.physics.heat_capacity import electronic_entropy, electronic_heat_capacity
from ase_ldos.physics.occupation import fermi_level, interpolate_dos, occupation_weights
from ase_ldos.units import BOLTZMANN

ENERGIES = torch.linspace(-5, 25, 241, dtype=torch.float64)
#: Free electrons and a bump, so that μ moves with the temperature.
DOS = 0.4 * (ENERGIES + 5).sqrt() + 0.5 * torch.exp(-((ENERGIES - 4.5) ** 2))
N = 9.0


def level(temperature: float) -> float:
    return float(fermi_level(DOS, ENERGIES, N, BOLTZMANN * temperature))


def band_energy(temperature: float) -> float:
    mu = torch.tensor(level(temperature), dtype=torch.float64)
    return float(occupation_weights(ENERGIES, mu, BOLTZMANN * temperature).band @ DOS)


def entropy(temperature: float) -> float:
    return float(electronic_entropy(DOS, ENERGIES, level(temperature), temperature))


@pytest.mark.parametrize("temperature", [300.0, 3000.0, 12000.0])
def test_heat_capacity_is_the_slope_of_the_band_energy_and_of_the_entropy(temperature: float) -> None:
    found = float(electronic_heat_capacity(DOS, ENERGIES, level(temperature), temperature))
    step = 2e-3 * temperature
    ends = [1, -8, 8, -1]
    places = [temperature + k * step for k in (-2, -1, 1, 2)]
    by_energy, by_entropy = (sum(c * f(t) for c, t in zip(ends, places)) / (12 * step) for f in (band_energy, entropy))
    assert found == pytest.approx(by_energy, rel=1e-6)
    assert found == pytest.approx(temperature * by_entropy, rel=1e-6)
    assert found > 0


def test_low_temperatures_follow_sommerfeld() -> None:
    """C = S = π²/3 k² T D(μ) where D is linear over kT: here by a node of the grid that lies within a straight line."""
    dos: Tensor = 0.3 + 0.02 * (ENERGIES + 5)
    temperature = 200.0
    mu = float(fermi_level(dos, ENERGIES, N, BOLTZMANN * temperature))
    expected = math.pi**2 / 3 * BOLTZMANN**2 * temperature * float(interpolate_dos(dos, ENERGIES, mu))
    assert float(electronic_heat_capacity(dos, ENERGIES, mu, temperature)) == pytest.approx(expected, rel=1e-4)
    assert float(electronic_entropy(dos, ENERGIES, mu, temperature)) == pytest.approx(expected, rel=1e-4)


def test_interpolated_dos() -> None:
    energies = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    dos = torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64)
    for energy, expected in ((0.0, 2.0), (0.5, 3.0), (1.0, 4.0), (2.0, 2.5), (3.0, 1.0), (-0.5, 1.0), (4.0, 0.5)):
        assert float(interpolate_dos(dos, energies, energy)) == pytest.approx(expected, abs=1e-14)
    for outside in (-1.0, -7.0, 5.0, 50.0):
        assert float(interpolate_dos(dos, energies, outside)) == 0.0


def test_no_graph_is_left() -> None:
    dos = DOS.clone().requires_grad_()
    with torch.no_grad():
        assert not electronic_heat_capacity(dos, ENERGIES, 4.0, 300.0).requires_grad
