"""The set-up of the DFT calculations behind a data set, as a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np


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

    @property
    def energies(self) -> np.ndarray:
        """The energy grid, eV, ``[energy]``."""
        steps = round((self.maximum - self.minimum) / self.spacing)
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
        convergence: of the self-consistent energy, Ry.
        grid_spacing: of the stored density and LDOS, Å.
        ldos: how the LDOS is sampled; ``None`` for energies, forces, stress and density only.
        options: more of pw.x's input, by namelist, e.g. ``{"electrons": {"mixing_beta": 0.3}}``.
    """

    pseudopotentials: Mapping[str, str]
    pseudo_dir: Path
    cutoff: float
    electronic_temperature: float
    kspacing: float
    bands_per_atom: float
    convergence: float = 1e-9
    grid_spacing: float = 0.25
    ldos: LDOSRecipe | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be calculated."""
        names = ("cutoff", "electronic_temperature", "kspacing", "bands_per_atom", "convergence", "grid_spacing")
        for name in names:
            _check_positive(name, getattr(self, name))

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
        ValueError: no such file, not TOML, a key is missing or unknown, or a value is impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no recipe {path}")
    try:
        table = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    ldos = table.pop("ldos", None)
    if ldos is not None:
        _check_keys(ldos, LDOSRecipe, f"{path}, [ldos]")
    folder = Path(pseudo_dir) if pseudo_dir is not None else path.parent / table.get("pseudo_dir", "")
    table["pseudo_dir"] = folder
    _check_keys(table, Recipe, str(path))
    return Recipe(**table, ldos=None if ldos is None else LDOSRecipe(**ldos))


def _check_keys(table: Mapping[str, Any], kind: type, source: str) -> None:
    known = {f.name: f for f in fields(kind)}
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{source}: key {unknown[0]!r} is unknown; known are {', '.join(known)}")
    required = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in table]
    if missing:
        raise ValueError(f"{source}: key {missing[0]!r} is missing")


def _check_positive(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"recipe: {name} is {value!r}; it must be a positive number")
