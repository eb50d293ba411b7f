"""The density at a Fermi level that is not known yet: found at several levels about a guess, then interpolated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_ldos.physics.occupation import number_weights

#: Levels of the interpolation, an odd number, and how far they reach from the guess, in units of kT.
_LEVELS, _REACH = 11, 1.25


class LevelInterpolation:
    """n(r; μ) = Σ_k L_k(μ) n(r; μ_k) with Chebyshev's μ_k about a guess.

    Of all levels but the middle one the difference from the middle one is kept, so that rounding in the type of the
    fields is relative to these small differences.

    Attributes:
        fields: as ``weights``, projected at each point, ``[level, grid]``.
    """

    fields: Tensor

    def __init__(self, guess: float, energies: Tensor, thermal_energy: float) -> None:
        steps = torch.cos(math.pi * (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS)
        # the middle one of an odd number is the guess itself, exactly
        steps = torch.where(steps.abs() < 1e-12, 0.0, steps)
        self._energies, self._thermal_energy = energies, thermal_energy
        self._levels = guess + _REACH * thermal_energy * steps
        rows = [number_weights(energies, float(level), thermal_energy)[0] for level in self._levels]
        self._middle = len(rows) // 2
        self.weights = [row if k == self._middle else row - rows[self._middle] for k, row in enumerate(rows)]

    def _factors(self, level: float) -> tuple[Tensor, Tensor]:
        """Lagrange's L_k(μ) and their slopes, those of the middle one replaced by the sums of all: 1 and 0."""
        nodes = self._levels.tolist()
        values, slopes = torch.ones(len(nodes), dtype=torch.float64), torch.zeros(len(nodes), dtype=torch.float64)
        for k in set(range(len(nodes))) - {self._middle}:
            others = [node for j, node in enumerate(nodes) if j != k]
            scale = math.prod(nodes[k] - node for node in others)
            values[k] = math.prod(level - node for node in others) / scale
            without = [math.prod(level - node for j, node in enumerate(others) if j != m) for m in range(len(others))]
            slopes[k] = math.fsum(without) / scale
        return values, slopes

    def misplaced(self, level: float, dos: Tensor) -> float:
        """Part of the electrons that the interpolated weights at a level put wrong, or of N' if that is more."""
        if abs(level - float(self._levels[self._middle])) > _REACH * self._thermal_energy:
            return math.inf
        exact = number_weights(self._energies, level, self._thermal_energy)
        stacked = torch.stack(self.weights)
        parts = []
        for factors, right in zip(self._factors(level), exact):
            wrong = (factors.to(stacked) @ stacked - right).abs() @ dos.abs()
            parts.append(float(wrong / (right @ dos).abs()))
        # the slope enters as one number, a sum over the grid
        return max(parts[0], parts[1] * 1e-3)

    def at(self, level: float) -> Tensor:
        """N and ∂n/∂μ, ``[2, grid]``."""
        return torch.stack(self._factors(level)).to(self.fields) @ self.fields
