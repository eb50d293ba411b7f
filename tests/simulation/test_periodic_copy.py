"""A copy of the atoms alone."""

from __future__ import annotations

import numpy as np
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

from ase_ldos.simulation.periodic_copy import periodic_copy


def test_it_has_elements_places_cell_and_its_own_remarks() -> None:
    atoms = molecule("H2O", vacuum=3.0)
    atoms.set_momenta(np.ones((3, 3)))
    atoms.set_constraint(FixAtoms([0]))
    atoms.info["old"] = 1
    atoms.calc = EMT()
    found = periodic_copy(atoms, name="water")
    assert found.calc is None
    assert found.pbc.all()
    assert not found.constraints
    assert not found.has("momenta")
    assert found.info == {"name": "water"}
    np.testing.assert_array_equal(found.numbers, atoms.numbers)
    np.testing.assert_array_equal(found.positions, atoms.positions)
    np.testing.assert_array_equal(found.cell.array, atoms.cell.array)
    found.positions += 1
    assert not np.isclose(found.positions, atoms.positions).any()
