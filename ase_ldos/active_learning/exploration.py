"""Dynamics with several models that stops where they disagree or leave what they know, and the choice of frames."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculatorError
from ase.md.langevin import Langevin

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.model.extrapolation import ExtrapolationWarning
from ase_ldos.simulation.sampling import farthest_points, frame_features

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
    """Disagreement and novelty of a structure.

    The disagreement of an atom is sqrt(mean_m |F_m − F̄|²) over the models m.
    """
    forces, novelty, frame = [], 0.0, _bare(atoms)
    for calculator in committee:
        probe = _bare(atoms)
        probe.calc = calculator
        try:
            forces.append(probe.get_forces())
            distances = calculator.get_extrapolation(probe)
            threshold = calculator.model.metadata.extrapolation["threshold"]
            novelty = max(novelty, float(np.max(distances)) / threshold)
        except (CalculatorError, ValueError) as error:
            logger.info("a model gives no forces: %s", error)
            return Visit(frame, 0.0, float("inf"), float("inf"), 0)
    stacked = np.array(forces)
    spread = np.sqrt(np.square(stacked - stacked.mean(axis=0)).sum(axis=2).mean(axis=0))
    return Visit(frame, 0.0, float(spread.max()), novelty, int(spread.argmax()))


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
    progress: Callable[[float, Visit], None] = lambda _time, _visit: None,
) -> Trajectory:
    """Langevin dynamics with the first model; every few steps all models are asked.

    Args:
        start: the structure; it is not changed.
        committee: calculators.
        alarm: where to stop.
        temperature: K.
        pressure: GPa, for the record: the cell is fixed.
        duration: fs.
        timestep: fs.
        interval: steps between two looks.
        seed: of velocities and thermostat.
        budget: asked at every look whether to go on.
        progress: told time (fs) and frame at every look.
    """
    rng = np.random.default_rng(seed)
    atoms = _bare(start)
    atoms.calc = committee[0]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature * atoms.get_masses())[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    visits: list[Visit] = []
    stopped = ""
    with without_extrapolation_warnings():
        dynamics = Langevin(
            atoms, timestep * units.fs, temperature_K=temperature, friction=FRICTION / units.fs, rng=rng, fixcm=False
        )
        steps = max(1, round(duration / timestep))
        try:
            for done in dynamics.irun(steps):
                step = dynamics.nsteps
                if step % interval and not done:
                    continue
                found = inspect(atoms, committee)
                visit = Visit(found.atoms, step * timestep, found.disagreement, found.novelty, found.atom)
                visits.append(visit)
                progress(visit.time, visit)
                stopped = _reason(visit, alarm)
                if stopped or not budget():
                    break
        except (CalculatorError, ValueError) as error:
            time = dynamics.nsteps * timestep
            stopped = f"the model gives no forces at {time:.0f} fs: {error}"
    return Trajectory(tuple(visits), temperature, pressure, stopped)


def _reason(visit: Visit, alarm: Alarm) -> str:
    if visit.disagreement > alarm.forces:
        return (
            f"at {visit.time:.0f} fs the models differ by {1000 * visit.disagreement:.0f} meV/Å in the force on atom "
            f"{visit.atom}"
        )
    if visit.novelty > alarm.novelty:
        return f"at {visit.time:.0f} fs an atom is {visit.novelty:.1f} times as far out as the range reaches"
    return ""


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
    picked = farthest_points(frame_features([visit.atoms for visit in candidates], descriptor), number)
    return [candidates[place] for place in picked]


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True)
