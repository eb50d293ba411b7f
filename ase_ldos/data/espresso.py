"""One structure through Quantum ESPRESSO's pw.x: input, run, results."""

from __future__ import annotations

import io
import logging
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.espresso import write_espresso_in

from ase_ldos.data.espresso_files import read_density, read_xml, sample_dos, sample_ldos
from ase_ldos.data.recipe import Recipe
from ase_ldos.data.snapshot import Snapshot, snapshot_from_arrays
from ase_ldos.data.upf import read_pseudopotential
from ase_ldos.units import BOLTZMANN, RYDBERG

PREFIX = "pwscf"
#: Holds the number of the running process, by which one that outlived its parent is found again.
PID_FILE = "pid"
#: Unit of the stored float16 LDOS, 1/(eV Å³): values up to 64, resolution 5e-4 of each value.
LDOS_SCALE = 2.0**-10

logger = logging.getLogger(__name__)


class CalculationError(RuntimeError):
    """A calculation did not finish or did not converge; the message is the reason."""


def kpoint_mesh(cell: np.ndarray, spacing: float) -> tuple[int, int, int]:
    """Numbers of k-points along the reciprocal vectors for a distance of about ``spacing`` (1/Å).

    A number is rounded up unless it is less than 0.2 above an integer.
    """
    lengths = 2 * math.pi * np.linalg.norm(np.linalg.inv(cell), axis=0)
    numbers = [max(1, math.ceil(length / spacing - 0.2)) for length in lengths]
    return (numbers[0], numbers[1], numbers[2])


def check_setup(symbols: Sequence[str], recipe: Recipe) -> None:
    """Check everything that can be wrong before a calculation starts.

    Raises:
        ValueError: pw.x or a pseudopotential is missing, of another element, or one from which the LDOS cannot be
            sampled.
    """
    if shutil.which("pw.x") is None:
        raise ValueError("pw.x is not on the PATH; install Quantum ESPRESSO (Debian: quantum-espresso)")
    for symbol in sorted(set(symbols)):
        pseudo = read_pseudopotential(recipe.pseudopotential_path(symbol))
        if pseudo.symbol != symbol:
            raise ValueError(f"{recipe.pseudopotentials[symbol]} is a pseudopotential of {pseudo.symbol}, not {symbol}")
        if recipe.ldos is not None and pseudo.kind != "NC":
            raise ValueError(
                f"{recipe.pseudopotentials[symbol]} is of the kind {pseudo.kind}; the LDOS is sampled from the "
                "wavefunctions, which needs a norm-conserving pseudopotential"
            )


def input_text(atoms: Atoms, recipe: Recipe, calculation: str, folder: Path) -> str:
    """The input of pw.x.

    Args:
        atoms: the structure.
        recipe: the set-up.
        calculation: ``"scf"``, or ``"nscf"`` for the dense mesh of the LDOS.
        folder: where pw.x writes.

    Raises:
        ValueError: ``"nscf"`` is asked for and the recipe has no LDOS.
    """
    kspacing, bands_per_atom = recipe.kspacing, recipe.bands_per_atom
    if calculation == "nscf":
        if recipe.ldos is None:
            raise ValueError("the recipe has no [ldos]; a dense mesh is not defined")
        kspacing, bands_per_atom = recipe.ldos.kspacing, recipe.ldos.bands_per_atom
    data: dict[str, dict[str, Any]] = {
        "control": {
            "calculation": calculation,
            "prefix": PREFIX,
            "outdir": str(folder),
            "pseudo_dir": str(Path(recipe.pseudo_dir).resolve()),
            "tprnfor": calculation == "scf",
            "tstress": calculation == "scf",
            "disk_io": "low",
        },
        "system": {
            "ecutwfc": recipe.cutoff,
            "occupations": "smearing",
            "smearing": "fermi-dirac",
            "degauss": recipe.electronic_temperature * BOLTZMANN / RYDBERG,
            "nosym": True,
            "nbnd": math.ceil(bands_per_atom * len(atoms)),
        },
        "electrons": {"conv_thr": recipe.convergence, "electron_maxstep": 100},
    }
    for namelist, options in recipe.options.items():
        data.setdefault(namelist.lower(), {}).update(options)
    stream = io.StringIO()
    write_espresso_in(
        stream,
        atoms,
        input_data=data,
        pseudopotentials=dict(recipe.pseudopotentials),
        kpts=kpoint_mesh(atoms.cell.array, kspacing),
    )
    text = re.sub(r"&(IONS|CELL|FCP|RISM)\n/\n", "", stream.getvalue())
    # ASE writes ten decimals; forces deserve all of them
    head, _, _ = text.partition("ATOMIC_POSITIONS")
    rows = [
        f"{symbol} {x:.15f} {y:.15f} {z:.15f}" for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    ]
    return head + "ATOMIC_POSITIONS angstrom\n" + "\n".join(rows) + "\n"


