"""The gap of a density of states: edges, middle, metals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ase_ldos.physics.gap import TOLERANCE, find_gap

ENERGIES = torch.linspace(-8, 8, 321, dtype=torch.float64)


def broadened_steps(bands: list[tuple[float, float, float]], sigma: float) -> Tensor:
    """Σ of flat bands (from, to, states), convolved with a Gaussian."""
    total = torch.zeros_like(ENERGIES)
    for first, last, states in bands:
        inside = torch.erf((ENERGIES - first) / (sigma * math.sqrt(2))) - torch.erf(
            (ENERGIES - last) / (sigma * math.sqrt(2))
        )
        total += states / (last - first) * inside / 2
    return total


def broadened_root(sigma: float, valence: float, conduction: float) -> Tensor:
    """Bands √|ε − edge| of eight states each, convolved with a Gaussian on a fine mesh."""
    fine = torch.linspace(-14, 14, 28001, dtype=torch.float64)
    depth, height = valence - fine, fine - conduction
    bare = torch.where((depth > 0) & (depth < 6), depth.clamp(min=0).sqrt(), 0.0)
    bare = bare + torch.where((height > 0) & (height < 6), height.clamp(min=0).sqrt(), 0.0)
    bare *= 8 / (2 / 3 * 6**1.5)
    weights = torch.exp(-0.5 * ((ENERGIES[:, None] - fine) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return weights @ bare * 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("width", [1.0, 1.5, 3.0])
def test_edges_of_three_dimensional_bands(sigma: float, width: float) -> None:
    gap = find_gap(broadened_root(sigma, 0.0, width), ENERGIES, 8.0, 2, sigma)
    assert gap.resolved
    assert gap.width == pytest.approx(width, abs=0.12 * sigma + 0.01)
    assert gap.middle == pytest.approx(width / 2, abs=0.02)
    assert 0 < gap.uncertainty < 2.5 * sigma


@pytest.mark.parametrize("sigma", [0.1, 0.2])
@pytest.mark.parametrize("width", [0.8, 1.5, 3.0])
def test_bands_that_begin_as_a_step(sigma: float, width: float) -> None:
    dos = broadened_steps([(-6.0, 0.0, 8.0), (width, width + 6, 8.0)], sigma)
    gap = find_gap(dos, ENERGIES, 8.0, 2, sigma)
    assert gap.width == pytest.approx(width, abs=gap.uncertainty + 0.02)
    assert gap.middle == pytest.approx(width / 2, abs=0.02)


def test_a_metal_has_none() -> None:
    dos = broadened_steps([(-6.0, 6.0, 12.0)], 0.3)
    gap = find_gap(dos, ENERGIES, 6.0, 2, 0.3)
    assert not gap.resolved
    assert gap.width == 0
    assert gap.middle == pytest.approx(0.0, abs=1e-6)
    assert gap.above - gap.below == pytest.approx(4 * TOLERANCE, rel=1e-6)


def test_a_deep_minimum_is_none() -> None:
    """Beryllium's: 0.1 states per eV and atom at μ."""
    dos = broadened_steps([(-6.0, -0.4, 4.0), (-0.6, 0.6, 0.24), (0.4, 6.0, 4.0)], 0.3)
    assert find_gap(dos, ENERGIES, 4.12, 2, 0.3).width == 0


def test_a_prediction_may_dip_below_zero() -> None:
    dos = broadened_steps([(-6.0, 0.0, 8.0), (2.0, 6.0, 8.0)], 0.2) - 0.002 * ((ENERGIES > 0.6) & (ENERGIES < 1.4))
    gap = find_gap(dos, ENERGIES, 8.0, 2, 0.2)
    assert gap.width == pytest.approx(2.0, abs=gap.uncertainty + 0.05)


def test_windows_without_edges() -> None:
    dos = broadened_steps([(-6.0, 0.0, 8.0)], 0.2)
    with pytest.raises(ValueError, match="to see the edges of a gap"):
        find_gap(dos, ENERGIES, 8.0, 2, 0.2)
    with pytest.raises(ValueError, match="at least one atom"):
        find_gap(dos, ENERGIES, 4.0, 0, 0.2)
