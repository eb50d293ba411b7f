"""What is recorded of a run's electrons: values, means, pressure of electrons, fields that are read back."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.observables import electron_pressure, frame_fields, mean_dos, observe, table_lines, write_frame


@pytest.fixture
def atoms(be_model: LDOSModel) -> Atoms:
    cell = bulk("Be", "hcp", a=2.27, c=3.57)
    cell.rattle(0.05, seed=1)
    cell.set_momenta(np.random.default_rng(1).normal(size=(2, 3)))
    cell.calc = LDOSCalculator(be_model, device="cpu", grid_spacing=0.6, electronic_temperature=6000.0)
    return cell


def test_observe_agrees_with_the_calculator(atoms: Atoms) -> None:
    atoms.get_forces()
    prediction = atoms.calc.prediction
    found = observe(atoms)
    assert atoms.calc.prediction is prediction  # nothing is calculated anew
    assert "pressure" not in found
    assert found["free_energy"] == prediction.free_energy / 2
    assert found["electronic_temperature"] == 6000.0
    assert found["entropy"] == pytest.approx(-float(prediction.energies.entropy_term) / 6000 / 2, rel=1e-12)
    full = observe(atoms, pressure=True)
    ideal = 2 * atoms.get_kinetic_energy() / (3 * atoms.get_volume())
    still = -atoms.get_stress()[:3].mean()
    assert full["pressure"] == pytest.approx((still + ideal) / GPa, rel=1e-9)


def test_electron_pressure_is_the_slope_of_the_free_energy(atoms: Atoms) -> None:
    """(∂p/∂T)_V = (∂S/∂V)_T, and the grid and temperature of the calculator come back."""
    atoms.get_potential_energy()
    shape = atoms.calc.grid_shape
    found = electron_pressure(atoms, 3000.0)
    assert atoms.calc.parameters["electronic_temperature"] == 6000.0
    assert atoms.calc.grid_shape == shape
    pressures = {}
    for temperature in (3000.0, 5900.0, 6000.0, 6100.0):
        atoms.calc.set(electronic_temperature=temperature)
        pressures[temperature] = -atoms.get_stress()[:3].mean() / GPa
    assert found.pressure == pytest.approx(pressures[6000.0] - pressures[3000.0], abs=1e-9)
    slope = (pressures[6100.0] - pressures[5900.0]) / 200
    assert found.slope == pytest.approx(slope, rel=1e-3)
    atoms.calc.set(electronic_temperature=6000.0)
    atoms.get_potential_energy()
    capacity = atoms.calc.get_quantity("electronic_heat_capacity")
    assert found.gruneisen == pytest.approx(atoms.get_volume() * slope * GPa / capacity, rel=1e-3)


def test_mean_dos_is_taken_from_the_fermi_level() -> None:
    """Curves that only shift with their Fermi level have a mean without spread."""
    energies = np.linspace(-5, 5, 101)
    levels = np.array([0.0, 0.3, -0.2])
    curves = np.array([2 + np.sin(energies - level) for level in levels])
    mean = mean_dos(energies, curves, levels)
    np.testing.assert_allclose(mean.dos, 2 + np.sin(mean.energies), atol=2e-3)
    assert mean.spread.max() < 2e-3
    assert mean.fermi_level == pytest.approx(levels.mean())
    assert mean.fermi_level_spread == pytest.approx(levels.std())
    assert mean.energies[0] >= -5 + 0.2 - 1e-9
    with pytest.raises(ValueError, match="nothing in common"):
        mean_dos(energies, curves[:2], [0.0, 30.0])
    with pytest.raises(ValueError, match="one curve for each moment"):
        mean_dos(energies, curves, [0.0])


def test_fields_are_read_back(atoms: Atoms, tmp_path: Path) -> None:
    frame = frame_fields(atoms, "step_1", window=(-1.0, 2.0))
    assert write_frame(tmp_path, frame, "npz") == tmp_path / "step_1.npz"
    (back,) = load_snapshots(tmp_path)
    density, ldos = atoms.calc.get_density(), atoms.calc.get_ldos()
    assert back.density is not None
    assert np.sqrt(np.mean((back.density - density) ** 2)) < 2e-4 * np.sqrt(np.mean(density**2))
    energies = np.asarray(atoms.calc.get_dos().get_energies())
    level = atoms.calc.get_fermi_level()
    inside = (energies >= level - 1) & (energies <= level + 2)
    np.testing.assert_allclose(np.asarray(back.energies), energies[inside])
    wanted = ldos[..., inside]
    assert np.sqrt(np.mean((back.ldos_values() - wanted) ** 2)) < 4e-3 * np.sqrt(np.mean(wanted**2))
    assert back.electronic_temperature == 6000.0
    with pytest.raises(ValueError, match="no energy of the model lies"):
        frame_fields(atoms, "step_2", window=(50.0, 60.0))
    with pytest.raises(ValueError, match="known are npz, h5"):
        write_frame(tmp_path, frame, "cube")


@pytest.mark.skipif(importlib.util.find_spec("openpmd_api") is None, reason="needs openpmd-api")
def test_fields_as_openpmd(atoms: Atoms, tmp_path: Path) -> None:
    import openpmd_api as io

    path = write_frame(tmp_path, frame_fields(atoms, "step_1"), "h5")
    series = io.Series(str(path), io.Access.read_only)
    mesh = series.iterations[0].meshes["density"][io.Mesh_Record_Component.SCALAR]
    values = mesh.load_chunk()
    series.flush()
    np.testing.assert_allclose(values, atoms.calc.get_density(), rtol=1e-6)


def test_a_table_leaves_out_what_is_not_recorded() -> None:
    columns = {"a": ("A", "eV", 2, 1.0), "b": ("B", "K", 0, 1.0), "c": ("C", "meV", 1, 1000.0)}
    lines = table_lines({"a": [1.0, 2.0], "c": [0.001, 0.002]}, columns)
    assert [line.split() for line in lines] == [["A", "C"], ["eV", "meV"], ["1.00", "1.0"], ["2.00", "2.0"]]
    assert len({len(line) for line in lines}) == 1
