"""Momenta drawn for the start of dynamics."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk

from ase_ldos.simulation.velocities import draw_momenta


def salt() -> Atoms:
    return bulk("LiCl", "rocksalt", a=5.1).repeat((10, 10, 10))


def test_momenta_have_the_variance_of_each_mass_and_no_sum() -> None:
    atoms = salt()
    draw_momenta(atoms, 700.0, np.random.default_rng(1))
    momenta = atoms.get_momenta()
    np.testing.assert_allclose(momenta.sum(axis=0), 0, atol=1e-10)
    for symbol in ("Li", "Cl"):
        mine = atoms.symbols == symbol
        found = np.mean(momenta[mine] ** 2 / atoms.get_masses()[mine][:, None]) / units.kB
        assert found == pytest.approx(700, rel=0.1)  # of 3000 numbers the standard deviation is 2.6 %
    assert atoms.get_temperature() != pytest.approx(700, rel=1e-6)


def test_the_temperature_may_be_exact() -> None:
    atoms = salt()
    draw_momenta(atoms, 700.0, np.random.default_rng(1), exact=True)
    assert atoms.get_temperature() == pytest.approx(700, rel=1e-12)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-10)


@pytest.mark.parametrize(("atoms", "temperature"), [(bulk("Be", "fcc", a=3.2), 500.0), (salt(), 0.0)])
def test_one_atom_and_no_temperature_are_rest(atoms: Atoms, temperature: float) -> None:
    draw_momenta(atoms, temperature, np.random.default_rng(1), exact=True)
    assert not atoms.get_momenta().any()
