"""Checks that labels make of themselves: energies from their own parts, stress and forces as derivatives of energies.

Pulay stress: at a fixed cutoff a larger cell has more plane waves, so energies fall a little with every expansion,
which the stress of a program, the derivative at a fixed number of waves, does not contain (Froyen and Cohen, J. Phys. C
19, 2623 (1986)). It is a pressure, nearly c/V with one constant c per atom.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.formats.pseudopotential import Pseudopotential
from ase_ldos.labelling.dft_settings import Recipe
from ase_ldos.units import GIGAPASCAL

if TYPE_CHECKING:
    from ase import Atoms

#: A label whose energy its own parts miss by more than this, eV/atom, is refused.
ENERGY_BOUND = 5e-3
#: Largest difference of a stress from the derivative of energies, GPa, and of a force, eV/Å.
STRESS_BOUND, FORCE_BOUND = 0.1, 5e-3
#: Strains to both sides, and displacements in Å, over which derivatives are integrated.
STRAIN, DISPLACEMENT = 0.01, 0.02
#: An atom is moved so far off its place, Å, before its force is checked: in a perfect crystal it would be zero.
_OFF_PLACE = 0.05
#: The check takes no denser k-mesh than this, 1/Å: derivatives must be right on any.
_KSPACING = 0.3
#: What a structure itself says of its calculation (see ``pw.input_text``).
_SHARED_KEYS = ("kpoints", "fft_grid", "electronic_temperature")
_SHAPES = {"pressure": np.eye(3), "deviatoric": np.diag([-0.5, -0.5, 1.0])}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DerivativeCheck:
    """How far a set-up's stress and forces are from derivatives of its energies, for one structure.

    Attributes:
        structure: its name.
        pressure: of tr(σ)/3, stress minus energies, GPa.
        deviatoric: of σ_zz − (σ_xx + σ_yy)/2, GPa; ``None`` where only the pressure is labelled.
        force: of one atom along one direction, eV/Å.
        pulay: what the sum of the atoms' Pulay constants (see :class:`Recipe`) should be, eV per atom.
    """

    structure: str
    pressure: float
    deviatoric: float | None
    force: float
    pulay: float

    def as_record(self) -> dict[str, float | str | None]:
        """For ``provenance.json``, with units in the keys."""
        names = {"pressure": "pressure_GPa", "deviatoric": "deviatoric_GPa", "force": "force_eV_per_A"}
        return {names.get(key, key): value for key, value in asdict(self).items()}

    def refuse_if_wrong(self) -> None:
        """Raise the reason if a difference is beyond its bound.

        Raises:
            ValueError: in one sentence, with what to do.
        """
        if self.deviatoric is not None and abs(self.deviatoric) > STRESS_BOUND:
            raise ValueError(
                f"self-check with {self.structure}: σ_zz − (σ_xx + σ_yy)/2 differs by {self.deviatoric:+.2f} GPa from "
                f"the derivative of energies (bound {STRESS_BOUND} GPa); the stress of this program with these "
                "pseudopotentials is wrong, so take others (ase-ldos pseudo) or a newer pw.x"
            )
        if abs(self.pressure) > STRESS_BOUND:
            raise ValueError(
                f"self-check with {self.structure}: tr(stress)/3 differs by {self.pressure:+.2f} GPa from the "
                f"derivative of energies at this cutoff (bound {STRESS_BOUND} GPa); raise the cutoff, or set constants "
                f"in the recipe's table [pulay] that make {self.pulay:.4f} eV per atom"
            )
        if abs(self.force) > FORCE_BOUND:
            raise ValueError(
                f"self-check with {self.structure}: a force differs by {self.force:+.4f} eV/Å from the derivative of "
                f"energies (bound {FORCE_BOUND} eV/Å); tighten convergence"
            )


def energy_defect(snapshot: Snapshot, pseudopotentials: dict[str, Pseudopotential]) -> float | None:
    """Free energy from a label's own parts minus the one that the program told, eV.

    A = E_b − TS − E_H[n] + E_xc[n + n_core] − ∫ n v_xc + E_ewald, with the sums over eigenvalues E_b and −TS of the
    program and everything else from the stored density, its grid and the ions: so the density, the grid, the valence
    and the functional are those of the energy.

    Args:
        snapshot: with density and the parts of its energy.
        pseudopotentials: by chemical symbol.

    Returns:
        ``None`` where the formula does not hold (PAW) or our functionals do not include theirs.
    """
    if snapshot.band_energy is None or snapshot.smearing_TS is None:
        return None
    return _defect_with(snapshot, pseudopotentials, snapshot.band_energy, snapshot.smearing_TS)


def ldos_energy_defect(snapshot: Snapshot, pseudopotentials: dict[str, Pseudopotential]) -> float | None:
    """As :func:`energy_defect`, with μ, E_b and −TS of the integrated LDOS, eV.

    It is about :func:`smearing_shift`, nearly the same for similar structures.

    Args:
        snapshot: with LDOS, density and the parts of its energy.
        pseudopotentials: by chemical symbol.

    Returns:
        ``None`` where there is no LDOS, or the formula does not hold.
    """
    import torch

    from ase_ldos.physics.occupation import fermi_level, occupation_weights
    from ase_ldos.units import BOLTZMANN

    parts = (snapshot.energies, snapshot.ldos, snapshot.n_electrons, snapshot.electronic_temperature)
    if any(part is None for part in parts):
        return None
    assert snapshot.electronic_temperature is not None
    assert snapshot.n_electrons is not None
    values = snapshot.ldos_values()
    dos = torch.as_tensor(values.mean(axis=(0, 1, 2), dtype=np.float64) * abs(np.linalg.det(snapshot.cell)))
    energies, kT = torch.as_tensor(snapshot.energies).double(), snapshot.electronic_temperature * BOLTZMANN
    weights = occupation_weights(energies, fermi_level(dos, energies, snapshot.n_electrons, kT), kT)
    return _defect_with(snapshot, pseudopotentials, float(weights.band @ dos), float(weights.entropy @ dos))


def smearing_shift(snapshot: Snapshot) -> float:
    """−D(μ) σ²/2, eV: by how much Gaussians of width σ in place of states change E_b, to second order in σ.

    Raises:
        ValueError: the snapshot has no DOS, width or Fermi level.
    """
    parts = (snapshot.energies, snapshot.dos, snapshot.fermi_level, snapshot.ldos_sigma)
    if any(part is None for part in parts):
        raise ValueError(f"{snapshot.name} has no DOS with its width, or no Fermi level")
    assert snapshot.fermi_level is not None
    assert snapshot.ldos_sigma is not None
    density = float(np.interp(snapshot.fermi_level, np.asarray(snapshot.energies), np.asarray(snapshot.dos)))
    return -density * snapshot.ldos_sigma**2 / 2


def _defect_with(
    snapshot: Snapshot, pseudopotentials: dict[str, Pseudopotential], band: float, entropy_term: float
) -> float | None:
    """Free energy from E_b, −TS and the stored density minus the labelled one, eV."""
    import torch

    from ase_ldos.geometry.grid import Grid
    from ase_ldos.physics.core_charge import core_density
    from ase_ldos.physics.density_functionals import density_energies
    from ase_ldos.physics.ewald import ewald_energy
    from ase_ldos.physics.exchange_correlation import FUNCTIONALS
    from ase_ldos.physics.free_energy import Energies

    functionals = {pseudo.functional for pseudo in pseudopotentials.values()}
    if snapshot.density is None or snapshot.free_energy is None or snapshot.shape is None:
        return None
    if any(pseudo.kind == "PAW" for pseudo in pseudopotentials.values()):
        return None
    if len(functionals) != 1 or not functionals <= set(FUNCTIONALS):
        return None
    structure = snapshot.structure
    grid = Grid(structure.cell, snapshot.shape)
    symbols = snapshot.to_atoms().get_chemical_symbols()
    cores = {symbol: pseudo.core for symbol, pseudo in pseudopotentials.items() if pseudo.core is not None}
    density = torch.as_tensor(snapshot.density).double()
    terms = density_energies(density, grid, functionals.pop(), core_density(structure, grid, cores))
    charges = torch.tensor([pseudopotentials[symbol].valence for symbol in symbols], dtype=torch.float64)
    ions = ewald_energy(structure, charges)
    band_term, entropy = (density.new_tensor(part) for part in (band, entropy_term))
    energies = Energies(band_term, entropy, terms.hartree, terms.xc, terms.xc_potential, ions)
    return float(energies.free_energy) - snapshot.free_energy


def check_derivatives(
    name: str,
    atoms: Atoms,
    recipe: Recipe,
    calculate: Callable[[str, Atoms, Recipe, Path], Snapshot],
    folder: Path,
) -> DerivativeCheck:
    """Compare stress and forces of a set-up with derivatives of its energies.

    Over a small change from −h to h, A(h) − A(−h) = ∫ A′ by Simpson's rule with the labelled A′ at −h, 0 and h: exact
    up to order h⁵, so h may be large enough for the waves that come and go with the cell to average out. All cells
    have one k-mesh, no denser than 0.3 1/Å, and one grid. Eight calculations, some two labels' worth.

    Args:
        name: of the structure.
        atoms: the structure.
        recipe: the set-up; its LDOS is left out.
        calculate: labels a structure within an empty folder.
        folder: for the calculations.

    Raises:
        CalculationError: a calculation failed.
    """
    from ase_ldos.labelling.pw import mesh_of

    setup = replace(recipe, ldos=None, dos=None, kspacing=max(recipe.kspacing, _KSPACING))
    shared = {"kpoints": np.array(mesh_of(_bare(atoms, {}), setup.kspacing))}

    def label(changed: Atoms) -> Snapshot:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            return calculate(f"{name} (check)", _bare(changed, shared), setup, Path(work))

    def strained(shape: np.ndarray, step: float) -> Atoms:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + step * shape), scale_atoms=True)
        return copy

    # the largest cell first: its grid holds the waves of all others
    results = {("pressure", STRAIN): label(strained(np.eye(3), STRAIN))}
    shared["fft_grid"] = np.asarray(results["pressure", STRAIN].fft_grid)
    base = label(atoms)
    for kind, shape in _SHAPES.items():
        for step in (STRAIN, -STRAIN):
            if (kind, step) not in results:
                results[kind, step] = label(strained(shape, step))
    found = {}
    for kind, shape in _SHAPES.items():
        only_pressure = base.stress is None
        if only_pressure and kind == "deviatoric":
            continue
        slopes = {step: _stress_work(snapshot, shape, step) for step, snapshot in ((0.0, base),)}
        slopes |= {step: _stress_work(results[kind, step], shape, step) for step in (STRAIN, -STRAIN)}
        defect = derivative_defect(results[kind, STRAIN], results[kind, -STRAIN], slopes, STRAIN)
        found[kind] = defect / float(atoms.get_volume())
    pressure = found["pressure"] / 3
    given = sum(recipe.pulay.get(symbol, 0.0) for symbol in atoms.symbols) / len(atoms)
    return DerivativeCheck(
        name,
        pressure=pressure * GIGAPASCAL,
        deviatoric=found["deviatoric"] * GIGAPASCAL if "deviatoric" in found else None,
        force=_force_defect(atoms, label),
        pulay=given + pressure * float(atoms.get_volume()) / len(atoms),
    )


def _force_defect(atoms: Atoms, label: Callable[[Atoms], Snapshot]) -> float:
    """Force minus derivative of energies of the first atom, a little off its place, eV/Å."""
    direction = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    ends, slopes = {}, {}
    for step in (DISPLACEMENT, 0.0, -DISPLACEMENT):
        moved = atoms.copy()
        moved.positions[0] += (_OFF_PLACE + step) * direction
        ends[step] = label(moved)
        slopes[step] = -float(np.asarray(ends[step].forces)[0] @ direction)
    return -derivative_defect(ends[DISPLACEMENT], ends[-DISPLACEMENT], slopes, DISPLACEMENT)


def _stress_work(snapshot: Snapshot, shape: np.ndarray, step: float) -> float:
    """dA/de of a cell (1 + e S) cell₀ by its labelled stress: V tr(σ S (1 + e S)⁻¹), eV."""
    stress = known_stress(snapshot)
    if stress is None:
        return 0.0
    volume = abs(np.linalg.det(snapshot.cell))
    return float(volume * np.trace(stress @ shape @ np.linalg.inv(np.eye(3) + step * shape)))


def known_stress(snapshot: Snapshot) -> np.ndarray | None:
    """The labelled stress, or that of the pressure alone where no more of it is right, eV/Å³; None without either."""
    if snapshot.stress is None and snapshot.pressure is not None:
        return -np.eye(3) * snapshot.pressure
    return snapshot.stress


def derivative_defect(after: Snapshot, before: Snapshot, slopes: dict[float, float], step: float) -> float:
    """Mean of the labelled derivative over −h … h by Simpson's rule, minus that of energies.

    Args:
        after: at h.
        before: at −h.
        slopes: the labelled derivative of A at −h, 0 and h.
        step: h.
    """
    mean = (slopes[step] + 4 * slopes[0.0] + slopes[-step]) / 6
    return mean - (float(after.free_energy or 0.0) - float(before.free_energy or 0.0)) / (2 * step)


def _bare(atoms: Atoms, info: dict[str, np.ndarray]) -> Atoms:
    copy = atoms.copy()
    copy.info = {key: value for key, value in atoms.info.items() if key in _SHARED_KEYS} | info
    return copy
