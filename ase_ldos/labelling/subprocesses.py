"""Running the programs of Quantum ESPRESSO: start, wait, and say why one failed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

#: Holds the number of the running process, by which one that outlived its parent is found again.
PID_FILE = "pid"
#: A self-consistent cycle whose accuracy finds no new minimum in so many iterations is ended; a healthy one gains a
#: digit in two or three.
STALLED_ITERATIONS = 15
#: How often a running program is looked at, s.
_INTERVAL = 1.0


class CalculationError(RuntimeError):
    """A calculation did not finish or did not converge; the message is the reason."""


def check_installed(program: str) -> None:
    """Check that a program is there.

    Raises:
        ValueError: it is not on the PATH.
    """
    if shutil.which(program) is None:
        raise ValueError(f"{program} is not on the PATH; install Quantum ESPRESSO (Debian: quantum-espresso)")


def run_program(program: str, text: str, folder: Path, *, launcher: str = "", time_limit: float | None = None) -> None:
    """Run ``pw.x`` or ``pp.x`` on an input within ``folder``.

    Args:
        program: its name, ``NAME.x``.
        text: the input.
        folder: working folder; input and output are ``NAME.in`` and ``NAME.out`` there.
        launcher: what to put before the program, e.g. ``"mpirun -n 4"``.
        time_limit: after this many seconds it is ended.

    Raises:
        CalculationError: it could not be started, stopped, took too long, or did not converge, or the accuracy that it
            estimates no longer falls.
    """
    output, exit_code = _run(program, text, folder, launcher, time_limit)
    if "convergence NOT achieved" in output:
        raise CalculationError("the self-consistent cycle did not converge; lower mixing_beta in the recipe's options")
    if "JOB DONE" not in output:
        raise CalculationError(f"{program} stopped (exit code {exit_code}): {_reason(output)}")


def program_version(program: str, *, launcher: str = "") -> tuple[int, int]:
    """The version of Quantum ESPRESSO that a program tells when it starts, e.g. (7, 2).

    Raises:
        ValueError: it cannot be started, or tells none.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            # an empty input: it tells its version and then stops
            output, _ = _run(program, "", Path(folder), launcher)
        except CalculationError as error:
            raise ValueError(str(error)) from error
    found = re.search(r"Program\s+\S+\s+v\.?\s*(\d+)\.(\d+)", output)
    if found is None:
        raise ValueError(f"{program} does not tell its version; it says: {_reason(output)}")
    return int(found.group(1)), int(found.group(2))


def _run(program: str, text: str, folder: Path, launcher: str, time_limit: float | None = None) -> tuple[str, int]:
    """Output and exit code."""
    stem = program.removesuffix(".x")
    (folder / f"{stem}.in").write_text(text)
    command = [*shlex.split(launcher), program, "-in", f"{stem}.in"]
    try:
        with (folder / f"{stem}.out").open("w") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
            (folder / PID_FILE).write_text(str(process.pid))
            exit_code = _wait(process, program, folder / f"{stem}.out", time_limit)
    except OSError as error:
        raise CalculationError(f"{command[0]} could not be started: {error}") from error
    return (folder / f"{stem}.out").read_text(errors="replace"), exit_code


def _wait(process: subprocess.Popen[bytes], program: str, output: Path, time_limit: float | None) -> int:
    """Exit code of a process that is ended where it takes too long or converges no more."""
    end = None if time_limit is None else time.monotonic() + time_limit
    while True:
        try:
            return process.wait(_INTERVAL if end is None else max(0.0, min(_INTERVAL, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            reason = stalled_cycle(output.read_text(errors="replace"))
            if not reason and end is not None and time.monotonic() >= end:
                reason = f"after the recipe's time_limit, {time_limit:.0f} s"
            if reason:
                process.terminate()
                process.wait()
                raise CalculationError(f"{program} was ended {reason}") from None


def stalled_cycle(output: str) -> str:
    """Why the self-consistent cycle of an unfinished output of pw.x should be ended; empty if it should go on."""
    accuracies = [float(number) for number in re.findall(r"estimated scf accuracy\s*<\s*([\d.E+-]+)\s*Ry", output)]
    before, last = accuracies[:-STALLED_ITERATIONS], accuracies[-STALLED_ITERATIONS:]
    if not before or min(last) < min(before):
        return ""
    return (
        f"after {len(accuracies)} iterations: the estimated accuracy of the self-consistent cycle, at best "
        f"{min(before):.1e} Ry, has not fallen in the last {STALLED_ITERATIONS}; lower mixing_beta in the recipe's "
        "options"
    )


def _reason(output: str) -> str:
    """What a program says between its lines of per cent signs, or else its last lines."""
    blocks = re.findall(r"%{20,}\n(.*?)%{20,}", output, re.DOTALL)
    words = " ".join((blocks[0] if blocks else output[-300:]).split())
    return words or "it wrote nothing"
