"""The set-up of the DFT calculations behind a data set, as a TOML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ase_ldos.toml_settings import build, read_toml

#: Largest number of energies at which the LDOS is sampled.
MOST_ENERGIES = 10_000


@dataclass(frozen=True)
class LDOSRecipe:
    """How the local density of states is sampled (the table ``[ldos]``).

    Attributes:
        sigma: standard deviation of the Gaussian, eV.
        minimum: lowest energy, eV.
        maximum: highest energy, eV.
        spacing: distance of the energies, eV.
        kspacing: distance of k-points of the dense mesh, 1/Å.
        bands_per_atom: number of bands over number of atoms; enough to fill the energy window.
    """

    sigma: float
    minimum: float
    maximum: float
    spacing: float
    kspacing: float
    bands_per_atom: float

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        for name in ("sigma", "spacing", "kspacing", "bands_per_atom"):
            _check_positive(f"ldos.{name}", getattr(self, name))
        if not self.maximum > self.minimum:
            raise ValueError(
                f"recipe: ldos.maximum is {self.maximum} eV; it must be above ldos.minimum, {self.minimum}"
            )
        number = (self.maximum - self.minimum) / self.spacing + 1
        if not 1.5 <= number <= MOST_ENERGIES:
            raise ValueError(
                f"recipe: ldos.spacing is {self.spacing:g} eV, which makes {number:.3g} energies between "
                f"{self.minimum:g} and {self.maximum:g} eV; 2 to {MOST_ENERGIES} are expected"
            )

    @property
    def energies(self) -> np.ndarray:
        """The energy grid, eV, ``[energy]``."""
        steps = round((self.maximum - self.minimum) / self.spacing)
        return self.minimum + self.spacing * np.arange(steps + 1)


@dataclass(frozen=True)
class DOSRecipe:
    """How the density of states is sampled from the self-consistent mesh (the table ``[dos]``).

    For meshes dense enough that the DOS no longer ripples in their pattern; it costs nothing more. The energies end
    two σ below the first state that was left out.

    Attributes:
        sigma: standard deviation of the Gaussian, eV.
        minimum: lowest energy, eV.
        spacing: distance of the energies, eV.
    """

    sigma: float
    minimum: float
    spacing: float

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        for name in ("sigma", "spacing"):
            _check_positive(f"dos.{name}", getattr(self, name))

    def energies(self, complete_below: float) -> np.ndarray:
        """The energy grid, eV, ``[energy]``, of states that are all known below an energy (eV)."""
        steps = math.floor((complete_below - 2 * self.sigma - self.minimum) / self.spacing)
        if steps < 1:
            raise ValueError(
                f"recipe: dos.minimum is {self.minimum} eV, but the bands are complete only below "
                f"{complete_below:.2f} eV; raise bands_per_atom"
            )
        return self.minimum + self.spacing * np.arange(steps + 1)


@dataclass(frozen=True)
class Recipe:
    """Set-up of Quantum ESPRESSO.

    Attributes:
        pseudopotentials: file name by chemical symbol.
        pseudo_dir: the folder of these files.
        cutoff: of the plane waves, Ry.
        electronic_temperature: of the Fermi-Dirac occupation, K.
        kspacing: distance of k-points of the self-consistent mesh, 1/Å.
        bands_per_atom: number of bands over number of atoms.
        occupations: ``"smearing"`` (Fermi-Dirac at ``electronic_temperature``), or ``"fixed"`` for insulators: whole
            bands, and the Fermi level in the middle of the gap, which must be far above kT.
        kpoint_shift: 1 along the reciprocal vectors along which the k-mesh is moved by half a step, else 0.
        convergence: of the self-consistent energy, Ry.
        grid_spacing: of the stored density and LDOS, Å.
        ldos: how the LDOS is sampled; ``None`` for energies, forces, stress and density only.
        dos: how the DOS is sampled where no LDOS is; ``None``: not at all.
        pulay: by chemical symbol c, eV: what an atom adds to V · stress because plane waves of a fixed cutoff become
            more or fewer as the cell changes; the label is σ − Σ_a c_a/V · 1, then the derivative of energies at this
            cutoff. Measured once per set-up (``ase-ldos label`` checks it and says what it should be).
        time_limit: for one structure, s; ``None``: none.
        options: more of pw.x's input, by namelist, e.g. ``{"electrons": {"mixing_beta": 0.3}}``.
    """

    pseudopotentials: Mapping[str, str]
    pseudo_dir: Path
    cutoff: float
    electronic_temperature: float
    kspacing: float
    bands_per_atom: float
    occupations: str = "smearing"
    kpoint_shift: Sequence[int] = (0, 0, 0)
    convergence: float = 1e-9
    grid_spacing: float = 0.25
    ldos: LDOSRecipe | None = None
    dos: DOSRecipe | None = None
    pulay: Mapping[str, float] = field(default_factory=dict)
    time_limit: float | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be calculated."""
        names = ("cutoff", "electronic_temperature", "kspacing", "bands_per_atom", "convergence", "grid_spacing")
        for name in names if self.time_limit is None else (*names, "time_limit"):
            _check_positive(name, getattr(self, name))
        if self.occupations not in ("smearing", "fixed"):
            raise ValueError(f"recipe: occupations is {self.occupations!r}; it must be 'smearing' or 'fixed'")
        shift = list(self.kpoint_shift)
        if len(shift) != 3 or any(number not in (0, 1) for number in shift):
            raise ValueError(f"recipe: kpoint_shift is {shift}; three numbers, each 0 or 1, are expected")
        object.__setattr__(self, "kpoint_shift", tuple(shift))
        for symbol, value in self.pulay.items():
            if symbol not in self.pseudopotentials or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"recipe: pulay.{symbol} is {value!r}; a number of eV is expected, for an element that has a "
                    "pseudopotential"
                )

    @property
    def one_mesh(self) -> bool:
        """Whether the LDOS is sampled from the self-consistent run itself, which has its k-points and bands."""
        sampling = self.ldos
        if sampling is None:
            return False
        return sampling.kspacing >= self.kspacing and sampling.bands_per_atom <= self.bands_per_atom

    def pseudopotential_path(self, symbol: str) -> Path:
        """The file of an element.

        Raises:
            ValueError: the recipe has none, or the file is not there.
        """
        if symbol not in self.pseudopotentials:
            known = ", ".join(self.pseudopotentials) or "none"
            raise ValueError(f"the recipe has no pseudopotential of {symbol}; it has {known}")
        path = Path(self.pseudo_dir) / self.pseudopotentials[symbol]
        if not path.is_file():
            raise ValueError(f"the pseudopotential of {symbol} is not at {path}; give its folder as pseudo_dir")
        return path


def load_recipe(path: str | os.PathLike[str], *, pseudo_dir: str | os.PathLike[str] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the TOML file; its keys are the attributes of :class:`Recipe`.
        pseudo_dir: folder of the pseudopotentials; default: the recipe's ``pseudo_dir``, taken from the recipe's
            own folder, which is also the default of that.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, a key is missing or unknown, or a value is impossible.
    """
    path = Path(path)
    table = read_toml(path)
    folder = Path(pseudo_dir) if pseudo_dir is not None else path.parent / table.get("pseudo_dir", "")
    return build_recipe(table | {"pseudo_dir": folder}, str(path))


def build_recipe(table: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of a table, of a file or of the record of some labels.

    Args:
        table: the attributes of :class:`Recipe`.
        source: the file or record for messages.

    Raises:
        ValueError: a key is missing or unknown, or a value is impossible.
    """
    sampling = {"ldos": LDOSRecipe, "dos": DOSRecipe}
    tables = {name: table.get(name) for name in sampling}
    built = {name: None if t is None else build(sampling[name], t, f"{source}, [{name}]") for name, t in tables.items()}
    return build(Recipe, {**table, **built}, source)


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"recipe: {name} is {value!r}; it must be a positive number")