def run_pw(text: str, folder: Path, *, launcher: str = "") -> None:
    """Run pw.x on an input within ``folder``.

    Args:
        text: the input.
        folder: working folder; pw.x's output goes into ``pw.out`` there.
        launcher: what to put before ``pw.x``, e.g. ``"mpirun -n 4"``.

    Raises:
        CalculationError: it could not be started, stopped, or did not converge.
    """
    (folder / "pw.in").write_text(text)
    command = [*shlex.split(launcher), "pw.x", "-in", "pw.in"]
    try:
        with (folder / "pw.out").open("w") as output:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
            (folder / PID_FILE).write_text(str(process.pid))
            exit_code = process.wait()
    except OSError as error:
        raise CalculationError(f"{command[0]} could not be started: {error}") from error
    output_text = (folder / "pw.out").read_text(errors="replace")
    if "convergence NOT achieved" in output_text:
        raise CalculationError("the self-consistent cycle did not converge; lower mixing_beta in the recipe's options")
    if "JOB DONE" not in output_text:
        raise CalculationError(f"pw.x stopped (exit code {exit_code}): {_reason(output_text)}")


def _reason(output: str) -> str:
    """What pw.x says between its lines of per cent signs, or else its last lines."""
    blocks = re.findall(r"%{20,}\n(.*?)%{20,}", output, re.DOTALL)
    words = " ".join((blocks[0] if blocks else output[-300:]).split())
    return words or "it wrote nothing"


def calculate(name: str, atoms: Atoms, recipe: Recipe, folder: Path, *, launcher: str = "") -> Snapshot:
    """Energy, forces, stress, density and, if the recipe asks for it, LDOS and DOS of a structure.

    Args:
        name: of the snapshot.
        atoms: the structure.
        recipe: the set-up.
        folder: an empty working folder; its content is of no use afterwards.
        launcher: see :func:`run_pw`.

    Raises:
        CalculationError: pw.x failed.
        ValueError: its files are cut off.
    """
    from ase_ldos.grid import grid_shape

    cell = atoms.cell.array
    shape = grid_shape(cell, recipe.grid_spacing)
    save = folder / f"{PREFIX}.save"
    run_pw(input_text(atoms, recipe, "scf", folder), folder, launcher=launcher)
    arrays = read_xml(save)
    arrays |= {
        "numbers": atoms.numbers,
        "cell": cell,
        "positions": atoms.positions,
        "density": read_density(save / "charge-density.dat", shape).astype(np.float32),
        "kpoints": np.array(kpoint_mesh(cell, recipe.kspacing)),
        "electronic_temperature": np.array(recipe.electronic_temperature),
        "ecutwfc_Ry": np.array(recipe.cutoff),
        "valence": arrays["n_electrons"] / len(atoms),
    }
    counted = float(arrays["density"].mean(dtype=float) * atoms.get_volume())
    if abs(counted - arrays["n_electrons"]) > 1e-4 * arrays["n_electrons"]:
        raise CalculationError(f"the density holds {counted:.4f} electrons instead of {arrays['n_electrons']}")
    if recipe.ldos is not None:
        run_pw(input_text(atoms, recipe, "nscf", folder), folder, launcher=launcher)
        energies, sigma = recipe.ldos.energies, recipe.ldos.sigma
        dense = read_xml(save)
        ldos = sample_ldos(save, shape, atoms.get_volume(), energies, sigma)
        arrays |= {
            "energies": energies,
            "ldos": (ldos / LDOS_SCALE).astype(np.float16),
            "ldos_scale": np.array(LDOS_SCALE),
            "ldos_sigma": np.array(sigma),
            "dos": sample_dos(energies, sigma, dense["eigenvalues"], dense["k_weights"]),
            "kpoints_dense": np.array(kpoint_mesh(cell, recipe.ldos.kspacing)),
            "k_weights_dense": dense["k_weights"],
            "eigenvalues_dense": dense["eigenvalues"].astype(np.float32),
            "fermi_level_dense": dense["fermi_level"],
        }
    logger.info("%s: free energy %.6f eV", name, float(arrays["free_energy"]))
    return snapshot_from_arrays(name, arrays, name)
