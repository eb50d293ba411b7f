"""Label many structures: several workers, resumable, failures recorded. Also the command ``ase-ldos label``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ase_ldos.data.espresso import PREFIX, calculate, check_setup
from ase_ldos.data.espresso_files import read_creator
from ase_ldos.data.programs import PID_FILE, CalculationError
from ase_ldos.data.provenance import extend_record, recipe_table, write_record
from ase_ldos.data.recipe import Recipe, load_recipe
from ase_ldos.data.selfcheck import check_derivatives
from ase_ldos.data.snapshot import PathLike, load_snapshot, save_snapshot

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ase import Atoms

FAILURES = "failures.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelReport:
    """What became of the structures.

    Attributes:
        finished: names labelled now.
        found: names that were there already.
        failed: reason by name, of now and of earlier runs.
    """

    finished: tuple[str, ...]
    found: tuple[str, ...]
    failed: dict[str, str]


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
    progress: Callable[[str, str | None], None] | None = None,
) -> LabelReport:
    """Run every structure that the folder does not hold yet through pw.x.

    Each snapshot becomes ``folder/NAME.npz``, complete or not at all; NAME is ``atoms.info["name"]`` or the
    structure's number. So the process may be killed at any moment and started again. A structure that fails is
    noted in ``failures.json`` with its reason and the others go on. ``provenance.json`` tells set-up and programs.

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
        progress: called with a name and the reason of its failure (or ``None``) after each calculation.

    Raises:
        ValueError: bad structures or recipe, the folder belongs to other structures or is in use, or the check fails.
    """
    named = _named(structures)
    symbols = {symbol for atoms in structures for symbol in atoms.symbols}
    check_setup(symbols, recipe, launcher=launcher)
    if workers < 1 or cores_per_worker < 1:
        raise ValueError(f"{workers} workers of {cores_per_worker} cores are asked for; at least 1 of each is needed")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        found = [name for name in named if _is_labelled(folder, name, named[name])]
        record = extend_record(folder, recipe, symbols)
        failed = {} if retry_failed else _read_failures(folder)
        waiting = [name for name in named if name not in found and name not in failed]
        finished: list[str] = []
        queue = _core_sets(workers, cores_per_worker, pin=not launcher and workers > 1)
        _end_leftovers(folder / ".work")
        if check and waiting:
            _check_setup_once(waiting[0], named[waiting[0]], recipe, folder, record, launcher)

        def work(name: str) -> str:
            cores = queue.get()
            try:
                return _label_one(name, named[name], recipe, folder, cores, launcher)
            finally:
                queue.put(cores)

        with closing(_outcomes(work, waiting, workers)) as outcomes:
            for name, outcome in outcomes:
                if isinstance(outcome, str):
                    finished.append(name)
                    if outcome not in record["programs"]:
                        record["programs"].append(outcome)
                        write_record(folder, record)
                else:
                    failed[name] = str(outcome)
                    _write_failures(folder, failed)
                    logger.warning("%s failed: %s", name, outcome)
                if progress is not None:
                    progress(name, failed.get(name))
        shutil.rmtree(folder / ".work", ignore_errors=True)
        _write_failures(folder, failed)
    return LabelReport(tuple(finished), tuple(found), {name: failed[name] for name in failed if name in named})


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
    except CalculationError as error:
        raise ValueError(f"the self-check of the set-up failed: {error} (--no-check labels without it)") from error
    found.refuse_if_wrong()
    record["checks"].append(found.as_record() | {"recipe": setup})
    write_record(folder, record)


def _outcomes(
    work: Callable[[str], str], names: Sequence[str], workers: int
) -> Generator[tuple[str, str | Exception], None, None]:
    """Names with what the work returned or why it failed, as they end; an error of another kind ends all."""
    with ThreadPoolExecutor(workers) as pool:
        jobs = {pool.submit(work, name): name for name in names}
        try:
            for job in as_completed(jobs):
                error = job.exception()
                yield jobs[job], error if isinstance(error, CalculationError | ValueError) else job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _label_one(name: str, atoms: Atoms, recipe: Recipe, folder: Path, cores: set[int], launcher: str) -> str:
    """Label one structure; returns which program did it."""
    if cores:
        os.sched_setaffinity(0, cores)  # of this thread only; pw.x inherits it
    (folder / ".work").mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=folder / ".work")).resolve()
    try:
        save_snapshot(folder / f"{name}.npz", calculate(name, atoms, recipe, work, launcher=launcher))
        return read_creator(work / f"{PREFIX}.save")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _named(structures: Sequence[Atoms]) -> dict[str, Atoms]:
    from ase_ldos.structure import check_atoms

    named: dict[str, Atoms] = {}
    digits = len(str(max(0, len(structures) - 1)))
    for i, atoms in enumerate(structures):
        name = str(atoms.info.get("name", f"{i:0{digits}d}"))
        if name in named or not name or "/" in name or name.startswith("."):
            raise ValueError(f"structure {i} has the name {name!r}; names must be distinct and suit a file")
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
            pid = int(file.read_text())
            # the number may belong to another process by now; ours works in that folder
            if Path(f"/proc/{pid}/cwd").resolve() == file.parent.resolve():
                os.kill(pid, signal.SIGTERM)
    shutil.rmtree(work, ignore_errors=True)


def _read_failures(folder: Path) -> dict[str, str]:
    path = folder / FAILURES
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write_failures(folder: Path, failed: dict[str, str]) -> None:
    path = folder / FAILURES
    if not failed:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(failed, indent=1))
    temporary.replace(path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the system frees it when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError as error:
        raise ValueError("labelling needs file locks of Linux or macOS; on Windows run it in WSL") from error
    file: IO[str]
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"another process labels into {folder}; wait for it or choose another folder") from error
        yield


def _core_sets(workers: int, cores_per_worker: int, *, pin: bool) -> SimpleQueue[set[int]]:
    """Cores for each worker, as far as there are enough; an empty set means: not pinned."""
    cores = sorted(os.sched_getaffinity(0)) if pin and hasattr(os, "sched_getaffinity") else []
    enough = workers * cores_per_worker <= len(cores)
    queue: SimpleQueue[set[int]] = SimpleQueue()
    for worker in range(workers):
        start = worker * cores_per_worker
        queue.put(set(cores[start : start + cores_per_worker]) if enough else set())
    return queue


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos label``."""
    parser.add_argument("structures", nargs="+", help="files that ASE reads; all frames are taken")
    parser.add_argument("--recipe", required=True, help="DFT set-up, a TOML file")
    parser.add_argument("--out", required=True, help="folder of the data set")
    parser.add_argument("--pseudo-dir", help="folder of the pseudopotentials (default: as the recipe says)")
    parser.add_argument("--workers", type=int, default=1, help="calculations side by side")
    parser.add_argument("--cores", type=int, default=1, help="cores for each worker")
    parser.add_argument("--launcher", default="", help="put before pw.x, e.g. 'mpirun -n 4' or 'srun -n 64'")
    parser.add_argument("--no-ldos", action="store_true", help="no LDOS, though the recipe has a table [ldos]")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare stress and forces of a new set-up with energies, on the first structure (default: yes)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")


