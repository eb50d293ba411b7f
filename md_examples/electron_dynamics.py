"""Electrons of a molecule in a laser pulse: calculated, then learned in two ways; all in one dimension, atomic units.

Run: python electron_dynamics.py [--folder F]. Prints how far each is from what is known, and writes
electron_dynamics.png (absorption; density in the pulse), electron_pinn.png (a network that satisfies Schrödinger's
equation) and electron_film.gif (a learned propagator beside the solver). One minute of one core.
"""

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import Artist

from ase_ldos.learning_primitives.electron_dynamics.density_propagator import (
    DensityPropagator,
    DensityTrajectories,
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
from ase_ldos.learning_primitives.electron_dynamics.propagation import propagate
from ase_ldos.learning_primitives.electron_dynamics.spectrum import kick, linear_response, spectrum_of

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, default=Path())
parser.add_argument("--pinn-epochs", type=int, default=25, help="of 50 steps each")
parser.add_argument("--propagator-epochs", type=int, default=60)
parser.add_argument("--trajectories", type=int, default=128, help="that the propagator learns from")
options = parser.parse_args()
torch.set_num_threads(1)

# 1. The solver: a molecule like H2, kicked (which frequencies does it absorb?) and in a pulse.
grid = Grid1D(40.0, 120)
system = KohnShamSystem(grid, ion_potential(grid.x, [-0.8, 0.8], [1.0, 1.0]))
ground = find_ground_state(system)
kicked = propagate(system, kick(ground.orbitals, grid.x, 1e-3), time_step=0.06, n_steps=6000, record_every=5)
drift = [(values - values[0]).abs().max().item() for values in (kicked.n_electrons, kicked.energy)]
print(f"Solver: electrons kept to {drift[0]:.1e}, energy to {drift[1]:.1e} hartree, {kicked.times[-1]:.0f} time units")
frequencies = torch.linspace(0.3, 0.65, 701, dtype=torch.float64)
spectrum, lines = spectrum_of(kicked, 1e-3, frequencies), linear_response(system, ground)
found = frequencies[spectrum.argmax()].item()
print(f"Absorption: strongest line at {found:.4f} hartree, by linear response {lines.energies[0]:.4f}")
pulse = Pulse(amplitude=0.04, frequency=0.4, duration=30.0)
lit = propagate(system, ground.orbitals, time_step=0.06, n_steps=600, record_every=5, field=pulse, edge_tolerance=0.02)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(frequencies, spectrum, label="dipole after a kick")
bright = lines.strengths > 0.02
left.vlines(
    lines.energies[bright], 0, lines.strengths[bright] * 40, color="C1", label="linear response (strength × 40)"
)
left.set(
    xlim=(0.3, 0.65),
    ylim=(-8, 125),
    xlabel="frequency (hartree)",
    ylabel="dipole strength (1/hartree)",
    title="Absorption",
)
left.legend(loc="upper right")
change = (lit.density - ground.density).T
image = right.pcolormesh(
    lit.times.numpy(),
    grid.x.numpy(),
    change.numpy(),
    cmap="RdBu_r",
    vmin=-0.15,
    vmax=0.15,
    shading="gouraud",
    rasterized=True,
)
field = torch.stack([pulse(time) for time in lit.times.tolist()])
right.plot(lit.times, 8 + 60 * field, "k", lw=1)
right.set(ylim=(-11, 11), xlabel="time", ylabel="x (bohr)", title="Change of the density in a pulse (black: field)")
figure.colorbar(image, label="Δn (1/bohr)")
figure.savefig(options.folder / "electron_dynamics.png", dpi=150)

# 2. A physics-informed network: it sees Schrödinger's equation and the state at time 0, no solution of it.
box, exact = Grid1D(12.0, 48), OscillatorSuperposition((0, 1))


def start(parameters: torch.Tensor) -> Start:
    many = (box.x**2 / 2).expand(len(parameters), -1)
    return Start(KohnShamSystem(box, many, 1, "independent"), exact(box.x, 0.0).expand(len(parameters), 1, -1))


