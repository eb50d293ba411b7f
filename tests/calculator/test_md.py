"""Molecular dynamics of 16 beryllium atoms with the bundled model: conservation of energy, egg-box effect."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.cli.demo import make_crystal


@pytest.fixture
def crystal(bundled: str) -> Atoms:
    atoms = make_crystal(16, 300.0, seed=1)
    atoms.calc = LDOSCalculator(bundled, device="cpu")
    return atoms


@pytest.mark.slow
def test_constant_energy(crystal: Atoms) -> None:
    """100 fs at about 300 K in steps of 1 fs: the total energy neither drifts nor fluctuates much."""
    dynamics = VelocityVerlet(crystal, timestep=1 * units.fs)
    totals, potentials = [], []
    for _ in range(100):
        dynamics.run(1)
        totals.append(crystal.get_total_energy() / len(crystal))
        potentials.append(crystal.get_potential_energy() / len(crystal))
    times = np.arange(len(totals)) / 1000
    slope, start = np.polyfit(times, totals, 1)
    fluctuation = np.std(np.array(totals) - slope * times - start)
    print(f"\ndrift {1e3 * slope:+.3f} meV/atom/ps, fluctuation {1e3 * fluctuation:.4f} meV/atom")
    assert abs(slope) * 0.1 < 1e-3
    # of second order in the time step, and far below the exchange of kinetic and potential energy
    assert fluctuation < 0.03 * np.std(potentials)


@pytest.mark.slow
def test_egg_box(crystal: Atoms) -> None:
    """Translating all atoms against the grid: the energy's ripple and the spurious net force."""
    crystal.rattle(0.05, seed=2)
    crystal.get_potential_energy()
    start = crystal.positions.copy()
    direction = crystal.cell[:].sum(axis=0) / np.array(crystal.calc.grid_shape)[0]
    energies, net = [], []
    for fraction in np.linspace(0, 1, 9):
        crystal.positions = start + fraction * direction
        net.append(np.abs(crystal.get_forces().sum(axis=0)).max())
        energies.append(crystal.get_potential_energy() / len(crystal))
    print(f"\negg-box effect: {1e3 * np.ptp(energies):.5f} meV/atom, net force at most {1e3 * max(net):.4f} meV/Å")
    assert np.ptp(energies) < 1e-3
