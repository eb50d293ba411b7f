"""Widening of LDOS and DOS along the energy axis, and bringing them onto a model's energies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase_ldos.dataset.snapshot import Snapshot

#: Least width, in units of the spacing, of data that may be interpolated between their energies.
_SMOOTH = 2.0
#: Part of the largest value below which the lowest bands have not begun.
_NOTHING = 1e-3
#: An energy counts as known when it lies this many widths below the first state that DFT left out.
_MARGIN = 2.0


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


def on_model_energies(
    snapshot: Snapshot, values: np.ndarray, energies: np.ndarray, broadening: float
) -> tuple[np.ndarray, int]:
    """Bring a snapshot's LDOS or DOS to a model's width and energies, as far up as DFT knows them.

    Args:
        snapshot: tells the energies, the width and the highest band of ``values``.
        values: ``[..., energy]`` on the snapshot's energies.
        energies: of the model, eV.
        broadening: standard deviation of the model's LDOS, eV.

    Returns:
        ``[..., known]`` in the unit of ``values``, and how many of the model's energies, from the first, are known.

    Raises:
        ValueError: data broader than the model, a window that begins above the model's, or nothing known.
    """
    if snapshot.energies is None:
        raise ValueError(f"{snapshot.name} has no energies of its LDOS and DOS")
    sigma = float(snapshot.ldos_sigma or 0.0)
    if sigma > broadening:
        raise ValueError(f"{snapshot.name}: its LDOS has σ = {sigma} eV, broader than the model's {broadening} eV")
    top = float(snapshot.energies[-1])
    if snapshot.complete_below is not None:
        top = min(top, snapshot.complete_below - _MARGIN * broadening)
    known = int(np.searchsorted(energies, top + 1e-9, side="right"))
    if known < 2:
        raise ValueError(f"{snapshot.name}: its LDOS ends at {top:.2f} eV, below the model's window")
    values, nodes = _down_to(float(energies[0]), np.asarray(values), snapshot)
    added = math.sqrt(broadening**2 - sigma**2)
    spacing = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
    target = np.asarray(energies[:known], dtype=float)
    steps = (target - nodes[0]) / spacing
    if added == 0 and sigma >= _SMOOTH * spacing and np.abs(steps - np.rint(steps)).max() > 1e-6:
        # data of the model's own width on other energies: a spline through Gaussians of two spacings and more is exact
        # to 1e-3 of their height, of three to 1e-4
        from scipy.interpolate import CubicSpline

        return CubicSpline(nodes, values, axis=-1)(target).astype(np.result_type(values.dtype, np.float32)), known
    return broaden(values, nodes, added, target), known


def _down_to(lowest: float, values: np.ndarray, snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Values and their energies with zeros put below the window's start where nothing is at that start."""
    nodes = np.asarray(snapshot.energies, dtype=float)
    missing = math.ceil((nodes[0] - lowest) / (nodes[1] - nodes[0]) - 1e-9) if len(nodes) > 1 else 0
    # rounding has spread over all energies of an LDOS in the compact form, but not of the DOS
    begun = values if snapshot.dos is None else np.asarray(snapshot.dos)
    if missing <= 0 or np.abs(begun[..., 0]).max() > _NOTHING * np.abs(begun).max():
        return values, nodes
    spacing = (nodes[-1] - nodes[0]) / (len(nodes) - 1)
    below = nodes[0] + spacing * np.arange(-missing, 0)
    return np.concatenate((np.zeros((*values.shape[:-1], missing), values.dtype), values), axis=-1), np.concatenate(
        (below, nodes)
    )


def _broadening_matrix(energies: np.ndarray, target: np.ndarray, sigma: float, spacing: float) -> np.ndarray:
    """Gaussian weights ``[energy, target]``; what lies outside the window is charged to its ends."""
    reach = math.ceil(9 * sigma / spacing)
    wide = energies[0] + spacing * np.arange(-reach, len(energies) + reach)
    weights = np.exp(-0.5 * ((wide[:, None] - target) / sigma) ** 2) * spacing / (sigma * math.sqrt(2 * math.pi))
    inside = weights[reach:-reach].copy()
    inside[0] += weights[:reach].sum(axis=0)
    inside[-1] += weights[-reach:].sum(axis=0)
    return inside
