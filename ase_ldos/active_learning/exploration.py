"""Dynamics with several models that stops where they disagree or leave what they know, and the choice of frames."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, CalculatorError
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics

from ase_ldos.active_learning.side_by_side import run_side_by_side
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.model.extrapolation import ExtrapolationWarning, warning_threshold
from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.simulation.respa import RespaLDOS
from ase_ldos.simulation.run_until import Bound, RunUntil, check_committee, force_deviations, novelty
from ase_ldos.simulation.sampling import pick_frames
from ase_ldos.simulation.velocities import draw_momenta

#: Friction of the thermostat, 1/fs.
FRICTION = 0.01
#: An atom beyond this many thresholds of the model's range stops a trajectory.
NOVELTY = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alarm:
    """Bounds at which a trajectory stops.

    Attributes:
        forces: largest disagreement of a force, eV/Å.
        novelty: largest distance of an atom from the training data, in thresholds of the model.
    """

    forces: float
    novelty: float = NOVELTY


@dataclass(frozen=True)
class Visit:
    """A frame of a trajectory.

    Attributes:
        atoms: positions and cell.
        time: fs.
        disagreement: largest of an atom's force, eV/Å; infinite where a model gives none.
        novelty: largest distance in thresholds.
        atom: the one with the largest disagreement.
    """

    atoms: Atoms
    time: float
    disagreement: float
    novelty: float
    atom: int


@dataclass(frozen=True)
class Trajectory:
    """What an exploration found.

    Attributes:
        visits: frames in order.
        temperature: K.
        pressure: GPa.
        alarm: why it stopped; empty if it came to its end.
    """

    visits: tuple[Visit, ...]
    temperature: float
    pressure: float
    alarm: str

    @property
    def reached(self) -> float:
        """Time of the last frame, fs."""
        return self.visits[-1].time if self.visits else 0.0


def default_timestep(atoms: Atoms) -> float:
    """A step that follows the lightest atom, fs: 0.5 for hydrogen, 2 at most."""
    lightest = float(atoms.get_masses().min())
    return float(np.clip(0.5 * np.sqrt(lightest), 0.5, 2.0))


@contextmanager
def without_extrapolation_warnings() -> Iterator[None]:
    """The range is watched here; what the calculators say of it once per run would only repeat that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)
        yield


def inspect(atoms: Atoms, committee: Sequence[LDOSCalculator]) -> Visit:
    """Disagreement (``force_deviations``) and novelty of a structure, the largest of its atoms and, this, of models."""
    frame = periodic_copy(atoms)
    try:
        spread = force_deviations(frame, committee)
        reached = max(
            novelty(calculator)(frame) / warning_threshold(calculator.model.metadata) for calculator in committee
        )
    except (CalculatorError, ValueError) as error:
        logger.info("a model gives no forces: %s", error)
        return Visit(frame, 0.0, float("inf"), float("inf"), 0)
    return Visit(frame, 0.0, float(spread.max()), reached, int(spread.argmax()))


def explore(
    start: Atoms,
    committee: Sequence[LDOSCalculator],
    alarm: Alarm,
    *,
    temperature: float,
    pressure: float = 0.0,
    duration: float,
    timestep: float,
    interval: int = 10,
    seed: int = 0,
    budget: Callable[[], bool] = lambda: True,
    inner: Calculator | None = None,
    n_inner: int = 1,
) -> Trajectory:
    """Langevin dynamics with the first model; every few steps, and after the last, all models are asked.

    Args:
        start: the structure; it is not changed.
        committee: calculators, two or more.
        alarm: where to stop.
        temperature: K.
        pressure: GPa, for the record: the cell is fixed.
        duration: fs.
        timestep: fs.
        interval: steps between two looks.
        seed: of velocities and thermostat.
        budget: asked at every look whether to go on.
        inner: a cheap calculator near the first model, for steps of r-RESPA (``simulation.respa``).
        n_inner: its steps within one.

    Raises:
        ValueError: fewer than two calculators.
    """
    check_committee(committee)
    rng = np.random.default_rng(seed)
    atoms = periodic_copy(start)
    atoms.calc = committee[0]
    draw_momenta(atoms, temperature, rng)
    step, friction = timestep * units.fs, FRICTION / units.fs
    dynamics: MolecularDynamics
    if inner is None:
        dynamics = Langevin(atoms, step, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)
    else:
        dynamics = RespaLDOS(atoms, step, inner, n_inner, temperature_K=temperature, friction=friction, rng=rng)
    visits: list[Visit] = []

    def look() -> None:
        visits.append(replace(inspect(atoms, committee), time=dynamics.nsteps * timestep))

    bounds = {
        "disagreement": Bound(lambda _: visits[-1].disagreement, alarm.forces),
        "novelty": Bound(lambda _: visits[-1].novelty, alarm.novelty),
        "budget": Bound(lambda _: 0.0 if budget() else np.inf, 0.0),
    }
    watch = RunUntil(dynamics, bounds)
    for observer in (look, watch):  # in this order
        dynamics.attach(observer, interval)
    with without_extrapolation_warnings():
        try:
            dynamics.run(max(1, round(duration / timestep)))
            if dynamics.nsteps % interval:
                look()
                watch()
            stopped = _reason(visits[-1], watch.events[0].name) if watch.events else ""
        except (CalculatorError, ValueError) as error:
            stopped = f"the model gives no forces at {dynamics.nsteps * timestep:.0f} fs: {error}"
    return Trajectory(tuple(visits), temperature, pressure, stopped)


