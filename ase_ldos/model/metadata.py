"""What a model is for, what it learned from and how good it is: all of a model but the numbers of its network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
        errors: measured on held-back structures: names and units as in ``training.evaluate.COLUMNS``.
        extrapolation: distances of held-back structures from the training data: ``threshold`` (the largest),
            ``median``, number of ``structures``; empty if not calibrated, see ``ase_ldos.model.extrapolation``.
        provenance: data, recipe, versions; for people.

    Raises:
        ValueError: a functional that is not known: its energies would be those of another one.
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
    errors: dict[str, float] = field(default_factory=dict)
    extrapolation: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted: the registry's error names the functionals that are known."""
        FUNCTIONALS[self.functional]
