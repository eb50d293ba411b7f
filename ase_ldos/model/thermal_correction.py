"""What a model has learned of its free energy at other electronic temperatures than its own: a change, local in space.

Electrons of another temperature occupy the model's states in another way (``prediction.free_energy_gradient``). What
that leaves out, and what the states about the Fermi level get wrong, is a difference of free energies that vanishes at
the model's own temperature T₀. It is learned as a density of energy that is linear in the hidden features h(r),

    ΔA(T) = ∫ [v(T) · h(r) + c(T)] d³r,        (v, c)(T) = Σ_k t_k(T) (v_k, c_k),

    t_1 = y(T) − y(T₀),    t_2 = y(T)² − y(T₀)²,    y = x/(1 + x),    x = (kT/w)²:

t_k grow as T² where electrons are cold, as all that is smooth about the Fermi level does (A. Sommerfeld, Z. Phys. 47, 1
(1928)), and level off where kT passes w. ΔA needs Σ h(r) alone, which every prediction has, and its forces and stress
go the way of the others: it costs nothing. Density, density of states and μ stay those of the model's own states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ase_ldos.units import BOLTZMANN

#: w of the functions of temperature, eV.
WIDTH = 1.0
#: Number of these functions.
FUNCTIONS = 2


def temperature_functions(temperature: float, own: float) -> Tensor:
    """t_k and their first and second derivatives in T (K), float64 ``[3, function]``; t_k vanish at ``own``, K."""
    first, x, own_x = (BOLTZMANN / WIDTH) ** 2, *((BOLTZMANN * t / WIDTH) ** 2 for t in (temperature, own))
    y, own_y = x / (1 + x), own_x / (1 + own_x)
    slope = 2 * first * temperature * (1 - y) ** 2
    curvature = 2 * first * (1 - y) ** 2 * (1 - 4 * y)
    return torch.tensor(
        [
            [y - own_y, y**2 - own_y**2],
            [slope, 2 * y * slope],
            [curvature, 2 * (slope**2 + y * curvature)],
        ],
        dtype=torch.float64,
    )


@dataclass(frozen=True)
class ThermalCorrection:
    """The change ΔA(T) of a model's free energy.

    Attributes:
        weights: v_k, and c_k in the last column, eV/Å³, float64 ``[function, hidden + 1]``.
        own: T₀, K.
        highest: up to which temperature it was learned, K.
        errors: on structures that were left out of the fit, by temperature; see ``training.thermal``.
        provenance: what it was learned from.

    Raises:
        ValueError: weights of another shape, or a highest temperature that is not above the own one.
    """

    weights: Tensor
    own: float
    highest: float
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what fits no model."""
        if self.weights.dim() != 2 or len(self.weights) != FUNCTIONS:
            raise ValueError(
                f"the weights of the change with temperature have the shape {list(self.weights.shape)}; "
                f"[{FUNCTIONS}, hidden + 1] is expected"
            )
        if not 0 < self.own < self.highest < math.inf:
            raise ValueError(
                f"the change with temperature is said to be learned from {self.own} K up to {self.highest} K; two "
                "positive temperatures are needed, the higher one last"
            )

    def check(self, temperature: float) -> None:
        """Refuse a temperature above those learned; below the model's own, ΔA hardly differs from 0.

        Raises:
            ValueError: it is no positive number, or too high.
        """
        if not 0 < temperature <= self.highest * (1 + 1e-9):
            raise ValueError(
                f"the electronic temperature is {temperature:g} K; the model's free energy was learned up to "
                f"{self.highest:g} K, and it must be positive"
            )

    def at(self, temperature: float) -> Tensor:
        """(v, c)(T) and its first and second derivatives in T, eV/Å³ and per K, float64 ``[3, hidden + 1]``."""
        return temperature_functions(temperature, self.own) @ self.weights

    def integrate(self, temperature: float, hidden_sum: Tensor, n_points: int, volume: Tensor) -> Tensor:
        """ΔA and its first and second derivatives in T, eV and per K, float64 ``[3]``.

        Args:
            temperature: K.
            hidden_sum: Σ_r h(r), float64 ``[hidden]``.
            n_points: of the grid.
            volume: of one of them, Å³; gradients flow through it.
        """
        density = self.at(temperature)
        return (density[:, :-1] @ hidden_sum + density[:, -1] * n_points) * volume

    def of_raw_features(self, mean: Tensor, projection: Tensor) -> ThermalCorrection:
        """The same change where the last hidden features are raw ones x in place of (x − mean) · projection.

        Args:
            mean: float64 ``[feature]``.
            projection: float64 ``[feature, input]``.
        """
        n_hidden = self.weights.shape[1] - 1 - projection.shape[1]
        raw = self.weights[:, n_hidden:-1] @ projection.T
        constant = self.weights[:, -1] - raw @ mean
        return replace(self, weights=torch.cat((self.weights[:, :n_hidden], raw, constant[:, None]), dim=1))

    def header(self) -> dict[str, Any]:
        """What a model file keeps beside the weights; JSON-able."""
        return {"own": self.own, "highest": self.highest, "errors": self.errors, "provenance": self.provenance}
