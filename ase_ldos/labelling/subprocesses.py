"""Running the programs of Quantum ESPRESSO: start, wait, and say why one failed.

Three kinds of failure are told apart: of the calculation (``CalculationError``), of a program that something ended
from outside (``KilledError``), and of the machine, such as a full disk (``OSError``). Only the first says something
about the structure.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ase_ldos.files import disk_is_full

#: Holds the number of the running process, by which one that outlived its parent is found again.
PID_FILE = "pid"
#: A self-consistent cycle whose accuracy finds no new minimum in so many iterations is ended; a healthy one gains a
#: digit in two or three.
STALLED_ITERATIONS = 15
#: How often a running program is looked at, s, and how long it may take to end when it is asked to.
_INTERVAL, _GRACE = 1.0, 10.0
#: Signals by which a program is ended from outside; others, such as that of a wrong address, are its own faults.
_FROM_OUTSIDE = ("SIGHUP", "SIGINT", "SIGKILL", "SIGTERM", "SIGXCPU", "SIGXFSZ", "SIGBUS")
#: What programs and libraries say where a disk, or what a user may take of it, is full.
_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
#: Running programs of this process and their folders, so that its end can end them.
_RUNNING: dict[subprocess.Popen[bytes], Path] = {}


class CalculationError(RuntimeError):
    """A calculation did not finish or did not converge; the message is the reason."""


class KilledError(RuntimeError):
    """A program was ended from outside: by somebody, a queueing system, or for want of memory."""


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
        CalculationError: it stopped, took too long, or did not converge, or the accuracy that it estimates no longer
            falls.
        KilledError: it was ended from outside.
        OSError: it could not be started, or the disk is full.
    """
    output, exit_code = _run(program, text, folder, launcher, time_limit)
    if "convergence NOT achieved" in output:
        raise CalculationError("the self-consistent cycle did not converge; lower mixing_beta in the recipe's options")
    if "JOB DONE" not in output:
        refuse_full_disk(program, output, folder)
        killed = _signal_name(exit_code)
        if killed in _FROM_OUTSIDE:
            raise KilledError(f"{program} was ended by {killed}: by somebody, a queueing system or for want of memory")
        raise CalculationError(f"{program} stopped (exit code {exit_code}): {_reason(output)}")


def refuse_full_disk(program: str, output: str, folder: Path) -> None:
    """Tell a failure that a full disk explains.

    Args:
        program: what failed.
        output: what it said.
        folder: where it wrote.

    Raises:
        OSError: the disk of the folder is full.
    """
    if disk_is_full(folder) or any(words in output for words in _DISK_WORDS):
        raise OSError(errno.ENOSPC, f"{program} failed because the disk of {folder} is full")


def end_programs(folder: Path) -> None:
    """Ask the programs that this process runs below a folder to end; whoever waits for them learns of it."""
    for process, where in list(_RUNNING.items()):
        if where.resolve().is_relative_to(folder.resolve()):
            _signal(process.pid, signal.SIGTERM)


def end_orphan(pid: int, folder: Path) -> None:
    """End a program that outlived the process that started it, if a process of this number works in the folder."""
    # the number may belong to another process by now
    if Path(f"/proc/{pid}/cwd").resolve() == folder.resolve():
        _signal(pid, signal.SIGTERM)


def _signal(pid: int, number: int) -> None:
    """Send a signal to a program and, as it leads a group of its own, to what it has started."""
    with suppress(OSError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _signal_name(exit_code: int) -> str:
    """Of the signal that ended a program, as Popen (−n) or a launcher's shell (128 + n) tells; empty if none did."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def program_version(program: str, *, launcher: str = "") -> tuple[int, int]:
    """The version of Quantum ESPRESSO that a program tells when it starts, e.g. (7, 2).

    Raises:
        ValueError: it cannot be started, or tells none.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            # an empty input: it tells its version and then stops
            output, _ = _run(program, "", Path(folder), launcher)
        except OSError as error:
            raise ValueError(error.strerror or str(error)) from error
    found = re.search(r"Program\s+\S+\s+v\.?\s*(\d+)\.(\d+)", output)
    if found is None:
        raise ValueError(f"{program} does not tell its version; it says: {_reason(output)}")
    return int(found.group(1)), int(found.group(2))


def _run(program: str, text: str, folder: Path, launcher: str, time_limit: float | None = None) -> tuple[str, int]:
    """Output and exit code."""
    stem = program.removesuffix(".x")
    (folder / f"{stem}.in").write_text(text)
    command = [*shlex.split(launcher), program, "-in", f"{stem}.in"]
    with (folder / f"{stem}.out").open("w") as output:
        try:
            # a group of its own, which ends as a whole; the terminal's Ctrl-C reaches this process, which ends it
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0 if os.name == "posix" else None,
            )
        except OSError as error:
            raise OSError(error.errno, f"{command[0]} could not be started: {error.strerror}") from error
        _RUNNING[process] = folder
        try:
            (folder / PID_FILE).write_text(str(process.pid))
            exit_code = _wait(process, program, folder / f"{stem}.out", time_limit)
        except BaseException:
            _end(process)
            raise
        finally:
            del _RUNNING[process]
    return (folder / f"{stem}.out").read_text(errors="replace"), exit_code


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program, and what it has started, politely or not."""
    _signal(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: subprocess.Popen[bytes], program: str, output: Path, time_limit: float | None) -> int:
    """Exit code of a process; an error where it takes too long or converges no more."""
    end = None if time_limit is None else time.monotonic() + time_limit
    while True:
        try:
            return process.wait(_INTERVAL if end is None else max(0.0, min(_INTERVAL, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            reason = stalled_cycle(output.read_text(errors="replace"))
            if not reason and end is not None and time.monotonic() >= end:
                reason = f"after the recipe's time_limit, {time_limit:.0f} s"
            if reason:
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
