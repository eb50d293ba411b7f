"""A DFT set-up from measurements: cutoff, k-mesh, bands, occupations, energy window, width of the LDOS, real grid.

Each series rises until two members in a row agree within the targets; the first of the two is taken. Compared are
what a model learns: differences of free energies between cells (at rest, compressed, expanded, distorted) and a force
or a deviatoric stress, not total energies, whose errors are the same everywhere. Every calculation is kept, so that an
interrupted measurement resumes.

**k-mesh.** Its cells include two primitive cells side by side, at rest, whose energy is twice that of one: labels have
supercells, and a mesh that is good by a symmetry of the primitive cell alone fails there. Meshes with a point at the
centre and those moved by half a step are tried side by side, from coarse to fine, and the kind that converges first is
taken; the centred one where both do.

**Occupations** are fixed where every measured cell and a rattled one have a gap of ``FIXED_MARGIN`` times the least
with which a label is accepted (10 kT), for dynamics narrows a gap further; else Fermi-Dirac.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_ldos.dataset.npz import load_snapshot, save_snapshot
from ase_ldos.dataset.snapshot import Snapshot, band_gap, least_highest_band
from ase_ldos.files import PathLike, read_json, write_json
from ase_ldos.formats.pseudopotential import Pseudopotential, read_pseudopotential
from ase_ldos.geometry.fourier_resampling import resample
from ase_ldos.labelling.dft_settings import LDOSRecipe, Recipe
from ase_ldos.labelling.provenance import recipe_table
from ase_ldos.labelling.pw import FIXED_GAP, calculate, check_setup, kpoint_mesh
from ase_ldos.labelling.pw_output import sample_dos
from ase_ldos.labelling.selfcheck import (
    DerivativeCheck,
    check_derivatives,
    derivative_defect,
    energy_defect,
    known_stress,
)
from ase_ldos.simulation.first_cells import CLOSEST, RATTLE, compact_supercell
from ase_ldos.simulation.primitive_cell import nearest_distance
from ase_ldos.simulation.sampling import harmonically_rattled
from ase_ldos.units import BOLTZMANN, GIGAPASCAL

if TYPE_CHECKING:
    from ase import Atoms

#: Cutoffs that are tried, Ry.
CUTOFFS = (12.0, 16.0, 20.0, 24.0, 30.0, 36.0, 44.0, 54.0, 66.0, 80.0)
#: Distances of k-points that are tried, 1/Å.
KSPACINGS = (0.6, 0.5, 0.42, 0.36, 0.31, 0.27, 0.235, 0.205, 0.18, 0.155, 0.135, 0.12)
#: The cutoff is found on this mesh, 1/Å: how many waves are needed hardly depends on the k-point.
COARSE_KSPACING = 0.5
#: The DOS of two k-meshes is compared at this width, eV; the width of the LDOS itself is found afterwards.
COMPARED_SIGMA = 0.3
#: It is compared up to so far above the Fermi level, eV.
COMPARED_ABOVE = 1.0
#: Widths of the LDOS that are tried, eV.
SIGMAS = (0.1, 0.15, 0.2, 0.3, 0.4)
#: Spacings of the real-space grid that are tried, Å.
GRID_SPACINGS = (0.5, 0.45, 0.4, 0.36, 0.33, 0.3, 0.27, 0.25, 0.22, 0.2, 0.18)
#: The stored density of the measurements, Å: finer than any grid that is tried.
_FINE_SPACING = 0.16
#: Volumes between which energies are compared.
_VOLUME_CHANGE = 0.06
_DISPLACEMENT, _SHEAR = 0.1, 0.03
#: The other k-mesh that is tried: half a step along each reciprocal vector.
SHIFT = (1, 1, 1)
#: What a series says of whose kind another one converged first.
NOT_TAKEN = "not taken"
#: Fixed occupations are taken where gaps are so many times the least that a label with them must have.
FIXED_MARGIN = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvergenceTargets:
    """How well a set-up shall be converged.

    Attributes:
        energy: of differences between cells, meV/atom.
        force: meV/Å.
        stress: GPa, of the deviatoric stress where no atom can be moved.
        pulay: of the pressure from the derivative of energies at the cutoff taken, GPa; the labels' stress is corrected
            by one number for each element, which is right as long as it is small.
        grid_energy: of A from DFT's own density on the stored grid, meV/atom.
        dos: difference of the DOS of two k-meshes, %.
        above: how far the energy window reaches above the Fermi level, eV.
    """

    energy: float = 1.0
    force: float = 8.0
    stress: float = 0.1
    pulay: float = 0.5
    grid_energy: float = 0.5
    dos: float = 10.0
    above: float = 4.0

    def __post_init__(self) -> None:
        """Refuse what cannot be reached."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"the target {name} is {value}; it must be positive")


