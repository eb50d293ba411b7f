"""The tables of ``ase_ldos/learning_primitives/README.md``: ``python tests/benchmarks/electron_dynamics.py pinn fno``.

Times are CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.density_propagator import (
    DensityPropagator,
    DensityTrajectories,
    block_errors,
    density_error,
    random_pulses,
    simulate_diatomics,
    train_propagator,
)
from ase_ldos.learning_primitives.electron_dynamics.exact_solutions import OscillatorSuperposition
from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import ion_potential
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem, find_ground_state
from ase_ldos.learning_primitives.electron_dynamics.laser import Pulse
from ase_ldos.learning_primitives.electron_dynamics.pinn import OrbitalNetwork, Start, train_orbitals
from ase_ldos.learning_primitives.electron_dynamics.propagation import largest_time_step, propagate

OSCILLATOR = Grid1D(12.0, 48)


def oscillator(levels: tuple[int, int], width: int, epochs: int, omegas: tuple[float, float] | None) -> None:
    """ψ_mn of ω = 1, or of all ω in a range, on 0 ≤ t ≤ 2π."""
    exact = OscillatorSuperposition(levels)

    def start(parameters: Tensor) -> Start:
        omega = parameters[:, :1] if omegas else parameters.new_ones(len(parameters), 1)
        system = KohnShamSystem(OSCILLATOR, omega**2 * OSCILLATOR.x**2 / 2, 1, "independent")
        return Start(system, exact(OSCILLATOR.x, 0.0, omega)[:, None])

    model = OrbitalNetwork(start, 2 * math.pi, hidden=(width,) * 3, parameters=[omegas] if omegas else ())
    begin = time.process_time()
    train_orbitals(model, epochs=epochs, n_times=16)
    cost = time.process_time() - begin
    times, inside = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64), OSCILLATOR.x.abs() <= math.pi
    for omega in torch.linspace(*omegas, 5).tolist() if omegas else [1.0]:
        parameters = torch.full((101, 1), omega, dtype=torch.float64) if omegas else None
        found = model.orbitals(times, parameters)[:, 0]
        right = exact(OSCILLATOR.x, times[:, None], omega)
        difference, density = (found - right)[:, inside], (found.abs().square() - right.abs().square())[:, inside]
        squares = [float(part.square().mean()) for part in (difference.real, difference.imag, density)]
        last = float(OSCILLATOR.integrate((found - right)[-1].abs().square()).sqrt())
        bound = float(model.error_bound(times, parameters)[-1])
        print(
            f"psi_{levels[0]}{levels[1]} omega {omega:5.3f}: mean square of Re {squares[0]:.1e}, Im {squares[1]:.1e}, "
            f"density {squares[2]:.1e}; error at the end {last:.1e}, its bound {bound:.1e}; {cost:.0f} s",
            flush=True,
        )


def molecule(epochs: int) -> None:
    """Two electrons with exact exchange in a laser."""
    grid, laser = Grid1D(20.0, 48), Pulse(0.05, 0.4, 10.0)
    system = KohnShamSystem(grid, ion_potential(grid.x, [-0.8, 0.8], [1.0, 1.0]))
    ground = find_ground_state(system)

    def start(parameters: Tensor) -> Start:
        many = KohnShamSystem(grid, system.external.expand(len(parameters), -1))
        return Start(many, ground.orbitals.expand(len(parameters), -1, -1))

    model = OrbitalNetwork(start, 10.0, field=laser)
    begin = time.process_time()
    train_orbitals(model, epochs=epochs, n_times=16)
    cost = time.process_time() - begin
    run = propagate(
        system, ground.orbitals, time_step=0.025, n_steps=400, record_every=4, field=laser, edge_tolerance=0.05
    )
    error = density_error(model.density(run.times), run.density)
    rest = density_error(ground.density, run.density)
    print(
        f"two electrons in a laser: density wrong by {float(error.mean()):.2%}, at most {float(error.max()):.2%} "
        f"(at rest: {float(rest.mean()):.2%}, {float(rest.max()):.2%}); {cost:.0f} s",
        flush=True,
    )


def pinn() -> None:
    oscillator((0, 1), 48, 40, None)
    oscillator((1, 3), 64, 60, None)
    oscillator((0, 1), 48, 40, (0.75, 1.5))
    molecule(40)


def fno(weights: Path | None) -> None:
    """Train on 0 ≤ t ≤ 20, judge up to 60."""
    generator, fine = torch.Generator().manual_seed(1), Grid1D(30.0, 128)

    def draw(n: int, horizon: float) -> tuple[Tensor, Pulse]:
        bonds = 1.2 + 1.2 * torch.rand(n, generator=generator, dtype=torch.float64)
        return bonds, random_pulses(n, horizon, generator)

    draws = draw(320, 20.0), draw(32, 20.0), draw(32, 60.0)
    model = DensityPropagator(generator=generator)
    begin = time.process_time()
    if weights is not None and weights.exists():
        model.error_growth = torch.zeros(5)
        model.load_state_dict(load_file(weights))
    else:
        data, held_back = (simulate_diatomics(fine, *drawn, n_intervals=40).thinned(2) for drawn in draws[:2])
        print(f"data in {time.process_time() - begin:.0f} s")
        train_propagator(model, data, held_back, epochs=80, generator=generator)
        print(f"trained, data included, in {time.process_time() - begin:.0f} s")
        if weights is not None:
            save_file(model.state_dict(), weights)
    bonds, pulses = draws[2]
    unseen = simulate_diatomics(fine, bonds, pulses, n_intervals=120)
    warnings.simplefilter("ignore")  # beyond the trained horizon is what this is about
    print("error of the density after each block of 4 atomic units of time, mean of 32 molecules with unseen lasers")
    for name, every in (("on the grid of training", 2), ("on a grid twice as fine", 1)):
        errors = block_errors(model, unseen.thinned(every))
        print(f"{name}: " + " ".join(f"{100 * float(e):.2f}" for e in errors) + f" %; mean {float(errors.mean()):.2%}")
    rest = density_error(unseen.ground[:, None], unseen.density).mean(dim=0).unflatten(0, (-1, 8)).mean(dim=1)
    print("at rest: " + " ".join(f"{100 * float(e):.2f}" for e in rest) + f" %; mean {float(rest.mean()):.2%}")
    for name, low, high, area in (
        ("bonds of 2.5 ... 2.8 bohr", 2.5, 2.8, (0.1, 0.6)),
        ("pulses of area 0.6 ... 0.9", 1.2, 2.4, (0.6, 0.9)),
    ):
        lengths = low + (high - low) * torch.rand(16, generator=generator, dtype=torch.float64)
        strong = random_pulses(16, 60.0, generator, area)
        strange = simulate_diatomics(fine, lengths, strong, n_intervals=120, edge_tolerance=0.1).thinned(2)
        still = float(density_error(strange.ground[:, None], strange.density).mean())
        error = float(block_errors(model, strange).mean())
        print(f"outside what was learned, {name}: mean {error:.2%} (at rest {still:.2%})")
    coarse = unseen.thinned(2)
    found = model.roll_out(coarse.ground.float(), coarse.field.float(), coarse.grid).detach()
    dipoles = [
        (density.double() * coarse.grid.x).sum(dim=-1) * coarse.grid.spacing for density in (found, coarse.density)
    ]
    relative = float((dipoles[0] - dipoles[1]).norm() / dipoles[1].norm())
    lines = [main_frequency(dipole, coarse.interval) for dipole in dipoles]
    print(
        f"dipole wrong by {relative:.1%}; its strongest frequency by {float((lines[0] - lines[1]).abs().mean()):.4f} "
        f"hartree (of 0.2 ... 0.5; resolution {2 * math.pi / 60:.2f})"
    )
    print(f"{'':36}{'mean error':>12}{'last block':>12}{'ms per time, one':>18}{'32 at once':>12}")
    row("learned propagator", density_error(found, coarse.density.float()), lambda n: learned(model, coarse[:n]))
    for n_points in (24, 28, 32, 40, 64):
        grid = Grid1D(30.0, n_points)
        for share in (1.0, 0.5):
            step = share * min(largest_time_step(grid), 0.5)

            coarse = simulate_diatomics(grid, bonds, pulses, n_intervals=120, time_step=step, edge_tolerance=math.inf)
            error = density_error(coarse.density, fine.interpolate(unseen.density, grid.x))
            row(
                f"solver, {n_points} points, steps of {0.5 / math.ceil(0.5 / step - 1e-9):.3f}",
                error,
                solve_only(grid, bonds, pulses, step),
            )


def solve_only(grid: Grid1D, bonds: Tensor, pulses: Pulse, step: float) -> Callable[[int], object]:
    """The solver's steps for the first n molecules: without the ground states, with a record at the end only."""
    positions = torch.stack((-bonds / 2, bonds / 2), dim=-1)
    system = KohnShamSystem(grid, ion_potential(grid.x, positions, torch.ones_like(positions)))
    ground = find_ground_state(system)
    n_steps = 120 * math.ceil(0.5 / step - 1e-9)

    def run(n: int) -> object:
        some = KohnShamSystem(grid, system.external[:n])
        laser = Pulse(*(torch.as_tensor(getattr(pulses, name))[:n] for name in pulses.__dataclass_fields__))
        return propagate(
            some,
            ground.orbitals[:n],
            time_step=60 / n_steps,
            n_steps=n_steps,
            record_every=n_steps,
            field=laser,
            edge_tolerance=math.inf,
        )

    return run


