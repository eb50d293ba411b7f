"""Label many structures: any number of workers, processes and machines, resumable, failures recorded."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from ase_ldos.dataset.compact import save_compact
from ase_ldos.dataset.npz import PathLike, load_snapshot, save_snapshot
from ase_ldos.dataset.provenance import read_record, write_record
from ase_ldos.ending import exit_on_signals
from ase_ldos.files import check_file_names, check_output_folder, read_json, write_json
from ase_ldos.labelling.dft_settings import Recipe
from ase_ldos.labelling.leases import POLL, Leases
from ase_ldos.labelling.provenance import extend_record, recipe_table
from ase_ldos.labelling.pw import PREFIX, calculate, check_setup
from ase_ldos.labelling.pw_output import read_creator
from ase_ldos.labelling.selfcheck import check_derivatives
from ase_ldos.labelling.subprocesses import (
    PID_FILE,
    CalculationError,
    KilledError,
    end_orphan,
    end_programs,
    refuse_full_disk,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from ase import Atoms

    from ase_ldos.dataset.snapshot import Snapshot

FAILURES = "failures.json"
#: Folders of what is under way: leases, and the files of the programs.
LEASES, WORK = ".leases", ".work"
#: Leases that are no structure's: of the files that all processes change, and of the self-check.
_RECORD, _CHECK = ".record", ".check"
#: How long a process that has nothing to do waits before it looks again at what others have under way, s.
_WAIT = 1.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelReport:
    """What became of the structures.

    Attributes:
        finished: names labelled now.
        found: names that were there already.
        failed: reason by name, of now and of earlier runs.
        interrupted: reason by name, of those that something ended from outside; the next run takes them again.
    """

    finished: tuple[str, ...]
    found: tuple[str, ...]
    failed: dict[str, str]
    interrupted: dict[str, str] = field(default_factory=dict)


@exit_on_signals()
def label_structures(  # noqa: C901 - checks, then one loop
    structures: Sequence[Atoms],
    recipe: Recipe,
    folder: PathLike,
    *,
    workers: int = 1,
    cores_per_worker: int = 1,
    launcher: str = "",
    retry_failed: bool = False,
    check: bool = False,
    compact: bool = False,
    progress: Callable[[str, str | None], None] | None = None,
    executor: Executor | None = None,
) -> LabelReport:
    """Run every structure that the folder does not hold yet through pw.x.

    Each snapshot becomes ``folder/NAME.npz``, complete or not at all; NAME is ``atoms.info["name"]`` or the
    structure's number. So the process may be killed at any moment and started again. Any number of processes, on any
    machines that share the folder, may work on one list: each structure is leased to one of them, and that of one that
    died is taken over (``labelling.leases``). A structure that fails is noted in ``failures.json`` with its reason and
    the others go on; one whose program was ended from outside is left to the next run, and what no structure can help
    (a full disk, a program that does not start) ends this one. SIGTERM ends the programs too. ``provenance.json`` tells
    set-up and programs.

    Args:
        structures: periodic ASE atoms.
        recipe: the DFT set-up.
        folder: of the data set; made if need be.
        workers: calculations side by side; several are pinned to cores of their own unless there is a launcher.
        cores_per_worker: cores that each worker may use.
        launcher: put before ``pw.x``, e.g. ``"mpirun -n 4"`` or ``"srun -n 64"``.
        retry_failed: whether to try again what failed before.
        check: whether to compare stress and forces of a set-up that is new in this folder with derivatives of energies,
            on the first structure that waits; ``provenance.json`` keeps what came out.
        compact: whether to write labels in the compact form (:mod:`ase_ldos.dataset.compact`).
        progress: called with a name and the reason of its failure (or ``None``) after each calculation.
        executor: where the calculations run instead of threads here, ``workers`` and ``cores_per_worker`` apart: any
            ``concurrent.futures.Executor``, also one of other machines (executorlib, ``Client.get_executor()`` of
            dask.distributed), or what has a ``submit`` whose jobs have ``done``, ``result`` and ``cancel``. Its
            machines must see the folder under the same path.

    Raises:
        ValueError: bad structures or recipe, the folder belongs to other structures, or the check fails.
        OSError: the folder cannot be written to, the disk is full, or a program cannot be started.
    """
    named = name_structures(structures)
    symbols = {symbol for atoms in structures for symbol in atoms.symbols}
    check_setup(symbols, recipe, launcher=launcher)
    if workers < 1 or cores_per_worker < 1:
        raise ValueError(f"{workers} workers of {cores_per_worker} cores are asked for; at least 1 of each is needed")
    folder = Path(folder)
    check_output_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = [name for name in named if _is_labelled(folder, name, named[name])]
    leases = Leases(folder / LEASES)
    with leases.held(_RECORD):
        extend_record(folder, recipe, symbols)
        failed = read_failures(folder)
        if retry_failed:
            failed = {name: reason for name, reason in failed.items() if name not in named}
            _write_failures(folder, failed)
    waiting = [name for name in named if name not in found and name not in failed]
    if check and waiting:
        with leases.held(_CHECK):
            _check_setup_once(waiting[0], named[waiting[0]], recipe, folder, launcher)
    task = _Task(folder.resolve(), recipe, launcher, compact)
    queue = _core_sets(workers, cores_per_worker, pin=not launcher and workers > 1)

    def work(name: str) -> _Outcome:
        cores = queue.get()
        try:
            return task(name, named[name], cores)
        finally:
            queue.put(cores)

    def start(names: Sequence[str]) -> Generator[tuple[str, _Outcome], None, None]:
        if executor is not None:
            return _outcomes({name: executor.submit(task, name, named[name], set()) for name in names}, task.folder)
        pool = ThreadPoolExecutor(workers)
        return _outcomes({name: pool.submit(work, name) for name in names}, task.folder, pool)

    finished: list[str] = []
    interrupted: dict[str, str] = {}
    while waiting:
        elsewhere = []
        with closing(start(waiting)) as outcomes:
            for name, outcome in outcomes:
                if outcome.is_elsewhere:
                    elsewhere.append(name)
                    continue
                if outcome.program:
                    finished.append(name)
                    _note_program(folder, leases, outcome.program)
                elif outcome.interruption:
                    interrupted[name] = outcome.interruption
                    logger.warning("%s was interrupted: %s", name, outcome.interruption)
                else:
                    logger.warning("%s failed: %s", name, outcome.failure)
                if progress is not None:
                    progress(name, outcome.failure or outcome.interruption or None)
        ended = _ended_elsewhere(folder, elsewhere, progress)
        found += [name for name in ended if (folder / f"{name}.npz").exists()]
        if len(elsewhere) == len(waiting) and not ended:
            time.sleep(_WAIT)  # others have all of them under way, and may die
        waiting = [name for name in elsewhere if name not in ended]
    for name in found:  # a run that was killed between a label and its tidying up left files
        home = folder / WORK / name
        if home.exists() and (lease := leases.take(name)) is not None:
            with lease:
                _end_leftovers(home)
    leases.tidy()
    with suppress(OSError):
        (folder / WORK).rmdir()
    failed = read_failures(folder)
    own_failures = {name: failed[name] for name in failed if name in named}
    return LabelReport(tuple(finished), tuple(found), own_failures, interrupted)


def _ended_elsewhere(
    folder: Path, names: Sequence[str], progress: Callable[[str, str | None], None] | None
) -> list[str]:
    """Those of some names that other processes have labelled or given up meanwhile."""
    failed = read_failures(folder)
    ended = [name for name in names if (folder / f"{name}.npz").exists() or name in failed]
    for name in ended if progress is not None else ():
        assert progress is not None
        progress(name, failed.get(name))
    return ended


def _check_setup_once(name: str, atoms: Atoms, recipe: Recipe, folder: Path, launcher: str) -> None:
    """Check derivatives unless the record says that this set-up was checked; the outcome goes into the record."""
    record = read_record(folder)
    setup = record["recipes"].index(recipe_table(recipe))
    if any(done["recipe"] == setup for done in record.get("checks", [])):
        return
    work = folder / WORK / _CHECK
    _end_leftovers(work)
    work.mkdir(parents=True)
    try:
        found = check_derivatives(name, atoms, recipe, partial(calculate, launcher=launcher), work)
    except (CalculationError, KilledError) as error:
        raise ValueError(f"the self-check of the set-up failed: {error} (--no-check labels without it)") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    found.refuse_if_wrong()
    with Leases(folder / LEASES).held(_RECORD):
        record = read_record(folder)
        record.setdefault("checks", []).append(found.as_record() | {"recipe": setup})
        write_record(folder, record)


@dataclass(frozen=True)
class _Outcome:
    """What became of a structure: which program labelled it, why it failed, or what ended its program from outside.

    None of them, if another process has it or has just finished it. Failures are told by a value, not by an error,
    because executors pass errors on in ways of their own.
    """

    program: str = ""
    failure: str = ""
    interruption: str = ""

    @property
    def is_elsewhere(self) -> bool:
        return not self.program and not self.failure and not self.interruption


def _outcomes(
    jobs: dict[str, Future[_Outcome]], folder: Path, pool: Executor | None = None
) -> Generator[tuple[str, _Outcome], None, None]:
    """Names with what became of them, as they end; an error, which is no structure's, ends all.

    Programs that run then come to their end and are kept, unless the whole run is to end.

    Args:
        jobs: by name; any objects with ``done``, ``result`` and ``cancel``.
        folder: of the labels.
        pool: to be shut down at the end.
    """
    try:
        while jobs:
            ended = [name for name, job in jobs.items() if job.done()]
            for name in ended:
                yield name, jobs.pop(name).result()
            if not ended:
                time.sleep(POLL)
    except BaseException as error:
        for job in jobs.values():
            job.cancel()
        while pool is not None and not isinstance(error, Exception) and not all(job.done() for job in jobs.values()):
            end_programs(folder / WORK)
            time.sleep(POLL)
        raise
    finally:
        if pool is not None:
            pool.shutdown(wait=not jobs, cancel_futures=True)


@dataclass(frozen=True)
class _Task:
    """The work on a structure, given its name, atoms and cores to be pinned to; it can be sent to other processes."""

    folder: Path
    recipe: Recipe
    launcher: str
    compact: bool

    def __call__(self, name: str, atoms: Atoms, cores: set[int]) -> _Outcome:
        lease = Leases(self.folder / LEASES).take(name)
        if lease is None:
            return _Outcome()
        with lease:
            if (self.folder / f"{name}.npz").exists() or name in read_failures(self.folder):
                return _Outcome()
            _end_leftovers(self.folder / WORK / name)
            save = save_compact if self.compact else save_snapshot
            try:
                return _Outcome(_label_one(name, atoms, self.recipe, self.folder, cores, self.launcher, save))
            except (CalculationError, ValueError) as error:
                # before the lease is given up, so that nobody tries it again
                _note_failure(self.folder, name, str(error))
                return _Outcome(failure=str(error))
            except KilledError as error:
                return _Outcome(interruption=str(error))


def _label_one(
    name: str,
    atoms: Atoms,
    recipe: Recipe,
    folder: Path,
    cores: set[int],
    launcher: str,
    save: Callable[[Path, Snapshot], None],
) -> str:
    """Label one structure; returns which program did it."""
    if cores:
        os.sched_setaffinity(0, cores)  # of this thread only; pw.x inherits it
    home = folder / WORK / name
    home.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=home)).resolve()
    try:
        snapshot = calculate(name, atoms, recipe, work, launcher=launcher)
        creator = read_creator(work / f"{PREFIX}.save")
    except (CalculationError, ValueError) as error:
        # half a file of a full disk is no fault of the structure
        refuse_full_disk("pw.x", str(error), work)
        raise
    else:
        save(folder / f"{name}.npz", snapshot)
        return creator
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _note_program(folder: Path, leases: Leases, program: str) -> None:
    if program in read_record(folder)["programs"]:
        return
    with leases.held(_RECORD):
        record = read_record(folder)
        if program not in record["programs"]:
            record["programs"].append(program)
            write_record(folder, record)


def _note_failure(folder: Path, name: str, reason: str) -> None:
    with Leases(folder / LEASES).held(_RECORD):
        _write_failures(folder, read_failures(folder) | {name: reason})


def name_structures(structures: Sequence[Atoms]) -> dict[str, Atoms]:
    """Structures by name: ``atoms.info["name"]``, or their number.

    Raises:
        ValueError: no structures, names that are equal or do not suit a file, or no periodic piece of matter.
    """
    from ase_ldos.geometry.structure import check_atoms

    named: dict[str, Atoms] = {}
    digits = len(str(max(0, len(structures) - 1)))
    for i, atoms in enumerate(structures):
        name = str(atoms.info.get("name", f"{i:0{digits}d}"))
        if name in named:
            raise ValueError(f"structure {i} has the name {name!r}; names must be distinct")
        try:
            check_file_names([name])
        except ValueError as error:
            raise ValueError(f"structure {i}: {error}") from error
        try:
            check_atoms(atoms.positions, atoms.cell.array, atoms.pbc)
        except ValueError as error:
            raise ValueError(f"structure {name}: {error}") from error
        named[name] = atoms
    if not named:
        raise ValueError("there are no structures to label")
    return named


def _is_labelled(folder: Path, name: str, atoms: Atoms) -> bool:
    path = folder / f"{name}.npz"
    if not path.exists():
        return False
    snapshot = load_snapshot(path)
    same = np.array_equal(snapshot.numbers, atoms.numbers)
    if not same or max(abs(snapshot.positions - atoms.positions).max(), abs(snapshot.cell - atoms.cell).max()) > 1e-6:
        raise ValueError(f"{path} labels another structure than {name!r} of this list; choose another folder")
    return True


def _end_leftovers(work: Path) -> None:
    """End calculations that outlived a killed run, and remove their files."""
    for file in work.glob(f"*/{PID_FILE}"):
        with suppress(OSError, ValueError):
            end_orphan(int(file.read_text()), file.parent)
    shutil.rmtree(work, ignore_errors=True)


def read_failures(folder: Path) -> dict[str, str]:
    """Reasons of the calculations that failed, by name.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / FAILURES
    return read_json(path) if path.exists() else {}


def _write_failures(folder: Path, failed: dict[str, str]) -> None:
    path = folder / FAILURES
    if failed:
        write_json(path, failed)
    else:
        path.unlink(missing_ok=True)


def _core_sets(workers: int, cores_per_worker: int, *, pin: bool) -> SimpleQueue[set[int]]:
    """Cores for each worker, as far as there are enough; an empty set means: not pinned."""
    cores = sorted(os.sched_getaffinity(0)) if pin and hasattr(os, "sched_getaffinity") else []
    enough = workers * cores_per_worker <= len(cores)
    queue: SimpleQueue[set[int]] = SimpleQueue()
    for worker in range(workers):
        start = worker * cores_per_worker
        queue.put(set(cores[start : start + cores_per_worker]) if enough else set())
    return queue
