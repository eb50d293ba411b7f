"""Dynamics that stops where models disagree, and the choice of frames."""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.active_learning.exploration import (
    Alarm,
    Exploration,
    Trajectory,
    Visit,
    choose_frames,
    default_timestep,
    explore,
    explore_all,
    inspect,
    without_extrapolation_warnings,
)
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.model_file import load_model, save_model

CALM = Alarm(forces=1e6, novelty=1e6)


@pytest.fixture(scope="module")
def committee() -> list[LDOSCalculator]:
    """Be, and a copy of it whose last layer is a little off."""
    model = load_model("be")
    other = copy.deepcopy(model)
    with torch.no_grad():
        weight = other.network.head.weight
        weight += 0.02 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return [LDOSCalculator(m, device="cpu", grid_spacing=0.5) for m in (model, other)]


def committee_files(folder: Path) -> tuple[Path, ...]:
    model = load_model("be")
    save_model(model, folder / "first.safetensors")
    with torch.no_grad():
        weight = model.network.head.weight
        weight += 0.02 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    save_model(model, folder / "second.safetensors")
    return folder / "first.safetensors", folder / "second.safetensors"


def cell() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    atoms.positions[0] += [0.05, 0.02, -0.03]
    return atoms


def test_disagreement_is_the_spread_of_the_forces(committee: list[LDOSCalculator]) -> None:
    with without_extrapolation_warnings():
        found = inspect(cell(), committee)
    forces = []
    for calculator in committee:
        atoms = cell()
        atoms.calc = calculator
        forces.append(atoms.get_forces())
    # the sample's deviation of two
    wanted = np.linalg.norm(forces[0] - forces[1], axis=1) / np.sqrt(2)
    assert found.disagreement == pytest.approx(wanted.max())
    assert found.atom == int(wanted.argmax())
    assert found.disagreement > 1e-4
    distances = committee[0].get_extrapolation(cell())
    assert found.novelty >= distances.max() / committee[0].model.metadata.extrapolation["threshold"] - 1e-9


def test_one_model_agrees_with_itself(committee: list[LDOSCalculator]) -> None:
    with without_extrapolation_warnings():
        assert inspect(cell(), [committee[0], committee[0]]).disagreement == 0


def test_a_trajectory_is_looked_at_and_reproducible(committee: list[LDOSCalculator]) -> None:
    runs = [
        explore(cell(), committee, CALM, temperature=500, duration=6, timestep=1, interval=2, seed=3) for _ in range(2)
    ]
    assert [visit.time for visit in runs[0].visits] == [0, 2, 4, 6]
    assert runs[0].alarm == ""
    for left, right in zip(runs[0].visits, runs[1].visits):
        np.testing.assert_array_equal(left.atoms.positions, right.atoms.positions)
    assert np.abs(runs[0].visits[-1].atoms.positions - cell().positions).max() > 1e-3


@pytest.mark.parametrize(
    ("alarm", "text"),
    [
        (Alarm(1e-9, 1e6), r"at 0 fs the models differ by \d+ meV/Å in the force on atom \d"),
        (Alarm(1e6, 1e-9), r"at 0 fs an atom is \d+\.\d times as far out as the range reaches"),
    ],
)
def test_an_alarm_stops_it(committee: list[LDOSCalculator], alarm: Alarm, text: str) -> None:
    found = explore(cell(), committee, alarm, temperature=500, duration=6, timestep=1, interval=2)
    assert len(found.visits) == 1
    assert re.search(text, found.alarm)


def test_long_steps_go_where_short_ones_go(committee: list[LDOSCalculator]) -> None:
    """With the distilled potential of `be` within; a weak thermostat draws other numbers."""
    inner = DistilledCalculator(committee[0].model)
    start = cell()
    settings = {"temperature": 1e-6, "duration": 24, "seed": 3}
    short = explore(start, committee, CALM, timestep=1, interval=6, **settings)
    long = explore(start, committee, CALM, timestep=6, interval=1, inner=inner, n_inner=6, **settings)
    assert [visit.time for visit in long.visits] == [visit.time for visit in short.visits] == [0, 6, 12, 18, 24]
    moved = np.abs(short.visits[-1].atoms.positions - start.positions).max()
    for left, right in zip(short.visits, long.visits):
        assert np.abs(left.atoms.positions - right.atoms.positions).max() < 0.05 * moved
    assert moved > 0.02


def test_the_last_step_is_looked_at_whatever_the_interval(committee: list[LDOSCalculator]) -> None:
    found = explore(cell(), committee, CALM, temperature=500, duration=3, timestep=1, interval=2, seed=3)
    assert [visit.time for visit in found.visits] == [0, 2, 3]