network = OrbitalNetwork(start, 2 * math.pi)
history = train_orbitals(network, epochs=options.pinn_epochs, n_times=16, progress=True)
times = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64)
learned, right_answer = network.orbitals(times)[:, 0], exact(box.x, times[:, None])
inside = box.x.abs() <= math.pi
squares = [(part(learned) - part(right_answer))[:, inside].square().mean().item() for part in (torch.real, torch.imag)]
squares.append((learned.abs() ** 2 - right_answer.abs() ** 2)[:, inside].square().mean().item())
print(f"Network for psi_01: mean square error of Re {squares[0]:.1e}, Im {squares[1]:.1e}, density {squares[2]:.1e}")
errors = box.integrate((learned - right_answer).abs() ** 2).sqrt()
figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
shades = {"cmap": "RdBu_r", "vmin": -0.8, "vmax": 0.8, "shading": "gouraud", "rasterized": True}
for axis, values, title in zip(axes, (right_answer, learned), ("exact Re ψ", "the network's Re ψ")):
    axis.pcolormesh(times.numpy(), box.x.numpy(), values.real.T.numpy(), **shades)
    axis.set(title=title, xlabel="time", ylabel="x", ylim=(-4, 4))
axes[2].semilogy(times[1:], errors[1:], label="error ‖ψ − ψ_exact‖")
axes[2].semilogy(times[1:], network.error_bound(times)[1:], "--", label="its bound ∫‖r‖ dt")
axes[2].set(xlabel="time", title="Error and what the network knows of it")
axes[2].legend()
axes[3].semilogy(history.column("residual"))
axes[3].set(xlabel="epoch", title="How badly the equation is violated")
figure.savefig(options.folder / "electron_pinn.png", dpi=120)

# 3. A learned propagator: from the density of the last 4 units of time and the field, to the next 4.
random, fine = torch.Generator().manual_seed(1), Grid1D(30.0, 64)


def simulate(n: int, n_intervals: int = 40) -> DensityTrajectories:
    bonds = 1.2 + 1.2 * torch.rand(n, generator=random, dtype=torch.float64)
    return simulate_diatomics(fine, bonds, random_pulses(n, n_intervals * 0.5, random), n_intervals=n_intervals)


data, held_back = simulate(options.trajectories), simulate(16)
propagator = DensityPropagator(generator=random)
history = train_propagator(
    propagator, data, held_back, epochs=options.propagator_epochs, generator=random, progress=True
)
growth = ", ".join(f"{error:.2%}" for error in propagator.error_growth.tolist())
rest = density_error(held_back.ground[:, None], held_back.density).mean().item()
print(f"Propagator: error of unseen densities after 4, 8, ... units of time {growth} (mean change: {rest:.2%})")
with torch.no_grad():
    answer = propagator.roll_out(held_back.ground.float(), held_back.field.float(), fine)
shown = density_error(held_back.ground[:, None], held_back.density).amax(dim=1).argmax()  # the one that moves most
reference, start_density = held_back.density[shown], held_back.ground[shown]
figure, (upper, lower) = plt.subplots(2, 1, figsize=(5, 4), layout="constrained", height_ratios=(3, 1))
upper.plot(fine.x, start_density, "0.8", label="at rest")
(solved,) = upper.plot(fine.x, start_density, "k", label="solver")
(guess,) = upper.plot(fine.x, start_density, "C1--", label="learned propagator")
upper.set(xlim=(-10, 10), ylim=(0, 1.15 * reference.max().item()), xlabel="x (bohr)", ylabel="n (1/bohr)")
upper.legend(loc="upper right", fontsize=8)
clock = torch.arange(41) * 0.5
lower.plot(clock, held_back.field[shown])
(now,) = lower.plot([0], [0], "ko")
lower.set(xlabel="time", ylabel="field")


def draw(frame: int) -> tuple[Artist, ...]:
    solved.set_ydata(reference[frame])
    guess.set_ydata(answer[shown, frame])
    now.set_data([clock[frame + 1]], [held_back.field[shown, frame + 1]])
    return solved, guess, now


FuncAnimation(figure, draw, frames=40).save(options.folder / "electron_film.gif", writer=PillowWriter(fps=8), dpi=90)
