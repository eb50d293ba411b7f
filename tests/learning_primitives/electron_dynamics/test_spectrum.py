"""Absorption: the solver after a kick against linear response."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import ion_potential
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem, find_ground_state
from ase_ldos.learning_primitives.electron_dynamics.laser import Pulse
from ase_ldos.learning_primitives.electron_dynamics.propagation import propagate
from ase_ldos.learning_primitives.electron_dynamics.spectrum import kick, linear_response, spectrum_of

GRID = Grid1D(36.0, 100)
FREQUENCIES = torch.linspace(0.2, 0.6, 801, dtype=torch.float64)


def peaks(frequencies: Tensor, spectrum: Tensor, share: float = 0.05) -> list[float]:
    higher = (spectrum[1:-1] > spectrum[:-2]) & (spectrum[1:-1] > spectrum[2:])
    return frequencies[1:-1][higher & (spectrum[1:-1] > share * spectrum.max())].tolist()


@pytest.mark.parametrize(
    ("interaction", "n_electrons"), [("independent", 2), ("exact_exchange", 2), ("lda", 2), ("lda", 4)]
)
def test_a_weak_kick_is_answered_as_linear_response_says(interaction: str, n_electrons: int) -> None:
    """The whole dipole, continuum of the box included: d(t) = κ Σ_I f_I sin(ω_I t) / ω_I."""
    charge = n_electrons / 2
    system = KohnShamSystem(GRID, ion_potential(GRID.x, [-0.8, 0.8], [charge, charge]), n_electrons, interaction)
    ground = find_ground_state(system)
    lines = linear_response(system, ground)
    # the sum rule of Thomas, Reiche and Kuhn
    assert float(lines.strengths.sum()) == pytest.approx(n_electrons, rel=1e-3)
    run = propagate(system, kick(ground.orbitals, GRID.x, 1e-4), time_step=0.04, n_steps=500)
    expected = 1e-4 * torch.sin(run.times[:, None] * lines.energies) @ (lines.strengths / lines.energies)
    difference = float((run.dipole - expected).abs().max() / expected.abs().max())
    assert difference < 2e-3
    # without the response of v_S, the frequencies would be the gaps between the levels
    first = float(lines.energies[lines.strengths > 0.2][0])
    gap = float(ground.levels[len(system.occupations)] - ground.levels[len(system.occupations) - 1])
    assert (abs(first - gap) < 1e-9) == (interaction == "independent")


def test_lines_after_a_kick_are_those_of_linear_response() -> None:
    system = KohnShamSystem(GRID, ion_potential(GRID.x, [-0.8, 0.8], [1.0, 1.0]))
    ground = find_ground_state(system)
    lines = linear_response(system, ground)
    run = propagate(system, kick(ground.orbitals, GRID.x, 1e-3), time_step=0.08, n_steps=4000, record_every=4)
    spectrum = spectrum_of(run, 1e-3, FREQUENCIES)
    assert peaks(FREQUENCIES, spectrum) == pytest.approx(lines.energies[lines.strengths > 0.1][:2].tolist(), abs=2e-3)
    # the first line alone has most of one electron's strength
    first = FREQUENCIES < 0.5
    strength = float(spectrum[first].sum() * (FREQUENCIES[1] - FREQUENCIES[0]))
    assert strength == pytest.approx(float(lines.strengths[0]), rel=0.02)


def test_odd_numbers_have_no_linear_response() -> None:
    system = KohnShamSystem(GRID, ion_potential(GRID.x, [0.0], [1.0]), 1, "lda")
    with pytest.raises(ValueError, match="even number of electrons"):
        linear_response(system, find_ground_state(system))


def test_pulse() -> None:
    pulse = Pulse(0.2, 0.5, 10.0, start=3.0)
    assert [float(pulse(t)) for t in (2.0, 3.0, 8.0, 13.0, 20.0)] == pytest.approx([0, 0, 0.2, 0, 0], abs=1e-15)
    many = Pulse(torch.tensor([0.1, 0.2]), 0.5, torch.tensor([10.0, 4.0]))
    assert many(5.0).tolist() == pytest.approx([0.1, 0.0])
    with pytest.raises(ValueError, match="positive time, got duration 0"):
        Pulse(0.1, 0.5, 0.0)
