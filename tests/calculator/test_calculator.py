"""LDOSCalculator: ASE's contract, exact derivatives, symmetries, and the drivers that use it."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, make_supercell
from ase.calculators.calculator import (
    CalculatorError,
    CalculatorSetupError,
    InputError,
    PropertyNotImplementedError,
    compare_atoms,
    get_calculator_class,
)
from ase.db import connect
from ase.dft.dos import DOS
from ase.dft.stm import STM
from ase.filters import FrechetCellFilter
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE
from ase.outputs import all_outputs
from ase.spectrum.dosdata import GridDOSData

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model
from ase_ldos.prediction.predict import Prediction


@pytest.fixture
def calculator(be_model: LDOSModel) -> LDOSCalculator:
    return LDOSCalculator(be_model, device="cpu")


@pytest.fixture
def atoms(calculator: LDOSCalculator) -> Atoms:
    """A rattled hcp cell with the calculator."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator
    return atoms


def heat(atoms: Atoms) -> None:
    """Momenta of about 300 K."""
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3))
    atoms.set_momenta((momenta - momenta.mean(axis=0)) * np.sqrt(300 * units.kB * atoms.get_masses())[:, None])


def energy_of(atoms: Atoms, calculator: LDOSCalculator) -> float:
    other = atoms.copy()
    other.calc = calculator
    return other.get_potential_energy()


# ---- contract ------------------------------------------------------------------------------------------------------


def test_energy_is_the_free_energy(atoms: Atoms, calculator: LDOSCalculator) -> None:
    energy = atoms.get_potential_energy()
    assert energy == atoms.get_potential_energy(force_consistent=True) == calculator.prediction.free_energy
    assert calculator.results.keys() == {"energy", "free_energy"}


