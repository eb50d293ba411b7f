"""What a worker does for a job: structures, predictions, relaxations, dynamics, fields of a window of energies.

A task gets its request (checked here, since it comes from outside), a folder of its own that the server chose, and the
means to tell how far it is; it leaves files of fixed names in the folder and returns what the page lists. What needs
torch is imported where it is used: the worker that only reads structures does without.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ase_ldos.files import atomic_write, write_text
from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.simulation.velocities import draw_momenta
from ase_ldos.web.limits import Limits
from ase_ldos.web.progress import JobClock, Progress
from ase_ldos.web.request_fields import take_choice, take_integer, take_number, take_object
from ase_ldos.web.script import make_script
from ase_ldos.web.structures import make_structure

if TYPE_CHECKING:
    from ase_ldos.calculator.calculator import LDOSCalculator

#: Pictures of a film, at most.
PICTURES = 100
#: Seconds per grid point on one core of the stages of a job; a first guess, replaced by what was measured. Only their
#: ratios count. What the page draws grows with its own grid, up to ``BIN_POINTS``.
FIRST_GUESS = {"density of states": 6e-6, "uncertainty": 6e-6, "forces": 15e-6, "view": 30e-6, "window": 6e-6}


@dataclass
class Workshop:
    """What a worker keeps between jobs.

    Attributes:
        limits: of the server.
        models: name → bundled name or path of the file.
        calculators: those made so far.
        pace: model and stage → seconds per grid point that it took the last time.
    """

    limits: Limits
    models: dict[str, str]
    calculators: dict[str, LDOSCalculator] = field(default_factory=dict)
    pace: dict[tuple[str, str], float] = field(default_factory=dict)

    def calculator(self, request: Mapping[str, Any]) -> LDOSCalculator:
        """A calculator as the request wants it.

        Raises:
            ValueError: an unknown model, or numbers that make no sense.
        """
        from ase_ldos.calculator.calculator import LDOSCalculator

        name = take_choice(request, "model", None, self.models)
        if name not in self.calculators:
            if len(self.calculators) > 2:
                self.calculators.clear()
            self.calculators[name] = LDOSCalculator(self.models[name])
        calculator = self.calculators[name]
        metadata = calculator.model.metadata
        temperature = take_number(request, "temperature", metadata.electronic_temperature, 1.0, 200_000.0, unit=" K")
        spacing = take_number(request, "spacing", metadata.grid_spacing, 0.1, 0.6, unit=" Å")
        calculator.set(electronic_temperature=temperature, grid_spacing=spacing)
        calculator.reset()
        calculator.fix_grid(None)
        calculator.uncertainty = False
        return calculator

    def clock(
        self,
        progress: Progress,
        calculator: LDOSCalculator,
        points: int,
        *,
        forces: bool,
        last: str = "view",
        predictions: int = 1,
    ) -> JobClock:
        """For the remaining time of a job, from what such jobs took.

        Args:
            progress: of the job.
            calculator: as it will predict.
            points: of the grid.
            forces: whether they are predicted.
            last: stage after the predictions.
            predictions: at most.
        """
        model = calculator.parameters["model"]

        def expected(stage: str) -> float:
            return self.pace.get((model, stage), FIRST_GUESS[stage]) * _points_of(stage, points)

        # with forces, error bars come in the same walk
        second = ["forces"] if forces else ["uncertainty"] * calculator.uncertainty
        stages = {name: expected(name) for name in ("density of states", *second)}
        return JobClock(progress, stages, last={last: expected(last)}, predictions=predictions)

    def learn(self, clock: JobClock, calculator: LDOSCalculator, points: int) -> None:
        """Keep what the stages of a finished job took."""
        for stage, seconds in clock.measured.items():
            self.pace[calculator.parameters["model"], stage] = seconds / _points_of(stage, points)

    def check_grid(self, atoms: Atoms, spacing: float) -> int:
        """Number of grid points of a prediction.

        Raises:
            ValueError: more than this server takes.
        """
        from ase_ldos.geometry.grid import grid_shape

        points = int(np.prod([float(n) for n in grid_shape(atoms.cell.array, spacing)]))
        if points > self.limits.grid_points:
            raise ValueError(
                f"the cell needs {points:,} grid points; this server takes at most {self.limits.grid_points:,}: "
                "make the vacuum smaller or the spacing larger"
            )
        return points


def run_task(
    kind: str, request: Mapping[str, Any], folder: Path, source: Path | None, workshop: Workshop, progress: Progress
) -> dict[str, Any]:
    """Do a job; returns what the page shows in its list.

    Args:
        kind: a key of ``TASKS``.
        request: from the user.
        folder: where the files of the job go.
        source: folder of the finished job that this one builds on, if it does.
        workshop: of the worker.
        progress: of the job.

    Raises:
        ValueError: the request cannot be done; the message is for the user.
        CancelledError: the user has cancelled.
    """
    return TASKS[kind](request, folder, source, workshop, progress)


def _structure(
    request: Mapping[str, Any], folder: Path, _source: Path | None, workshop: Workshop, _progress: Progress
) -> dict[str, Any]:
    """Read or build a structure and describe it, so that the page can show it before anything is predicted."""
    atoms, remarks = make_structure(take_object(request, "structure"), workshop.limits)
    _write_structure(folder, atoms)
    cell = atoms.cell
    return {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "elements": sorted(set(atoms.get_chemical_symbols())),
        "volume": float(atoms.get_volume()),
        "lengths": cell.lengths().tolist(),
        "angles": cell.angles().tolist(),
        "remarks": remarks,
        "files": ["structure.extxyz"],
    }


def _predict(
    request: Mapping[str, Any], folder: Path, source: Path | None, workshop: Workshop, progress: Progress
) -> dict[str, Any]:
    atoms = _read_structure(source)
    calculator = workshop.calculator(request)
    wants_forces = bool(request.get("forces", True))
    points = workshop.check_grid(atoms, calculator.parameters["grid_spacing"])
    properties = ["energy", "forces", "stress"] if wants_forces else ["energy"]
    calculator.uncertainty = bool(calculator.model.metadata.uncertainty)
    clock = workshop.clock(progress, calculator, points, forces=wants_forces)
    _predict_with_clock(calculator, atoms, properties, clock)
    settings = _common_settings(request) | {"forces": wants_forces}
    result = _write_results(folder, atoms, calculator, "predict", settings, clock)
    workshop.learn(clock, calculator, points)
    return result


def _relax(
    request: Mapping[str, Any], folder: Path, source: Path | None, workshop: Workshop, progress: Progress
) -> dict[str, Any]:
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = _read_structure(source)
    fmax = take_number(request, "fmax", 0.02, 1e-4, 10.0, unit=" eV/Å")
    steps = take_integer(request, "steps", 50, 1, workshop.limits.steps)
    moves_cell = bool(request.get("cell", False))
    calculator = workshop.calculator(request)
    points = workshop.check_grid(atoms, calculator.parameters["grid_spacing"])
    clock = workshop.clock(progress, calculator, points, forces=True, predictions=steps + 2)
    atoms.calc = calculator
    recorder = _Recorder(atoms, calculator, steps, 1.0, clock, "relaxing: step {} of at most {}")
    # ASE's filters stand in for atoms, but are not declared to
    optimizer = BFGS(FrechetCellFilter(atoms) if moves_cell else atoms, logfile=None)  # type: ignore[arg-type]
    optimizer.attach(lambda: recorder.look(optimizer.nsteps))
    with recorder.watches():
        converged = bool(optimizer.run(fmax=fmax, steps=steps))
        calculator.calculate(atoms, ["energy", "forces", "stress"])
    remarks = [] if converged else [f"Not at rest after {steps} steps: forces stay above {fmax:g} eV/Å."]
    settings = _common_settings(request) | {"fmax": fmax, "steps": steps, "cell": moves_cell}
    recorder.write(folder)
    film = recorder.film.document("step")
    return _write_results(folder, atoms, calculator, "relax", settings, clock, film=film, remarks=remarks)


def _dynamics(
    request: Mapping[str, Any], folder: Path, source: Path | None, workshop: Workshop, progress: Progress
) -> dict[str, Any]:
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet

    atoms = _read_structure(source)
    steps = take_integer(request, "steps", 50, 1, workshop.limits.steps)
    timestep = take_number(request, "timestep", 1.0, 0.05, 10.0, unit=" fs")
    ions = take_number(request, "ion_temperature", 300.0, 0.0, 20_000.0, unit=" K")
    thermostat = take_choice(request, "thermostat", "none", ("none", "langevin"))
    seed = take_integer(request, "seed", 1, 0, 2**31 - 1)
    calculator = workshop.calculator(request)
    points = workshop.check_grid(atoms, calculator.parameters["grid_spacing"])
    clock = workshop.clock(progress, calculator, points, forces=True, predictions=steps + 2)
    atoms.calc = calculator
    random = np.random.default_rng(seed)
    draw_momenta(atoms, ions, random, exact=True)
    dynamics: VelocityVerlet | Langevin
    if thermostat == "langevin":
        friction = 0.01 / units.fs
        dynamics = Langevin(atoms, timestep * units.fs, temperature_K=ions, friction=friction, rng=random)
    else:
        dynamics = VelocityVerlet(atoms, timestep * units.fs)
    recorder = _Recorder(atoms, calculator, steps, timestep, clock, "dynamics: step {} of {}")
    dynamics.attach(lambda: recorder.look(dynamics.nsteps))
    with recorder.watches():
        dynamics.run(steps)
        calculator.calculate(atoms, ["energy", "forces", "stress"])
    recorder.write(folder)
    settings = _common_settings(request) | {
        "steps": steps,
        "timestep": timestep,
        "ion_temperature": ions,
        "thermostat": thermostat,
        "seed": seed,
    }
    return _write_results(folder, atoms, calculator, "md", settings, clock, film=recorder.film.document("fs"))


def _window(
    request: Mapping[str, Any], folder: Path, source: Path | None, workshop: Workshop, progress: Progress
) -> dict[str, Any]:
    """The exact field of a window of energies, on the full grid, as a cube file."""
    from ase_ldos.formats.cube import write_cube

    low = take_number(request, "low", None, -1000.0, 1000.0, unit=" eV")
    high = take_number(request, "high", None, -1000.0, 1000.0, unit=" eV")
    atoms = _read_structure(source)
    calculator = workshop.calculator(request)
    points = workshop.check_grid(atoms, calculator.parameters["grid_spacing"])
    clock = workshop.clock(progress, calculator, points, forces=False, last="window")
    _predict_with_clock(calculator, atoms, ["energy"], clock)
    clock.begin_last("states of the window")
    states = calculator.get_local_density((low, high))
    clock("window", 1, 1)
    workshop.learn(clock, calculator, points)
    write_cube(folder / "window.cube", atoms, states, comment=f"states/bohr^3 from {low:g} to {high:g} eV, by ase-ldos")
    return {"formula": atoms.get_chemical_formula(), "n_atoms": len(atoms), "files": ["window.cube"]}


#: Kind of job → function.
TASKS: dict[str, Callable[[Mapping[str, Any], Path, Path | None, Workshop, Progress], dict[str, Any]]] = {
    "structure": _structure,
    "predict": _predict,
    "relax": _relax,
    "md": _dynamics,
    "window": _window,
}


class _Recorder:
    """Looks at every step of a run: pictures for the film, frames for the trajectory, progress."""

    def __init__(
        self,
        atoms: Atoms,
        calculator: LDOSCalculator,
        steps: int,
        timestep: float,
        clock: JobClock,
        text: str,
    ) -> None:
        from ase_ldos.web.view_document import Film

        self.film = Film(calculator)
        self._atoms, self._calculator = atoms, calculator
        self._steps, self._timestep = steps, timestep
        self._clock, self._text = clock, text
        self._every = max(1, -(-(steps + 1) // PICTURES))
        self._frames: list[Atoms] = []

    def look(self, step: int) -> None:
        """After a step."""
        self._clock.next_prediction(step + 1, self._text.format(step, self._steps))
        if step % self._every == 0:
            self.film.add(self._atoms, step * self._timestep)
            self._frames.append(_with_results(self._atoms))

    @contextmanager
    def watches(self) -> Iterator[None]:
        """The clock is told of the blocks of each prediction, so that a step of minutes can be followed, and ended."""
        self._clock.next_prediction(0, self._text.format(0, self._steps))
        self._calculator.progress = self._clock
        try:
            yield
        finally:
            self._calculator.progress = False

    def write(self, folder: Path) -> None:
        """The trajectory of the pictures."""
        from ase.io import write

        with atomic_write(folder / "trajectory.extxyz") as path:
            write(path, self._frames, format="extxyz")


def _predict_with_clock(calculator: LDOSCalculator, atoms: Atoms, properties: list[str], clock: JobClock) -> None:
    """Predict while the clock is told of each block of grid points."""
    calculator.progress = clock
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning of extrapolation is told in the document
            calculator.calculate(atoms, properties)
    finally:
        calculator.progress = False


def _write_results(
    folder: Path,
    atoms: Atoms,
    calculator: LDOSCalculator,
    kind: str,
    settings: dict[str, Any],
    clock: JobClock,
    *,
    film: dict[str, Any] | None = None,
    remarks: list[str] | None = None,
) -> dict[str, Any]:
    """All files of a finished job; the document for the page is the last."""
    from ase_ldos.formats.cube import write_cube
    from ase_ldos.web.view_document import view_document

    clock.begin_last("preparing the view and the files")
    prediction = calculator.prediction
    script = make_script(kind, settings["model"], settings)
    document = view_document(atoms, calculator, kind=kind, film=film, script=script, remarks=remarks)
    atoms.calc = calculator
    _write_structure(folder, _with_results(atoms))
    density = calculator.get_density()
    write_cube(folder / "density.cube", atoms, density, comment="electron density, e/bohr^3, by ase-ldos")
    with atomic_write(folder / "result.npz") as path:
        arrays = {
            "numbers": atoms.numbers,
            "positions": atoms.positions,
            "cell": atoms.cell.array,
            "density": density,
            "energies": prediction.energy_grid.cpu().numpy(),
            "dos": prediction.dos.cpu().numpy(),
            "fermi_level": prediction.fermi_level,
            "free_energy": prediction.free_energy,
            **{name: calculator.results[name] for name in ("forces", "stress") if name in calculator.results},
        }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    write_text(folder / "script.py", script)
    write_text(folder / "view.json", json.dumps(document, separators=(",", ":")))
    clock("view", 1, 1)
    files = ["structure.extxyz", "density.cube", "result.npz", "script.py", "view.json", "report.html"]
    return {
        "formula": atoms.get_chemical_formula(),
        "n_atoms": len(atoms),
        "free_energy_per_atom": prediction.free_energy / len(atoms),
        "fermi_level": prediction.fermi_level,
        "settings": settings,
        "files": files + (["trajectory.extxyz"] if film else []),
    }


def _points_of(stage: str, points: int) -> int:
    """How many points a stage handles on a grid of so many."""
    from ase_ldos.web.view_document import BIN_POINTS

    return min(points, BIN_POINTS) if stage == "view" else points


def _common_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: request.get(name) for name in ("model", "temperature", "spacing")}


def _read_structure(folder: Path | None) -> Atoms:
    from ase.io import read

    if folder is None:
        raise ValueError("name a structure: the number of a finished job in `of`")
    atoms = read(folder / "structure.extxyz", format="extxyz")
    assert isinstance(atoms, Atoms)
    return periodic_copy(atoms)


def _write_structure(folder: Path, atoms: Atoms) -> None:
    from ase.io import write

    with atomic_write(folder / "structure.extxyz") as path:
        write(path, atoms, format="extxyz")


def _with_results(atoms: Atoms) -> Atoms:
    """A copy that holds the results as plain numbers."""
    from ase.calculators.singlepoint import SinglePointCalculator

    copied = atoms.copy()
    if atoms.calc is not None:
        copied.calc = SinglePointCalculator(copied, **{k: np.copy(v) for k, v in atoms.calc.results.items()})
    return copied