def main_frequency(dipole: Tensor, interval: float) -> Tensor:
    """Of the largest Fourier component of dipoles ``[B, T]``, ``[B]``."""
    window = torch.hann_window(dipole.shape[1], dtype=dipole.dtype)
    waves = torch.fft.rfft(window * (dipole - dipole.mean(dim=1, keepdim=True)), n=16 * dipole.shape[1]).abs()
    return waves.argmax(dim=1) * 2 * math.pi / (16 * dipole.shape[1] * interval)


def learned(model: DensityPropagator, data: DensityTrajectories) -> None:
    with torch.no_grad():
        model.roll_out(data.ground.float(), data.field.float(), data.grid)


def row(name: str, error: Tensor, run: Callable[[int], object]) -> None:
    """Errors ``[B, T]`` and the CPU time per molecule and atomic unit of time."""
    costs = []
    for n in (1, 32):
        run(n)
        begin, rounds = time.process_time(), 3 if n == 1 else 1
        for _ in range(rounds):
            run(n)
        costs.append(1000 * (time.process_time() - begin) / rounds / n / 60)
    print(
        f"{name:36}{float(error.mean()):12.2%}{float(error[:, -8:].mean()):12.2%}{costs[0]:18.3f}{costs[1]:12.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("pinn", "fno"))
    parser.add_argument("--weights", type=Path, help="keep the learned propagator in this file, or take it from there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts:
        if part == "pinn":
            pinn()
        else:
            fno(options.weights)


if __name__ == "__main__":
    main()
