"""The reference solver against what is known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from ase_ldos.learning_primitives.electron_dynamics.exact_solutions import (
    OscillatorSuperposition,
    free_packet,
    oscillator_state,
)
from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import ion_potential
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem, find_ground_state
from ase_ldos.learning_primitives.electron_dynamics.laser import Pulse
from ase_ldos.learning_primitives.electron_dynamics.propagation import Trajectory, largest_time_step, propagate
from ase_ldos.learning_primitives.electron_dynamics.spectrum import kick

MOLECULE = Grid1D(30.0, 96)
LASER = Pulse(0.05, 0.4, 20.0)


def molecule(interaction: str = "exact_exchange", n_electrons: int = 2) -> tuple[KohnShamSystem, torch.Tensor]:
    charge = n_electrons / 2
    system = KohnShamSystem(
        MOLECULE, ion_potential(MOLECULE.x, [-0.8, 0.8], [charge, charge]), n_electrons, interaction
    )
    return system, find_ground_state(system).orbitals


def distance(left: torch.Tensor, right: torch.Tensor, grid: Grid1D) -> float:
    return float(grid.integrate((left - right).abs().square()).sqrt().max())


def test_a_free_packet_spreads_as_it_should() -> None:
    """The kinetic step is exact: only the periodic images are an error."""
    grid = Grid1D(80.0, 256)
    system = KohnShamSystem(grid, torch.zeros(256, dtype=torch.float64), 1, "independent")
    run = propagate(system, free_packet(grid.x, 0.0, momentum=1.2)[None], time_step=0.05, n_steps=120)
    assert distance(run.orbitals[0], free_packet(grid.x, 6.0, momentum=1.2), grid) < 1e-10
    torch.testing.assert_close(run.dipole, 1.2 * run.times, rtol=0, atol=1e-9)
    spread = grid.integrate(run.density * (grid.x - run.dipole[:, None]) ** 2)
    torch.testing.assert_close(spread, 1 + run.times**2 / 4, rtol=0, atol=1e-8)


def oscillate(time_step: float, n_points: int, levels: tuple[int, int] = (1, 3)) -> float:
    """Error of ψ_mn at t = 1."""
    grid, exact = Grid1D(15.0, n_points), OscillatorSuperposition(levels)
    system = KohnShamSystem(grid, 0.5 * grid.x**2, 1, "independent")
    run = propagate(system, exact(grid.x, 0.0)[None], time_step=time_step, n_steps=round(1 / time_step))
    return distance(run.orbitals[0], exact(grid.x, 1.0), grid)


def test_second_order_in_the_time_step() -> None:
    errors = [oscillate(step, 80) for step in (0.02, 0.01, 0.005)]
    assert errors[0] < 1e-2
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.01)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.01)


def test_exponential_order_in_the_spacing() -> None:
    """Every further four points divide the error by more; an error of any power of the spacing would by less."""
    errors = [oscillate(0.0025, n_points) for n_points in (16, 20, 24)]
    assert 20 < errors[0] / errors[1] < errors[1] / errors[2]


@pytest.mark.parametrize(("interaction", "n_electrons"), [("exact_exchange", 2), ("lda", 2), ("lda", 4)])
def test_second_order_with_interaction_and_laser(interaction: str, n_electrons: int) -> None:
    system, orbitals = molecule(interaction, n_electrons)
    runs = [
        propagate(system, orbitals, time_step=4 / n, n_steps=n, record_every=n, field=LASER) for n in (80, 160, 320)
    ]
    errors = [distance(run.orbitals, runs[-1].orbitals, MOLECULE) for run in runs[:-1]]
    # against the finest run instead of the limit: (1 − 1/16) / (1/4 − 1/16) = 5
    assert errors[0] / errors[1] == pytest.approx(5, rel=0.02)


def test_electrons_and_energy_are_conserved() -> None:
    """After a kick, without a laser; the error in the energy is of second order."""
    system, orbitals = molecule()
    orbitals = kick(orbitals, MOLECULE.x, 0.1)
    drifts = []
    for n_steps in (1000, 2000):
        run = propagate(system, orbitals, time_step=30 / n_steps, n_steps=n_steps, record_every=n_steps // 50)
        assert float((run.n_electrons - 2).abs().max()) < 1e-12
        drifts.append(float((run.energy - run.energy[0]).abs().max()))
    assert drifts[0] < 1e-6
    assert drifts[0] / drifts[1] == pytest.approx(4, rel=0.05)


def test_electrons_are_conserved_with_a_laser_that_does_work() -> None:
    system, orbitals = molecule()
    run = propagate(system, orbitals, time_step=0.05, n_steps=400, field=LASER)
    assert float((run.n_electrons - 2).abs().max()) < 1e-12
    assert float(run.energy[-1] - run.energy[0]) > 1e-2


def ehrenfest(run: Trajectory, force: torch.Tensor) -> float:
    """Largest difference of d²⟨x⟩/dt² (from the record) and the force on the electrons."""
    step = float(run.times[1] - run.times[0])
    acceleration = (run.dipole[2:] - 2 * run.dipole[1:-1] + run.dipole[:-2]) / step**2
    return float((acceleration - force[1:-1]).abs().max())


def test_ehrenfest_in_a_molecule_with_a_laser() -> None:
    """d²⟨x⟩/dt² = −∫ n ∂v_ext/∂x dx + N E: electrons exert no net force on each other."""
    grid = Grid1D(50.0, 160)
    system = KohnShamSystem(grid, ion_potential(grid.x, [-0.8, 0.8], [1.0, 1.0]))
    orbitals = find_ground_state(system).orbitals
    run = propagate(system, orbitals, time_step=0.04, n_steps=500, field=LASER)
    # ∂v/∂x in closed form, as the ions' tails meet at the ends of the box
    slope = torch.stack([(grid.x - c) / (1 + (grid.x - c) ** 2) ** 1.5 for c in (-0.8, 0.8)]).sum(dim=0)
    force = -grid.integrate(run.density * slope) + 2 * torch.stack([LASER(t) for t in run.times.tolist()])
    assert float(force.abs().max()) > 0.05
    assert ehrenfest(run, force) < 1e-6


def test_a_displaced_oscillator_keeps_its_shape() -> None:
    """Interacting electrons in a parabola swing as one, at its own frequency (Kohn's theorem)."""
    grid = Grid1D(24.0, 96)
    system = KohnShamSystem(grid, 0.5 * 0.25 * grid.x**2, 2, "exact_exchange")
    ground = find_ground_state(system)
    shifted = grid.interpolate(ground.orbitals, (grid.x - 1.0).clamp_min(-12.0))
    run = propagate(system, shifted, time_step=0.02, n_steps=1000)
    torch.testing.assert_close(run.dipole, 2 * torch.cos(0.5 * run.times), rtol=0, atol=1e-4)


def test_it_can_go_back() -> None:
    """Conjugate, propagate, conjugate: time runs backwards."""
    system, orbitals = molecule()
    there = propagate(system, orbitals, time_step=0.05, n_steps=200, field=LASER)
    back = propagate(system, there.orbitals.conj(), time_step=0.05, n_steps=200, field=lambda time: LASER(10.0 - time))
    assert distance(back.orbitals.conj(), orbitals, MOLECULE) < 1e-11


def test_bad_runs() -> None:
    system, orbitals = molecule()
    limit = largest_time_step(MOLECULE)
    assert limit == pytest.approx(2 * (30 / 96) ** 2 / math.pi)
    for step in (1.01 * limit, 0.0, -0.01, float("nan")):
        with pytest.raises(ValueError, match=r"at most 2 Δx²/π = 0.06217"):
            propagate(system, orbitals, time_step=step, n_steps=1)
    with pytest.raises(ValueError, match="7 steps cannot be recorded every 2"):
        propagate(system, orbitals, time_step=0.05, n_steps=7, record_every=2)
    with pytest.raises(ValueError, match=r"shape \[1, 96\] of the system, got \[2, 96\]"):
        propagate(system, orbitals.expand(2, -1), time_step=0.05, n_steps=1)
    grid = Grid1D(20.0, 64)
    empty = KohnShamSystem(grid, torch.zeros(64, dtype=torch.float64), 1, "independent")
    with pytest.raises(ValueError, match=r"have reached the edge of the box at time 1"):
        propagate(empty, free_packet(grid.x, 0.0, momentum=3.0)[None], time_step=0.05, n_steps=200)


def test_why_long_steps_are_refused() -> None:
    """Just below the bound the energy stays, above it the fastest waves take up more and more of it."""
    grid = Grid1D(20.0, 160)
    system = KohnShamSystem(grid, ion_potential(grid.x, [0.0], [2.0]))
    orbitals = kick(find_ground_state(system).orbitals, grid.x, 0.5)
    limit = largest_time_step(grid)
    run = propagate(system, orbitals, time_step=0.99 * limit, n_steps=2000, record_every=100, edge_tolerance=1.0)
    assert float((run.energy - run.energy[0]).abs().max()) < 1e-3


def test_states_of_the_oscillator_are_those_of_the_textbook() -> None:
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    ground = (2 / math.pi) ** 0.25 * torch.exp(-(x**2))
    torch.testing.assert_close(oscillator_state(0, x, 2.0), ground)
    torch.testing.assert_close(oscillator_state(1, x, 2.0), 2 * x * ground)
    third = ground / math.sqrt(48) * (8 * (math.sqrt(2) * x) ** 3 - 12 * math.sqrt(2) * x)
    torch.testing.assert_close(oscillator_state(3, x, 2.0), third)
    with pytest.raises(ValueError, match="levels of the oscillator are 0"):
        oscillator_state(-1, x)