def run(args: argparse.Namespace) -> int:
    """Run ``ase-ldos label``; 1 if a structure failed."""
    from ase.io import read
    from tqdm import tqdm

    recipe = load_recipe(args.recipe, pseudo_dir=args.pseudo_dir)
    if args.no_ldos:
        recipe = replace(recipe, ldos=None)
    structures = [atoms for path in args.structures for atoms in read(path, ":")]
    names = _named(structures).keys()
    there = {name for name in names if (Path(args.out) / f"{name}.npz").exists()}
    given_up = set() if args.retry_failed else names & _read_failures(Path(args.out)).keys()
    with tqdm(total=len(names - there - given_up), unit="structure", smoothing=0.1) as bar:

        def show(name: str, reason: str | None) -> None:
            if reason is not None:
                bar.write(f"{name} failed: {reason}")
            bar.update()

        report = label_structures(
            structures,
            recipe,
            args.out,
            workers=args.workers,
            cores_per_worker=args.cores,
            launcher=args.launcher,
            retry_failed=args.retry_failed,
            check=args.check,
            progress=show,
        )
    failed = f", {len(report.failed)} failed (see {Path(args.out) / FAILURES})" if report.failed else ""
    sys.stdout.write(f"{len(report.finished)} labelled, {len(report.found)} were there{failed}\n")
    return 1 if report.failed else 0
