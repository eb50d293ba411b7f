"""A whole learning, with a bundled model in DFT's place: its labels cost milliseconds and are exactly learnable."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read

import ase_ldos.active_learning.learn as learning
from ase_ldos.active_learning.exploration import Trajectory, Visit, default_timestep
from ase_ldos.active_learning.learn import INNER_STEPS, REPORT, STATE, Round, learn
from ase_ldos.active_learning.settings import LearnSettings
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.dataset.npz import load_snapshots, save_snapshot
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.labelling.run import LabelReport
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.prediction.predict import predict_ldos

DFT = """
pseudopotentials = { Be = "Be.gth-pbe-uzh-q2.UPF" }
cutoff = 20
electronic_temperature = 3000
kspacing = 0.3
bands_per_atom = 4
"""
TRAINING = """
name = "taught"
data = ["labels"]
[model]
valence = { Be = 2.0 }
electronic_temperature = 3000
broadening = 0.3
energy_window = [-5.0, 14.8]
energy_spacing = 0.3
n_components = 16
hidden = [24]
grid_spacing = 0.5
minimum_distance = 1.0
descriptor = { kind = "power_spectrum", cutoff = 3.5, n_radial = 3, lmax = 2 }
[[stages]]
name = "ldos"
steps = 60
[[stages]]
name = "everything"
epochs = 10
learning_rate = 1e-3
weights = { ldos = 10.0, dos = 10.0, density = 300.0, energy = 500.0, forces = 20.0 }
"""
SETTINGS = LearnSettings(
    temperatures=(600.0, 1500.0),
    energy=40.0,
    forces=900.0,
    density=20.0,
    cpu_hours=1.0,
    rounds=2,
    test=3,
    first=6,
    per_round=3,
    cell_atoms=4,
    explore_atoms=8,
    explore_ps=0.02,
    training_steps=60,
    final_atoms=8,
    final_ps=0.01,
)


class Teacher:
    """Labels by `be`, in place of ``label_structures``; counts them, and may break off."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.break_after: int | None = None
        self.calculator = LDOSCalculator("be", grid_spacing=0.5, electronic_temperature=3000.0)

    def __call__(self, structures: Sequence[Atoms], _recipe: object, folder: Path, **_: object) -> LabelReport:
        folder.mkdir(exist_ok=True)
        for atoms in structures:
            if self.break_after is not None and len(self.names) >= self.break_after:
                raise KeyboardInterrupt
            self.names.append(atoms.info["name"])
            save_snapshot(folder / f"{atoms.info['name']}.npz", self.label(atoms))
        return LabelReport(tuple(atoms.info["name"] for atoms in structures), (), {})

    def label(self, atoms: Atoms) -> Snapshot:
        bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        self.calculator.fix_grid(None)
        self.calculator.calculate(bare, ["energy", "forces", "stress"])
        found = self.calculator.prediction
        model = self.calculator.model
        ldos = predict_ldos(model, Structure.from_atoms(bare), found.grid.shape)
        assert found.forces is not None
        assert found.stress is not None
        scale = float(ldos.abs().max())
        return Snapshot(
            atoms.info["name"],
            bare.numbers,
            bare.cell.array,
            bare.positions,
            energies=model.energies.numpy(),
            ldos=(ldos / scale).numpy().astype(np.float16),
            ldos_scale=scale,
            ldos_sigma=0.3,
            dos=found.dos.numpy(),
            density=found.density.numpy().astype(np.float32),
            free_energy=float(found.free_energy),
            fermi_level=float(found.fermi_level),
            forces=found.forces.numpy(),
            stress=found.stress.numpy(),
            electronic_temperature=3000.0,
            valence=2.0,
        )


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Teacher:
    made = Teacher()
    monkeypatch.setattr(learning, "label_structures", made)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dft.toml").write_text(DFT)
    (tmp_path / "training.toml").write_text(TRAINING)
    return tmp_path


CRYSTAL = bulk("Be", "hcp", a=2.25, c=3.54)


