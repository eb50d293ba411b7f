"""A run ends, saves or labels where a measure passes its bound, and goes on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.units import fs

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.restart import load_run, save_run
from ase_ldos.simulation.run_until import Bound, RunUntil, disagreement, novelty


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_momenta(np.random.default_rng(1).normal(size=(4, 3)) * 3)
    atoms.calc = EMT()
    return atoms


def moved(start: np.ndarray) -> Bound:
    """Largest displacement; the bound is passed after some steps."""
    return Bound(lambda atoms: float(np.linalg.norm(atoms.positions - start, axis=1).max()), 0.05)


def make(kind: str, atoms: Atoms) -> VelocityVerlet | Langevin:
    if kind == "VelocityVerlet":
        return VelocityVerlet(atoms, fs)
    return Langevin(atoms, fs, temperature_K=300, friction=0.05 / fs, fixcm=False, rng=np.random.default_rng(3))


@pytest.mark.parametrize("kind", ["VelocityVerlet", "Langevin"])
def test_a_run_ends_between_two_steps_and_resumes(kind: str, tmp_path: Path) -> None:
    atoms = copper()
    start = atoms.positions.copy()
    whole = make(kind, copper())
    dynamics = make(kind, atoms)
    watch = RunUntil(dynamics, {"moved": moved(start)}, save=tmp_path / "frames.extxyz")
    dynamics.attach(watch)
    dynamics.run(200)
    (event,) = watch.events
    assert 2 < event.step == dynamics.nsteps < 200
    assert watch.stopped
    assert event.value > 0.05
    frame = read(tmp_path / "frames.extxyz")
    assert (frame.info["step"], frame.info["passed"]) == (event.step, "moved")
    assert frame.positions == pytest.approx(atoms.positions, abs=1e-7)
    assert frame.get_forces() == pytest.approx(atoms.get_forces(), abs=1e-7)
    # one step earlier the bound held, and what follows is what an uninterrupted run gives
    whole.run(event.step - 1)
    assert moved(start).measure(whole.atoms) <= 0.05
    save_run(tmp_path / "run.npz", dynamics, {})
    resumed = make(kind, copper())
    load_run(tmp_path / "run.npz", resumed)
    assert resumed.nsteps == event.step
    resumed.run(5)
    whole.run(6)
    assert resumed.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-12)


def test_frames_are_saved_and_labelled_while_the_run_goes_on(tmp_path: Path) -> None:
    atoms, labelled = copper(), list[Atoms]()
    dynamics = VelocityVerlet(atoms, fs)
    bound = Bound(lambda _: 1.0, 0.5)
    path = tmp_path / "f.extxyz"
    watch = RunUntil(dynamics, {"always": bound}, stop=False, save=path, label=labelled.append, pause=3)
    dynamics.attach(watch)
    dynamics.run(9)
    assert dynamics.nsteps == 9
    assert not watch.stopped
    assert [event.step for event in watch.events] == [0, 4, 8]
    assert [frame.info["step"] for frame in read(path, ":")] == [0, 4, 8]
    assert len(labelled) == 3
    assert labelled[0].calc is None


def test_what_is_no_number_passes_and_optimisers_end_too() -> None:
    atoms = copper()
    atoms.rattle(0.2, seed=1)
    relaxation = BFGS(atoms, logfile=None)
    watch = RunUntil(relaxation, {"broken": Bound(lambda _: float("nan"), 1e9)})
    relaxation.attach(watch)
    relaxation.run(fmax=1e-9, steps=50)
    assert relaxation.nsteps == 0
    assert watch.events[0].name == "broken"


def test_measures(be_model: LDOSModel) -> None:
    class Known:
        def get_extrapolation(self, atoms: Atoms) -> np.ndarray:
            return np.arange(len(atoms)) + 0.5

    atoms = copper()
    assert novelty(Known())(atoms) == 3.5
    one, two = EMT(), EMT()
    assert disagreement([one, two])(atoms) == 0
    beryllium = bulk("Be", "hcp", a=2.27, c=3.57)
    beryllium.rattle(0.1, seed=2)
    calculators = [LDOSCalculator(be_model, device="cpu", grid_spacing=s) for s in (0.6, 0.8)]
    forces = [calculator.get_forces(beryllium) for calculator in calculators]
    expected = np.linalg.norm(forces[0] - forces[1], axis=1).max() / np.sqrt(2)
    assert disagreement(calculators)(beryllium) == pytest.approx(expected)


def test_what_makes_no_sense_is_refused() -> None:
    dynamics = VelocityVerlet(copper(), fs)
    with pytest.raises(ValueError, match="at least one bound"):
        RunUntil(dynamics, {})
    with pytest.raises(ValueError, match="do nothing"):
        RunUntil(dynamics, {"x": Bound(lambda _: 0.0, 1.0)}, stop=False)
    with pytest.raises(ValueError, match="nobody to disagree"):
        disagreement([EMT()])
