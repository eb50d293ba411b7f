"""Partial core charges (non-linear core correction): what exchange and correlation see beside the valence electrons.

Source: S. G. Louie, S. Froyen and M. L. Cohen, Phys. Rev. B 26, 1738 (1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure


@dataclass(frozen=True)
class CoreCharge:
    """Fourier transform of an atom's partial core charge, f(G) = 4π ∫ r² n(r) sin(Gr)/(Gr) dr, on equidistant nodes.

    Attributes:
        spacing: of the nodes G = 0, spacing, 2 spacing, …, 1/Å.
        values: f, electrons, ``[node]``.
        slopes: f', electrons Å, ``[node]``.
    """

    spacing: float
    values: tuple[float, ...]
    slopes: tuple[float, ...]

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> CoreCharge:
        """Make one of what ``dataclasses.asdict`` and JSON leave of it."""
        return cls(float(table["spacing"]), tuple(table["values"]), tuple(table["slopes"]))

    def form_factor(self, wavenumbers: Tensor) -> Tensor:
        """Interpolate f at any G (1/Å) by cubics that match f and f' at the nodes; zero beyond them."""
        values, slopes = (
            torch.tensor(part, dtype=wavenumbers.dtype, device=wavenumbers.device)
            for part in (self.values, self.slopes)
        )
        place = wavenumbers / self.spacing
        node = place.detach().floor().long().clamp(max=len(self.values) - 2)
        t = place - node
        low, high = values[node], values[node + 1]
        low_slope, high_slope = self.spacing * slopes[node], self.spacing * slopes[node + 1]
        bend = 3 * (high - low) - 2 * low_slope - high_slope
        twist = 2 * (low - high) + low_slope + high_slope
        inside = low + t * (low_slope + t * (bend + t * twist))
        return torch.where(t > 1, 0.0, inside)


def core_density(
    structure: Structure, grid: Grid, charges: Mapping[str, CoreCharge], device: torch.device | None = None
) -> Tensor | None:
    """Sum of the atoms' partial core charges, n_core(r) = Σ_G e^{iGr} Σ_a f_a(G) e^{−iGR_a} / V.

    Differentiable in positions and cell.

    Args:
        structure: the atoms.
        grid: where it is wanted.
        charges: by chemical symbol; elements that are not there have none.
        device: where to make it; default is that of the grid's cell.

    Returns:
        e/Å³, ``[nx, ny, nz]``; ``None`` if no atom has a core charge.
    """
    numbers = structure.numbers.tolist()
    present = {number: charges.get(chemical_symbols[number]) for number in sorted(set(numbers))}
    if not any(present.values()):
        return None
    squares = grid.g_vectors(device=device).square().sum(dim=-1)
    # the root has no derivative at G = 0
    lengths = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)
    total: Tensor | None = None
    for number, charge in present.items():
        if charge is not None:
            mine = [place for place, other in enumerate(numbers) if other == number]
            factor = _structure_factor(structure.positions[mine], grid, device)
            waves = charge.form_factor(lengths) * factor
            total = waves if total is None else total + waves
    if total is None:
        return None
    return torch.fft.irfftn(total, s=grid.shape) * (grid.n_points / grid.volume)


def _structure_factor(positions: Tensor, grid: Grid, device: torch.device | None) -> Tensor:
    """Σ_a e^{−iGR_a}, ``[nx, ny, nz // 2 + 1]``: of products of phases along the three axes, as a matrix product."""
    scaled = (positions @ torch.linalg.inv(grid.cell)).to(device)
    phases = []
    for axis, n in enumerate(grid.shape):
        frequency = torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq
        miller = frequency(n, 1 / n, dtype=scaled.dtype, device=scaled.device)
        phases.append(torch.exp(-2j * math.pi * scaled[:, axis, None] * miller))
    return torch.einsum("ai,aj,ak->ijk", *phases)
