"""What every model that comes with the package must hold to, on a rattled crystal of its element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_properties

from ase_ldos import LDOSCalculator
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import list_models, load_model
from ase_ldos.physics.occupation import occupation_weights
from ase_ldos.prediction.predict import predict
from ase_ldos.units import BOLTZMANN


@pytest.fixture(scope="module", params=list_models())
def model(request: pytest.FixtureRequest) -> LDOSModel:
    """Each of them, float64."""
    return load_model(request.param).double().requires_grad_(False)


@pytest.fixture(scope="module")
def atoms(model: LDOSModel) -> Atoms:
    """Two atoms or more of the elements it knows, in turn."""
    symbols = list(model.metadata.valence)
    crystal = bulk(symbols[0])
    crystal = crystal.repeat((2, 1, 1)) if len(crystal) == 1 else crystal
    crystal.symbols[:] = [symbols[index % len(symbols)] for index in range(len(crystal))]
    crystal.rattle(0.08, seed=5)
    return crystal


def test_numbers_add_up(model: LDOSModel, atoms: Atoms) -> None:
    found = predict(model, Structure.from_atoms(atoms))
    n_electrons = sum(model.metadata.valence[symbol] for symbol in atoms.symbols)
    assert float(found.grid.integrate(found.density)) == pytest.approx(n_electrons, abs=1e-8)
    kT = BOLTZMANN * model.metadata.electronic_temperature
    level = torch.tensor(found.fermi_level, dtype=torch.float64)
    weights = occupation_weights(found.energy_grid, level, kT)
    assert float(weights.number @ found.dos) == pytest.approx(n_electrons, abs=1e-8)
    assert -200 * len(atoms) < found.free_energy < -10 * len(atoms)
    # the LDOS is a density of states: nearly all of it is positive
    assert float(found.dos.min()) > -0.02 * float(found.dos.max())
    assert float(found.density.min()) > -0.01 * float(found.density.max())


def test_forces_and_stress_are_derivatives(model: LDOSModel, atoms: Atoms) -> None:
    calculator = LDOSCalculator(model, device="cpu")
    step, atom, axis = 1e-3, 1, 2

    def energy(moved: Atoms) -> float:
        moved.calc = calculator  # it keeps the number of grid points
        return moved.get_potential_energy()

    crystal = atoms.copy()
    crystal.calc = calculator
    force, stress = crystal.get_forces()[atom, axis], crystal.get_stress(voigt=False)[0, 0]
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[atom, axis] += sign * step
        ends.append(energy(moved))
    assert abs(force) > 1e-2
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(force, abs=2e-4)
    ends = []
    for sign in (1, -1):
        strained = atoms.copy()
        strained.set_cell(atoms.cell.array @ np.diag([1 + sign * step, 1, 1]), scale_atoms=True)
        ends.append(energy(strained))
    assert (ends[0] - ends[1]) / (2 * step * atoms.get_volume()) == pytest.approx(stress, rel=2e-3, abs=2e-5)


def test_results_are_those_that_ase_knows(model: LDOSModel, atoms: Atoms) -> None:
    crystal = atoms.copy()
    crystal.calc = LDOSCalculator(model, device="cpu")
    for name in crystal.calc.implemented_properties:
        value = crystal.calc.get_property(name, crystal)
        assert np.isfinite(value).all()
    assert crystal.calc.results.keys() <= set(all_properties)
    assert crystal.get_forces().shape == (len(crystal), 3)
    assert crystal.get_stress().shape == (6,)
    assert crystal.get_potential_energy() == crystal.get_potential_energy(force_consistent=True)
