"""All that depends on the density, with its derivatives, in the memory of a few fields.

    X = −E_H[n] + E_xc[n] − ∫ n v_xc[n] d³r

The formulas are those of ``hartree`` and ``xc``; here they are walked through slab by slab and differentiated on the
way, so that neither a graph nor temporary fields of the whole grid are kept: 80 million points fit into memory.
The derivative along a fractional coordinate is antisymmetric, so its adjoint is minus itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ldos.energies.hartree import hartree_kernel
from ase_ldos.energies.xc import fractional_wave, metric, xc_sums
from ase_ldos.grid import Grid
from ase_ldos.units import BOHR, HARTREE

#: Points of a slab: its some forty temporary arrays should stay near the cache.
_SLAB = 2**16
#: From this many points on the fields are transformed in float32. Measured: below 0.001 meV/atom (see the tests).
SINGLE_FROM = 2**22


@dataclass(frozen=True)
class DensityTerms:
    """Energies in eV, float64, and derivatives of X (see the module).

    Attributes:
        hartree: E_H.
        xc: E_xc.
        xc_potential: ∫ n v_xc d³r.
        potential: ∂X/∂n(r) of the discrete sums, eV Å³, flat ``[grid]``, if wanted.
        strain: ∂X/∂ε with the values of n kept, eV, ``[3, 3]``, if wanted.
    """

    hartree: Tensor
    xc: Tensor
    xc_potential: Tensor
    potential: Tensor | None = None
    strain: Tensor | None = None


def density_terms(
    density: Tensor, grid: Grid, functional: str, *, differentiate: bool, fields: torch.dtype | None = None
) -> DensityTerms:
    """Energies of a density, and derivatives if wanted, without a graph.

    Args:
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: of the density.
        functional: ``"lda"`` or ``"pbe"``.
        differentiate: give potential and strain derivative.
        fields: number type of the transforms; default is float64, float32 on grids of ``SINGLE_FROM`` points or more.
    """
    if fields is None:
        fields = torch.float32 if grid.n_points >= SINGLE_FROM else torch.float64
    with torch.no_grad():
        coefficients = torch.fft.rfftn(density.to(fields), norm="forward")
        strain = torch.zeros(3, 3, dtype=torch.float64, device=density.device)
        along = None
        if functional != "lda":
            along = torch.empty(3, *grid.shape, dtype=fields, device=density.device)
            for axis in range(3):
                wave = fractional_wave(grid.shape, axis, along)
                along[axis] = torch.fft.irfftn(coefficients * wave, s=grid.shape, norm="forward")
        hartree = _hartree(coefficients, grid, strain)
    terms = _exchange_correlation(density, along, grid, strain, differentiate)
    if not differentiate:
        return replace(terms, hartree=hartree)
    with torch.no_grad():
        # of the discrete sum: v_H times the voxel
        coefficients *= -grid.voxel_volume.to(fields)
        for axis in range(3 if along is not None else 0):
            # the forward transform's 1/N and the backward one's missing 1/N make the adjoint's factor 1
            slopes = torch.fft.rfftn(along[axis], norm="forward") if along is not None else coefficients
            coefficients -= slopes.mul_(fractional_wave(grid.shape, axis, slopes.real))
        del along
        potential = torch.fft.irfftn(coefficients, s=grid.shape, norm="forward").flatten()
        assert terms.potential is not None
        potential += terms.potential
    return replace(terms, hartree=hartree, potential=potential, strain=strain)


def _hartree(coefficients: Tensor, grid: Grid, strain: Tensor) -> Tensor:
    """E_H; ``coefficients`` n_G become those of v_H, and −∂E_H/∂ε is added to ``strain``."""
    total = torch.zeros((), dtype=torch.float64, device=coefficients.device)
    identity = torch.eye(3, dtype=torch.float64, device=coefficients.device)
    for rows in _rows(grid):
        kernel = hartree_kernel(grid, rows)
        part = coefficients[rows]
        power = (part.real.double() ** 2 + part.imag.double() ** 2) * kernel * (grid.half_weights() * grid.volume / 2)
        vectors = grid.g_vectors(rows)
        squared = vectors.square().sum(dim=-1)
        weight = power * 2 / torch.where(squared == 0, 1.0, squared)
        energy = power.sum()
        total += energy
        # V → V (1 + tr ε), G → G (1 − ε)
        along = vectors.flatten(0, 2)
        strain -= energy * identity + along.T @ (weight.flatten()[:, None] * along)
        part *= kernel.to(part.real.dtype)
    return total


def _exchange_correlation(
    density: Tensor, along: Tensor | None, grid: Grid, strain: Tensor, differentiate: bool
) -> DensityTerms:
    """E_xc and ∫ n v_xc; with ``differentiate``, ``along`` is overwritten by the derivatives in it."""
    voxel = grid.voxel_volume.detach() * (HARTREE / BOHR**3)
    sums = torch.zeros(2, dtype=torch.float64, device=density.device)
    potential = torch.empty(grid.n_points if differentiate else 0, dtype=torch.float64, device=density.device)
    if differentiate and along is not None:
        potential = potential.to(along.dtype)
    plane = grid.shape[1] * grid.shape[2]
    unstrained = torch.zeros_like(strain)
    for rows in _rows(grid):
        with torch.set_grad_enabled(differentiate):
            values = density[rows].to(torch.float64).detach().requires_grad_(differentiate)
            slopes = None if along is None else along[:, rows].to(torch.float64).requires_grad_(differentiate)
            deformation = unstrained.clone().requires_grad_(differentiate)
            moved = replace(grid, cell=grid.cell.detach() @ (torch.eye(3).to(strain) + deformation))
            scaled = None if slopes is None else slopes * BOHR**3
            found = xc_sums(values * BOHR**3, values * BOHR**3, scaled, scaled, metric(moved))
            energy, pulled = (value * voxel for value in found)
            difference = energy - pulled
        sums += torch.stack((energy, pulled)).detach()
        if not differentiate:
            continue
        leaves = [values, *([] if slopes is None else [slopes, deformation])]
        by_values, *rest = torch.autograd.grad(difference, leaves)
        potential[rows.start * plane : rows.stop * plane] = by_values.flatten()
        if along is not None:
            along[:, rows] = rest[0].to(along.dtype)
            strain += rest[1]
    if differentiate:
        strain += (sums[0] - sums[1]) * torch.eye(3).to(strain)
    return DensityTerms(
        hartree=sums[0], xc=sums[0], xc_potential=sums[1], potential=potential if differentiate else None
    )


def _rows(grid: Grid) -> Iterator[slice]:
    """Slabs of the first axis of about ``_SLAB`` points."""
    step = max(1, math.floor(_SLAB / (grid.shape[1] * grid.shape[2])))
    for start in range(0, grid.shape[0], step):
        yield slice(start, min(start + step, grid.shape[0]))
