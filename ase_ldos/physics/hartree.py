"""Hartree energy and potential of a periodic density, by FFT."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.units import COULOMB


def hartree_energy(density: Tensor, grid: Grid) -> Tensor:
    """E_H = ½ ∫ n v_H d³r = (V/2) Σ_G 4π e² |n_G|²/G², G = 0 dropped, eV.

    Args:
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: the grid of the density.
    """
    coefficients = torch.fft.rfftn(_checked(density, grid), norm="forward")
    # re² + im² rather than |n_G|²: abs has no second derivative at zero
    power = coefficients.real**2 + coefficients.imag**2
    return grid.volume / 2 * (power * hartree_kernel(grid.g_vectors()) * grid.half_weights()).sum()


def hartree_potential(density: Tensor, grid: Grid) -> Tensor:
    """v_H with v_G = 4π e² n_G/G² and zero average, eV, ``[nx, ny, nz]``; density in e/Å³."""
    coefficients = torch.fft.rfftn(_checked(density, grid), norm="forward")
    return torch.fft.irfftn(coefficients * hartree_kernel(grid.g_vectors()), s=grid.shape, norm="forward")


def hartree_kernel(vectors: Tensor) -> Tensor:
    """4π e²/G², eV Å³, zero at G = 0, ``[...]``, of reciprocal vectors ``[..., 3]``."""
    squared = vectors.to(torch.float64).square().sum(dim=-1)
    origin = (squared.detach() == 0).to(squared)
    # the added 1 keeps the division and all its derivatives finite at G = 0
    return 4 * math.pi * COULOMB * (1 - origin) / (squared + origin)


def _checked(density: Tensor, grid: Grid) -> Tensor:
    if density.shape != grid.shape:
        raise ValueError(f"the density has shape {list(density.shape)}, its grid {list(grid.shape)}; they must agree")
    return density.to(torch.float64)
