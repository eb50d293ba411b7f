"""The density at a Fermi level that is not known yet: found at several about a guess, then interpolated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_ldos.physics.occupation import number_weights

#: Number of Fermi levels of the interpolation (odd), and how far they reach from the guess, in units of kT.
_NODES, _REACH = 11, 1.25


class FermiLevelInterpolation:
    """n(r; μ) = Σ_k L_k(μ) n(r; μ_k) with Chebyshev's μ_k about a guess.

    Of all nodes but the middle one the difference from the middle one is kept, so that rounding in the type of the
    fields is relative to these small differences.

    Args:
        guess: of μ, the middle node, eV.
        energies: nodes of the energy grid, eV, ``[energy]``.
        thermal_energy: kT, eV.

    Attributes:
        weights: of the energies, from which the density at a node comes: at the middle one, and at the others what is
            to be added, float64 ``[energy]`` each.
        fields: what these weights give at each point, ``[node, grid]``; set by the caller.
    """

    fields: Tensor

    def __init__(self, guess: float, energies: Tensor, thermal_energy: float) -> None:
        steps = torch.cos(math.pi * (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES)
        # the middle one of an odd number is the guess itself, exactly
        steps = torch.where(steps.abs() < 1e-12, 0.0, steps)
        self._energies, self._thermal_energy = energies, thermal_energy
        self._nodes = guess + _REACH * thermal_energy * steps
        rows = [number_weights(energies, float(node), thermal_energy)[0] for node in self._nodes]
        self._middle = len(rows) // 2
        self.weights = [row if k == self._middle else row - rows[self._middle] for k, row in enumerate(rows)]

    def _factors(self, fermi_level: float) -> tuple[Tensor, Tensor]:
        """Lagrange's L_k(μ) and their slopes, those of the middle one replaced by the sums of all: 1 and 0."""
        nodes = self._nodes.tolist()
        values, slopes = torch.ones(len(nodes), dtype=torch.float64), torch.zeros(len(nodes), dtype=torch.float64)
        for k in set(range(len(nodes))) - {self._middle}:
            others = [node for j, node in enumerate(nodes) if j != k]
            scale = math.prod(nodes[k] - node for node in others)
            values[k] = math.prod(fermi_level - node for node in others) / scale
            without = (others[:m] + others[m + 1 :] for m in range(len(others)))
            slopes[k] = math.fsum(math.prod(fermi_level - node for node in part) for part in without) / scale
        return values, slopes

    def misplaced(self, fermi_level: float, dos: Tensor) -> float:
        """Part of the electrons that the interpolation at μ puts wrong, or a thousandth of that of ∂N/∂μ if more.

        Judged by the weights of the energies: the interpolated ones against the exact ones, summed over |D|. Infinite
        outside the nodes.

        Args:
            fermi_level: μ, eV.
            dos: D, 1/eV, ``[energy]``.
        """
        if abs(fermi_level - float(self._nodes[self._middle])) > _REACH * self._thermal_energy:
            return math.inf
        exact = number_weights(self._energies, fermi_level, self._thermal_energy)
        stacked = torch.stack(self.weights)
        parts = []
        for factors, right in zip(self._factors(fermi_level), exact):
            wrong = (factors.to(stacked) @ stacked - right).abs() @ dos.abs()
            parts.append(float(wrong / (right @ dos).abs()))
        # the slope enters as one number, a sum over the grid
        return max(parts[0], parts[1] * 1e-3)

    def at(self, fermi_level: float) -> Tensor:
        """Density n and ∂n/∂μ at μ, ``[2, grid]``."""
        return torch.stack(self._factors(fermi_level)).to(self.fields) @ self.fields
