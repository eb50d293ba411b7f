"""Running the programs of Quantum ESPRESSO: start, wait, and say why one failed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

#: Holds the number of the running process, by which one that outlived its parent is found again.
PID_FILE = "pid"


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
        CalculationError: it could not be started, stopped, took too long, or did not converge.
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
            exit_code = process.wait(time_limit)
    except subprocess.TimeoutExpired as error:
        process.terminate()
        process.wait()
        raise CalculationError(f"{program} was ended after the recipe's time_limit, {time_limit:.0f} s") from error
    except OSError as error:
        raise CalculationError(f"{command[0]} could not be started: {error}") from error
    return (folder / f"{stem}.out").read_text(errors="replace"), exit_code


def _reason(output: str) -> str:
    """What a program says between its lines of per cent signs, or else its last lines."""
    blocks = re.findall(r"%{20,}\n(.*?)%{20,}", output, re.DOTALL)
    words = " ".join((blocks[0] if blocks else output[-300:]).split())
    return words or "it wrote nothing"
