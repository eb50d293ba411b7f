"""What a model is for, what it learned from and how good it is: all of a model but the numbers of its network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ase.data import atomic_numbers

from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.physics.exchange_correlation import FUNCTIONALS


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is for and where it comes from.

    Attributes:
        name: short name, for people.
        valence: electrons per atom that the LDOS holds, by chemical symbol.
        functional: exchange-correlation, a name of ``physics.exchange_correlation.FUNCTIONALS``.
        electronic_temperature: that of the training data and the default of a prediction, K.
        broadening: standard deviation of the Gaussian that broadens the LDOS, eV.
        grid_spacing: distance of grid points it was trained on and that a prediction aims at, Å.
        fermi_level: a typical μ, eV, from which the search for the Fermi level starts.
        core_charges: partial core charges of pseudopotentials that have one, by chemical symbol.
        minimum_distance: closest pair of atoms that the model accepts, Å.
        level_constants: c_a by chemical symbol, eV Å³: the network's energies are ε' = ε − Σ_a c_a/Ω, those of a
            prediction ε, counted as the DFT program does; empty: the two are the same.
        errors: measured on held-back structures: names and units as in ``training.evaluate.COLUMNS``.
        extrapolation: distances of held-back structures from the training data: ``threshold`` (the largest),
            ``median``, number of ``structures``; empty if not calibrated, see ``ase_ldos.model.extrapolation``.
        uncertainty: of ``model.last_layer``, by quantity the factor between raw and calibrated standard deviations;
            empty if not calibrated. ``within_one_NAME`` is the part of held-back errors within one of them.
        provenance: data, recipe, versions; for people.

    Raises:
        ValueError: a functional that is not known (its energies would be those of another one), an element that is
            none, or a number that is not finite or out of range.
    """

    name: str
    valence: dict[str, float]
    functional: str = "pbe"
    electronic_temperature: float = 300.0
    broadening: float = 0.0
    grid_spacing: float = 0.25
    fermi_level: float = 0.0
    core_charges: dict[str, CoreCharge] = field(default_factory=dict)
    minimum_distance: float = 1.0
    level_constants: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    extrapolation: dict[str, float] = field(default_factory=dict)
    uncertainty: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted: the registry's error names the functionals that are known."""
        FUNCTIONALS[self.functional]
        _check_numbers("valence", self.valence, least=0)
        unknown = sorted(set(self.valence) - set(atomic_numbers))
        if unknown:
            raise ValueError(f"valence names {unknown[0]!r}, which is no chemical element")
        for name in ("electronic_temperature", "grid_spacing"):
            _check_number(name, getattr(self, name), above=0)
        for name in ("broadening", "minimum_distance"):
            _check_number(name, getattr(self, name), least=0)
        _check_number("fermi_level", self.fermi_level)
        for name in ("errors", "extrapolation", "level_constants"):
            _check_numbers(name, getattr(self, name))
        _check_numbers("uncertainty", self.uncertainty, least=0)
        if self.extrapolation and "threshold" not in self.extrapolation:
            raise ValueError(f"extrapolation has {', '.join(self.extrapolation)}, but no threshold")


def _check_numbers(name: str, table: object, least: float = -math.inf) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{name} is {table!r}; a table of numbers is expected")
    for key, value in table.items():
        _check_number(f"{name} of {key}", value, least=least)


def _check_number(name: str, value: object, least: float = -math.inf, above: float = -math.inf) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not (value >= least and value > above):  # type: ignore[operator]
        bound = f" of at least {least:g}" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        raise ValueError(f"{name} is {value!r}; it must be a finite number{bound}")