@dataclass(frozen=True)
class Exploration:
    """Dynamics at one temperature and pressure, by models in files.

    Attributes:
        start: the structure.
        models: files of two or more.
        alarm: where a trajectory stops.
        temperature: K.
        pressure: GPa, for the record.
        duration: fs of all trajectories together.
        timestep: fs.
        seed: of the first trajectory; each further one takes the next.
        most: trajectories; where alarms end them early, another one begins with other velocities.
        cpu_seconds: what may be spent.
    """

    start: Atoms
    models: tuple[Path, ...]
    alarm: Alarm
    temperature: float
    pressure: float
    duration: float
    timestep: float
    seed: int
    most: int = 1
    cpu_seconds: float = math.inf


def explore_all(explorations: Sequence[Exploration], workers: int = 1) -> list[list[Trajectory]]:
    """The trajectories of several explorations, side by side as far as there are workers (``run_side_by_side``)."""
    return run_side_by_side(_explore_from_files, explorations, workers)


def _explore_from_files(task: Exploration) -> list[Trajectory]:
    end = time.process_time() + task.cpu_seconds
    committee = [LDOSCalculator(path) for path in task.models]
    found: list[Trajectory] = []
    left = task.duration
    while left >= task.timestep and len(found) < task.most and time.process_time() < end:
        trajectory = explore(
            task.start,
            committee,
            task.alarm,
            temperature=task.temperature,
            pressure=task.pressure,
            duration=left,
            timestep=task.timestep,
            seed=task.seed + len(found),
            budget=lambda: time.process_time() < end,
        )
        found.append(trajectory)
        left -= max(trajectory.reached, task.timestep)
    return found


def _reason(visit: Visit, passed: str) -> str:
    """Why a trajectory stopped at a visit, by the name of the bound; the budget is no alarm."""
    if passed == "budget":
        return ""
    if not np.isfinite(visit.disagreement):
        return f"at {visit.time:.0f} fs one of the models gives no forces"
    if passed == "disagreement":
        return (
            f"at {visit.time:.0f} fs the models differ by {1000 * visit.disagreement:.0f} meV/Å in the force on atom "
            f"{visit.atom}"
        )
    return f"at {visit.time:.0f} fs an atom is {visit.novelty:.1f} times as far out as the range reaches"


def choose_frames(
    trajectories: Sequence[Trajectory], number: int, descriptor: PointFeatures, alarm: Alarm
) -> list[Visit]:
    """The frames to label: disputed or novel ones, as different from each other as possible.

    Args:
        trajectories: of an exploration.
        number: how many; fewer where there are fewer.
        descriptor: tells how different frames are.
        alarm: frames at half of its bounds or more come first; where these are too few, the most disputed others
            follow.
    """
    usable = [
        visit for trajectory in trajectories for visit in trajectory.visits if visit.disagreement < 10 * alarm.forces
    ]

    def score(visit: Visit) -> float:
        return max(visit.disagreement / alarm.forces, visit.novelty / alarm.novelty)

    ranked = sorted(usable, key=score, reverse=True)
    disputed = [visit for visit in ranked if score(visit) >= 0.5]
    candidates = disputed if len(disputed) > number else ranked[: 3 * number]
    if len(candidates) <= number:
        return candidates
    # frames of different numbers of atoms have features of the same kind: means and spreads over atoms
    picked = pick_frames([visit.atoms for visit in candidates], number, descriptor)
    return [candidates[place] for place in picked]
