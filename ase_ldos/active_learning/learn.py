"""Active learning of a new material: label, train, explore, choose, again, until the goals or the limits are reached.

All lies in one folder, and every step writes what it found under its name; a step whose file is there is not done
again, labels and trainings resume in their middle. ``state.json`` says what each round gave.

    dft.toml, training.toml, setup.html      from ``set_up``; edit the recipes before the first label is made
    structures/ROUND.extxyz                  what is labelled, ``test`` and ``reference`` among them
    labels/, labels-test/, labels-reference/ what DFT says
    round-N/model-M.safetensors              models of a round; Visits of its exploration: explored.extxyz
    inputs/                                  of the network, for its trainings; removed in the end
    NAME.safetensors, report.html            the latest model, the report
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import read, write

from ase_ldos.active_learning.committee import MemberTraining, train_committee, training_bytes
from ase_ldos.active_learning.exploration import (
    Alarm,
    Exploration,
    Trajectory,
    Visit,
    choose_frames,
    default_timestep,
    explore,
    explore_all,
    without_extrapolation_warnings,
)
from ase_ldos.active_learning.settings import LearnSettings
from ase_ldos.active_learning.setup import DFT_RECIPE, TRAINING_RECIPE
from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.files import PathLike, atomic_write, read_json, write_json, write_text
from ase_ldos.labelling.dft_settings import Recipe, load_recipe
from ase_ldos.labelling.run import label_structures, read_failures
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.registry import make_point_features
from ase_ldos.simulation.cut_out import cut_out
from ase_ldos.simulation.elasticity import deformations
from ase_ldos.simulation.first_cells import (
    compact_supercell,
    is_symmetric_cell,
    near_cubic_supercell,
    rattled_cells,
    supercell_beyond,
    surface_cells,
    symmetric_cells,
)
from ase_ldos.training.distill import distill
from ase_ldos.training.evaluate import evaluate_model, summarise
from ase_ldos.training.settings import (
    LDOSStage,
    SnapshotStage,
    TrainingSettings,
    ValidationSettings,
    load_settings,
)

STATE, REPORT, INPUT_FILES = "state.json", "report.html", "inputs"
#: Of the labels of a round every so-many-th is held back to choose the best weights.
VALIDATION_EVERY = 6
#: Inputs of the network by the number of labels, (labels, inputs); never more than the recipe's n_components. With more
#: inputs than before training begins anew, so there are few steps, none where most of a usual budget is spent.
INPUTS = ((0, 32), (40, 64), (250, 96))
#: No round of less than this part of a full one is begun.
SMALLEST_ROUND = 0.35
#: DFT's elastic constants and phonons are calculated of primitive cells of so many atoms n at most, by 6 (n + 1) cells.
LARGEST_REFERENCE = 4
#: The last dynamics keeps its part of the budget free if it needs no more than this.
LARGEST_RESERVE = 0.4
#: It is begun with so many times less, and with whatever is left where it needs no more than this part of the budget:
#: without it nobody knows what all that was spent before is good for.
LENIENCE, SMALL_DYNAMICS = 1.2, 0.05
#: Steps of the distilled potential in one of the last dynamics, and the part of the forces by which it may differ from
#: the model: beyond that, long steps gain nothing.
INNER_STEPS, LARGEST_INNER_ERROR = 4, 0.25
#: Structures from which it is distilled at least, and their atoms together.
DISTILLED_FROM, DISTILLED_ATOMS = 80, 1280
#: Time between two looks at the last dynamics, in steps that are not divided.
LOOK_EVERY = 20
#: Least distance of an atom from its own images in the largest cell that is labelled, in cutoffs of the descriptor, and
#: the number of atoms that such a cell may have: surroundings in which neighbours move as one are no larger crystal's.
APART, LARGEST_CELL = 1.2, 32
#: An alarm is followed by another trajectory with other velocities, up to so many at one temperature and pressure.
STARTS = 6
#: A trajectory stops where the models' standard deviation of a force is this many times the asked error of forces.
ALARM = 5.7

logger = logging.getLogger(__name__)


@dataclass
class Round:
    """What a round gave.

    Attributes:
        size: part of the full number of labels and steps; less than 1 where the budget had no room for more.
        labels: learned from, in all.
        failed: structures that DFT gave up on, in all.
        fresh: errors of the round before on this round's labels, before they were learned.
        test: errors on the test set.
        finished: whether its models are trained to the end.
        alarms: why trajectories of the exploration after it stopped; empty texts for those that did not.
        explored_ps: length of these trajectories together.
        disagreement: largest one at which they stop, meV/Å.
        cpu_hours: spent when it ended.
    """

    size: float = 1.0
    labels: int = 0
    failed: int = 0
    fresh: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    alarms: list[str] = field(default_factory=list)
    explored_ps: float = 0.0
    disagreement: float = 0.0
    cpu_hours: float = 0.0


@dataclass
class State:
    """All that a resumed learning has to know; see ``state.json``."""

    settings: dict[str, Any]
    rounds: list[Round] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    verdict: str = ""
    dynamics: dict[str, Any] = field(default_factory=dict)

    @property
    def total_cpu(self) -> float:
        """CPU seconds of everything."""
        return sum(self.cpu_seconds.values())


class BudgetSpent(Exception):  # noqa: N818 - not an error
    """A limit is reached; what was done is kept."""


def learn(
    crystals: Sequence[Atoms],
    out: PathLike,
    settings: LearnSettings,
    *,
    workers: int = 1,
    launcher: str = "",
    init_from: PathLike | None = None,
    setup_cpu_seconds: float = 0.0,
    progress: Callable[[str], None] = logger.info,
    bars: bool = False,
) -> State:
    """Learn a material from its crystals, in a folder that holds both recipes (see ``set_up``).

    Args:
        crystals: primitive cells at rest.
        out: the folder.
        settings: goals and limits.
        workers: DFT calculations, and trainings of the committee, side by side.
        launcher: put before pw.x.
        init_from: a model to begin from; its recipe must be that of the folder.
        setup_cpu_seconds: what the set-up cost.
        progress: told of every step in a line.
        bars: show progress bars of trainings and labels.

    Raises:
        FileNotFoundError: a recipe is missing.
        ValueError: settings that differ from those with which the folder was begun, or DFT that fails for all.
    """
    run = _Learning(crystals, Path(out), settings, workers, launcher, init_from, progress, bars)
    run.state.cpu_seconds["setup"] = setup_cpu_seconds
    try:
        run.loop()
    except BudgetSpent as reason:
        run.conclude(str(reason))
    return run.state


class _Learning:
    """One learning: the steps and what they share."""

    def __init__(
        self,
        crystals: Sequence[Atoms],
        out: Path,
        settings: LearnSettings,
        workers: int,
        launcher: str,
        init_from: PathLike | None,
        progress: Callable[[str], None],
        bars: bool,
    ) -> None:
        self.crystals, self.out, self.settings = list(crystals), out, settings
        self.workers, self.launcher, self.init_from = workers, launcher, init_from
        self.progress, self.bars = progress, bars
        self.recipe: Recipe = load_recipe(out / DFT_RECIPE)
        self.training: TrainingSettings = load_settings(out / TRAINING_RECIPE)
        self.supercells = [self._supercell(crystal) for crystal in self.crystals]
        (out / "structures").mkdir(exist_ok=True)
        self.state = self._load_state()
        self._clock, self._kind = _cpu_seconds(), "other"
        self._reserve = 0.0

    # ---- the loop

    def loop(self) -> None:
        """Rounds until the goals or the limits are reached."""
        self.state.verdict = ""
        self._first_structures()
        self._label("test", self.out / "labels-test")
        if self.settings.reference:  # cheap by their symmetry; at the end no budget might be left for them
            self._label("reference", self.out / "labels-reference", with_ldos=False)
        number = 0
        while True:
            if number == 0 and not self.state.rounds:
                self.state.rounds.append(Round())
            current = self.state.rounds[number]
            self._label(f"round-{number}", self.out / "labels")
            if number and not current.fresh:
                current.fresh = self._fresh_errors(number)
                self._save()
            if not current.finished:
                self._train(number)
                self._measure(number)
            if not self._reserve:
                finished = LDOSCalculator(self.out / f"{self.training.name}.safetensors")
                self._reserve = self._dynamics_cpu(finished, INNER_STEPS)
            if number:
                self.progress(self._line(number))
            reason = self._accepted(number) or self._plan(number + 1)
            if reason or number + 1 >= self.settings.rounds:
                break
            self._explore(number)
            if not self._next_structures(number):
                self.state.rounds.pop()
                reason = "no frame of the dynamics is in dispute"
                break
            self._write_report()
            number += 1
        self.conclude(reason or f"{self.settings.rounds} rounds are done")

    def conclude(self, reason: str) -> None:
        """Last dynamics and report, as far as the budget goes."""
        self.state.verdict = reason
        shutil.rmtree(self.out / INPUT_FILES, ignore_errors=True)
        self._save()
        self.progress(f"learning ends: {reason}")
        if not any(item.finished for item in self.state.rounds):
            return
        self._last_dynamics()
        for line in self._write_report():
            self.progress(line)
        self.progress(f"wrote {self.out / (self.training.name + '.safetensors')} and {self.out / REPORT}")

    # ---- structures

    def _first_structures(self) -> None:
        """Cells of the first round, of the test set and of the reference; drawn once."""
        chosen, rng = self.settings, np.random.default_rng(self.settings.seed)
        crystals, supercells = self.crystals, self.supercells
        test = rattled_cells(crystals, supercells, chosen.test, rng, prefix="t")
        cells = symmetric_cells(crystals)
        cells += rattled_cells(crystals, supercells, chosen.first, rng, prefix="r0")
        if chosen.vacancies:
            cells += rattled_cells(crystals, supercells, max(4, chosen.first // 6), rng, prefix="v0", vacancies=True)
        if chosen.surfaces:
            cells += surface_cells(crystals, largest=max(map(len, supercells)))
        reference = []
        for place, crystal in enumerate(self.crystals if chosen.reference else ()):
            if len(crystal) > LARGEST_REFERENCE:
                continue
            for cell in deformations(crystal):
                cell.info["name"] = f"d{place}_" + cell.info["name"].replace("_", "-")
                reference.append(cell)
        for name, structures in (("test", test), ("round-0", cells), ("reference", reference)):
            path = self._structures(name)
            if structures and not path.exists():
                _write_structures(path, structures)

    def _next_structures(self, number: int) -> bool:
        """Choose frames of an exploration for the next round; whether there are any."""
        path = self._structures(f"round-{number + 1}")
        if path.exists():
            return True
        left = self.settings.max_labels - self._n_labels()
        if left <= 0:
            raise BudgetSpent(f"{self.settings.max_labels} labels are made")
        trajectories = self._explored(number)
        descriptor = self._committee(number)[0].model.descriptor
        alarm = Alarm(self.state.rounds[number].disagreement / 1000)
        wanted = max(1, round(self.settings.per_round * self.state.rounds[number + 1].size))
        visits = choose_frames(trajectories, min(wanted, left), descriptor, alarm)
        frames = [frame for visit in visits if (frame := self._small_enough(visit)) is not None]
        for place, frame in enumerate(frames):
            frame.info = {"name": f"n{len(frame)}_r{number + 1}-{place:02d}"}
        if frames:
            _write_structures(path, frames)
        return bool(frames)

    def _small_enough(self, visit: Visit) -> Atoms | None:
        """The frame, or what surrounds its most disputed atom."""
        frame = visit.atoms.copy()
        frame.calc = None
        if len(frame) <= max(map(len, self.supercells)):
            return frame
        sizes = [size for size in (self.settings.explore_atoms, self.settings.final_atoms) if size]
        for (crystal, small), size in product(zip(self.crystals, self.supercells), sizes):
            perfect = near_cubic_supercell(crystal, size)
            if len(perfect) == len(frame) and np.array_equal(perfect.numbers, frame.numbers):
                return cut_out(frame, perfect, crystal, small, visit.atom)
        return None

    # ---- steps

    def _label(self, name: str, folder: Path, *, with_ldos: bool = True) -> None:
        """Label the structures of a file, in portions, so that the budget is looked at between them."""
        path = self._structures(name)
        if not path.exists():
            return
        frames = _read_structures(path)
        failures = read_failures(folder)
        waiting = [
            f for f in frames if not (folder / f"{f.info['name']}.npz").exists() and f.info["name"] not in failures
        ]
        if not waiting:
            return
        self._spend("DFT")
        recipe = self.recipe if with_ldos else replace(self.recipe, ldos=None)
        self.progress(f"labelling {len(waiting)} structures of {name}")
        for start in range(0, len(waiting), 2 * self.workers):
            self._check_budget()
            portion = waiting[start : start + 2 * self.workers]
            report = label_structures(
                portion, recipe, folder, workers=self.workers, launcher=self.launcher, compact=with_ldos
            )
            for failed, reason in report.failed.items():
                self.progress(f"  {failed} failed: {reason}")
            self._note()
            self.progress(f"  {min(start + len(portion), len(waiting))}/{len(waiting)} labels, {self._spent()}")
        labelled = [f for f in frames if (folder / f"{f.info['name']}.npz").exists()]
        if not labelled:
            raise ValueError(f"DFT failed for all {len(frames)} structures of {name}; see {folder / 'failures.json'}")

    def _train(self, number: int) -> None:
        """Train every model of a round, on from those of the round before where their inputs are as many."""
        self._spend("training")
        names = sorted(path.stem for path in (self.out / "labels").glob("[!.]*.npz"))
        self._extend_validation(names)
        n_inputs = self.training.model.n_components
        if self.init_from is None:
            n_inputs = min(n_inputs, max(size for least, size in INPUTS if len(names) >= least))
        folder = self.out / f"round-{number}"
        folder.mkdir(exist_ok=True)
        size = self.state.rounds[number].size
        trainings = []
        inputs = self.out / INPUT_FILES
        for member in range(self.settings.models):
            path = folder / f"model-{member}.safetensors"
            if path.exists() and load_model(path).metadata.extrapolation:
                continue
            start = self._start(number, member, n_inputs)
            settings = self._training_settings(names, n_inputs, member, start is not None, size)
            how = "on from the last round's" if start is not None else "from scratch"
            self.progress(f"training model {member + 1} of {self.settings.models} {how}, {len(names)} labels")
            trainings.append(
                MemberTraining(settings, path, folder / f"run-{member}.safetensors", start, self.bars, inputs)
            )
        if trainings:
            self._check_budget()
        if any(training.init_from is None for training in trainings) and number:
            shutil.rmtree(inputs, ignore_errors=True)  # of another projection
        frames = [frame for k in range(number + 1) for frame in _read_structures(self._structures(f"round-{k}"))]
        n_energies = len(self.training.model.energies)
        own, shared = training_bytes(frames, self.recipe.grid_spacing, n_inputs, n_energies)
        for failure in train_committee(trainings, self.workers, bytes_each=own, bytes_shared=shared):
            if failure:
                self.progress(f"  {failure}")
        self._note()

    def _start(self, number: int, member: int, n_inputs: int) -> PathLike | None:
        if number == 0:
            return self.init_from
        before = self.out / f"round-{number - 1}" / f"model-{member}.safetensors"
        # a graph network, which can only be begun from, has inputs beside those that the recipe counts
        same = self.init_from is not None or load_model(before).network.n_inputs == n_inputs
        return before if same else None

    def _training_settings(
        self, names: Sequence[str], n_inputs: int, member: int, goes_on: bool, size: float
    ) -> TrainingSettings:
        """The recipe with names, seed and lengths of this training."""
        held_back = [name for name in self.state.validation if name in names]
        n_training = len(names) - len(held_back)
        wanted = size * self.settings.training_steps / (2 if goes_on else 1)
        stages = list(self.training.stages)
        given = sum(stage.epochs for stage in stages if isinstance(stage, SnapshotStage))
        scaled: list[LDOSStage | SnapshotStage] = []
        for stage in stages:
            if isinstance(stage, SnapshotStage):
                epochs = max(4, round(stage.epochs / given * wanted / n_training * stage.batch_size))
                stage = replace(stage, epochs=epochs, validate_every=max(1, epochs // 8))
            scaled.append(stage)
        return replace(
            self.training,
            data=(str(self.out / "labels"),),
            model=replace(self.training.model, n_components=n_inputs),
            stages=tuple(replace(stage, data=None) for stage in scaled),
            validation=ValidationSettings(names=tuple(held_back)),
            seed=self.settings.seed + member,
            folder=self.out,
        )

    def _extend_validation(self, names: Sequence[str]) -> None:
        """Hold back every sixth of the new labels; what was held back stays so.

        Symmetric cells are all learned: the largest strains are among them, between which rattled cells lie.
        """
        known = set(self.state.validation) | self._learned()
        new = [name for name in names if name not in known and not is_symmetric_cell(name)]
        self.state.validation += new[1::VALIDATION_EVERY]
        self._save()

    def _learned(self) -> set[str]:
        learned: set[str] = set()
        for path in sorted(self.out.glob("round-*/model-0.safetensors")):
            learned |= set(load_model(path).metadata.provenance.get("training", ()))
        return learned

    def _measure(self, number: int) -> None:
        """Errors on the test set; the first model becomes the result."""
        model = load_model(self.out / f"round-{number}" / "model-0.safetensors")
        errors = summarise(evaluate_model(model, load_snapshots(self.out / "labels-test"), progress=False))
        model.metadata = replace(model.metadata, errors=errors)
        save_model(model, self.out / f"{self.training.name}.safetensors")
        current = self.state.rounds[number]
        current.labels, current.failed = self._n_labels(), len(read_failures(self.out / "labels"))
        current.test, current.finished = errors, True
        self._note()
        current.cpu_hours = self.state.total_cpu / 3600
        self._save()
        if number == 0:
            self.progress(self._line(number))

    def _fresh_errors(self, number: int) -> dict[str, float]:
        """Errors of the models before on labels that they have not learned."""
        self._spend("evaluation")
        model = load_model(self.out / f"round-{number - 1}" / "model-0.safetensors")
        names = {frame.info["name"] for frame in _read_structures(self._structures(f"round-{number}"))}
        fresh = [s for s in load_snapshots(self.out / "labels") if s.name in names]
        errors = summarise(evaluate_model(model, fresh, progress=False)) if fresh else {}
        self._note()
        return errors

    def _explore(self, number: int) -> None:
        """Dynamics at every temperature and pressure."""
        current = self.state.rounds[number]
        if self._explored_path(number).exists():
            return
        self._spend("exploration")
        self._check_budget()
        committee = self._committee(number)
        # models that err by e in each component deviate by √3 e on average, the farthest of many atoms by more
        bound = max(ALARM * self.settings.forces, 2.8 * math.sqrt(3) * current.test.get("forces", 0.0))
        alarm = Alarm(bound / 1000)
        models = tuple(self._model_paths(number))
        number_of_tasks = len(self.crystals) * len(self.settings.pressures) * len(self.settings.temperatures)
        tasks: list[Exploration] = []
        for (place, crystal), pressure in product(enumerate(self.crystals), self.settings.pressures):
            cell = self._explored_cell(place, _under_pressure(crystal, committee[0], pressure))
            tasks += [
                Exploration(
                    cell,
                    models,
                    alarm,
                    temperature,
                    pressure,
                    duration=1000 * self.settings.explore_ps,
                    timestep=self.settings.timestep or default_timestep(cell),
                    seed=self.settings.seed + 1000 * number + STARTS * (len(tasks) + turn),
                    most=STARTS,
                    cpu_seconds=self._left() / number_of_tasks,
                )
                for turn, temperature in enumerate(self.settings.temperatures)
            ]
        trajectories: list[Trajectory] = []
        for task, found in zip(tasks, explore_all(tasks, self.workers)):
            trajectories += found
            times = ", ".join(f"{trajectory.reached:.0f}" for trajectory in found)
            alarms = [trajectory.alarm for trajectory in found if trajectory.alarm]
            self.progress(
                f"  dynamics of {len(task.start)} atoms at {task.temperature:g} K, {task.pressure:g} GPa: {times} fs, "
                + (f"stopped: {alarms[-1]}" if alarms else "without alarm")
            )
        self._note()
        self._keep(number, trajectories, alarm)

    def _keep(self, number: int, trajectories: Sequence[Trajectory], alarm: Alarm) -> None:
        """Keep what was explored after a round for the choice of the next structures."""
        current = self.state.rounds[number]
        current.alarms = [found.alarm for found in trajectories]
        current.explored_ps = sum(found.reached for found in trajectories) / 1000
        current.disagreement = 1000 * alarm.forces
        self._save()
        frames = []
        for place, found in enumerate(trajectories):
            for visit in found.visits:
                frame = visit.atoms.copy()
                frame.info = {"trajectory": place, "temperature": found.temperature, "pressure": found.pressure}
                frame.info |= {"time": visit.time, "disagreement": visit.disagreement, "novelty": visit.novelty}
                frame.info |= {"atom": visit.atom, "alarm": found.alarm or "none"}
                frames.append(frame)
        _write_structures(self._explored_path(number), frames)

    def _explored_path(self, number: int) -> Path:
        return self.out / f"round-{number}" / "explored.extxyz"

    def _explored(self, number: int) -> list[Trajectory]:
        """The trajectories of a round from their file."""
        by_place: dict[int, list[Atoms]] = {}
        for frame in _read_structures(self._explored_path(number)):
            by_place.setdefault(int(frame.info["trajectory"]), []).append(frame)
        found = []
        for frames in by_place.values():
            first = frames[0].info
            visits = tuple(
                Visit(
                    f,
                    float(f.info["time"]),
                    float(f.info["disagreement"]),
                    float(f.info["novelty"]),
                    int(f.info["atom"]),
                )
                for f in frames
            )
            alarm = "" if first["alarm"] == "none" else str(first["alarm"])
            found.append(Trajectory(visits, float(first["temperature"]), float(first["pressure"]), alarm))
        return found

    def _reached(self, number: int) -> str:
        """Why no more rounds are needed; empty while they are."""
        now = self.state.rounds[number]
        if not self.settings.met_by(now.test):
            return ""
        if number >= 2 and all(self.settings.met_by(item.fresh) for item in self.state.rounds[number - 1 : number + 1]):
            return "new frames were predicted within the asked errors twice in a row"
        before = self.state.rounds[number - 1] if number else None
        if before is not None and before.alarms and not any(before.alarms):
            return f"dynamics of {before.explored_ps:g} ps passed without alarm"
        return ""

    def _accepted(self, number: int) -> str:
        """Why no more rounds are needed; a model that does not pass its dynamics is one more exploration's start."""
        reason = self._reached(number)
        if not reason or number + 1 >= self.settings.rounds:
            return reason
        self._last_dynamics()
        if self.state.dynamics.get("passed") is not False:
            return reason
        self.progress(f"{reason}, but not the last one: its frames are labelled next")
        return ""

    def _last_dynamics(self) -> None:
        """The dynamics that the finished model has to pass, if the budget allows: by long steps where that can be."""
        chosen = self.settings
        last = max(n for n, item in enumerate(self.state.rounds) if item.finished)
        done = self.state.dynamics
        if done.get("round") == last and done.get("ps") == chosen.final_ps and self._settled(done):
            return
        self._spend("last dynamics")
        committee = self._committee(last)
        cell = near_cubic_supercell(_under_pressure(self.crystals[0], committee[0], 0.0), chosen.final_atoms)
        plan = {"round": last, "ps": chosen.final_ps, "atoms": len(cell), "temperature": chosen.final_temperature}
        inner = self._distilled()
        n_inner = 1 if inner is None else INNER_STEPS
        needed = self._dynamics_cpu(committee[0], n_inner) / 3600
        self.state.dynamics = plan | {"needed_cpu_hours": needed}
        if not self._affordable(needed):  # what was kept for it may have been touched by the last training
            left = max(chosen.cpu_hours - self.state.total_cpu / 3600, 0.0)
            self.progress(f"the last dynamics of {len(cell)} atoms needs {needed:.1f} CPU hours; {left:.1f} are left")
            self._save()
            return
        alarm = Alarm(ALARM * max(chosen.forces, self.state.rounds[last].test.get("forces", 0.0)) / 1000)
        found = explore(
            cell,
            committee,
            alarm,
            temperature=chosen.final_temperature,
            duration=1000 * chosen.final_ps,
            timestep=n_inner * (chosen.timestep or default_timestep(cell)),
            interval=LOOK_EVERY // n_inner,
            seed=chosen.seed + 77,
            inner=inner,
            n_inner=n_inner,
        )
        self.state.dynamics = plan | {"passed": not found.alarm, "reached_fs": found.reached, "alarm": found.alarm}
        if found.alarm and not self._explored_path(last).exists():
            self._keep(last, [found], alarm)
        self._note()
        outcome = f"stopped: {found.alarm}" if found.alarm else "without alarm"
        self.progress(
            f"last dynamics of {len(cell)} atoms at {chosen.final_temperature:g} K: {found.reached:.0f} fs, {outcome}"
        )
        self._save()

    def _affordable(self, needed: float) -> bool:
        """Whether the budget has room for a last dynamics of some CPU hours."""
        budget = self.settings.cpu_hours
        return needed <= max(LENIENCE * (budget - self.state.total_cpu / 3600), SMALL_DYNAMICS * budget)

    def _settled(self, dynamics: dict[str, Any]) -> bool:
        """Whether a last dynamics was run, or was measured and cannot be."""
        return "passed" in dynamics or not self._affordable(float(dynamics["needed_cpu_hours"]))

    def _distilled(self) -> DistilledCalculator | None:
        """A potential distilled from the finished model and kept in its file; None where it is too far from it."""
        path = self.out / f"{self.training.name}.safetensors"
        model = load_model(path)
        if model.distilled is None:
            cells = [self._explored_cell(place, crystal) for place, crystal in enumerate(self.crystals)]
            self.progress("distilling a cheap potential from the model, for long steps")
            try:
                model.distilled = distill(
                    model,
                    cells,
                    n_structures=max(DISTILLED_FROM, round(DISTILLED_ATOMS / len(cells[0]))),
                    temperature=self.settings.final_temperature,
                    seed=self.settings.seed,
                    progress=self.bars,
                )
            except ValueError as error:
                self.progress(f"  none is made: {error}")
                return None
            save_model(model, path)
        errors = model.distilled.errors
        part = errors["forces"] / errors["typical_forces"]
        use = "" if part <= LARGEST_INNER_ERROR else "; too much for long steps"
        self.progress(f"  it is off the model by {model.distilled.error_words}{use}")
        return None if use else DistilledCalculator(model.distilled)

    def _dynamics_cpu(self, calculator: LDOSCalculator, n_inner: int) -> float:
        """CPU seconds that the last dynamics will take, by one step of it."""
        cell = near_cubic_supercell(self.crystals[0], self.settings.final_atoms)
        with without_extrapolation_warnings():
            calculator.get_forces(cell)
            cell.positions[0, 0] += 1e-3  # what a first call prepares is not done again
            before = _cpu_seconds()
            calculator.get_forces(cell)
            per_step = _cpu_seconds() - before
        step = n_inner * (self.settings.timestep or default_timestep(cell))
        # a look asks all models, and the range
        looks = 1.2 * self.settings.models / (LOOK_EVERY // n_inner)
        return 1.1 * per_step * (1 + looks) * 1000 * self.settings.final_ps / step

    def _write_report(self) -> list[str]:
        """Write the page; what it says of model and DFT in lines."""
        from ase_ldos.active_learning.report import make_report

        self._spend("report")
        with without_extrapolation_warnings():
            report = make_report(self.out, self.training.name, self.crystals, self.settings, self.state)
        write_text(self.out / REPORT, report.page)
        self._note()
        return report.lines

    # ---- small things

    def _supercell(self, crystal: Atoms) -> Atoms:
        """The largest cell of a crystal that is labelled."""
        wanted = self.settings.cell_atoms
        if not wanted:
            cutoff = make_point_features(self.training.model.feature_settings).cutoff
            return supercell_beyond(crystal, APART * cutoff, largest=LARGEST_CELL)
        if len(crystal) > wanted:
            raise ValueError(f"a primitive cell has {len(crystal)} atoms, the largest cell {wanted}; allow larger ones")
        return compact_supercell(crystal, wanted // len(crystal))

    def _explored_cell(self, place: int, rest: Atoms) -> Atoms:
        """The cell of the dynamics that explores, of a crystal that a pressure has scaled."""
        if self.settings.explore_atoms:
            return near_cubic_supercell(rest, self.settings.explore_atoms)
        cell = self.supercells[place].copy()
        scale = (rest.get_volume() / self.crystals[place].get_volume()) ** (1 / 3)
        cell.set_cell(cell.cell.array * scale, scale_atoms=True)
        return cell

    def _model_paths(self, number: int) -> list[Path]:
        return sorted((self.out / f"round-{number}").glob("model-*.safetensors"))

    def _committee(self, number: int) -> list[LDOSCalculator]:
        return [LDOSCalculator(path) for path in self._model_paths(number)]

    def _structures(self, name: str) -> Path:
        return self.out / "structures" / f"{name}.extxyz"

    def _n_labels(self) -> int:
        return len(list((self.out / "labels").glob("[!.]*.npz")))

    def _line(self, number: int) -> str:
        """Where it stands, for people."""
        now = self.state.rounds[number]
        parts = [f"round {number + 1}: {now.labels} labels"]
        parts.append("test " + _errors(now.test))
        if now.fresh:
            parts.append("new frames, before they were learned: " + _errors(now.fresh))
        goals = f"goals {self.settings.energy:g} meV/atom, {self.settings.forces:g} meV/Å, {self.settings.density:g} %"
        return "; ".join([*parts, goals, self._spent()])

    def _spent(self) -> str:
        self._note()
        return f"{self.state.total_cpu / 3600:.2f} of {self.settings.cpu_hours:g} CPU hours"

    def _spend(self, kind: str) -> None:
        self._note()
        self._kind = kind

    def _note(self) -> None:
        """Put the CPU time since the last call down to the present kind of work."""
        now = _cpu_seconds()
        self.state.cpu_seconds[self._kind] = self.state.cpu_seconds.get(self._kind, 0.0) + now - self._clock
        self._clock = now
        self._save()

    def _left(self) -> float:
        """CPU seconds that learning may still spend: those of the last dynamics are kept, if they are not too many."""
        self._note()
        budget = 3600 * self.settings.cpu_hours
        kept = self._reserve if self._reserve <= LARGEST_RESERVE * budget else 0.0
        return budget - kept - self.state.total_cpu

    def _within_budget(self) -> bool:
        return self._left() > 0

    def _plan(self, number: int) -> str:
        """Begin a round that the budget has room for, by what the last one cost; else say why there is none.

        A round too large would end among labels that nobody learns, and one that is left out leaves CPU time unused.
        """
        rounds = self.state.rounds
        if number < len(rounds) or number >= self.settings.rounds:
            return ""
        size = 1.0
        if number > 1:  # the first one is no measure: its models are trained from scratch
            cost = 3600 * (rounds[-1].cpu_hours - rounds[-2].cpu_hours) / rounds[-1].size
            size = min(1.0, 0.95 * self._left() / max(cost, 1e-9))
        if size < SMALLEST_ROUND:
            return f"{self.settings.cpu_hours:g} CPU hours leave no room for another round beside the last dynamics"
        rounds.append(Round(size=size))
        return ""

    def _check_budget(self) -> None:
        if not self._within_budget():
            kept = "" if self.state.total_cpu >= 3600 * self.settings.cpu_hours else ", but for the last dynamics"
            raise BudgetSpent(f"{self.settings.cpu_hours:g} CPU hours are spent{kept}")

    def _save(self) -> None:
        write_json(self.out / STATE, asdict(self.state))

    def _load_state(self) -> State:
        fixed = {key: list(v) if isinstance(v, tuple) else v for key, v in self.settings.fixed().items()}
        path = self.out / STATE
        if not path.exists():
            return State(fixed)
        known = read_json(path)
        for name, value in fixed.items():
            if known["settings"].get(name) != value:
                raise ValueError(
                    f"{self.out} was begun with {name} = {known['settings'].get(name)}, not {value}; "
                    "take that or another folder"
                )
        rounds = [Round(**item) for item in known.pop("rounds")]
        return State(rounds=rounds, **known)


def _under_pressure(crystal: Atoms, calculator: LDOSCalculator, pressure: float) -> Atoms:
    """The crystal at the volume where the model has a pressure (GPa), by secant steps from the volume that it has."""
    with without_extrapolation_warnings():
        scale, step, last = 0.0, 0.01, None
        for _ in range(6):
            cell = crystal.copy()
            cell.set_cell(crystal.cell.array * (1 + scale), scale_atoms=True)
            cell.calc = calculator
            error = -float(np.mean(cell.get_stress()[:3])) / units.GPa - pressure
            if abs(error) < 0.2:
                break
            if last is not None and last[1] != error:
                step = float(np.clip(-error * (scale - last[0]) / (error - last[1]), -0.02, 0.02))
            else:
                step = 0.005 if error > 0 else -0.005
            last = (scale, error)
            if abs(scale + step) > 0.04:
                break
            scale += step
    cell.calc = None
    return cell


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _errors(errors: dict[str, float]) -> str:
    shown = (("energy", "{:.1f} meV/atom"), ("forces", "{:.0f} meV/Å"), ("density", "{:.2f} % of the density"))
    return ", ".join(text.format(errors[name]) for name, text in shown if name in errors)


def _write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    with atomic_write(path) as draft:
        write(draft, list(frames), format="extxyz", write_results=False)


def _read_structures(path: Path) -> list[Atoms]:
    found = read(path, index=":", format="extxyz")
    return list(found)
