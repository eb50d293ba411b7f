"""Elastic constants and zone-centre phonons against closed forms and direct relaxation."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize import BFGS

from ase_ldos.simulation.elasticity import deformations, elastic_response
from ase_ldos.units import GIGAPASCAL


def results(atoms: Atoms, calculator: Calculator, **steps: float) -> dict[str, Atoms]:
    cells = deformations(atoms, **steps)
    for cell in cells:
        cell.calc = calculator
    return {cell.info["name"]: cell for cell in cells}


def test_cubic_crystal_has_three_constants() -> None:
    """EMT's copper, one atom: C₁₁, C₁₂, C₄₄, and nothing else; B is the curvature of the energy."""
    atoms = bulk("Cu", "fcc", a=3.59, cubic=True)
    found = elastic_response(atoms, results(atoms, EMT(), strain=2e-3))
    c11, c12, c44 = found.elastic[0, 0], found.elastic[0, 1], found.elastic[3, 3]
    expected = np.diag([c11] * 3 + [c44] * 3)
    expected[:3, :3] += c12 * (1 - np.eye(3))
    np.testing.assert_allclose(found.elastic, expected, atol=0.3)
    assert c44 > 0
    assert c11 > c12 > 0
    energies = []
    for scale in (0.998, 1.0, 1.002):
        cell = atoms.copy()
        cell.set_cell(atoms.cell * scale, scale_atoms=True)
        cell.calc = EMT()
        energies.append(cell.get_potential_energy())
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / 0.002**2 / atoms.get_volume() / 9 * GIGAPASCAL
    assert found.bulk_modulus == pytest.approx(curvature, rel=0.02)
    assert abs(found.phonons[:3]).max() < 0.5  # meV: sound of infinite wavelength


def test_inner_relaxation_is_that_of_an_optimiser() -> None:
    """hcp with a Lennard-Jones potential: C of atoms at rest equals stresses after relaxing each strained cell."""
    calculator = LennardJones(sigma=2.0, epsilon=0.1, rc=7.0, smooth=True)
    atoms = bulk("Be", "hcp", a=2.19, c=2.19 * 1.63)
    cells = results(atoms, calculator, strain=1e-3, displacement=2e-3)
    found = elastic_response(atoms, cells)
    assert found.clamped[0, 0] > found.elastic[0, 0] + 0.01
    stresses = []
    for sign in ("+1", "-1"):
        cell = cells[f"strain_xx_{sign}"]
        BFGS(cell, logfile=None).run(fmax=1e-6, steps=200)
        stresses.append(cell.get_stress())
    direct = (stresses[0] - stresses[1]) / 2e-3 * GIGAPASCAL
    np.testing.assert_allclose(found.elastic[0], direct, atol=2e-3 * abs(direct).max())


def test_phonon_of_a_diatomic_chain_like_pair() -> None:
    """ω² = k (1/m + 1/m') for the stretching of a bond with force constant k."""
    atoms = Atoms("H2", positions=[[0, 0, 0], [1.1, 0, 0]], cell=[20, 20, 20], pbc=True)
    calculator = LennardJones(sigma=1.0, epsilon=1.0, rc=8.0)
    atoms.positions[1, 0] = 2 ** (1 / 6)
    found = elastic_response(atoms, results(atoms, calculator, displacement=1e-4))
    stiffness = 72 * 2 ** (-1 / 3)  # d²/dr² of 4 (r⁻¹² − r⁻⁶) at its minimum
    mass = atoms.get_masses()[0]
    omega = np.sqrt(2 * stiffness / mass)  # √(eV/(Å² u))
    assert found.phonons[-1] == pytest.approx(omega * 64.654, rel=1e-3)  # ħ √(eV/(Å² u)) = 64.654 meV
    assert abs(found.phonons[:-1]).max() < 1


def test_bad_input_is_refused() -> None:
    atoms = bulk("Cu")
    with pytest.raises(ValueError, match="must be positive"):
        deformations(atoms, strain=0.0)
    with pytest.raises(ValueError, match="18 deformed cells are missing"):
        elastic_response(atoms, {})