@dataclass(frozen=True)
class Series:
    """One convergence: what was tried, how far each was from the last one, which was taken.

    Attributes:
        name: what was varied.
        unit: of it.
        columns: names of the numbers of a row, with units; the first is what was varied.
        rows: one for each value that was tried.
        bounds: target by column.
        chosen: the value that was taken, or that of the row that was.
        met: whether the targets are met; if not, the last value was taken.
        note: a sentence about it.
        outcome: what was decided, where that is not ``chosen``.
    """

    name: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    bounds: dict[str, float]
    chosen: float
    met: bool
    note: str = ""
    outcome: str = ""

    @property
    def taken(self) -> bool:
        """Whether one of its values is in the set-up."""
        return self.outcome != NOT_TAKEN

    @property
    def headline(self) -> str:
        """What was varied and what was taken."""
        return f"{self.name}: {self.outcome or f'{self.chosen:g} {self.unit}'}"


@dataclass(frozen=True)
class SetupMeasurement:
    """A measured set-up.

    Attributes:
        recipe: with LDOS and Pulay constant.
        series: what was measured, in order.
        check: stress and forces against derivatives of energies; ``None`` where only a mesh was measured.
        electrons: by chemical symbol.
        cpu_seconds: of the calculations that were made for it, earlier runs included.
    """

    recipe: Recipe
    series: tuple[Series, ...]
    check: DerivativeCheck | None
    electrons: dict[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def as_record(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "recipe": recipe_table(self.recipe),
            "series": [asdict(series) for series in self.series],
            "check": None if self.check is None else self.check.as_record(),
            "electrons": self.electrons,
            "cpu_seconds": self.cpu_seconds,
        }


class _Calculations:
    """DFT results of a folder, calculated where they are missing."""

    def __init__(self, folder: Path, workers: int, launcher: str) -> None:
        self.folder, self.workers, self.launcher = folder, workers, launcher
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("work.*"):
            shutil.rmtree(left, ignore_errors=True)

    def get(self, cells: Mapping[str, Atoms], recipe: Recipe) -> dict[str, Snapshot]:
        """Snapshots of cells by name."""
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = {name: pool.submit(self.label, name, atoms, recipe) for name, atoms in cells.items()}
            try:
                return {name: job.result() for name, job in jobs.items()}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def label(self, name: str, atoms: Atoms, recipe: Recipe, work: Path | None = None) -> Snapshot:
        """One snapshot, from its file or anew; ``work`` is there to serve ``check_derivatives``."""
        path = self.folder / f"{_file_name(name)}-{_key(atoms, recipe)}.npz"
        if path.exists():
            return load_snapshot(path)
        with tempfile.TemporaryDirectory(prefix="work.", dir=work or self.folder) as scratch:
            snapshot = calculate(name, atoms, recipe, Path(scratch), launcher=self.launcher)
        save_snapshot(path, snapshot)
        return load_snapshot(path)


def measure_setup(
    structures: Sequence[Atoms],
    pseudopotentials: Mapping[str, str],
    pseudo_dir: PathLike,
    folder: PathLike,
    *,
    electronic_temperature: float = 300.0,
    targets: ConvergenceTargets | None = None,
    workers: int = 1,
    launcher: str = "",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[str], None] = logger.info,
) -> SetupMeasurement:
    """Find a DFT set-up with which all structures meet the targets.

    Args:
        structures: small cells of what shall be learned; one or two are enough.
        pseudopotentials: file name by chemical symbol.
        pseudo_dir: folder of these.
        folder: for the calculations; a measurement that was interrupted resumes from it.
        electronic_temperature: K.
        targets: how well.
        workers: calculations side by side.
        launcher: put before pw.x.
        options: more of pw.x's input, as in a recipe; the crystal's symmetry is used unless they say otherwise.
        progress: told of every value that was tried, in a line.

    Raises:
        ValueError: no structures, or programs or pseudopotentials that are missing or do not fit.
        CalculationError: a calculation failed.
    """
    if not structures:
        raise ValueError("there are no structures to measure a set-up on")
    targets = ConvergenceTargets() if targets is None else targets
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    chosen_options = {name: dict(values) for name, values in (options or {}).items()}
    chosen_options.setdefault("system", {}).setdefault("nosym", False)
    recipe = Recipe(
        pseudopotentials=dict(pseudopotentials),
        pseudo_dir=Path(pseudo_dir),
        cutoff=CUTOFFS[0],
        electronic_temperature=electronic_temperature,
        kspacing=COARSE_KSPACING,
        bands_per_atom=1.0,
        convergence=1e-8,
        grid_spacing=_FINE_SPACING,
        options=chosen_options,
    )
    folder = Path(folder)
    measure, pseudos = _begin(structures, recipe, folder, targets, workers, launcher, progress)
    runs, cells, clock = measure.runs, measure.cells, measure.clock
    recipe = replace(recipe, bands_per_atom=_few_bands(pseudos, structures))
    cutoff = measure.cutoff(recipe)
    with_cutoff = replace(recipe, cutoff=cutoff.chosen)
    centred, shifted = measure.meshes(with_cutoff)
    taken, shift = (centred, (0, 0, 0)) if centred.taken else (shifted, SHIFT)

    def of_mesh(value: float, shift: Sequence[int]) -> Recipe:
        return replace(with_cutoff, kspacing=value, kpoint_shift=shift)

    recipe = of_mesh(taken.chosen, shift)
    bands, window, recipe = _bands(recipe, runs, cells, targets, progress)
    clock.note()
    gap, recipe = _occupations(recipe, [of_mesh(row[0], shift) for row in taken.rows], runs, cells, progress)
    clock.note()
    found = runs.get(cells, recipe)
    dense = runs.get(cells, replace(recipe, kspacing=taken.rows[-1][0]))
    width = _width(found, dense, electronic_temperature, targets, progress)
    grid = _grid(found, pseudos, targets, progress)
    clock.note()
    sigma = width.chosen
    spacing = sigma / 2
    low, high = window
    first = math.floor((low - 5 * sigma) / spacing) * spacing
    last = first + math.floor((high - 2 * sigma - first) / spacing) * spacing
    recipe = replace(
        recipe,
        grid_spacing=grid.chosen,
        ldos=LDOSRecipe(
            sigma=sigma,
            minimum=round(first, 6),
            maximum=round(last, 6),
            spacing=spacing,
            kspacing=recipe.kspacing,
            bands_per_atom=recipe.bands_per_atom,
        ),
    )
    progress("comparing stress and forces with derivatives of energies")
    checked = check_derivatives(
        "0-rest", structures[0], replace(recipe, grid_spacing=_FINE_SPACING), runs.label, folder
    )
    clock.note()
    if abs(checked.pressure) > 0.02:
        recipe = replace(recipe, pulay={symbol: round(checked.pulay, 4) for symbol in symbols})
        progress(f"  Pulay stress {checked.pressure:+.2f} GPa at {recipe.cutoff:g} Ry: {checked.pulay:.4f} eV per atom")
    series = (cutoff, centred, shifted, gap, bands, width, grid)
    return SetupMeasurement(recipe, series, checked, _electrons(pseudos), clock.total)


