"""Derived quantities: values, and one that is added from outside."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.prediction import quantities
from ase_ldos.prediction.predict import predict
from ase_ldos.prediction.quantities import QUANTITIES, Quantity, evaluate_quantity
from ase_ldos.registry import Registry
from ase_ldos.units import BOLTZMANN


def test_every_quantity_has_a_value_and_a_unit(be_atoms: Atoms, be_model: LDOSModel) -> None:
    found = predict(be_model, be_atoms)
    for name in QUANTITIES:
        value = evaluate_quantity(name, be_model, found)
        assert np.all(np.isfinite(value)), name
        assert QUANTITIES[name].unit
        assert QUANTITIES[name].description


def test_values_agree_with_the_prediction(be_atoms: Atoms, be_model: LDOSModel) -> None:
    temperature, step = 4000.0, 4.0
    found = predict(be_model, be_atoms, electronic_temperature=temperature)
    assert found.electronic_temperature == temperature
    values = {name: evaluate_quantity(name, be_model, found) for name in QUANTITIES}
    assert values["number_of_electrons"] == pytest.approx(2 * len(be_atoms), abs=1e-9)
    # −TS of the free energy's table
    assert values["electronic_entropy"] == pytest.approx(-float(found.energies.entropy_term) / temperature, rel=1e-12)
    expected = np.interp(found.fermi_level, found.energy_grid.numpy(), found.dos.numpy())
    assert values["dos_at_fermi_level"] == pytest.approx(expected, rel=1e-12)

    def number_and_energy(kT: float, mu: float | None = None) -> tuple[float, float]:
        n_electrons = 2.0 * len(be_atoms)
        root = fermi_level(found.dos, found.energy_grid, n_electrons, kT) if mu is None else found.dos.new_tensor(mu)
        weights = occupation_weights(found.energy_grid, root, kT)
        return float(weights.number @ found.dos), float(weights.band @ found.dos)

    kT, h = BOLTZMANN * temperature, BOLTZMANN * step
    slope = (number_and_energy(kT + h)[1] - number_and_energy(kT - h)[1]) / (2 * step)
    assert values["electronic_heat_capacity"] == pytest.approx(slope, rel=1e-4)
    more, less = (number_and_energy(kT, found.fermi_level + sign * 1e-4)[0] for sign in (1, -1))
    assert values["thermal_dos"] == pytest.approx((more - less) / 2e-4, rel=1e-6)


def test_a_quantity_from_outside(be_atoms: Atoms, be_model: LDOSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    mean = Quantity("e/Å³", "density averaged along a", lambda _, found: found.density.mean(dim=0))
    extended = Registry(QUANTITIES.what, None, {name: QUANTITIES[name] for name in QUANTITIES})
    extended.register("density_along_a", mean)
    monkeypatch.setattr(quantities, "QUANTITIES", extended)  # so that other tests do not see it
    be_atoms.calc = LDOSCalculator(be_model, device="cpu")
    value = be_atoms.calc.get_quantity("density_along_a", be_atoms)
    assert isinstance(value, np.ndarray)
    np.testing.assert_allclose(value, be_atoms.calc.get_density().mean(axis=0), rtol=1e-12)
    assert isinstance(be_atoms.calc.get_quantity("electronic_entropy"), float)
    with pytest.raises(ValueError, match="unknown quantity 'mass'; known: density_along_a, dos_at_fermi_level, "):
        be_atoms.calc.get_quantity("mass")
