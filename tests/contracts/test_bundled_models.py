"""What every model that comes with the package must hold to, on a rattled crystal of its element."""

from __future__ import annotations

import dataclasses

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
    parts = {item.name: getattr(found.energies, item.name) for item in dataclasses.fields(found.energies)}
    assert all(np.isfinite(float(value)) for value in parts.values())
    assert -200 * len(atoms) < found.free_energy < -10 * len(atoms)
    # the LDOS is a density of states: nearly all of it is positive
    assert float(found.dos.min()) > -0.02 * float(found.dos.max())
    assert float(found.density.min()) > -0.01 * float(found.density.max())


def test_forces_and_stress_are_derivatives(model: LDOSModel, atoms: Atoms) -> None:
    structure = Structure.from_atoms(atoms)
    found = predict(model, structure, ("forces", "stress"))
    assert found.forces is not None
    assert found.stress is not None
    step, atom, axis = 1e-3, 1, 2

    def energy(moved: Structure) -> float:
        grid = dataclasses.replace(found.grid, cell=moved.cell)
        return predict(model, moved, grid=grid).free_energy

    shift = torch.zeros_like(structure.positions)
    shift[atom, axis] = step
    ends = [energy(dataclasses.replace(structure, positions=structure.positions + sign * shift)) for sign in (1, -1)]
    assert abs(float(found.forces[atom, axis])) > 1e-2
    assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(found.forces[atom, axis]), abs=2e-4)
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[0, 0] = step
    ends = [energy(structure.strained(sign * strain)) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step * float(structure.volume))
    assert expected == pytest.approx(float(found.stress[0, 0]), rel=2e-3, abs=2e-5)


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
