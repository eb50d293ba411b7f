"""Factors of the standard deviations: found again from errors of a known size, refused without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.simulation.sampling import rattled
from ase_ldos.training.calibrate_uncertainty import (
    ONE_SIGMA,
    Reliability,
    calibrate_uncertainty,
    format_reliability,
    reliability_figure,
)


def label(model: LDOSModel, atoms: Atoms, name: str, random: np.random.Generator, noise: float = 1.0) -> Snapshot:
    """What the model says, with noise on the LDOS and what follows from it."""
    shape = (4, 4, 6)
    found = predict(model, atoms, grid_shape=shape, forces=True)
    item = Snapshot(name, atoms.numbers, atoms.cell.array, atoms.positions)
    ldos = predict_ldos(model, item.structure, shape).numpy()
    return replace(
        item,
        energies=model.energies.numpy(),
        ldos=ldos + noise * 1e-4 * random.normal(size=ldos.shape),
        ldos_scale=1.0,
        ldos_sigma=0.0,
        dos=found.dos.numpy() + noise * 0.01 * random.normal(size=60),
        density=found.density.numpy() + noise * 1e-3 * random.normal(size=shape),
        free_energy=found.free_energy + noise * 0.02 * random.normal(),
        forces=found.forces.numpy() + noise * 0.01 * random.normal(size=(len(atoms), 3)),
        electronic_temperature=3000.0,
    )


def test_a_model_gets_the_size_of_its_errors(be_model: LDOSModel, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    cells = [rattled(bulk("Be", "hcp", a=2.27, c=3.57), 0.08, random) for _ in range(9)]
    items = [label(be_model, atoms, f"s{i}", random) for i, atoms in enumerate(cells)]
    with pytest.raises(ValueError, match="no structure has labels of the LDOS"):
        calibrate_uncertainty(be_model, [replace(item, ldos=None) for item in items], [], progress=False)
    with pytest.raises(ValueError, match="no held-back structure has labels of the free energy"):
        calibrate_uncertainty(be_model, items, [replace(items[0], free_energy=None)], progress=False)
    assert be_model.uncertainty_hidden is None  # as it was
    assert be_model.metadata.uncertainty == {}
    found = calibrate_uncertainty(be_model, items[:3], items[3:], force_samples=2, progress=False)
    factors = be_model.metadata.uncertainty
    assert {"free_energy", "fermi_level", "dos", "density", "forces"} <= set(factors)
    # the median over structures of what is told is of the size of the noise
    told = [predict(be_model, atoms, grid_shape=(4, 4, 6), uncertainty=True).uncertainty for atoms in cells[3:]]
    density = np.mean([float(item.density.mean()) for item in told if item is not None])
    dos = np.mean([float(item.dos.mean()) for item in told if item is not None])
    assert 0.4e-3 < density < 2.5e-3
    assert 0.003 < dos < 0.03
    assert "density" in format_reliability(found)
    reliability_figure(found).savefig(tmp_path / "r.png")


def test_labels_that_the_model_meets_exactly_give_no_error_bars(be_model: LDOSModel) -> None:
    random = np.random.default_rng(1)
    cells = [rattled(bulk("Be", "hcp", a=2.27, c=3.57), 0.08, random) for _ in range(4)]
    items = [label(be_model, atoms, f"s{i}", random, noise=0.0) for i, atoms in enumerate(cells)]
    with pytest.raises(ValueError, match="is that of their labels to rounding"):
        calibrate_uncertainty(be_model, items[:2], items[2:], force_samples=2, progress=False)
    assert be_model.metadata.uncertainty == {}


def test_reliability_of_gaussian_errors_is_right() -> None:
    random = np.random.default_rng(2)
    ratios = [np.abs(random.normal(size=200)) * 3.0 for _ in range(40)]
    found = Reliability({"x": ratios}, {"x": 3.0})
    assert found.within("x", np.array([1.0, 2.0])) == pytest.approx([ONE_SIGMA, 0.954], abs=0.02)
    assert torch.tensor(ONE_SIGMA).item() == pytest.approx(0.6827, abs=1e-4)