def teacher_order(lines: Sequence[str]) -> list[str]:
    return [line.rsplit(" ", 1)[1] for line in lines if line.startswith("labelling ")]


@pytest.mark.slow
def test_a_learning_is_interrupted_resumed_and_reported(
    folder: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a model of so few steps is too rough to distil anything from
    monkeypatch.setattr(learning, "distill", lambda *_, **__: load_model("be").distilled)
    lines: list[str] = []
    teacher.break_after = 11
    with pytest.raises(KeyboardInterrupt):
        learn([CRYSTAL], folder, SETTINGS, progress=lines.append)
    assert len(teacher.names) == 11
    teacher.break_after = None
    state = learn([CRYSTAL], folder, SETTINGS, workers=2, progress=lines.append)

    # every structure is labelled once, and no test cell is learned
    assert len(teacher.names) == len(set(teacher.names))
    test = {snapshot.name for snapshot in load_snapshots(folder / "labels-test")}
    model = load_model(folder / "taught.safetensors")
    learned, held_back = set(model.metadata.provenance["training"]), set(model.metadata.provenance["held back"])
    assert len(test) == 3
    assert not test & (learned | held_back)
    assert not learned & held_back
    # of the symmetric cells, whose strains are the largest, all are learned
    assert sum("_c0-" in name for name in learned) == 17
    assert not any("_c0-" in name for name in held_back)
    assert state.rounds[0].labels == 17 + 6
    # what was held back in the first round still is
    first = load_model(folder / "round-0/model-0.safetensors").metadata.provenance
    assert set(first["held back"]) <= held_back
    assert state.verdict
    assert all(item.finished for item in state.rounds)
    assert 0 < state.rounds[0].test["forces"] < 3000
    assert any(line.startswith("round 1: 23 labels; test ") for line in lines)

    # the finished model holds a potential for long steps, and was run
    assert model.distilled is not None
    assert any(line.startswith("  it is off the model by ") for line in lines)
    assert state.dynamics["passed"] == (not state.dynamics["alarm"])
    steps = state.dynamics["reached_fs"] / default_timestep(CRYSTAL) / INNER_STEPS
    assert steps == pytest.approx(round(steps))

    text = (folder / REPORT).read_text()
    assert "learned from" in text
    assert state.verdict in text
    parts = (
        "Learning curve",
        "Error bars",
        "Equation of state",
        "elastic constants",
        "Density of states",
        "it cost",
        "Cheap",
    )
    for part in parts:
        assert part in text
    assert "<script" not in text
    assert re.findall(r"<td>DFT</td>", text)
    # the comparison with DFT is printed too; the cells of the elastic constants were labelled before any training
    said = "\n".join(lines)
    assert re.search(r"Be2: volume \d+\.\d\d Å³/atom \(DFT \d", said)
    assert re.search(r"Be2, DFT: C11 \d+.*phonons at Γ \(meV\): \d", said)
    assert re.search(r"error bars of the force: .* meV/Å told", said)
    assert "gap" not in said  # a metal
    assert len(load_snapshots(folder / "labels-reference")) == 18
    assert teacher_order(lines).index("reference") < teacher_order(lines).index("round-0")
    assert json.loads((folder / STATE).read_text())["cpu_seconds"]["training"] > 0

    # a finished learning has nothing left to label or to train
    before = {path: path.stat().st_mtime_ns for path in folder.glob("round-*/model-*")}
    teacher.names.clear()
    again = learn([CRYSTAL], folder, SETTINGS, progress=lines.append)
    assert teacher.names == []
    assert {path: path.stat().st_mtime_ns for path in folder.glob("round-*/model-*")} == before
    assert [item.test for item in again.rounds] == [item.test for item in state.rounds]
    with pytest.raises(ValueError, match=r"was begun with test = 3, not 4"):
        learn([CRYSTAL], folder, LearnSettings(test=4, first=6, cell_atoms=4))


def test_a_model_that_fails_its_dynamics_learns_from_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of the last dynamics take the place of an exploration, cut to the size that is labelled."""
    settings = replace(SETTINGS, forces=5.0, final_ps=0.05, final_atoms=16, final_temperature=2000.0, rounds=3)
    run = learning._Learning([CRYSTAL], folder, settings, 1, "", None, print, False)
    good = {"energy": 0.0, "forces": 0.0, "density": 0.0}
    run.state.rounds = [Round(finished=True, test=good, alarms=[""]), Round(finished=True, test=good)]
    (folder / "round-1").mkdir()
    for member, seed in enumerate((0, 1)):
        model = load_model("be")
        with torch.no_grad():
            weight = model.network.head.weight
            weight += 0.05 * seed * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        save_model(model, folder / "round-1" / f"model-{member}.safetensors")
    save_model(load_model("be"), folder / "taught.safetensors")
    assert run._reached(1)
    assert run._accepted(1) == ""
    assert run.state.dynamics["passed"] is False
    (alarm,) = run.state.rounds[1].alarms
    assert alarm == run.state.dynamics["alarm"]
    assert "the models differ by" in alarm
    run._explore(1)  # has nothing to do
    assert run.state.rounds[1].alarms == [alarm]
    run.state.rounds.append(Round())
    assert run._next_structures(1)
    chosen = read(folder / "structures" / "round-2.extxyz", ":")
    assert 0 < len(chosen) <= settings.per_round
    assert {len(atoms) for atoms in chosen} == {settings.cell_atoms}
    # in the last round that is allowed the dynamics comes in the end
    run.settings = replace(settings, rounds=2)
    assert run._accepted(1) == run._reached(1) != ""


@pytest.mark.parametrize("errors", [None, {"energy": 9.0, "forces": 300.0, "typical_forces": 1000.0, "stress": 1.0}])
def test_steps_stay_short_without_a_good_potential(
    folder: Path, errors: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None that is made, or one that is too far from the model."""

    def distill(*_: object, **__: object) -> DistilledPotential:
        if errors is None:
            raise ValueError("too few states")
        found = load_model("be").distilled
        assert found is not None
        return replace(found, errors=errors)

    monkeypatch.setattr(learning, "distill", distill)
    model = load_model("be")
    model.distilled = None
    save_model(model, folder / "taught.safetensors")
    lines: list[str] = []
    run = learning._Learning([CRYSTAL], folder, SETTINGS, 1, "", None, lines.append, False)
    assert run._distilled() is None
    said = (
        "  none is made: too few states"
        if errors is None
        else "300.0 meV/Å (of 1000) and 1.00 GPa; too much for long steps"
    )
    assert said in lines[-1]
    assert (load_model(folder / "taught.safetensors").distilled is None) == (errors is None)


def test_cells_are_as_large_as_their_images_ask_for(folder: Path) -> None:
    """1.2 cutoffs of 3.5 Å, unless a number of atoms is given."""

    def run(**changes: int) -> learning._Learning:
        return learning._Learning([CRYSTAL], folder, replace(SETTINGS, **changes), 1, "", None, print, False)

    free = run(cell_atoms=0, explore_atoms=0)
    (found,) = free.supercells
    assert np.linalg.norm(found.cell.array, axis=1).min() >= 1.2 * 3.5
    assert len(found) <= 32
    squeezed = CRYSTAL.copy()
    squeezed.set_cell(CRYSTAL.cell.array * 0.99, scale_atoms=True)
    explored = free._explored_cell(0, squeezed)
    assert len(explored) == len(found)
    assert explored.get_volume() == pytest.approx(0.99**3 * found.get_volume())
    assert len(run().supercells[0]) == 4
    assert len(run()._explored_cell(0, squeezed)) == 8
    with pytest.raises(ValueError, match="a primitive cell has 2 atoms, the largest cell 1; allow larger ones"):
        run(cell_atoms=1)


def test_a_round_is_as_large_as_the_budget_has_room_for(folder: Path) -> None:
    settings = replace(SETTINGS, cpu_hours=1.0, rounds=5)
    run = learning._Learning([CRYSTAL], folder, settings, 1, "", None, print, False)

    def plan(spent: float, reserve: float = 0.0) -> str | float:
        run.state.rounds = [Round(cpu_hours=0.1, finished=True), Round(cpu_hours=0.3, finished=True)]
        run.state.cpu_seconds = {"DFT": 3600 * spent}
        run._reserve = 3600 * reserve
        reason = run._plan(2)
        return reason or run.state.rounds[2].size

    assert plan(0.3) == 1.0
    assert plan(0.9) == pytest.approx(0.95 * 0.1 / 0.2, abs=0.02)
    assert plan(0.6, reserve=0.3) == pytest.approx(0.475, abs=0.02)
    refused = plan(0.97)
    assert refused == "1 CPU hours leave no room for another round beside the last dynamics"
    # a dynamics that would take most of the budget does not get it
    assert plan(0.3, reserve=0.5) == 1.0
    # a round that was half as large cost half as much
    run.state.rounds = [Round(cpu_hours=0.1), Round(cpu_hours=0.2, size=0.5)]
    run.state.cpu_seconds, run._reserve = {"DFT": 3600 * 0.9}, 0.0
    assert run._plan(2) == ""
    assert run.state.rounds[2].size == pytest.approx(0.475, abs=0.02)
    # one that is begun stays as it is
    assert run._plan(2) == ""
    assert len(run.state.rounds) == 3


@pytest.mark.parametrize(("needed", "outcome"), [(0.04, "passed"), (0.3, "needed_cpu_hours")])
def test_a_short_last_dynamics_is_run_though_the_budget_is_spent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, needed: float, outcome: str
) -> None:
    run = learning._Learning([CRYSTAL], folder, replace(SETTINGS, cpu_hours=1.0), 1, "", None, print, False)
    run.state.rounds = [Round(finished=True)]
    run.state.cpu_seconds = {"DFT": 3700.0}
    (folder / "round-0").mkdir()
    save_model(load_model("be"), folder / "round-0" / "model-0.safetensors")
    measured, runs = [], []

    def measure(*_: object) -> float:
        measured.append(needed)
        return 3600 * needed

    def explore(*_: object, temperature: float, duration: float, **__: object) -> Trajectory:
        runs.append(duration)
        return Trajectory((Visit(CRYSTAL, duration, 0.0, 0.0, 0),), temperature, 0.0, "")

    monkeypatch.setattr(run, "_dynamics_cpu", measure)
    monkeypatch.setattr(run, "_distilled", lambda: None)
    monkeypatch.setattr(learning, "explore", explore)
    for _ in range(2):  # the second time nothing is left to find out
        run._last_dynamics()
        assert outcome in run.state.dynamics
        assert len(measured) == 1
        assert len(runs) == (outcome == "passed")


def test_a_budget_ends_it_before_anything_is_trained(folder: Path, teacher: Teacher) -> None:
    spent = LearnSettings(cpu_hours=1e-9, test=3, first=6, cell_atoms=4)
    state = learn([CRYSTAL], folder, spent)
    assert "CPU hours are spent" in state.verdict
    assert teacher.names == []
    assert not (folder / REPORT).exists()


def test_goals_are_met_when_all_errors_are_known_and_small() -> None:
    settings = LearnSettings(energy=4.0, forces=60.0, density=1.0)
    errors = {"energy": 4.0, "forces": 59.0, "density": 0.5, "stress": 99.0}
    assert settings.met_by(errors)
    assert not settings.met_by(errors | {"forces": 61.0})
    assert not settings.met_by({"energy": 1.0, "forces": 1.0})
    assert not settings.met_by({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": 1}, "the disagreement of at least 2"),
        ({"forces": 0.0}, "forces is 0.0; it must be positive"),
        ({"temperatures": ()}, "temperatures is empty"),
        ({"temperatures": (300.0, -1.0)}, "must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnSettings(**changes)  # type: ignore[arg-type]
