"""Label many structures: several workers, resumable, failures recorded."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_ldos.dataset.compact import save_compact
from ase_ldos.dataset.npz import PathLike, load_snapshot, save_snapshot
from ase_ldos.dataset.provenance import write_record
from ase_ldos.ending import exit_on_signals
from ase_ldos.files import check_file_names, check_output_folder, locked, read_json, write_json
from ase_ldos.labelling.dft_settings import Recipe
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


def label_structures(
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
) -> LabelReport:
    """Run every structure that the folder does not hold yet through pw.x.

    Each snapshot becomes ``folder/NAME.npz``, complete or not at all; NAME is ``atoms.info["name"]`` or the
    structure's number. So the process may be killed at any moment and started again. A structure that fails is
    noted in ``failures.json`` with its reason and the others go on; one whose program was ended from outside is left
    to the next run, and what no structure can help (a full disk, a program that does not start) ends this one. SIGTERM
    ends the programs too. ``provenance.json`` tells set-up and programs.

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

    Raises:
        ValueError: bad structures or recipe, the folder belongs to other structures or is in use, or the check fails.
        OSError: the folder cannot be written to, the disk is full, or a program cannot be started.
    """
    named = name_structures(structures)
    symbols = {symbol for atoms in structures for symbol in atoms.symbols}
    check_setup(symbols, recipe, launcher=launcher)
    if workers < 1 or cores_per_worker < 1:
        raise ValueError(f"{workers} workers of {cores_per_worker} cores are asked for; at least 1 of each is needed")
    folder = Path(folder)
    if os.name != "posix":
        raise ValueError("labelling needs Linux or macOS; on Windows run it in WSL")
    check_output_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process labels into {folder}; wait for it or choose another folder"
    with locked(folder / ".lock", busy), exit_on_signals():
        found = [name for name in named if _is_labelled(folder, name, named[name])]
        record = extend_record(folder, recipe, symbols)
        failed = {} if retry_failed else read_failures(folder)
        waiting = [name for name in named if name not in found and name not in failed]
        finished: list[str] = []
        interrupted: dict[str, str] = {}
        queue = _core_sets(workers, cores_per_worker, pin=not launcher and workers > 1)
        _end_leftovers(folder / ".work")
        if check and waiting:
            _check_setup_once(waiting[0], named[waiting[0]], recipe, folder, record, launcher)

        save = save_compact if compact else save_snapshot

        def work(name: str) -> str:
            cores = queue.get()
            try:
                return _label_one(name, named[name], recipe, folder, cores, launcher, save)
            finally:
                queue.put(cores)

        with closing(_outcomes(work, waiting, workers, folder / ".work")) as outcomes:
            for name, outcome in outcomes:
                if isinstance(outcome, str):
                    finished.append(name)
                    if outcome not in record["programs"]:
                        record["programs"].append(outcome)
                        write_record(folder, record)
                elif isinstance(outcome, KilledError):
                    interrupted[name] = str(outcome)
                    logger.warning("%s was interrupted: %s", name, outcome)
                else:
                    failed[name] = str(outcome)
                    _write_failures(folder, failed)
                    logger.warning("%s failed: %s", name, outcome)
                if progress is not None:
                    progress(name, failed.get(name) or interrupted.get(name))
        shutil.rmtree(folder / ".work", ignore_errors=True)
        _write_failures(folder, failed)
    own_failures = {name: failed[name] for name in failed if name in named}
    return LabelReport(tuple(finished), tuple(found), own_failures, interrupted)


def _check_setup_once(
    name: str, atoms: Atoms, recipe: Recipe, folder: Path, record: dict[str, Any], launcher: str
) -> None:
    """Check derivatives unless the record says that this set-up was checked; the outcome goes into the record."""
    setup = record["recipes"].index(recipe_table(recipe))
    if any(done["recipe"] == setup for done in record.setdefault("checks", [])):
        return
    (folder / ".work").mkdir(exist_ok=True)
    try:
        found = check_derivatives(name, atoms, recipe, partial(calculate, launcher=launcher), folder / ".work")
    except (CalculationError, KilledError) as error:
        raise ValueError(f"the self-check of the set-up failed: {error} (--no-check labels without it)") from error
    found.refuse_if_wrong()
    record["checks"].append(found.as_record() | {"recipe": setup})
    write_record(folder, record)


def _outcomes(
    work: Callable[[str], str], names: Sequence[str], workers: int, folder: Path
) -> Generator[tuple[str, str | Exception], None, None]:
    """Names with what the work returned or why it failed, as they end; an error of another kind ends all.

    Programs that run below ``folder`` then come to their end and are kept, unless the whole run is to end.
    """
    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(work, name): name for name in names}
        try:
            for job in as_completed(jobs):
                error = job.exception()
                known = isinstance(error, CalculationError | KilledError | ValueError)
                yield jobs[job], error if known else job.result()
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            while not isinstance(error, Exception) and any(job.running() for job in jobs):
                end_programs(folder)
                time.sleep(0.1)
            raise


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
    (folder / ".work").mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder / ".work")).resolve()
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
        shutil.rmtree(work, ignore_errors=True)


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
