"""The LDOS through pp.x, for ultrasoft potentials, whose states are more than the squares of their wavefunctions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ase_ldos.formats.cube import read_ldos_cubes
from ase_ldos.labelling.subprocesses import CalculationError, check_installed, program_version, run_program

#: First version whose pp.x broadens by a Gaussian whatever the occupations of pw.x are.
FIRST_VERSION = (7, 2)
#: Largest difference between ∫ d d³r and the DOS of the eigenvalues, as a part of the DOS' maximum.
TOLERANCE = 1e-3
_STEM = "ldos"


def check_postproc(*, launcher: str = "") -> None:
    """Check that pp.x is there and can broaden by a Gaussian.

    Raises:
        ValueError: it is missing or too old.
    """
    check_installed("pp.x")
    version = program_version("pp.x", launcher=launcher)
    if version < FIRST_VERSION:
        found, needed = (".".join(map(str, numbers)) for numbers in (version, FIRST_VERSION))
        raise ValueError(
            f"the LDOS of an ultrasoft pseudopotential needs pp.x {needed} or later (use_gauss_ldos); the one on the "
            f"PATH is {found}; install that, take a norm-conserving pseudopotential, or label without LDOS"
        )


def postproc_input(prefix: str, energies: np.ndarray, sigma: float) -> str:
    """The input of pp.x for one cube file for each energy.

    Args:
        prefix: of pw.x's files in the working folder.
        energies: equidistant, eV, ``[energy]``.
        sigma: standard deviation of the Gaussian, eV; pp.x' ``degauss_ldos`` is √2 σ.
    """
    spacing = (energies[-1] - energies[0]) / (len(energies) - 1)
    # pp.x cuts (emax − emin)/delta_e to an integer: a little more than the last energy keeps rounding from losing it
    return (
        f"&INPUTPP\n  prefix = '{prefix}'\n  outdir = '.'\n  filplot = '{_STEM}'\n  plot_num = 3\n"
        f"  emin = {energies[0]:.12f}\n  emax = {energies[-1] + 0.25 * spacing:.12f}\n  delta_e = {spacing:.12f}\n"
        f"  degauss_ldos = {math.sqrt(2) * sigma:.15f}\n  use_gauss_ldos = .true.\n/\n"
        "&PLOT\n  iflag = 3\n  output_format = 6\n  fileout = '.cube'\n/\n"
    )


def sample_ldos_by_postproc(
    folder: Path,
    prefix: str,
    shape: tuple[int, int, int],
    energies: np.ndarray,
    sigma: float,
    dos: np.ndarray,
    *,
    launcher: str = "",
) -> np.ndarray:
    """Local density of states by pp.x, resampled and checked against the DOS of the eigenvalues.

    Args:
        folder: working folder of pw.x.
        prefix: of its files.
        shape: the wanted grid.
        energies: eV, ``[energy]``.
        sigma: standard deviation of the Gaussian, eV.
        dos: what its integral over space must be, 1/eV, ``[energy]``.
        launcher: see ``run_program``.

    Returns:
        1/(eV Å³), spin included, ``[*shape, energy]``.

    Raises:
        CalculationError: pp.x failed, or its LDOS does not integrate to the DOS (another kernel or unit).
        ValueError: a cube file is missing or cut off.
    """
    run_program("pp.x", postproc_input(prefix, energies, sigma), folder, launcher=launcher)
    snapshot = read_ldos_cubes(list(folder.glob(f"{_STEM}*.cube")), energies, shape=shape)
    assert snapshot.dos is not None
    error = float(np.abs(snapshot.dos - dos).max() / dos.max())
    if error > TOLERANCE:
        raise CalculationError(
            f"the LDOS of pp.x integrates to another DOS than the eigenvalues give: they differ by {error:.2g} of the "
            f"maximum, {TOLERANCE:g} is allowed; does this pp.x broaden by a Gaussian?"
        )
    return snapshot.ldos_values()
