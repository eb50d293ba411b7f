"""What the report of a learning says of a material with a gap; the rest of it is tested with a whole learning."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ase.build import bulk
from torch import Tensor

from ase_ldos.active_learning.report import _gap_sentence
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.grid import Grid

ENERGIES = torch.linspace(-8, 8, 321, dtype=torch.float64)
SIGMA = 0.1
SILICON = bulk("Si")


def two_bands(top: float, bottom: float) -> Tensor:
    """Eight states below ``top`` and above ``bottom`` each, eV, broadened by SIGMA."""

    def band(first: float, last: float) -> Tensor:
        width = SIGMA * math.sqrt(2)
        return 4 / (last - first) * (torch.erf((ENERGIES - first) / width) - torch.erf((ENERGIES - last) / width))

    return band(top - 6, top) + band(bottom, bottom + 6)


def calculator(dos: Tensor) -> Any:  # noqa: ANN401 - stands for one
    grid = Grid(torch.as_tensor(SILICON.cell.array), (4, 4, 4))
    density = torch.full(grid.shape, 8 / float(grid.volume), dtype=torch.float64)
    prediction = SimpleNamespace(
        grid=grid, density=density, energies=SimpleNamespace(n_atoms=2), dos=dos, energy_grid=ENERGIES
    )
    return SimpleNamespace(model=SimpleNamespace(metadata=SimpleNamespace(broadening=SIGMA)), prediction=prediction)


def label(dos: Tensor, gap: float | None) -> Snapshot:
    return Snapshot(
        "r0_c0-volume+0",
        SILICON.numbers,
        SILICON.cell.array,
        SILICON.positions,
        energies=ENERGIES.numpy(),
        ldos_sigma=SIGMA,
        dos=dos.numpy(),
        gap=gap,
        valence=4.0,
    )


def test_both_gaps_and_their_middles_are_told() -> None:
    words = _gap_sentence(calculator(two_bands(0.0, 1.2)), label(two_bands(0.1, 1.6), 1.45)).split()
    numbers = [float(word.strip("(;,)")) for word in words if any(c.isdigit() for c in word) and word != "Si2:"]
    here, here_error, theirs, theirs_error, states, middle, their_middle = numbers
    assert here == pytest.approx(1.2, abs=here_error + 0.02)
    assert theirs == pytest.approx(1.5, abs=theirs_error + 0.02)
    assert max(here_error, theirs_error) < 3 * SIGMA
    assert states == 1.45
    assert (middle, their_middle) == pytest.approx((0.6, 0.85), abs=0.03)
    assert words[0] == "Si2:"


def test_a_model_without_the_gap_of_dft_is_told_to_have_none() -> None:
    found = _gap_sentence(calculator(two_bands(0.0, 0.0)), label(two_bands(0.0, 1.5), 1.5))
    assert "gap read off the DOS not resolved at its width (DFT 1." in found


def test_of_a_metal_nothing_is_told() -> None:
    metal = two_bands(0.0, 0.0)
    assert _gap_sentence(calculator(metal), label(metal, 0.0)) == ""
    assert _gap_sentence(calculator(metal), label(metal, None)) == ""
