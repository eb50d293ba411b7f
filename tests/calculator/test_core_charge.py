"""A model with a partial core charge: derivatives against differences, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.prediction.predict import predict

STEP = 1e-4


@pytest.fixture
def core_model(be_model: LDOSModel) -> LDOSModel:
    g = 0.05 * np.arange(801)
    values = 1.5 * np.exp(-0.5 * (g * 0.3) ** 2)
    core = CoreCharge(0.05, tuple(values.tolist()), tuple((-g * 0.3**2 * values).tolist()))
    be_model.metadata = replace(be_model.metadata, core_charges={"Be": core})
    return be_model


def test_forces_and_stress_are_derivatives(be_atoms: Atoms, core_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    found = predict(core_model, structure, forces=True, stress=True)
    assert found.forces is not None
    assert found.stress is not None
    shape = found.grid.shape

    def energy(changed: Structure) -> float:
        return predict(core_model, changed, grid_shape=shape).free_energy

    move = torch.zeros_like(structure.positions)
    move[1, 0] = STEP
    ends = [energy(replace(structure, positions=structure.positions + sign * move)) for sign in (1, -1)]
    assert float(found.forces[1, 0]) == pytest.approx((ends[1] - ends[0]) / (2 * STEP), abs=1e-5)
    for i, j in ((0, 0), (0, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[i, j] += STEP / 2
        strain[j, i] += STEP / 2
        ends = [energy(structure.strained(sign * strain)) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * STEP) / be_atoms.get_volume()
        assert float(found.stress[i, j]) == pytest.approx(expected, abs=1e-6)


def test_core_matters_and_survives_the_file(be_atoms: Atoms, core_model: LDOSModel, tmp_path: Path) -> None:
    save_model(core_model, tmp_path / "core.safetensors")
    again = load_model(tmp_path / "core.safetensors")
    assert again.metadata == core_model.metadata
    structure = Structure.from_atoms(be_atoms)
    with_core = predict(again, structure).free_energy
    assert with_core == predict(core_model, structure).free_energy
    again.metadata = replace(again.metadata, core_charges={})
    assert abs(predict(again, structure).free_energy - with_core) > 0.1