def test_a_model_that_gives_no_forces_stops_it(committee: list[LDOSCalculator]) -> None:
    """The model of the run accepts closer atoms than the other one."""
    strict = copy.deepcopy(committee[1].model)
    strict.metadata = dataclasses.replace(strict.metadata, minimum_distance=3.0)
    both = [committee[0], LDOSCalculator(strict, device="cpu", grid_spacing=0.5)]
    found = explore(cell(), both, CALM, temperature=500, duration=3, timestep=1)
    assert found.alarm == "at 0 fs one of the models gives no forces"
    assert choose_frames([found], 3, committee[0].model.descriptor, CALM) == []


def test_a_committee_of_one_is_refused(committee: list[LDOSCalculator]) -> None:
    with pytest.raises(ValueError, match="nobody to disagree with"):
        explore(cell(), committee[:1], CALM, temperature=500, duration=3, timestep=1)


def test_the_budget_stops_it_without_alarm(committee: list[LDOSCalculator]) -> None:
    found = explore(cell(), committee, CALM, temperature=500, duration=6, timestep=1, interval=1, budget=lambda: False)
    assert (len(found.visits), found.alarm) == (1, "")


def test_trajectories_that_end_early_are_followed_by_others(tmp_path: Path) -> None:
    files = committee_files(tmp_path)
    shaky = Alarm(forces=1e-6)
    task = Exploration(cell(), files, shaky, 500.0, 2.0, duration=20, timestep=1, seed=3, most=4)
    calm = replace(task, alarm=CALM, duration=3)
    spent = replace(task, alarm=CALM, cpu_seconds=0.0)
    serial = explore_all([task, calm, spent])
    assert [len(found) for found in serial] == [4, 1, 0]
    assert all(found.alarm for found in serial[0])
    assert [found.reached for found in serial[1]] == [3]
    assert {found.temperature for found in serial[0]} == {500.0}
    assert {found.pressure for found in serial[0]} == {2.0}
    # the time is that of all together
    short = explore_all([replace(task, duration=2.0)])[0]
    assert len(short) == 2


@pytest.mark.slow
def test_explorations_are_the_same_side_by_side(tmp_path: Path) -> None:
    files = committee_files(tmp_path)
    tasks = [Exploration(cell(), files, CALM, t, 0.0, duration=5, timestep=1, seed=1) for t in (300.0, 900.0)]
    for left, right in zip(explore_all(tasks), explore_all(tasks, 2)):
        assert [found.alarm for found in left] == [found.alarm for found in right]
        np.testing.assert_allclose(
            left[0].visits[-1].atoms.positions, right[0].visits[-1].atoms.positions, rtol=0, atol=1e-6
        )


def test_atoms_that_collide_end_a_trajectory_and_not_the_run(committee: list[LDOSCalculator]) -> None:
    """Two atoms closer than the model accepts: it gives no forces at all."""
    atoms = cell()
    atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
    found = explore(atoms, committee, CALM, temperature=500, duration=6, timestep=1)
    assert "gives no forces" in found.alarm
    assert found.visits == ()


def visit(shift: float, disagreement: float, novelty: float = 0.1) -> Visit:
    atoms = cell()
    atoms.positions[1, 0] += shift
    return Visit(atoms, 0.0, disagreement, novelty, 0)


def test_frames_are_disputed_and_different() -> None:
    descriptor = PowerSpectrum([4], cutoff=3.5, n_radial=3, lmax=2)
    alarm = Alarm(forces=0.2, novelty=2.0)
    same = [visit(0.20, 0.19), visit(0.201, 0.18), visit(0.202, 0.17)]
    others = [visit(-0.20, 0.12), visit(0.0, 0.15)]
    quiet = [visit(0.1, 0.01), visit(0.15, 0.02)]
    lost = [visit(0.3, float("inf"))]
    found = choose_frames(
        [Trajectory((*quiet, *same), 300, 0, ""), Trajectory((*lost, *others), 900, 0, "x")], 3, descriptor, alarm
    )
    shifts = sorted(round(float(v.atoms.positions[1, 0] - cell().positions[1, 0]), 2) for v in found)
    assert shifts == [-0.20, 0.0, 0.20]
    # where nothing is in dispute the most disputed are taken
    found = choose_frames([Trajectory(tuple(quiet), 300, 0, "")], 5, descriptor, alarm)
    assert [v.disagreement for v in found] == [0.02, 0.01]
    # one that is far out of the range counts as disputed
    far = visit(0.05, 0.01, novelty=1.9)
    assert far in choose_frames([Trajectory((*quiet, far), 300, 0, "")], 1, descriptor, alarm)
    assert choose_frames([], 3, descriptor, alarm) == []


def test_time_steps_follow_the_lightest_atom() -> None:
    assert default_timestep(bulk("Si")) == 2.0
    assert default_timestep(bulk("Be")) == pytest.approx(0.5 * np.sqrt(9.012), abs=1e-3)
    assert default_timestep(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7]])) == pytest.approx(0.5, abs=0.01)