def measure_mesh(
    structures: Sequence[Atoms],
    recipe: Recipe,
    folder: PathLike,
    *,
    targets: ConvergenceTargets | None = None,
    workers: int = 1,
    launcher: str = "",
    progress: Callable[[str], None] = logger.info,
) -> SetupMeasurement:
    """Find the k-mesh with which all structures meet the targets in a set-up that is given but for it.

    Args:
        structures: small cells of what shall be learned; one or two are enough.
        recipe: the set-up, with LDOS; its own spacing of k-points is not looked at.
        folder: for the calculations; a measurement that was interrupted resumes from it.
        targets: how well; only energies, forces, stress and DOS of meshes are.
        workers: calculations side by side.
        launcher: put before pw.x.
        progress: told of every value that was tried, in a line.

    Returns:
        The set-up with this mesh, for the LDOS too, and both series.

    Raises:
        ValueError: no structures, a set-up without LDOS, or programs or pseudopotentials that are missing.
        CalculationError: a calculation failed.
    """
    if not structures or recipe.ldos is None:
        raise ValueError("a mesh is measured on one structure or more, for a set-up with [ldos]")
    targets = ConvergenceTargets() if targets is None else targets
    measure, pseudos = _begin(structures, recipe, Path(folder), targets, workers, launcher, progress)
    centred, shifted = measure.meshes(replace(recipe, ldos=None, bands_per_atom=_few_bands(pseudos, structures)))
    spacing, shift = (centred.chosen, (0, 0, 0)) if centred.taken else (shifted.chosen, SHIFT)
    found = replace(recipe, kspacing=spacing, kpoint_shift=shift, ldos=replace(recipe.ldos, kspacing=spacing))
    return SetupMeasurement(found, (centred, shifted), None, _electrons(pseudos), measure.clock.total)


