"""An array of Slurm jobs that all run the same command; leases share the work among them."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ase_ldos.files import PathLike, write_text


def array_script(command: Sequence[str], options: str, jobs: int, folder: PathLike) -> str:
    """The script of the array.

    Args:
        command: what every job runs.
        options: of sbatch, as on its command line, e.g. ``"--time=24:00:00 -p short -n 64"``.
        jobs: how many.
        folder: where the jobs begin and write their output.

    Raises:
        ValueError: no job, options that cannot be split, or an array among the options.
    """
    if jobs < 1:
        raise ValueError(f"{jobs} jobs are asked for; at least 1 is needed")
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ValueError(f"the options of sbatch, {options!r}, cannot be read: {error}") from error
    if any(re.match(r"(--array\b|-a)", word) for word in words):
        raise ValueError("the options of sbatch name an array; say how many jobs by --jobs")
    folder = Path(folder).resolve()
    lines = [
        "#!/bin/sh",
        "#SBATCH --job-name=ase-ldos-label",
        f"#SBATCH --array=1-{jobs}",
        f"#SBATCH --chdir={shlex.quote(str(folder))}",
        f"#SBATCH --output={shlex.quote(str(folder / 'slurm-%A_%a.out'))}",
        *(f"#SBATCH {option}" for option in _joined(words)),
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def submit_array(command: Sequence[str], options: str, jobs: int, folder: PathLike) -> str:
    """Write ``label.sbatch`` into the folder and submit it; returns the number of the job.

    Raises:
        ValueError: as ``array_script``, or sbatch is missing or refuses.
    """
    script = Path(folder).resolve() / "label.sbatch"
    text = array_script(command, options, jobs, folder)
    script.parent.mkdir(parents=True, exist_ok=True)
    write_text(script, text)
    try:
        done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"{script} is written, but sbatch cannot be started: {error.strerror}") from error
    if done.returncode:
        raise ValueError(f"sbatch refuses {script}: {' '.join(done.stderr.split()) or 'it says nothing'}")
    return done.stdout.strip().split(";")[0]


def _joined(words: Sequence[str]) -> list[str]:
    """Options with their values: a word without a dash belongs to the one before."""
    lines: list[str] = []
    for word in words:
        if word.startswith("-") or not lines:
            lines.append(shlex.quote(word) if " " in word else word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return lines
