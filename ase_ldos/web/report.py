"""A result as one HTML file, for a mail or a supplement: ``ase-ldos report``, ``predict --report``, ``demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.files import write_text
from ase_ldos.web.script import make_script
from ase_ldos.web.standalone import standalone_page
from ase_ldos.web.view_document import Film, view_document


def write_report(
    path: str | Path,
    atoms: Atoms,
    calculator: LDOSCalculator,
    *,
    title: str = "",
    source: str = "structure.extxyz",
    film: Film | None = None,
    film_unit: str = "step",
) -> None:
    """Write the report of a structure, and of the run that led to it if there is a film.

    Args:
        path: the HTML file; it appears complete or not at all.
        atoms: as for ``view_document``.
        calculator: with forces and stress where they shall be shown.
        title: of the page; default is the formula.
        source: name of the file that the Python script in the report reads.
        film: pictures of the run.
        film_unit: fs or step.

    Raises:
        OSError: the file cannot be written.
    """
    settings = {
        "temperature": calculator.parameters["electronic_temperature"],
        "spacing": calculator.parameters["grid_spacing"],
        "forces": "forces" in calculator.results,
    }
    script = make_script("predict", calculator.parameters["model"], settings, source=source)
    shown = None if film is None else film.document(film_unit)
    kind = "predict" if shown is None else "md"
    document = view_document(atoms, calculator, title=title, kind=kind, film=shown, script=script)
    write_text(path, standalone_page([document]))


def film_of_trajectory(
    frames: Sequence[Atoms], calculator: LDOSCalculator, *, pictures: int = 50, interval: float = 1.0
) -> tuple[Atoms, Film]:
    """Predict the electronic structure of some frames of a trajectory.

    Args:
        frames: of one run.
        calculator: predicts them.
        pictures: at most so many are predicted, evenly spaced, the first and the last among them.
        interval: between two frames, fs or steps.

    Returns:
        The last frame, predicted with forces and stress, and the film.

    Raises:
        ValueError: the frames differ in their atoms.
        InputError: the model cannot predict them.
    """
    if any(not np.array_equal(frame.numbers, frames[0].numbers) for frame in frames):
        raise ValueError("the structures of a film must have the same atoms in the same order")
    film = Film(calculator)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(pictures, len(frames))).round().astype(int))
    for number in chosen:
        calculator.calculate(frames[number], ["energy", "forces", "stress"])
        film.add(frames[number], float(number) * interval)
    return frames[-1], film
