"""The arithmetic of a prediction, counted by hand for a small model, and rates of a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase.build import bulk

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.cost import Machine, Work, count_work, measure_machine


def test_roofline() -> None:
    work = Work(operations=100.0, traffic=30.0)
    gpu = Machine(operations=50.0, traffic=10.0, has_cache=False)
    assert work.seconds(gpu) == 3.0
    assert work.seconds(replace(gpu, has_cache=True)) == 2.0


def test_work_of_a_prediction(be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.27, c=3.57))
    grid = Grid(structure.cell, (4, 4, 6))
    energy, forces = (count_work(be_model, structure, grid, forces=wanted) for wanted in (False, True))
    assert energy is not None
    assert forces is not None
    assert forces.operations == 4 * energy.operations
    network = be_model.with_fused_scaler().network
    least = sum(layer.weight.numel() * 2 for layer in network.layers)  # of the layers alone
    assert energy.operations > grid.n_points * least
    # twice the points, twice the work, with blocks of the same images
    doubled = count_work(be_model, structure, Grid(structure.cell, (4, 4, 12)), forces=False)
    assert doubled is not None
    assert doubled.operations == pytest.approx(2 * energy.operations, rel=0.1)


def test_unknown_features_have_no_count(make_model: object) -> None:
    assert callable(make_model)
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.27, c=3.57))
    model = make_model(kind="se3_transformer")
    assert count_work(model, structure, Grid(structure.cell, (2, 2, 2)), forces=True) is None


def test_machine_is_measured() -> None:
    found = measure_machine(torch.device("cpu"), torch.float32, seconds=0.02)
    assert found.operations > 1e8
    assert found.traffic > 1e8
    assert found.has_cache
