"""One structure through Quantum ESPRESSO: input, runs, results."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.espresso import write_espresso_in

from ase_ldos.dataset.compact import in_half_precision
from ase_ldos.dataset.snapshot import Snapshot, band_gap, least_highest_band, snapshot_from_arrays
from ase_ldos.formats.pseudopotential import check_functional, functional_name, read_pseudopotential
from ase_ldos.labelling.dft_settings import DOSRecipe, LDOSRecipe, Recipe
from ase_ldos.labelling.pp import check_postproc, sample_ldos_by_postproc
from ase_ldos.labelling.pw_output import read_creator, read_density, read_xml, sample_dos, sample_ldos
from ase_ldos.labelling.selfcheck import ENERGY_BOUND, energy_defect, ldos_energy_defect, smearing_shift
from ase_ldos.labelling.subprocesses import CalculationError, check_installed, run_program
from ase_ldos.labelling.symmetry import check_operations, has_symmetry, read_operations
from ase_ldos.units import BOLTZMANN, RYDBERG

PREFIX = "pwscf"
#: Accuracy of the states of the dense mesh, Ry. Errors of their densities are of the order of its square root.
NSCF_THRESHOLD = 1e-8
#: Least gap for fixed occupations, in units of kT: a part e⁻⁵ of the electrons at the edges would move.
FIXED_GAP = 10.0
#: pw.x before this version computes a wrong deviatoric stress from GTH files with a p projector.
FIRST_RIGHT_STRESS = 7

#: Largest number of values of an LDOS: 16 GiB while it is summed up.
LARGEST_LDOS = 2**31

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


def mesh_of(atoms: Atoms, spacing: float) -> tuple[int, int, int]:
    """The k-mesh of a structure: ``atoms.info["kpoints"]``, which a series of cells may share, or by its spacing."""
    if "kpoints" not in atoms.info:
        return kpoint_mesh(atoms.cell.array, spacing)
    return _three_numbers(atoms, "kpoints")


def _three_numbers(atoms: Atoms, key: str) -> tuple[int, int, int]:
    numbers = np.asarray(atoms.info[key]).ravel()
    if numbers.shape != (3,) or numbers.dtype.kind not in "iu" or numbers.min() < 1:
        raise ValueError(f"a structure has info[{key!r}] = {atoms.info[key]!r}; three positive integers are expected")
    return (int(numbers[0]), int(numbers[1]), int(numbers[2]))


def electronic_temperature_of(atoms: Atoms, recipe: Recipe) -> float:
    """Electrons' temperature, K: ``atoms.info["electronic_temperature"]``, or else the recipe's.

    Raises:
        ValueError: it is not a positive number.
    """
    value = atoms.info.get("electronic_temperature", recipe.electronic_temperature)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < float(value) < math.inf:
        raise ValueError(
            f"a structure has info['electronic_temperature'] = {value!r}; a positive number (K) is expected"
        )
    return float(value)


def input_text(atoms: Atoms, recipe: Recipe, calculation: str, folder: Path) -> str:
    """The input of pw.x.

    Args:
        atoms: the structure; ``info["kpoints"]`` and ``info["fft_grid"]`` replace the recipe's k-mesh and pw.x's own
            choice of a grid, so that energies of a series of cells lie on one smooth curve;
            ``info["electronic_temperature"]`` (K) replaces the recipe's, for a series of temperatures in one set.
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
            "occupations": recipe.occupations,
            "nosym": True,
            "nbnd": math.ceil(bands_per_atom * len(atoms)),
        }
        | (dict(zip(("nr1", "nr2", "nr3"), _three_numbers(atoms, "fft_grid"))) if "fft_grid" in atoms.info else {}),
        "electrons": {"conv_thr": recipe.convergence, "electron_maxstep": 100},
    }
    if recipe.occupations == "smearing":
        heat = electronic_temperature_of(atoms, recipe) * BOLTZMANN / RYDBERG
        data["system"] |= {"smearing": "fermi-dirac", "degauss": heat}
    if calculation == "nscf":
        # pw.x would take a tenth of conv_thr per electron, which grows tighter with the number of atoms
        data["electrons"]["diago_thr_init"] = NSCF_THRESHOLD
    for namelist, options in recipe.options.items():
        data.setdefault(namelist.lower(), {}).update(options)
    if data["system"]["nosym"] is False and not has_symmetry(atoms):
        data["system"]["nosym"] = True  # the same mesh by fewer k-points
    stream = io.StringIO()
    write_espresso_in(
        stream,
        atoms,
        input_data=data,
        pseudopotentials=dict(recipe.pseudopotentials),
        kpts=mesh_of(atoms, kspacing),
        koffset=tuple(recipe.kpoint_shift),
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
        KilledError: one of them was ended from outside.
        ValueError: their files are cut off, or the LDOS would be too large.
        OSError: they cannot be started, or the disk is full.
    """
    from ase_ldos.geometry.grid import grid_shape

    cell, folder = atoms.cell.array, folder.resolve()
    shape = grid_shape(cell, recipe.grid_spacing)
    n_values = math.prod(shape) * (0 if recipe.ldos is None else len(recipe.ldos.energies))
    if n_values > LARGEST_LDOS:
        raise ValueError(
            f"the LDOS on a grid of {' x '.join(map(str, shape))} points would have {n_values:.2g} values, more than "
            f"{LARGEST_LDOS:.2g}; raise grid_spacing or the spacing of [ldos]"
        )
    save = folder / f"{PREFIX}.save"
    limits: dict[str, Any] = {"launcher": launcher, "time_limit": recipe.time_limit}
    run_program("pw.x", input_text(atoms, recipe, "scf", folder), folder, **limits)
    arrays = read_xml(save)
    with suppress(ValueError):  # no band is empty
        arrays["gap"] = np.array(band_gap(arrays["eigenvalues"], float(arrays["n_electrons"])))
    _check_gap(arrays, atoms, recipe)
    _correct_stress(arrays, atoms, recipe, read_creator(save))
    arrays |= {
        "numbers": atoms.numbers,
        "cell": cell,
        "positions": atoms.positions,
        "density": read_density(save / "charge-density.dat", shape).astype(np.float32),
        "kpoints": np.array(mesh_of(atoms, recipe.kspacing)),
        "electronic_temperature": np.array(electronic_temperature_of(atoms, recipe)),
        "ecutwfc_Ry": np.array(recipe.cutoff),
        "valence": arrays["n_electrons"] / len(atoms),
    }
    counted = float(arrays["density"].mean(dtype=float) * atoms.get_volume())
    if abs(counted - arrays["n_electrons"]) > 1e-4 * arrays["n_electrons"]:
        raise CalculationError(f"the density holds {counted:.4f} electrons instead of {arrays['n_electrons']}")
    if recipe.ldos is not None:
        if not recipe.one_mesh:
            run_program("pw.x", input_text(atoms, recipe, "nscf", folder), folder, **limits)
        arrays |= _ldos_arrays(atoms, recipe, recipe.ldos, folder, shape, launcher)
    elif recipe.dos is not None:
        arrays |= dos_arrays(recipe.dos, arrays["eigenvalues"], arrays["k_weights"])
    logger.info("%s: free energy %.6f eV", name, float(arrays["free_energy"]))
    return with_energy_defects(snapshot_from_arrays(name, arrays, name), recipe)


def _check_gap(arrays: dict[str, np.ndarray], atoms: Atoms, recipe: Recipe) -> None:
    """Refuse fixed occupations where a temperature would change them."""
    if recipe.occupations != "fixed":
        return
    if "gap" not in arrays:
        raise CalculationError("there are no empty bands; raise bands_per_atom")
    gap = float(arrays["gap"])
    temperature = electronic_temperature_of(atoms, recipe)
    least = FIXED_GAP * BOLTZMANN * temperature
    if gap < least:
        raise CalculationError(
            f"the gap is {gap:.3f} eV; fixed occupations stand for electrons at {temperature:g} K "
            f"only where it is {least:.3f} eV or more; lower electronic_temperature or take occupations = 'smearing'"
        )


def with_energy_defects(snapshot: Snapshot, recipe: Recipe) -> Snapshot:
    """The snapshot with the free energies from its own parts compared with pw.x's.

    Raises:
        CalculationError: a difference is beyond its bound.
    """
    if "input_dft" in recipe.options.get("system", {}):
        return snapshot  # the functional is not that of the pseudopotential
    symbols = set(snapshot.to_atoms().symbols)
    pseudopotentials = {s: read_pseudopotential(recipe.pseudopotential_path(s)) for s in symbols}
    defect, ldos_defect = energy_defect(snapshot, pseudopotentials), ldos_energy_defect(snapshot, pseudopotentials)
    if defect is not None and abs(defect) > ENERGY_BOUND * len(snapshot):
        raise CalculationError(
            f"the density on its grid gives a free energy {1000 * defect / len(snapshot):+.1f} meV/atom off pw.x's "
            f"(bound {1000 * ENERGY_BOUND:g}); lower grid_spacing"
        )
    # on a mesh of its own the LDOS differs by that mesh too, which says nothing against it
    if ldos_defect is not None and recipe.one_mesh:
        left = ldos_defect - smearing_shift(snapshot)
        if abs(left) > ENERGY_BOUND * len(snapshot):
            raise CalculationError(
                f"the LDOS gives a free energy {1000 * left / len(snapshot):+.1f} meV/atom off pw.x's, the shift by "
                f"its width apart (bound {1000 * ENERGY_BOUND:g}); widen the window of [ldos] or raise bands_per_atom"
            )
    return replace(snapshot, energy_defect=defect, ldos_energy_defect=ldos_defect)


def _correct_stress(arrays: dict[str, np.ndarray], atoms: Atoms, recipe: Recipe, creator: str) -> None:
    """Take the Pulay stress off, and of a stress whose deviatoric part is wrong leave the pressure alone."""
    if "stress" not in arrays:
        return
    pulay = sum(recipe.pulay.get(symbol, 0.0) for symbol in atoms.symbols) / atoms.get_volume()
    arrays["stress"] = arrays["stress"] - pulay * np.eye(3)
    wrong = wrong_deviatoric_stress(atoms.get_chemical_symbols(), recipe, creator)
    if wrong:
        logger.warning(
            "%s computes a wrong deviatoric stress from %s, a GTH file with a p projector; only the pressure is kept "
            "(ase-ldos pseudo writes the potential as UPF, which gives the whole stress)",
            creator,
            wrong,
        )
        arrays["pressure"] = np.asarray(-np.trace(arrays.pop("stress")) / 3)


def wrong_deviatoric_stress(symbols: Iterable[str], recipe: Recipe, creator: str) -> str:
    """Name of a pseudopotential that spoils this pw.x's stress; empty if none does.

    pw.x 6.7 was compared with energies of strained Si, Al and Be: its stress is wrong by 0.2 to 1.2 GPa for GTH files
    with a p projector, but not its trace; the same potentials as UPF are right.
    """
    version = re.search(r"(\d+)\.\d+", creator)
    if version is not None and int(version[1]) >= FIRST_RIGHT_STRESS:
        return ""
    for symbol in sorted(set(symbols)):
        if read_pseudopotential(recipe.pseudopotential_path(symbol)).analytic_momenta > 1:
            return recipe.pseudopotentials[symbol]
    return ""


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
    """LDOS, DOS and, of a mesh of their own, its states, under the keys of a snapshot."""
    energies, sigma = sampling.energies, sampling.sigma
    save = folder / f"{PREFIX}.save"
    dense = read_xml(save)
    dos = sample_dos(energies, sigma, dense["eigenvalues"], dense["k_weights"])
    if _has_ultrasoft(atoms.get_chemical_symbols(), recipe):
        ldos = sample_ldos_by_postproc(folder, PREFIX, shape, energies, sigma, dos, launcher=launcher)
    else:
        operations = read_operations(save)
        if len(operations) > 1:
            operations = check_operations(operations, atoms.numbers, atoms.get_scaled_positions())
        ldos = sample_ldos(save, shape, atoms.get_volume(), energies, sigma, operations)
    arrays = in_half_precision(ldos) | {
        "energies": energies,
        "ldos_sigma": np.array(sigma),
        "dos": dos,
        "fermi_level_dense": dense["fermi_level"],
    }
    if recipe.one_mesh:  # its states stand under the keys of the self-consistent mesh
        return arrays | {"known_below": np.array(least_highest_band(dense["eigenvalues"]))}
    return arrays | {
        "kpoints_dense": np.array(mesh_of(atoms, sampling.kspacing)),
        "k_weights_dense": dense["k_weights"],
        "eigenvalues_dense": dense["eigenvalues"].astype(np.float32),
    }
