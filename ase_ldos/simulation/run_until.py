"""Dynamics that ends, saves frames or has them labelled where the model leaves what it knows.

    watch = RunUntil(dynamics, {"novelty": Bound(novelty(calculator), 3.0)}, save="unsure.extxyz")
    dynamics.attach(watch, interval=10)
    dynamics.run(10_000)
    print(watch.events)

ASE's drivers call the observer between two steps, so that a run ends whole: it may be kept by ``restart.save_run``,
resumed by ``load_run``, or go on by another ``dynamics.run``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer

from ase_ldos.files import PathLike, atomic_write

#: Of a structure; the larger, the less the model knows of it.
Measure = Callable[[Atoms], float]


class _KnowsItsRange(Protocol):
    def get_extrapolation(self, atoms: Atoms) -> np.ndarray: ...


class _GivesForces(Protocol):
    def get_forces(self, atoms: Atoms) -> np.ndarray: ...


def novelty(calculator: _KnowsItsRange) -> Measure:
    """Largest distance of an atom from the training data; calculator: an ``LDOSCalculator``."""

    def measure(atoms: Atoms) -> float:
        return float(calculator.get_extrapolation(atoms).max())

    return measure


def check_committee(calculators: Sequence[object]) -> None:
    """Refuse fewer than two (``ValueError``)."""
    if len(calculators) < 2:
        raise ValueError(f"{len(calculators)} calculator has nobody to disagree with; give two or more")


def force_deviations(atoms: Atoms, calculators: Sequence[_GivesForces]) -> np.ndarray:
    """Standard deviation of each atom's force over models, √(Σ_xyz var F), eV/Å, ``[atom]``.

    The variance is that of a sample, as in ``prediction.committee.committee_deviations``: of two models √½ |F₁ − F₂|.

    Args:
        atoms: the structure.
        calculators: two or more of ASE's, each of one model.

    Raises:
        ValueError: fewer than two.
    """
    check_committee(calculators)
    forces = np.array([calculator.get_forces(atoms) for calculator in calculators])
    return np.asarray(np.sqrt(forces.var(axis=0, ddof=1).sum(axis=1)))


def disagreement(calculators: Sequence[_GivesForces]) -> Measure:
    """Largest of the ``force_deviations``, eV/Å; the run's own calculator may be among the calculators.

    Raises:
        ValueError: fewer than two.
    """
    check_committee(calculators)
    return lambda atoms: float(force_deviations(atoms, calculators).max())


@dataclass(frozen=True)
class Bound:
    """A measure and the value that it may not pass."""

    measure: Measure
    limit: float


@dataclass(frozen=True)
class Event:
    """A bound was passed.

    Attributes:
        step: of the run.
        name: of the bound.
        value: of its measure.
    """

    step: int
    name: str
    value: float


class RunUntil:
    """An observer that acts when a measure passes its bound.

    A value that is not a finite number passes any bound: then the run has already gone wrong.

    Args:
        dynamics: the driver, an optimiser too; attach the observer with the interval at which it shall look.
        bounds: by name.
        stop: end the run at the first event.
        save: file (extxyz) to which the frame is appended, with energy and forces where they are known; the step, the
            bound's name and the value are in its ``info``.
        label: called with a copy of the atoms without calculator, to label them or note them for it.
        pause: steps after an event without ``stop`` in which no other is told of.

    Attributes:
        events: so far, the oldest first.

    Raises:
        ValueError: no bounds, a limit that is not a number, or nothing to do at an event.
    """

    def __init__(
        self,
        dynamics: MolecularDynamics | Optimizer,
        bounds: Mapping[str, Bound],
        *,
        stop: bool = True,
        save: PathLike | None = None,
        label: Callable[[Atoms], object] | None = None,
        pause: int = 0,
    ) -> None:
        if not bounds or any(np.isnan(bound.limit) for bound in bounds.values()):
            raise ValueError("RunUntil needs at least one bound, each with a number as limit")
        if not stop and save is None and label is None:
            raise ValueError("RunUntil would do nothing: let it stop, save or label")
        self._dynamics, self._bounds = dynamics, dict(bounds)
        self._stop, self._save, self._label, self._pause = stop, save, label, pause
        self.events: list[Event] = []

    @property
    def stopped(self) -> bool:
        """Whether the last look ended the run."""
        return self._stop and bool(self.events) and self.events[-1].step == self._dynamics.nsteps

    def __call__(self) -> None:
        """Look at the atoms of the driver, and act."""
        step = self._dynamics.nsteps
        if self.events and not self._stop and step <= self.events[-1].step + self._pause:
            return
        atoms = self._dynamics.atoms
        values = {name: float(bound.measure(atoms)) for name, bound in self._bounds.items()}
        passed = [
            Event(step, name, value)
            for name, value in values.items()
            if not np.isfinite(value) or value > self._bounds[name].limit
        ]
        if not passed:
            return
        self.events += passed
        if self._save is not None:
            _append(self._save, atoms, passed[0])
        if self._label is not None:
            self._label(atoms.copy())
        if self._stop:
            # the drivers' loop asks for this after each step: it ends between two steps, its log and observers done
            self._dynamics.max_steps = step


def _append(path: PathLike, atoms: Atoms, event: Event) -> None:
    """Add a frame; the file is whole at any moment."""
    frame = atoms.copy()
    frame.info |= {"step": event.step, "passed": event.name, "value": event.value}
    if atoms.calc is not None:
        known = {name: value for name, value in atoms.calc.results.items() if name in ("energy", "forces", "stress")}
        frame.calc = SinglePointCalculator(frame, **known)
    frames = read(str(path), index=":", format="extxyz") if Path(path).is_file() else []
    assert isinstance(frames, list)
    with atomic_write(path) as draft:
        write(draft, [*frames, frame], format="extxyz")