def _begin(
    structures: Sequence[Atoms],
    recipe: Recipe,
    folder: Path,
    targets: ConvergenceTargets,
    workers: int,
    launcher: str,
    progress: Callable[[str], None],
) -> tuple[_Measure, dict[str, Pseudopotential]]:
    """What the series of a measurement share, and the pseudopotentials, after a look at what can be wrong."""
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    check_setup(symbols, recipe, launcher=launcher)
    pseudos = {symbol: read_pseudopotential(recipe.pseudopotential_path(symbol)) for symbol in symbols}
    cells = {f"{place}-{kind}": cell for place, atoms in enumerate(structures) for kind, cell in _cells(atoms).items()}
    clock, runs = _Clock(folder / "cpu_seconds.json"), _Calculations(folder, workers, launcher)
    return _Measure(runs, cells, targets, progress, clock), pseudos


def _electrons(pseudos: Mapping[str, Pseudopotential]) -> dict[str, float]:
    return {symbol: float(pseudo.valence) for symbol, pseudo in pseudos.items()}


def _few_bands(pseudos: Mapping[str, Pseudopotential], structures: Sequence[Atoms]) -> float:
    """Bands per atom that are enough for energies: those of the electrons, and some that are empty."""
    electrons = _electrons(pseudos)
    most = max(sum(electrons[s] for s in atoms.symbols) / len(atoms) for atoms in structures)
    return max(0.75 * most, 0.5 * most + 1.5)


