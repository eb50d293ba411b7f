"""One zero of energy: the shift of a model's energies by Σ c/Ω, in predictions and in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.prediction.local_density import local_density
from ase_ldos.prediction.predict import Prediction, predict

CONSTANTS = {"Be": 12.0, "Mg": -5.0}
SHAPE = (7, 7, 7)


@pytest.fixture
def structure() -> Structure:
    atoms = bulk("BeMg", "cesiumchloride", a=2.9)
    atoms.rattle(0.08, seed=2)
    return Structure.from_atoms(atoms)


@pytest.fixture
def shifted(make_model: Callable[..., LDOSModel]) -> LDOSModel:
    model = make_model(("Be", "Mg"))
    model.metadata = replace(model.metadata, level_constants=CONSTANTS)
    return model


def run(model: LDOSModel, structure: Structure, **options: bool) -> Prediction:
    return predict(model, structure, grid_shape=SHAPE, **options)


def test_shift_moves_levels_and_energy_alone(
    make_model: Callable[..., LDOSModel], shifted: LDOSModel, structure: Structure
) -> None:
    plain = run(make_model(("Be", "Mg")), structure, forces=True)
    found = run(shifted, structure, forces=True)
    shift = 7.0 / float(structure.volume)
    assert float(shifted.energy_shift(structure)) == pytest.approx(shift)
    assert found.fermi_level == pytest.approx(plain.fermi_level + shift, abs=1e-10)
    assert found.free_energy == pytest.approx(plain.free_energy + 4.0 * shift, abs=1e-9)  # four electrons
    torch.testing.assert_close(found.energy_grid, plain.energy_grid + shift)
    for name in ("dos", "density", "forces"):
        torch.testing.assert_close(getattr(found, name), getattr(plain, name), rtol=0, atol=1e-11)


def test_stress_is_the_derivative(shifted: LDOSModel, structure: Structure) -> None:
    stress = run(shifted, structure, stress=True).stress
    assert stress is not None
    h = 1e-3
    for row, column in ((0, 0), (2, 2), (0, 1)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[row, column] += 0.5
        strain[column, row] += 0.5
        ends = [run(shifted, structure.strained(factor * h * strain)).free_energy for factor in (-2.0, -1.0, 1.0, 2.0)]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
        assert float(stress[row, column] * structure.volume) == pytest.approx(slope, abs=1e-6)


def test_guess_and_window_are_in_the_users_convention(shifted: LDOSModel, structure: Structure) -> None:
    found = run(shifted, structure)
    again = predict(shifted, structure, grid_shape=SHAPE, fermi_guess=found.fermi_level)
    assert again.fermi_level == pytest.approx(found.fermi_level, abs=1e-10)
    first, last = float(found.energy_grid[3]), float(found.energy_grid[9])
    held = found.grid.integrate(local_density(shifted, structure, found.grid, (first, last)))
    dos, nodes = found.dos[3:10], found.energy_grid[3:10]
    assert float(held) == pytest.approx(float(torch.trapezoid(dos, nodes)), rel=1e-9)


def test_constants_travel_with_the_file(shifted: LDOSModel, structure: Structure, tmp_path: Path) -> None:
    save_model(shifted, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.metadata.level_constants == CONSTANTS
    assert run(again, structure).free_energy == pytest.approx(run(shifted, structure).free_energy, abs=1e-12)


def test_constants_are_checked(shifted: LDOSModel) -> None:
    with pytest.raises(ValueError, match="level_constants of Be is nan"):
        replace(shifted.metadata, level_constants={"Be": float("nan")})
