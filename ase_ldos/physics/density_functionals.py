"""The terms of the free energy that depend on the density, evaluated in two ways.

    X = −E_H[n] + E_xc[n + n_core] − ∫ n v_xc[n + n_core] d³r

``density_energies`` evaluates them on the whole grid at once, differentiable twice: for training and for comparisons.
``density_terms`` walks through the same formulas (``hartree``, ``exchange_correlation``) block by block of the grid and
differentiates on the way, so that neither a graph nor temporary fields of the whole grid are kept: for predictions, of
80 million points too. The derivative along a fractional coordinate is antisymmetric, so its adjoint is minus itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.exchange_correlation import (
    FUNCTIONALS,
    Functional,
    fractional_wave,
    metric,
    xc_energies,
    xc_sums,
)
from ase_ldos.physics.hartree import hartree_energy, hartree_kernel
from ase_ldos.units import BOHR, HARTREE

#: Points of a block: its some forty temporary arrays should stay near the cache.
BLOCK_POINTS = 2**16
#: The same on a GPU, which has memory for them and wants few calls.
GPU_BLOCK_POINTS = 2**23
#: From this many points on the fields are transformed in float32. Measured: below 0.001 meV/atom (see the tests).
SINGLE_FROM = 2**22


@dataclass(frozen=True)
class DensityEnergies:
    """The three terms of the free energy that depend on the density, eV, float64 scalars.

    Attributes:
        hartree: E_H.
        xc: E_xc.
        xc_potential: ∫ n v_xc d³r.
    """

    hartree: Tensor
    xc: Tensor
    xc_potential: Tensor


@dataclass(frozen=True)
class DensityTerms:
    """Energies and derivatives of X (see the module).

    Energies and the strain's derivative lie on the CPU, the fields on the density's device.

    Attributes:
        energies: E_H, E_xc and ∫ n v_xc.
        potential: ∂X/∂n(r) of the discrete sums, eV Å³, flat ``[grid]``, if wanted.
        strain: ∂X/∂ε with the values of n and n_core kept, eV, ``[3, 3]``, if wanted.
        core_potential: ∂X/∂n_core(r), eV Å³, flat ``[grid]``, if wanted and there is a core charge.
    """

    energies: DensityEnergies
    potential: Tensor | None = None
    strain: Tensor | None = None
    core_potential: Tensor | None = None


def density_energies(density: Tensor, grid: Grid, functional: str, core: Tensor | None = None) -> DensityEnergies:
    """E_H[n], E_xc[n + n_core] and ∫ n v_xc[n + n_core] d³r, differentiable twice in density, core and cell.

    Args:
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: of the density.
        functional: a name of ``exchange_correlation.FUNCTIONALS``.
        core: partial core charge n_core, e/Å³, ``[nx, ny, nz]``.

    Raises:
        ValueError: unknown functional, fields that are not on the grid.
    """
    return DensityEnergies(hartree_energy(density, grid), *xc_energies(density, grid, functional, core))


def density_terms(
    density: Tensor,
    grid: Grid,
    functional: str,
    *,
    differentiate: bool,
    core: Tensor | None = None,
    block_points: int = BLOCK_POINTS,
    single_from: int = SINGLE_FROM,
) -> DensityTerms:
    """The same energies in the memory of a few fields, and derivatives if wanted, without a graph.

    Args:
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: of the density.
        functional: a name of ``exchange_correlation.FUNCTIONALS``.
        differentiate: give potential and strain derivative.
        core: partial core charge n_core, e/Å³, ``[nx, ny, nz]``.
        block_points: points of the grid that are handled at once, about.
        single_from: number of points from which on fields are transformed in float32 in place of float64.

    Raises:
        ValueError: unknown functional.
    """
    formula = FUNCTIONALS[functional]
    fields = torch.float32 if grid.n_points >= single_from else torch.float64
    with torch.no_grad():
        coefficients = torch.fft.rfftn(density.to(fields), norm="forward")
        slopes = []
        if formula.needs_gradient:
            slopes = [_slopes(coefficients, grid)]
            if core is not None:
                slopes.append(_slopes(torch.fft.rfftn(core.to(fields), norm="forward"), grid) + slopes[0])
        hartree = _hartree(coefficients, grid, block_points)
    xc, potentials = _exchange_correlation(
        formula, density, core, slopes, grid, differentiate=differentiate, block_points=block_points
    )
    # one transfer
    found = torch.cat((hartree, xc)).cpu()
    hartree, xc = found[:10], found[10:]
    energies = DensityEnergies(hartree[0], xc[0], xc[1])
    if not differentiate:
        return DensityTerms(energies)
    strain = hartree[1:].reshape(3, 3) + _strain_of_metric(grid, xc[2:].reshape(3, 3))
    # the voxel's own derivative
    strain = strain + (xc[0] - xc[1]) * torch.eye(3).to(strain)
    core_potential = potentials[1] if core is not None else None
    with torch.no_grad():
        # of the discrete sum: v_H times the voxel
        coefficients *= -grid.voxel_volume.to(fields)
        if slopes and core_potential is not None:
            # n and n_core both stand in the total
            core_potential = core_potential + _from_slopes(torch.zeros_like(coefficients), slopes[1], grid)
            slopes = [slopes[0] + slopes[1]]
        potential = _from_slopes(coefficients, slopes[0] if slopes else None, grid)
        potential += potentials[0]
    return DensityTerms(energies, potential, strain, core_potential)


def _slopes(coefficients: Tensor, grid: Grid) -> Tensor:
    """Derivatives along the fractional coordinates, ``[3, nx, ny, nz]``, of a field's ``rfftn``."""
    dtype = coefficients.real.dtype
    along = torch.empty(3, *grid.shape, dtype=dtype, device=coefficients.device)
    for axis in range(3):
        wave = fractional_wave(grid.shape, axis, along)
        along[axis] = torch.fft.irfftn(coefficients * wave, s=grid.shape, norm="forward")
    return along


