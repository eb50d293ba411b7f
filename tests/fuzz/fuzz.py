"""Damaged input of every kind that the package reads, and what it says of it: one sentence, soon, in little memory.

    python tests/fuzz/fuzz.py                            # two minutes over all targets
    python tests/fuzz/fuzz.py --target npz --cases 5000 --seed 3

A case is a good file with one to three mutations drawn from a seeded generator. Reading it must end in a result that is
finite, or in ``ValueError`` or ``OSError`` with one line that names the file. Anything else (another exception, a hang,
memory, a result with NaN) is printed with the seed that makes it again, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mutations import mutate_bytes
from targets import TARGETS, Target

#: A case may take this long, s of CPU time, and this much more memory than the process has at its start, bytes.
TIME_LIMIT, MEMORY_LIMIT = 5, 4 * 2**30


class TooLongError(Exception):
    """A case is not done within its time."""


@dataclass(frozen=True)
class Fault:
    """A case that ended otherwise than it may.

    Attributes:
        target: what was read.
        seed: of the case.
        what: in a line.
        where: the end of the traceback.
    """

    target: str
    seed: int
    what: str
    where: str


@contextmanager
def limits() -> Iterator[None]:
    """Interrupt what takes too long; refuse memory beyond the limit."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooLongError

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = signal.signal(signal.SIGVTALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, before[1]))
    signal.setitimer(signal.ITIMER_VIRTUAL, TIME_LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGVTALRM, old)


def run_case(target: Target, seed: int, folder: Path) -> tuple[str, Fault | None]:
    """Make the file of a case and read it; returns how it ended: read, refused, or a fault."""
    rng = np.random.default_rng(seed)
    path = folder / f"case{target.suffix}"
    target.mutated(rng, path, mutate_bytes)
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("error")
            target.read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        if not text.strip() or len(text.splitlines()) > 1 or len(text) > 600:
            return "fault", Fault(target.name, seed, f"message: {text[:200]!r}", _where(error))
        return "refused", None
    except TooLongError as error:
        return "fault", Fault(target.name, seed, f"more than {TIME_LIMIT} s", _where(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "fault", Fault(target.name, seed, f"{type(error).__name__}: {str(error)[:160]}", _where(error))
    return "read", None


def _where(error: BaseException) -> str:
    """The last line of the package on the way to the error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ase_ldos" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "outside the package"


def fuzz(targets: list[Target], seed: int, cases: int | None, seconds: float) -> tuple[Counter[str], list[Fault]]:
    """Run the targets in turn; stops after so many cases of each, or so many seconds in all."""
    counts: Counter[str] = Counter()
    faults: list[Fault] = []
    end = time.monotonic() + seconds
    with TemporaryDirectory() as name:
        number = 0
        while (cases is None or number < cases) and time.monotonic() < end:
            for place, target in enumerate(targets):
                ended, fault = run_case(target, seed * 10**6 + number * 100 + place, Path(name))
                counts[f"{target.name} {ended}"] += 1
                if fault is not None:
                    faults.append(fault)
            number += 1
    return counts, faults


def main() -> int:
    """Fuzz and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="only these (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, help="of each target (default: as many as fit into --seconds)")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--case", type=int, help="run one case by its seed, with its traceback")
    args = parser.parse_args()
    targets = [TARGETS[name] for name in args.target or sorted(TARGETS)]
    if args.case is not None:
        with TemporaryDirectory() as name:
            target, path = targets[0], Path(name) / f"case{targets[0].suffix}"
            target.mutated(np.random.default_rng(args.case), path, mutate_bytes)
            target.read(path)
        return 0
    counts, faults = fuzz(targets, args.seed, args.cases, args.seconds)
    for key, count in sorted(counts.items()):
        print(f"{key:30} {count:7d}")
    kinds = Counter((fault.target, fault.what.split(":")[0], fault.where) for fault in faults)
    for (target, what, where), count in kinds.most_common():
        example = next(f for f in faults if (f.target, f.what.split(":")[0], f.where) == (target, what, where))
        print(f"FAULT {target}, {count} times at {where}: {example.what} (--target {target} --case {example.seed})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