class _Clock:
    """CPU seconds of the calculations, over all runs of a measurement."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = float(read_json(path)["cpu_seconds"]) if path.exists() else 0.0
        self.start = _children_cpu()

    @property
    def total(self) -> float:
        return self.before + _children_cpu() - self.start

    def note(self) -> None:
        write_json(self.path, {"cpu_seconds": self.total})


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _cells(atoms: Atoms) -> dict[str, Atoms]:
    """The cells between which energies are compared."""
    rest = atoms.copy()
    rest.info = {}
    cells = {"rest": rest}
    for name, change in (("compressed", -_VOLUME_CHANGE), ("expanded", _VOLUME_CHANGE)):
        cells[name] = rest.copy()
        cells[name].set_cell(rest.cell.array * (1 + change) ** (1 / 3), scale_atoms=True)
    distorted = rest.copy()
    if len(atoms) > 1:
        # towards a neighbour: an axis of symmetry stays
        vectors = rest.get_distances(0, list(range(1, len(rest))), mic=True, vector=True)
        nearest = vectors[np.linalg.norm(vectors, axis=1).argmin()]
        distorted.positions[0] += _DISPLACEMENT * nearest / np.linalg.norm(nearest)
    else:
        distorted.set_cell(rest.cell.array @ np.diag([1 - _SHEAR / 2, 1 - _SHEAR / 2, 1 + _SHEAR]), scale_atoms=True)
    cells["distorted"] = distorted
    return cells


def _observables(found: Mapping[str, Snapshot]) -> tuple[np.ndarray, float, float]:
    """Energies against the cell at rest, eV/atom; largest force, eV/Å, and deviatoric stress, GPa, if distorted."""
    energies, force, stress = [], 0.0, 0.0
    for name, snapshot in found.items():
        rest = found[name.split("-")[0] + "-rest"]
        energies.append(float(snapshot.free_energy or 0) / len(snapshot) - float(rest.free_energy or 0) / len(rest))
        if name.endswith("distorted"):
            if len(snapshot) > 1:
                force = max(force, float(np.linalg.norm(np.asarray(snapshot.forces)[0])))
            elif snapshot.stress is not None:
                diagonal = np.diag(snapshot.stress) * GIGAPASCAL
                stress = max(stress, abs(float(diagonal[2] - diagonal[:2].mean())))
    return np.array(energies), force, stress


@dataclass(frozen=True, eq=False)
class _Measure:
    """What a series needs."""

    runs: _Calculations
    cells: Mapping[str, Atoms]
    targets: ConvergenceTargets
    progress: Callable[[str], None]
    clock: _Clock

    def cutoff(self, recipe: Recipe) -> Series:
        """Try cutoffs until two in a row agree and the Pulay stress of the first of them, which is taken, is small.

        Args:
            recipe: the set-up but for its cutoff.
        """
        known = list[_Observed]()
        chosen, met = CUTOFFS[-1], False
        for value in CUTOFFS:
            agrees = self.agrees(known, value, replace(recipe, cutoff=value), f"cutoff {value:g} Ry", with_dos=False)
            if agrees and known[-2].pulay <= self.targets.pulay:
                chosen, met = known[-2].value, True
                break
        told = "" if met else ", the last that was tried; the targets are not met"
        self.progress(f"  cutoff: {chosen:g} Ry{told}")
        return self.series("cutoff", "Ry", known, chosen, met)

    def meshes(self, recipe: Recipe) -> list[Series]:
        """Try centred and shifted meshes side by side until two in a row of one kind agree; the first is taken.

        Two primitive cells side by side are among the cells.

        Args:
            recipe: the set-up but for its mesh.

        Returns:
            The series of centred and of shifted meshes; ``outcome`` is empty in that which is taken.
        """
        at_rest = {name: cell for name, cell in self.cells.items() if name.endswith("-rest")}
        doubled = {name.replace("rest", "doubled"): compact_supercell(cell, 2) for name, cell in at_rest.items()}
        measure = replace(self, cells={**self.cells, **doubled})
        values = _distinct_meshes(KSPACINGS, measure.cells)
        names = {(0, 0, 0): "k-spacing", SHIFT: "k-spacing, mesh shifted by half a step"}
        known: dict[tuple[int, int, int], list[_Observed]] = {shift: [] for shift in names}
        taken, chosen, met = (0, 0, 0), values[-1], False
        for value, (shift, items) in product(values, known.items()):
            what = f"{names[shift]} {value:g} 1/Å"
            of_mesh = replace(recipe, kspacing=value, kpoint_shift=shift)
            if measure.agrees(items, value, of_mesh, what, with_dos=True):
                taken, chosen, met = shift, items[-2].value, True
                break
        told = "" if met else ", the last that was tried; the targets are not met"
        self.progress(f"  {names[taken]}: {chosen:g} 1/Å{told}")
        found = []
        for shift, items in known.items():
            outcome = "" if shift == taken else NOT_TAKEN
            own = chosen if shift == taken else items[-1].value
            found.append(measure.series(names[shift], "1/Å", items, own, met or shift != taken, outcome, with_dos=True))
        return found

    def agrees(self, known: list[_Observed], value: float, recipe: Recipe, what: str, *, with_dos: bool) -> bool:
        """Observe a value and add it to those known; whether it agrees with the last of them within the targets."""
        known.append(_observe(value, self.runs.get(self.cells, recipe)))
        self.clock.note()
        if len(known) == 1:
            self.progress(what)
            return False
        energy, force, stress, dos = differences = _differences(known[-2], known[-1])
        parts = [f"differences of A by {energy:.2f} meV/atom", f"force {force:.1f} meV/Å"]
        parts += [f"stress {stress:.2f} GPa"] * bool(stress)
        parts.append(
            f"DOS {dos:.1f} %" if with_dos else f"Pulay stress of {known[-2].value:g} {known[-2].pulay:.2f} GPa"
        )
        self.progress(f"{what}: against {known[-2].value:g} {', '.join(parts)}")
        targets = self.targets
        bounds = (targets.energy, targets.force, targets.stress, targets.dos if with_dos else math.inf)
        return all(found <= bound for found, bound in zip(differences, bounds, strict=True))

    def series(
        self,
        name: str,
        unit: str,
        known: Sequence[_Observed],
        chosen: float,
        met: bool,
        outcome: str = "",
        *,
        with_dos: bool = False,
    ) -> Series:
        """What was observed as a table of differences to the last one."""
        targets = self.targets
        bounds = {
            "difference of A (meV/atom)": targets.energy,
            "force (meV/Å)": targets.force,
            "stress (GPa)": targets.stress,
        }
        bounds |= (
            {f"DOS, σ {COMPARED_SIGMA:g} eV (%)": targets.dos} if with_dos else {"Pulay stress (GPa)": targets.pulay}
        )
        columns = (f"{name} ({unit})", "A (meV/atom)", *bounds)
        rows = []
        for item in known:
            *differences, dos = _differences(item, known[-1])
            rows.append((item.value, item.energy, *differences, dos if with_dos else item.pulay))
        note = f"differences to {known[-1].value:g} {unit}" + ("" if with_dos else ", but for the Pulay stress")
        return Series(name, unit, columns, tuple(rows), bounds, chosen, met, note, outcome)


@dataclass(frozen=True, eq=False)
class _Observed:
    """What is compared: A of the first cell, meV/atom; differences, eV/atom; force, eV/Å; stresses, GPa; the cells."""

    value: float
    energy: float
    differences: np.ndarray
    force: float
    stress: float
    pulay: float
    found: Mapping[str, Snapshot]


def _observe(value: float, found: Mapping[str, Snapshot]) -> _Observed:
    first = next(iter(found.values()))
    return _Observed(
        value, 1000 * float(first.free_energy or 0) / len(first), *_observables(found), _pulay_stress(found), found
    )


def _pulay_stress(found: Mapping[str, Snapshot]) -> float:
    """Mean pressure between the compressed and the expanded cell, minus that of energies, GPa; the largest of all."""
    largest = 0.0
    for place in sorted({name.split("-")[0] for name in found}):
        before, middle, after = (found[f"{place}-{kind}"] for kind in ("compressed", "rest", "expanded"))
        # the volumes are equally spaced
        step = float(abs(np.linalg.det(after.cell)) - abs(np.linalg.det(before.cell))) / 2
        # tr(σ)/3 is dA/dV
        slopes = {
            change: float(np.trace(stress)) / 3
            for change, snapshot in ((-step, before), (0.0, middle), (step, after))
            if (stress := known_stress(snapshot)) is not None
        }
        if len(slopes) == 3:
            largest = max(largest, GIGAPASCAL * abs(derivative_defect(after, before, slopes, step)))
    return largest


def _differences(item: _Observed, last: _Observed) -> tuple[float, float, float, float]:
    """Of energies, meV/atom, force, meV/Å, stress, GPa, and DOS, %."""
    energy = 1000 * float(np.abs(item.differences - last.differences).max())
    ripple = max(_ripple(item.found[name], last.found[name], COMPARED_SIGMA) for name in item.found)
    return energy, 1000 * abs(item.force - last.force), abs(item.stress - last.stress), ripple


def _ripple(snapshot: Snapshot, better: Snapshot, sigma: float) -> float:
    """Relative difference of the DOS of two k-meshes up to an eV above the Fermi level, %: what energies depend on."""
    energies = _fine_energies(snapshot, sigma)
    top = min(_fine_energies(better, sigma)[-1], float(better.fermi_level or 0.0) + COMPARED_ABOVE)
    energies = energies[energies <= top]
    dos, reference = (_dos(item, energies, sigma) for item in (snapshot, better))
    return 100 * float(np.linalg.norm(dos - reference) / np.linalg.norm(reference))


def _distinct_meshes(values: Sequence[float], cells: Mapping[str, Atoms]) -> list[float]:
    """Spacings that differ in the mesh of some cell."""
    kept: dict[tuple[tuple[int, int, int], ...], float] = {}
    for value in values:
        kept.setdefault(tuple(kpoint_mesh(cell.cell.array, value) for cell in cells.values()), value)
    return list(kept.values())


def _bands(
    recipe: Recipe,
    runs: _Calculations,
    cells: Mapping[str, Atoms],
    targets: ConvergenceTargets,
    progress: Callable[[str], None],
) -> tuple[Series, tuple[float, float], Recipe]:
    """Bands per atom that fill the window up to some eV above the Fermi level in every cell."""
    rows: list[tuple[float, ...]] = []
    kT = BOLTZMANN * recipe.electronic_temperature
    margin = 2 * SIGMAS[-2]
    while True:
        found = runs.get(cells, recipe)
        lowest = min(float(np.min(s.eigenvalues)) for s in found.values() if s.eigenvalues is not None)
        known = min(least_highest_band(s.eigenvalues) for s in found.values() if s.eigenvalues is not None)
        level = max(float(s.fermi_level or 0.0) for s in found.values())
        wanted = level + max(targets.above, 20 * kT)
        rows.append((recipe.bands_per_atom, lowest, level, known, wanted))
        progress(f"{recipe.bands_per_atom:g} bands per atom are complete below {known:.2f} eV (wanted {wanted:.2f})")
        if known >= wanted + margin or len(rows) > 8:
            break
        recipe = replace(recipe, bands_per_atom=recipe.bands_per_atom + 1)
    columns = ("bands per atom", "lowest state (eV)", "highest mu (eV)", "complete below (eV)", "window wanted to (eV)")
    met = known >= wanted
    series = Series("bands", "per atom", columns, tuple(rows), {}, recipe.bands_per_atom, met)
    return series, (lowest, min(known, wanted + margin)), recipe


def _occupations(
    recipe: Recipe,
    meshes: Sequence[Recipe],
    runs: _Calculations,
    cells: Mapping[str, Atoms],
    progress: Callable[[str], None],
) -> tuple[Series, Recipe]:
    """Fixed occupations where the gap of every cell leaves them right, rattled ones among them; else a temperature.

    Args:
        recipe: the set-up so far.
        meshes: set-ups whose gaps go into the table; their calculations are there.
        runs: for the rattled cells.
        cells: that were measured.
        progress: told of the outcome.
    """
    needed = FIXED_MARGIN * FIXED_GAP * BOLTZMANN * recipe.electronic_temperature
    rows = []
    for mesh in meshes:
        gaps = {name: _gap(snapshot) for name, snapshot in runs.get(cells, mesh).items()}
        rows.append(
            (
                mesh.kspacing,
                min(gap for name, gap in gaps.items() if name.endswith("-rest")),
                min(gaps.values()),
                needed,
            )
        )
    smallest = min(map(_gap, runs.get(cells, recipe).values()))
    if smallest >= needed:
        at_rest = {name: cell for name, cell in cells.items() if name.endswith("-rest")}
        rattles = {name.replace("-rest", "-rattled"): _rattled(cell) for name, cell in at_rest.items()}
        smallest = min(map(_gap, runs.get(rattles, recipe).values()))
        what = "a rattled cell"
    else:
        what = "the measured cells"
    kind = "fixed" if smallest >= needed else "smearing"
    note = f"the smallest gap of {what} is {smallest:.2f} eV; occupations are fixed from {needed:.2f} eV on"
    progress(f"occupations: {kind}; {note}")
    columns = ("k-spacing (1/Å)", "gap at rest (eV)", "smallest gap (eV)", "needed for fixed occupations (eV)")
    series = Series("occupations", "", columns, tuple(rows), {}, recipe.kspacing, True, note, kind)
    return series, replace(recipe, occupations=kind)


def _gap(snapshot: Snapshot) -> float:
    assert snapshot.eigenvalues is not None
    assert snapshot.n_electrons is not None
    return band_gap(snapshot.eigenvalues, snapshot.n_electrons)


def _rattled(rest: Atoms) -> Atoms:
    """The worst of what first cells will be, at least four atoms."""
    cell = rest if len(rest) >= 4 else compact_supercell(rest, math.ceil(4 / len(rest)))
    distance = nearest_distance(rest)
    rng = np.random.default_rng(0)
    return harmonically_rattled(cell, RATTLE[1] * distance, rng, minimum_distance=CLOSEST * distance)


def _width(
    found: Mapping[str, Snapshot],
    dense: Mapping[str, Snapshot],
    temperature: float,
    targets: ConvergenceTargets,
    progress: Callable[[str], None],
) -> Series:
    """σ: the smallest at which two k-meshes give the same DOS."""
    columns = ("σ (eV)", "DOS of two k-meshes (%)", "shift of A (meV/atom)", "its spread over cells (meV/atom)")
    rows = []
    for sigma in SIGMAS:
        ripple, shifts = 0.0, []
        for name, snapshot in found.items():
            energies = _fine_energies(snapshot, sigma)
            ripple = max(ripple, _ripple(snapshot, dense[name], sigma))
            dos = _dos(snapshot, energies, sigma)
            shifts.append(1000 * _broadening_shift(snapshot, energies, dos, temperature) / len(snapshot))
        rows.append((sigma, ripple, float(np.mean(shifts)), float(np.ptp(shifts) / 2)))
    good = [row for row in rows if row[1] <= targets.dos]
    chosen = good[0] if good else rows[-1]
    progress(
        f"σ {chosen[0]:g} eV: the DOS of two k-meshes differs by {chosen[1]:.1f} %, it shifts A by {chosen[2]:+.1f} "
        f"± {chosen[3]:.1f} meV/atom"
    )
    note = "the shift is learned with the energies; its spread over cells is what energies and LDOS disagree in"
    return Series("σ", "eV", columns, tuple(rows), {columns[1]: targets.dos}, chosen[0], bool(good), note)


def _fine_energies(snapshot: Snapshot, sigma: float) -> np.ndarray:
    assert snapshot.eigenvalues is not None
    top = least_highest_band(snapshot.eigenvalues) - 2 * sigma
    low = float(snapshot.eigenvalues.min()) - 6 * sigma
    return low + sigma / 4 * np.arange(math.floor((top - low) / (sigma / 4)) + 1)


def _dos(snapshot: Snapshot, energies: np.ndarray, sigma: float) -> np.ndarray:
    assert snapshot.eigenvalues is not None
    assert snapshot.k_weights is not None
    return sample_dos(energies, sigma, snapshot.eigenvalues, snapshot.k_weights)


def _broadening_shift(snapshot: Snapshot, energies: np.ndarray, dos: np.ndarray, temperature: float) -> float:
    """Band energy and −TS of the broadened DOS minus those of the states, eV."""
    import torch

    from ase_ldos.physics.occupation import fermi_level, occupation_weights

    nodes, values, kT = torch.as_tensor(energies), torch.as_tensor(dos), BOLTZMANN * temperature
    weights = occupation_weights(nodes, fermi_level(values, nodes, float(snapshot.n_electrons or 0), kT), kT)
    broadened = float(weights.band @ values) + float(weights.entropy @ values)
    return broadened - float(snapshot.band_energy or 0) - float(snapshot.smearing_TS or 0)


def _grid(
    found: Mapping[str, Snapshot],
    pseudos: dict[str, Pseudopotential],
    targets: ConvergenceTargets,
    progress: Callable[[str], None],
) -> Series:
    """The coarsest grid on which DFT's own density gives DFT's free energy, and every finer one does."""
    from ase_ldos.geometry.grid import grid_shape

    columns = ("grid spacing (Å)", "points per atom", "defect of A (meV/atom)", "its spread over cells (meV/atom)")
    by_shapes: dict[tuple[tuple[int, int, int], ...], tuple[float, ...]] = {}
    for spacing in GRID_SPACINGS:
        shapes = tuple(grid_shape(s.cell, spacing) for s in found.values())
        if shapes in by_shapes:
            # other cells shall not come out coarser: of spacings with these shapes the finest counts
            by_shapes[shapes] = (spacing, *by_shapes[shapes][1:])
            continue
        defects, points = [], []
        for snapshot, shape in zip(found.values(), shapes, strict=True):
            assert snapshot.density is not None
            coarse = replace(snapshot, density=resample(snapshot.density, shape))
            defect = energy_defect(coarse, {s: pseudos[s] for s in set(coarse.to_atoms().symbols)})
            defects.append(math.nan if defect is None else 1000 * defect / len(snapshot))
            points.append(math.prod(shape) / len(snapshot))
        by_shapes[shapes] = (spacing, max(points), float(np.abs(defects).max()), float(np.ptp(defects) / 2))
    rows = list(by_shapes.values())
    chosen, met = rows[-1], False
    for row in reversed(rows):
        if not row[2] <= targets.grid_energy:
            break
        chosen, met = row, True
    progress(f"grid {chosen[0]:g} Å: A from DFT's density is off by {chosen[2]:.2f} meV/atom")
    return Series("grid", "Å", columns, tuple(rows), {columns[2]: targets.grid_energy}, chosen[0], met)


def _key(atoms: Atoms, recipe: Recipe) -> str:
    digest = hashlib.sha256(json.dumps(recipe_table(recipe), sort_keys=True).encode())
    for array in (atoms.numbers, atoms.positions.round(8) + 0.0, atoms.cell.array.round(8) + 0.0):
        digest.update(np.ascontiguousarray(array).tobytes())
    for key in ("kpoints", "fft_grid"):
        digest.update(repr(None if key not in atoms.info else np.asarray(atoms.info[key]).tolist()).encode())
    return digest.hexdigest()[:12]


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