def _from_slopes(coefficients: Tensor, along: Tensor | None, grid: Grid) -> Tensor:
    """Adjoint of ``_slopes``, flat ``[grid]``, on top of a field's ``coefficients``, which are used up."""
    for axis in range(3 if along is not None else 0):
        # the forward transform's 1/N and the backward one's missing 1/N make the adjoint's factor 1
        part = torch.fft.rfftn(along[axis], norm="forward") if along is not None else coefficients
        coefficients -= part.mul_(fractional_wave(grid.shape, axis, part.real))
    return torch.fft.irfftn(coefficients, s=grid.shape, norm="forward").flatten()


def _hartree(coefficients: Tensor, grid: Grid, block_points: int) -> Tensor:
    """E_H and −∂E_H/∂ε, ``[1 + 9]``; ``coefficients`` n_G become those of v_H."""
    device = coefficients.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    along = torch.zeros(3, 3, dtype=torch.float64, device=device)
    half = grid.half_weights(device) * (grid.volume / 2)
    for rows in _row_blocks(grid, block_points):
        vectors = grid.g_vectors(rows, device)
        kernel = hartree_kernel(vectors)
        part = coefficients[rows]
        power = (part.real.double() ** 2 + part.imag.double() ** 2) * kernel * half
        squared = vectors.square().sum(dim=-1)
        weight = power * 2 / torch.where(squared == 0, 1.0, squared)
        total += power.sum()
        flat = vectors.flatten(0, 2)
        along += flat.T @ (weight.flatten()[:, None] * flat)
        part *= kernel.to(part.real.dtype)
    # V → V (1 + tr ε), G → G (1 − ε)
    strain = -(total * torch.eye(3, dtype=torch.float64, device=device) + along)
    return torch.cat((total[None], strain.flatten()))


def _exchange_correlation(
    functional: Functional,
    density: Tensor,
    core: Tensor | None,
    slopes: list[Tensor],
    grid: Grid,
    *,
    differentiate: bool,
    block_points: int,
) -> tuple[Tensor, list[Tensor]]:
    """E_xc, ∫ n v_xc and the derivatives of their difference: in the metric, and in n and n_core where wanted.

    Args:
        functional: gives f.
        density: n.
        core: n_core.
        slopes: of n and, with a core charge, of n + n_core; none where the functional needs no gradient. With
            ``differentiate`` they are overwritten by the derivatives in them.
        grid: of the density.
        differentiate: give derivatives.
        block_points: handled at once.

    Returns:
        Both energies and the derivative in the metric, ``[2 + 9]``, and those in the fields, flat ``[grid]`` each.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=density.device)
    constant = metric(grid).detach().to(density.device)
    by_metric = torch.zeros_like(constant)
    voxel = (grid.voxel_volume.detach() * (HARTREE / BOHR**3)).to(density.device)
    kept = slopes[0].dtype if slopes else torch.float64
    fields = [density] if core is None else [density, core]
    potentials = [torch.empty(grid.n_points, dtype=kept, device=density.device) for _ in fields if differentiate]
    plane = grid.shape[1] * grid.shape[2]
    for rows in _row_blocks(grid, block_points):
        with torch.set_grad_enabled(differentiate):
            leaves = [field[rows].to(torch.float64).detach() for field in fields]
            leaves += [along[:, rows].to(torch.float64) for along in slopes]
            leaves.append(constant.clone())
            for leaf in leaves:
                leaf.requires_grad_(differentiate)
            sums_of_rows = _xc_of_rows(functional, leaves[: len(fields)], leaves[len(fields) : -1], leaves[-1])
            energy, pulled = (part * voxel for part in sums_of_rows)
            difference = energy - pulled
        sums += torch.stack((energy, pulled)).detach()
        if not differentiate:
            continue
        found = torch.autograd.grad(difference, leaves, materialize_grads=True)
        for potential, part in zip(potentials, found):
            potential[rows.start * plane : rows.stop * plane] = part.flatten()
        for along, part in zip(slopes, found[len(fields) :]):
            along[:, rows] = part.to(along.dtype)
        by_metric += found[-1]
    return torch.cat((sums, by_metric.flatten())), potentials


def _strain_of_metric(grid: Grid, by_metric: Tensor) -> Tensor:
    """A derivative in the metric as one in the strain that deforms the cell, ``[3, 3]``."""
    with torch.enable_grad():
        deformation = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        cell = grid.cell.detach().cpu().double() @ (torch.eye(3, dtype=torch.float64) + deformation)
        (found,) = torch.autograd.grad(metric(replace(grid, cell=cell)), deformation, by_metric)
    return found


def _xc_of_rows(
    functional: Functional, fields: list[Tensor], slopes: list[Tensor], metric: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ f and Σ n δf/δn of some rows of the grid, Hartree/bohr³, in a metric."""
    valence, total = fields[0] * BOHR**3, sum(fields[1:], fields[0]) * BOHR**3
    scaled = [along * BOHR**3 for along in slopes]
    along_valence, along_total = (scaled[0], scaled[-1]) if scaled else (None, None)
    return xc_sums(functional, valence, total, along_valence, along_total, metric)


def _row_blocks(grid: Grid, block_points: int) -> Iterator[slice]:
    """Blocks of rows of the first axis of about so many points."""
    step = max(1, math.floor(block_points / (grid.shape[1] * grid.shape[2])))
    for start in range(0, grid.shape[0], step):
        yield slice(start, min(start + step, grid.shape[0]))
