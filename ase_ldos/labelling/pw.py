"""One structure through Quantum ESPRESSO: input, runs, results."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.espresso import write_espresso_in

from ase_ldos.dataset.npz import Snapshot, snapshot_from_arrays
from ase_ldos.dataset.snapshot import least_highest_band
from ase_ldos.formats.pseudopotential import check_functional, functional_name, read_pseudopotential
from ase_ldos.labelling.dft_settings import DOSRecipe, LDOSRecipe, Recipe
from ase_ldos.labelling.pp import check_postproc, sample_ldos_by_postproc
from ase_ldos.labelling.pw_output import read_density, read_xml, sample_dos, sample_ldos
from ase_ldos.labelling.subprocesses import CalculationError, check_installed, run_program
from ase_ldos.units import BOLTZMANN, RYDBERG

PREFIX = "pwscf"
#: Unit of the stored float16 LDOS, 1/(eV Å³), for values up to 63; resolution 5e-4 of each value.
LDOS_SCALE = 2.0**-10
#: Accuracy of the states of the dense mesh, Ry. Errors of their densities are of the order of its square root.
NSCF_THRESHOLD = 1e-8

logger = logging.getLogger(__name__)


def kpoint_mesh(cell: np.ndarray, spacing: float) -> tuple[int, int, int]:
    """Numbers of k-points along the reciprocal vectors for a distance of about ``spacing`` (1/Å).

    A number is rounded up unless it is less than 0.2 above an integer.
    """
    lengths = 2 * math.pi * np.linalg.norm(np.linalg.inv(cell), axis=0)
    numbers = [max(1, math.ceil(length / spacing - 0.2)) for length in lengths]
    return (numbers[0], numbers[1], numbers[2])


def check_setup(symbols: Iterable[str], recipe: Recipe, *, launcher: str = "") -> None:
    """Check everything that can be wrong before a calculation starts.

    Args:
        symbols: the elements of the structures.
        recipe: the set-up.
        launcher: see ``run_program``.

    Raises:
        ValueError: pw.x or a pseudopotential is missing, of another element, made for a functional that is not known,
            or one from which the LDOS cannot be sampled with the installed programs.
    """
    check_installed("pw.x")
    override = recipe.options.get("system", {}).get("input_dft")
    if override is not None:
        check_functional("the recipe's input_dft", functional_name(str(override)))
    for symbol in sorted(set(symbols)):
        pseudo, name = read_pseudopotential(recipe.pseudopotential_path(symbol)), recipe.pseudopotentials[symbol]
        if pseudo.symbol != symbol:
            raise ValueError(f"{name} is a pseudopotential of {pseudo.symbol}, not {symbol}")
        if override is None:
            check_functional(name, pseudo.functional)
        if recipe.ldos is not None and pseudo.kind == "PAW":
            raise ValueError(
                f"{name} is of the kind PAW, whose energy has terms that the LDOS does not give; use NC or US"
            )
    if recipe.ldos is not None and _has_ultrasoft(symbols, recipe):
        check_postproc(launcher=launcher)


def _has_ultrasoft(symbols: Iterable[str], recipe: Recipe) -> bool:
    """Whether the LDOS has to come from pp.x; states of norm-conserving potentials are read from their files."""
    return any(read_pseudopotential(recipe.pseudopotential_path(symbol)).kind != "NC" for symbol in set(symbols))


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
    if calculation == "nscf":
        # pw.x would take a tenth of conv_thr per electron, which grows tighter with the number of atoms
        data["electrons"]["diago_thr_init"] = NSCF_THRESHOLD
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


def calculate(name: str, atoms: Atoms, recipe: Recipe, folder: Path, *, launcher: str = "") -> Snapshot:
    """Energy, forces, stress, density and, if the recipe asks for it, LDOS, DOS or both of a structure.

    Args:
        name: of the snapshot.
        atoms: the structure.
        recipe: the set-up.
        folder: an empty working folder; its content is of no use afterwards.
        launcher: see ``run_program``.

    Raises:
        CalculationError: pw.x or pp.x failed.
        ValueError: their files are cut off.
    """
    from ase_ldos.geometry.grid import grid_shape

    cell, folder = atoms.cell.array, folder.resolve()
    shape = grid_shape(cell, recipe.grid_spacing)
    save = folder / f"{PREFIX}.save"
    run_program("pw.x", input_text(atoms, recipe, "scf", folder), folder, launcher=launcher)
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
        run_program("pw.x", input_text(atoms, recipe, "nscf", folder), folder, launcher=launcher)
        arrays |= _ldos_arrays(atoms, recipe, recipe.ldos, folder, shape, launcher)
    elif recipe.dos is not None:
        arrays |= dos_arrays(recipe.dos, arrays["eigenvalues"], arrays["k_weights"])
    logger.info("%s: free energy %.6f eV", name, float(arrays["free_energy"]))
    return snapshot_from_arrays(name, arrays, name)


def dos_arrays(sampling: DOSRecipe, eigenvalues: np.ndarray, k_weights: np.ndarray) -> dict[str, np.ndarray]:
    """DOS of the self-consistent mesh, under the keys of a snapshot.

    Args:
        sampling: σ and energies.
        eigenvalues: eV, ``[k, band]``.
        k_weights: with spin, ``[k]``.

    Raises:
        ValueError: there are too few bands for any energy.
    """
    energies = sampling.energies(least_highest_band(eigenvalues))
    return {
        "energies": energies,
        "ldos_sigma": np.array(sampling.sigma),
        "dos": sample_dos(energies, sampling.sigma, eigenvalues, k_weights),
    }


def _ldos_arrays(
    atoms: Atoms, recipe: Recipe, sampling: LDOSRecipe, folder: Path, shape: tuple[int, int, int], launcher: str
) -> dict[str, np.ndarray]:
    """LDOS, DOS and the states of the dense mesh, under the keys of a snapshot."""
    energies, sigma = sampling.energies, sampling.sigma
    save = folder / f"{PREFIX}.save"
    dense = read_xml(save)
    dos = sample_dos(energies, sigma, dense["eigenvalues"], dense["k_weights"])
    if _has_ultrasoft(atoms.get_chemical_symbols(), recipe):
        ldos = sample_ldos_by_postproc(folder, PREFIX, shape, energies, sigma, dos, launcher=launcher)
    else:
        ldos = sample_ldos(save, shape, atoms.get_volume(), energies, sigma)
    scale = max(LDOS_SCALE, float(ldos.max()) / float(np.finfo(np.float16).max))
    return {
        "energies": energies,
        "ldos": (ldos / scale).astype(np.float16),
        "ldos_scale": np.array(scale),
        "ldos_sigma": np.array(sigma),
        "dos": dos,
        "kpoints_dense": np.array(kpoint_mesh(atoms.cell.array, sampling.kspacing)),
        "k_weights_dense": dense["k_weights"],
        "eigenvalues_dense": dense["eigenvalues"].astype(np.float32),
        "fermi_level_dense": dense["fermi_level"],
    }
