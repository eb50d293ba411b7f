"""Quantities derived from a prediction, by name; a new one is one entry.

    QUANTITIES.register("gap", Quantity("eV", "band gap", lambda model, prediction: ...))

or, in another package, an entry point in the group ``ase_ldos.quantities``. ``LDOSCalculator.get_quantity`` and
``ase-ldos predict --quantity`` then know it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.gap import Gap, find_gap
from ase_ldos.physics.heat_capacity import electronic_heat_capacity
from ase_ldos.physics.occupation import interpolate_dos, number_weights
from ase_ldos.prediction.predict import Prediction
from ase_ldos.registry import Registry
from ase_ldos.units import BOLTZMANN


@dataclass(frozen=True)
class Quantity:
    """A quantity that a prediction implies.

    Attributes:
        unit: of the values, for people.
        description: a few words.
        evaluate: gives a number or an array from the model and what it predicted.
    """

    unit: str
    description: str
    evaluate: Callable[[LDOSModel, Prediction], Tensor | float]


def evaluate_quantity(name: str, model: LDOSModel, prediction: Prediction) -> float | np.ndarray:
    """The value of a quantity: a plain number, or an array.

    Raises:
        ValueError: there is no such quantity; the message names those that are known.
    """
    value = QUANTITIES[name].evaluate(model, prediction)
    if not isinstance(value, Tensor):
        return float(value)
    return float(value) if value.dim() == 0 else value.detach().cpu().numpy()


def prediction_gap(model: LDOSModel, found: Prediction) -> Gap:
    """The levels about the last electron in the predicted DOS; see ``physics.gap``.

    Raises:
        ValueError: the model's energy window ends among them.
    """
    n_electrons = float(found.grid.integrate(found.density))
    n_atoms = found.energies.n_atoms
    assert n_atoms is not None
    return find_gap(found.dos, found.energy_grid, n_electrons, n_atoms, model.metadata.broadening)


def _number_of_electrons(model: LDOSModel, found: Prediction) -> Tensor:  # noqa: ARG001
    """N = ∫ n d³r."""
    return found.grid.integrate(found.density)


def _dos_at_fermi_level(model: LDOSModel, found: Prediction) -> Tensor:  # noqa: ARG001
    """D(μ), spins summed, D piecewise linear between the nodes of the energy grid."""
    return interpolate_dos(found.dos, found.energy_grid, found.fermi_level)


def _thermal_dos(model: LDOSModel, found: Prediction) -> Tensor:  # noqa: ARG001
    """∂N/∂μ = ∫ (−∂f/∂ε) D dε."""
    kT = BOLTZMANN * found.electronic_temperature
    return number_weights(found.energy_grid, found.fermi_level, kT)[1] @ found.dos


def _entropy(model: LDOSModel, found: Prediction) -> float:  # noqa: ARG001
    """S = −∂A/∂T."""
    return found.entropy


def _heat_capacity(model: LDOSModel, found: Prediction) -> Tensor:  # noqa: ARG001
    """C_e = T ∂S/∂T: (∂E_b/∂T)_N of the predicted D, and what is learned."""
    state = (found.dos, found.energy_grid, found.fermi_level, found.electronic_temperature)
    return electronic_heat_capacity(*state) + found.learned_heat_capacity


def _gap(model: LDOSModel, found: Prediction) -> float:
    """What the DOS shows of a gap; its uncertainty is ``gap_uncertainty``."""
    return prediction_gap(model, found).width


def _gap_uncertainty(model: LDOSModel, found: Prediction) -> float:
    """What the broadening leaves open."""
    return prediction_gap(model, found).uncertainty


def _mid_gap_level(model: LDOSModel, found: Prediction) -> float:
    """(ε₋ + ε₊)/2."""
    return prediction_gap(model, found).middle


#: Quantities by name, those of other packages included.
QUANTITIES: Registry[Quantity] = Registry(
    "quantity",
    "ase_ldos.quantities",
    {
        "number_of_electrons": Quantity("e", "integral of the density", _number_of_electrons),
        "dos_at_fermi_level": Quantity(
            "1/eV", "density of states at the Fermi level, spins summed", _dos_at_fermi_level
        ),
        "gap": Quantity("eV", "gap between occupied and empty states; 0 where the DOS shows none", _gap),
        "gap_uncertainty": Quantity("eV", "of the gap, by the broadening of the DOS", _gap_uncertainty),
        "mid_gap_level": Quantity("eV", "middle of the gap; in a metal the Fermi level at rest", _mid_gap_level),
        "thermal_dos": Quantity("1/eV", "density of states averaged over kT about the Fermi level", _thermal_dos),
        "electronic_entropy": Quantity("eV/K", "entropy of the electrons", _entropy),
        "electronic_heat_capacity": Quantity("eV/K", "heat capacity of the electrons at fixed atoms", _heat_capacity),
    },
)
