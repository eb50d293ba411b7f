"""The learned propagator of densities and its data."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from ase_ldos.learning_primitives.electron_dynamics.density_propagator import (
    DensityPropagator,
    DensityTrajectories,
    block_errors,
    density_error,
    random_pulses,
    simulate_diatomics,
    train_propagator,
)
from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D

GRID = Grid1D(24.0, 48)


@cache
def trajectories(n: int = 24, n_intervals: int = 8, seed: int = 1) -> DensityTrajectories:
    generator = torch.Generator().manual_seed(seed)
    bonds = 1.4 + 0.6 * torch.rand(n, generator=generator, dtype=torch.float64)
    pulses = random_pulses(n, n_intervals * 0.5, generator)
    return simulate_diatomics(GRID, bonds, pulses, n_intervals=n_intervals)


def small(**settings: int) -> DensityPropagator:
    options = {"block": 4, "modes": 8, "width": 12, "n_layers": 2} | settings
    return DensityPropagator(**options, generator=torch.Generator().manual_seed(2))  # type: ignore[arg-type]


def test_random_pulses_end_in_time_and_have_their_area() -> None:
    pulses = random_pulses(500, 20.0, torch.Generator().manual_seed(1))
    assert float((torch.as_tensor(pulses.start) + pulses.duration).max()) <= 20
    assert float(torch.as_tensor(pulses.start).min()) >= 0
    area = torch.as_tensor(pulses.amplitude) * pulses.duration / 2
    assert 0.1 <= float(area.min()) < 0.12
    assert 0.58 < float(area.max()) <= 0.6


def test_data_do_not_depend_on_solver_settings() -> None:
    """A finer grid and shorter steps, read at the coarse points, give the same densities."""
    bonds, pulses = torch.tensor([1.6], dtype=torch.float64), random_pulses(1, 4.0, torch.Generator().manual_seed(2))
    coarse = simulate_diatomics(GRID, bonds, pulses, n_intervals=8)
    fine = simulate_diatomics(Grid1D(24.0, 96), bonds, pulses, n_intervals=8, time_step=0.025).thinned(2)
    assert fine.grid == GRID
    assert torch.equal(fine.field, coarse.field)
    assert float(density_error(coarse.density, fine.density).max()) < 5e-3
    assert float(density_error(coarse.ground[:, None], coarse.density).max()) > 2e-2
    with pytest.raises(ValueError, match="48 points, the middle one kept, cannot be thinned 5-fold"):
        coarse.thinned(5)


def test_mirror_images_are_solutions_too() -> None:
    data, mirrored = trajectories(), trajectories().mirrored()
    dipole = (data.density * GRID.x).sum(dim=-1)
    # the point at −L/2 has no partner, but no density either
    torch.testing.assert_close((mirrored.density * GRID.x).sum(dim=-1), -dipole, rtol=0, atol=2e-2)
    assert float(dipole.abs().max()) > 0.3
    assert torch.equal(mirrored.mirrored().density, data.density)
    torch.testing.assert_close(mirrored.ground, data.ground, rtol=0, atol=1e-8)


def test_the_number_of_electrons_is_kept_before_any_training() -> None:
    data, model = trajectories(), small().double()
    found = model.roll_out(data.ground, data.field, GRID).detach()
    assert float(density_error(found, data.density).max()) > 1e-2
    torch.testing.assert_close(GRID.integrate(found), torch.full((24, 8), 2.0, dtype=torch.float64))


def test_it_learns_and_works_on_another_grid() -> None:
    """Held-back lasers and bond lengths, on the grid of training and on one twice as fine."""
    data, held_back = trajectories(), trajectories(8, seed=2)
    model = small()
    history = train_propagator(model, data, held_back, epochs=40, batch_size=8, unroll=2, learning_rate=1e-2)
    at_rest = float(density_error(held_back.ground[:, None], held_back.density).mean())
    assert history.best < 0.4 * at_rest
    assert len(model.error_growth) == 2
    assert float(model.error_growth.mean()) == pytest.approx(history.best, rel=1e-6)
    generator = torch.Generator().manual_seed(2)
    bonds = 1.4 + 0.6 * torch.rand(8, generator=generator, dtype=torch.float64)
    fine = simulate_diatomics(Grid1D(24.0, 96), bonds, random_pulses(8, 4.0, generator), n_intervals=8)
    assert float(block_errors(model, fine).mean()) == pytest.approx(history.best, rel=0.1)
    with pytest.warns(UserWarning, match=r"asked for 8 atomic units of time, trained for 4: .* grew from \d\.\d\d% to"):
        model.roll_out(data.ground.float(), data.field.repeat(1, 2)[:, :17].float(), GRID)


def test_same_seed_same_network() -> None:
    before = torch.get_rng_state()
    losses = [
        train_propagator(
            small(), trajectories(), trajectories(), epochs=2, generator=torch.Generator().manual_seed(seed)
        ).column("loss")
        for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input() -> None:
    data, model = trajectories(), small()
    with pytest.raises(ValueError, match=r"1 \+ a multiple of 4 times, got 8"):
        model.roll_out(data.ground.float(), data.field[:, :8].float(), GRID)
    with pytest.raises(ValueError, match=r"a multiple of 5 densities in intervals of 0\.5, got 8 and 8"):
        train_propagator(small(block=5), data, data)
