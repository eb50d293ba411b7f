"""Widening of LDOS and DOS along the energy axis."""

from __future__ import annotations

import math

import numpy as np


def broaden(values: np.ndarray, energies: np.ndarray, sigma_add: float, onto: np.ndarray | None = None) -> np.ndarray:
    """Widen LDOS or DOS along the energy axis by a Gaussian.

    Gaussians add in quadrature, so data of width σ become data of width √(σ² + σ_add²). The sum over an equidistant
    grid is exact up to 2 exp(−2π²(σ_add/Δε)²) (Poisson's formula). Outside the window the value at its end
    is taken to continue: nothing below the lowest band, a plateau above the highest energy, so the last
    2 σ_add at the upper end are an estimate.

    Args:
        values: ``[..., energy]``.
        energies: equidistant, increasing, eV, ``[energy]``.
        sigma_add: standard deviation of the added Gaussian, eV; 0 leaves the data as they are, on nodes only.
        onto: energies at which the result is wanted (default: ``energies``), eV.

    Returns:
        ``[..., energy]``, of the dtype of ``values`` (at least float32).

    Raises:
        ValueError: the energies are not equidistant, σ_add is negative or narrower than 0.8 of the spacing, or
            ``onto`` leaves the window.
    """
    energies = np.asarray(energies, dtype=float)
    spacing = (energies[-1] - energies[0]) / (len(energies) - 1) if len(energies) > 1 else 0.0
    if not spacing > 0 or np.abs(np.diff(energies) - spacing).max() > 1e-6 * spacing:
        raise ValueError("the energies are not equidistant and increasing; broadening needs such a grid")
    target = energies if onto is None else np.asarray(onto, dtype=float)
    if target.min() < energies[0] - 1e-9 or target.max() > energies[-1] + 1e-9:
        raise ValueError(
            f"energies from {target.min():.3f} to {target.max():.3f} eV are asked for; "
            f"the data reach from {energies[0]:.3f} to {energies[-1]:.3f} eV"
        )
    values = np.asarray(values)
    dtype = np.result_type(values.dtype, np.float32)
    if sigma_add == 0:
        places = np.rint((target - energies[0]) / spacing).astype(int)
        if np.allclose(energies[places], target, atol=1e-6 * spacing):
            return values[..., places].astype(dtype)
    if sigma_add < 0.8 * spacing:
        raise ValueError(f"sigma_add is {sigma_add} eV; it must be at least 0.8 of the energy spacing {spacing:.4g} eV")
    return values.astype(dtype) @ _broadening_matrix(energies, target, sigma_add, spacing).astype(dtype)


def _broadening_matrix(energies: np.ndarray, target: np.ndarray, sigma: float, spacing: float) -> np.ndarray:
    """Gaussian weights ``[energy, target]``; what lies outside the window is charged to its ends."""
    reach = math.ceil(9 * sigma / spacing)
    wide = energies[0] + spacing * np.arange(-reach, len(energies) + reach)
    weights = np.exp(-0.5 * ((wide[:, None] - target) / sigma) ** 2) * spacing / (sigma * math.sqrt(2 * math.pi))
    inside = weights[reach:-reach].copy()
    inside[0] += weights[:reach].sum(axis=0)
    inside[-1] += weights[-reach:].sum(axis=0)
    return inside