def test_tools_for_bands_are_told_what_to_call_instead(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_potential_energy()
    with pytest.raises(
        PropertyNotImplementedError, match=r"no bands; get_ldos\(\) gives .* get_local_density\(window\)"
    ):
        STM(atoms).get_averaged_current(-1.0, 1.0)
    with pytest.raises(PropertyNotImplementedError, match=r"no k-points; get_dos\(\) gives the density of states"):
        DOS(calculator)
    with pytest.raises(PropertyNotImplementedError, match=r"no bands; get_dos\(\) gives .*get_ldos\(\)"):
        calculator.band_structure()
    for name in ("get_eigenvalues", "get_occupation_numbers", "get_pseudo_wave_function"):
        with pytest.raises(PropertyNotImplementedError, match="a model of the local density of states has no"):
            getattr(calculator, name)()
    for name in ("get_ibz_k_points", "get_bz_k_points", "get_bz_to_ibz_map", "get_number_of_bands"):
        with pytest.raises(PropertyNotImplementedError, match=r"get_dos\(\)|get_ldos\(\)"):
            getattr(calculator, name)()


def test_stm_scans_the_local_density(atoms: Atoms, calculator: LDOSCalculator) -> None:
    """What ASE's microscope averages at a height is the mean of the window's states there."""
    level = calculator.get_fermi_level(atoms)
    microscope = STM(atoms)
    microscope.bias, microscope.ldos = -1.0, calculator.get_local_density((level - 1, level))
    n_planes = microscope.ldos.shape[2]
    found = microscope.get_averaged_current(-1.0, 2 * atoms.cell[2, 2] / n_planes)
    assert found == pytest.approx(microscope.ldos[:, :, 2].mean(), rel=1e-9)


def test_the_net_force_can_be_removed(atoms: Atoms, calculator: LDOSCalculator, be_model: LDOSModel) -> None:
    """Off by default, where forces are exact derivatives; the prediction's own forces stay these in any case."""
    exact = atoms.get_forces()
    assert abs(exact.mean(axis=0)).max() > 1e-8
    np.testing.assert_array_equal(exact, calculator.prediction.forces)
    other = LDOSCalculator(be_model, device="cpu", remove_net_force=True)
    atoms.calc = other
    np.testing.assert_allclose(atoms.get_forces(), exact - exact.mean(axis=0), atol=1e-14)
    assert abs(atoms.get_forces().sum(axis=0)).max() < 1e-13
    np.testing.assert_array_equal(other.prediction.forces, exact)
    assert (calculator.parameters["remove_net_force"], other.parameters["remove_net_force"]) == (False, True)


def test_energy_alone_runs_no_backward(atoms: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a backward pass ran")

    monkeypatch.setattr("ase_ldos.prediction.predict.pull_back", fail)
    atoms.get_potential_energy()
    with pytest.raises(AssertionError, match="backward"):
        atoms.get_forces()


def test_forces_and_energy_come_from_one_calculation(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_forces()
    prediction = calculator.prediction
    atoms.get_potential_energy()
    assert calculator.prediction is prediction
    assert calculator.results.keys() == {"energy", "free_energy", "forces"}


def test_stress_after_forces_belongs_to_the_same_state(atoms: Atoms, be_model: LDOSModel) -> None:
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    stress = atoms.get_stress()
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-10)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    fresh = atoms.copy()
    fresh.calc = LDOSCalculator(be_model, device="cpu")
    np.testing.assert_allclose(fresh.get_stress(), stress, rtol=0, atol=1e-12)


def test_a_run_under_pressure_calculates_once_per_step(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_stress()
    for _ in range(2):
        atoms.rattle(0.01)
        atoms.get_forces()
        prediction = calculator.prediction
        atoms.get_stress()
        assert calculator.prediction is prediction
        assert atoms.get_potential_energy() == prediction.free_energy


def test_results_hold_only_what_ase_knows(atoms: Atoms, calculator: LDOSCalculator) -> None:
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    assert calculator.results.keys() <= set(all_outputs)
    assert calculator.results.keys() == set(LDOSCalculator.implemented_properties)
    assert calculator.export_properties()["stress"].shape == (6,)


def test_parameters_are_plain(be_model: LDOSModel, tmp_path: Path) -> None:
    save_model(be_model, tmp_path / "small.safetensors")
    for model in (be_model, tmp_path / "small.safetensors"):
        calculator = LDOSCalculator(model, device="cpu", electronic_temperature=1000, chunk_size=100)
        assert all(isinstance(value, (str, float, int)) for value in calculator.parameters.values())
        assert calculator.todict()["electronic_temperature"] == 1000.0


def test_a_change_of_parameters_drops_results(atoms: Atoms, calculator: LDOSCalculator) -> None:
    cold = atoms.get_potential_energy()
    calculator.set(electronic_temperature=6000)
    assert calculator.results == {}
    assert abs(atoms.get_potential_energy() - cold) > 1e-3
    calculator.set(electronic_temperature=3000)
    assert atoms.get_potential_energy() == pytest.approx(cold, abs=1e-9)


def test_the_callers_model_is_left_alone(be_model: LDOSModel) -> None:
    calculator = LDOSCalculator(be_model, device="cpu", dtype="float32")
    assert calculator.model is not be_model
    assert be_model.dtype == torch.float64
    assert calculator.parameters["dtype"] == "float32"


def test_float32_is_close_to_float64(atoms: Atoms, be_model: LDOSModel) -> None:
    forces = atoms.get_forces()
    energy = atoms.get_potential_energy()
    single = atoms.copy()
    single.calc = LDOSCalculator(be_model, device="cpu", dtype=torch.float32)
    assert single.get_potential_energy() == pytest.approx(energy, abs=2e-4)
    np.testing.assert_allclose(single.get_forces(), forces, atol=2e-3)


def test_density_dos_and_ldos_agree(atoms: Atoms, calculator: LDOSCalculator) -> None:
    density = calculator.get_density(atoms)
    assert density.shape == calculator.grid_shape
    assert density.mean() * atoms.get_volume() == pytest.approx(4.0, abs=1e-8)
    np.testing.assert_array_equal(calculator.get_pseudo_density(), density)
    dos = calculator.get_dos()
    assert isinstance(dos, GridDOSData)
    ldos = calculator.get_ldos()
    assert ldos.shape == (*density.shape, 60)
    np.testing.assert_allclose(ldos.mean(axis=(0, 1, 2)) * atoms.get_volume(), dos.get_weights(), atol=1e-12)
    np.testing.assert_allclose(dos.get_energies(), calculator.prediction.energy_grid, atol=1e-12)
    assert -5 < calculator.get_fermi_level(atoms) < 12
    assert isinstance(calculator.prediction, Prediction)


def test_density_of_other_atoms_is_calculated(atoms: Atoms, calculator: LDOSCalculator) -> None:
    first = calculator.get_density(atoms)
    moved = atoms.copy()
    moved.rattle(0.1, seed=5)
    assert np.abs(calculator.get_density(moved) - first).max() > 1e-4


def test_nothing_to_show_before_a_calculation(calculator: LDOSCalculator) -> None:
    for method in (calculator.get_density, calculator.get_dos, calculator.get_fermi_level, calculator.get_ldos):
        with pytest.raises(CalculatorError, match="nothing has been calculated"):
            method()


def test_a_failed_calculation_leaves_no_results(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_forces()
    atoms.positions[0] = atoms.positions[1] + 0.1
    with pytest.raises(InputError, match="Å apart"):
        atoms.get_forces()
    assert calculator.results == {}
    with pytest.raises(CalculatorError, match="nothing has been calculated"):
        calculator.get_density()


def test_no_eigenvalues_are_made_up(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="no eigenvalues; get_dos"):
        calculator.get_eigenvalues()


def test_torch_is_left_alone(atoms: Atoms) -> None:
    state = torch.get_rng_state()
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    with torch.no_grad():
        atoms.get_forces()
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_ase_knows_the_name() -> None:
    assert get_calculator_class("ldos") is LDOSCalculator


# ---- the grid ------------------------------------------------------------------------------------------------------


def test_grid_follows_the_target_spacing(atoms: Atoms, be_model: LDOSModel) -> None:
    for spacing in (0.6, 0.4, 0.3):
        atoms.calc = LDOSCalculator(be_model, device="cpu", grid_spacing=spacing)
        atoms.get_potential_energy()
        steps = atoms.cell.lengths() / np.array(atoms.calc.grid_shape)
        assert steps.max() < 1.04 * spacing
        assert all(n % 2 == 0 for n in atoms.calc.grid_shape)


def test_grid_stays_while_the_cell_breathes(atoms: Atoms, caplog: pytest.LogCaptureFixture) -> None:
    atoms.get_potential_energy()
    shape, cell = atoms.calc.grid_shape, atoms.cell.copy()
    with caplog.at_level(logging.INFO, "ase_ldos.calculator.grid_policy"):
        for scale in (0.9, 1.08, 0.87):
            atoms.set_cell(cell * scale, scale_atoms=True)
            atoms.get_potential_energy()
            assert atoms.calc.grid_shape == shape
        assert not caplog.records
        atoms.set_cell(cell * 1.3, scale_atoms=True)
        atoms.get_potential_energy()
    assert atoms.calc.grid_shape != shape
    assert "grid 6x6x8 becomes" in caplog.text


def test_fixed_grid_survives_any_cell(atoms: Atoms, calculator: LDOSCalculator) -> None:
    calculator.fix_grid((10, 10, 14))
    cell = atoms.cell.copy()
    for scale in (1.0, 1.4):
        atoms.set_cell(cell * scale, scale_atoms=True)
        atoms.get_potential_energy()
        assert calculator.get_density().shape == (10, 10, 14)
    calculator.fix_grid(None)
    atoms.get_potential_energy()
    assert calculator.grid_shape != (10, 10, 14)


def test_other_atoms_get_their_own_grid(atoms: Atoms, calculator: LDOSCalculator) -> None:
    atoms.get_potential_energy()
    wide = calculator.get_density(bulk("Be", "hcp", a=2.4, c=3.8).repeat((2, 1, 1)))
    assert wide.shape[0] > calculator.get_density(atoms).shape[0]


# ---- derivatives ---------------------------------------------------------------------------------------------------


def directional(atoms: Atoms, calculator: LDOSCalculator, move: np.ndarray, step: float) -> float:
    """Derivative of the energy along a displacement of the atoms, by a five-point formula."""
    energies = []
    for factor in (-2, -1, 1, 2):
        other = atoms.copy()
        other.positions += factor * step * move
        energies.append(energy_of(other, calculator))
    return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)


def test_forces_are_derivatives(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    forces = be_atoms.get_forces()
    random = np.random.default_rng(2)
    for _ in range(3):
        move = random.normal(size=forces.shape)
        expected = -(forces * move).sum()
        assert directional(be_atoms, calculator, move, 2e-3) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_stress_is_a_derivative(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    stress = be_atoms.get_stress(voigt=False)
    step = 1e-3
    random = np.random.default_rng(3)
    for _ in range(3):
        strain = random.normal(size=(3, 3))
        strain = (strain + strain.T) / 2
        energies = []
        for factor in (-2, -1, 1, 2):
            other = be_atoms.copy()
            other.set_cell(be_atoms.cell[:] @ (np.eye(3) + factor * step * strain), scale_atoms=True)
            energies.append(energy_of(other, calculator))
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        assert slope / be_atoms.get_volume() == pytest.approx((stress * strain).sum(), rel=1e-6, abs=1e-8)


def test_two_elements(alloy_model: LDOSModel) -> None:
    atoms = bulk("BeMg", "cesiumchloride", a=3.1)
    atoms.rattle(0.1, seed=4)
    calculator = LDOSCalculator(alloy_model, device="cpu")
    atoms.calc = calculator
    move = np.random.default_rng(0).normal(size=(2, 3))
    expected = -(atoms.get_forces() * move).sum()
    assert directional(atoms, calculator, move, 2e-3) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    swapped = atoms.copy()
    swapped.numbers = swapped.numbers[::-1]
    assert abs(energy_of(swapped, calculator) - atoms.get_potential_energy()) > 1e-4


def test_chunks_change_nothing(be_atoms: Atoms, be_model: LDOSModel) -> None:
    found = []
    for chunk_size in (40, 10**6):
        atoms = be_atoms.copy()
        atoms.calc = LDOSCalculator(be_model, device="cpu", chunk_size=chunk_size)
        found.append((atoms.get_stress(), atoms.get_forces(), atoms.get_potential_energy(), atoms.calc.get_density()))
    for small, large in zip(*found):
        np.testing.assert_allclose(small, large, rtol=0, atol=1e-10)


# ---- symmetries ----------------------------------------------------------------------------------------------------


def test_supercell_has_the_same_energy_per_atom(be_atoms: Atoms, be_model: LDOSModel) -> None:
    calculator, forces = LDOSCalculator(be_model, device="cpu"), None
    be_atoms.calc = calculator
    forces, energy, shape = be_atoms.get_forces(), be_atoms.get_potential_energy(), calculator.grid_shape
    double = be_atoms.repeat((1, 2, 1))
    double.calc = LDOSCalculator(be_model, device="cpu")
    double.calc.fix_grid((shape[0], 2 * shape[1], shape[2]))
    assert double.get_potential_energy() / 2 == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(double.get_forces()[: len(be_atoms)], forces, atol=1e-9)


def test_another_cell_of_the_same_crystal(calculator: LDOSCalculator, be_model: LDOSModel) -> None:
    """A unimodular change of the lattice vectors maps a grid of three equal sizes onto itself."""
    atoms = bulk("Be", "bcc", a=2.5, cubic=True)
    atoms.rattle(0.1, seed=2)
    skewed = make_supercell(atoms, [[1, 0, 0], [1, 1, 0], [0, -1, 1]])
    # odd, because the gradient of an even grid drops the Nyquist waves; what is left is that the two lattices call
    # other waves the shortest ones
    calculator.fix_grid((9, 9, 9))
    assert energy_of(skewed, calculator) == pytest.approx(energy_of(atoms, calculator), abs=1e-6)


def test_order_of_atoms_does_not_matter(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    forces, energy = be_atoms.get_forces(), be_atoms.get_potential_energy()
    turned = be_atoms[::-1]
    turned.calc = calculator
    np.testing.assert_allclose(turned.get_forces()[::-1], forces, atol=1e-10)
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-10)


def test_shift_by_a_grid_step(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    forces, energy, density = be_atoms.get_forces(), be_atoms.get_potential_energy(), calculator.get_density()
    be_atoms.positions += be_atoms.cell[1] / density.shape[1]
    assert be_atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(be_atoms.get_forces(), forces, atol=1e-9)
    np.testing.assert_allclose(calculator.get_density(), np.roll(density, 1, axis=1), atol=1e-10)


def test_wrapping(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    forces, energy = be_atoms.get_forces(), be_atoms.get_potential_energy()
    be_atoms.positions += np.array([[3, -2, 1]] + [[0, 0, 0]] * (len(be_atoms) - 1)) @ be_atoms.cell[:]
    np.testing.assert_allclose(be_atoms.get_forces(), forces, atol=1e-9)
    assert be_atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)


def test_rotation_turns_forces_and_stress(be_atoms: Atoms, calculator: LDOSCalculator) -> None:
    be_atoms.calc = calculator
    forces, stress, energy = be_atoms.get_forces(), be_atoms.get_stress(voigt=False), be_atoms.get_potential_energy()
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turned = be_atoms.copy()
    turned.set_cell(be_atoms.cell[:] @ rotation.T, scale_atoms=False)
    turned.positions = be_atoms.positions @ rotation.T
    turned.calc = calculator
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(turned.get_forces(), forces @ rotation.T, atol=1e-9)
    np.testing.assert_allclose(turned.get_stress(voigt=False), rotation @ stress @ rotation.T, atol=1e-10)


# ---- drivers and files ---------------------------------------------------------------------------------------------


def test_velocity_verlet_conserves_the_energy(atoms: Atoms) -> None:
    heat(atoms)
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    totals, potentials = [], []
    for _ in range(12):
        dynamics.run(1)
        totals.append(atoms.get_total_energy())
        potentials.append(atoms.get_potential_energy())
    assert np.ptp(totals) < 0.05 * np.ptp(potentials)


def test_langevin(atoms: Atoms) -> None:
    start = atoms.positions.copy()
    dynamics = Langevin(
        atoms, 1 * units.fs, temperature_K=300, friction=0.01, fixcm=False, rng=np.random.default_rng(0)
    )
    dynamics.run(2)
    assert np.isfinite(atoms.get_potential_energy())
    assert np.abs(atoms.positions - start).max() > 0


def test_constant_pressure(atoms: Atoms) -> None:
    heat(atoms)
    IsotropicMTKNPT(atoms, 0.5 * units.fs, temperature_K=300, pressure_au=0.0, tdamp=50, pdamp=500).run(2)
    volume = atoms.get_volume()
    NPTBerendsen(
        atoms, 0.5 * units.fs, temperature_K=300, pressure_au=0.1, taut=50, taup=500, compressibility_au=1.0
    ).run(2)
    assert atoms.get_volume() != volume


def test_fire_lowers_the_forces(atoms: Atoms) -> None:
    energy = atoms.get_potential_energy()
    FIRE(atoms, logfile=None).run(fmax=1e-3, steps=5)
    assert atoms.get_potential_energy() < energy


def test_cell_relaxation(atoms: Atoms) -> None:
    atoms.calc.fix_grid((10, 10, 14))
    energy, cell = atoms.get_potential_energy(), atoms.cell.copy()
    BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.02).run(fmax=1e-3, steps=3)
    assert atoms.get_potential_energy() < energy
    assert np.abs(atoms.cell - cell).max() > 1e-3


def test_trajectory(atoms: Atoms, tmp_path: Path) -> None:
    with Trajectory(tmp_path / "be.traj", "w", atoms, properties=["energy", "forces", "stress"]) as trajectory:
        atoms.get_stress()
        trajectory.write()
    back = read(tmp_path / "be.traj")
    assert back.calc.name == "ldos"
    assert back.get_potential_energy() == atoms.get_potential_energy()
    np.testing.assert_array_equal(back.get_forces(), atoms.get_forces())
    np.testing.assert_array_equal(back.get_stress(), atoms.get_stress())


@pytest.mark.parametrize("name", ["be.db", "be.json"])
def test_database(atoms: Atoms, tmp_path: Path, name: str) -> None:
    atoms.get_forces()
    with connect(tmp_path / name) as database:
        database.write(atoms)
    row = next(connect(tmp_path / name).select())
    assert row.energy == atoms.get_potential_energy()
    assert row.calculator == "ldos"
    assert row.calculator_parameters["electronic_temperature"] == 3000.0
    np.testing.assert_array_equal(row.forces, atoms.get_forces())


def test_copy_and_pickle(atoms: Atoms, be_model: LDOSModel, tmp_path: Path) -> None:
    save_model(be_model, tmp_path / "small.safetensors")
    forces = atoms.get_forces()
    from_file = atoms.copy()
    from_file.calc = LDOSCalculator(tmp_path / "small.safetensors", device="cpu")
    from_file.get_forces()
    for original in (atoms, from_file):
        for other in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
            assert other.calc is not original.calc
            assert not compare_atoms(other, original)
            assert other.calc.results.keys() == original.calc.results.keys()
            other.calc.reset()
            np.testing.assert_allclose(other.get_forces(), forces, atol=1e-12)


def test_bad_settings_are_refused(be_model: LDOSModel) -> None:
    with pytest.raises(CalculatorSetupError, match="three positive integers"):
        LDOSCalculator(be_model, device="cpu").fix_grid((8, 0, 8))
    with pytest.raises(CalculatorSetupError, match="cannot be set"):
        LDOSCalculator(be_model, device="cpu").set(model="other")
    with pytest.raises(ValueError, match="both spins"):
        LDOSCalculator(be_model, device="cpu").get_pseudo_density(spin=1)
