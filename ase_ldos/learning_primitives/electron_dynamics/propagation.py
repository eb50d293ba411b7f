"""The reference solver: orbitals step by step in time, by operator splitting.

One step of length Δt is exp(−i v_S Δt/2) exp(−i T Δt) exp(−i v_S Δt/2), with the kinetic part in reciprocal space (M.
D. Feit, J. A. Fleck, A. Steiger, J. Comput. Phys. 47, 412 (1982)). It is unitary, reversible and right to second order.
For potentials that depend on nothing but the density and the time, it needs no predictor and corrector: the outer
factors change only the phases of the orbitals, so the density that belongs to v_S at the end of the step is known as
soon as the kinetic factor has acted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem

Field = Callable[[float | Tensor], Tensor]


@dataclass(frozen=True)
class Trajectory:
    """What was recorded of a run; atomic units.

    Attributes:
        grid: the points.
        times: ``[T]``.
        density: n, 1/bohr, ``[T, ..., N]``.
        energy: without the laser's, hartree, ``[T, ...]``.
        orbitals: at the end, complex ``[..., orbital, N]``.
    """

    grid: Grid1D
    times: Tensor
    density: Tensor
    energy: Tensor
    orbitals: Tensor

    @property
    def dipole(self) -> Tensor:
        """∫ x n dx, bohr, ``[T, ...]``."""
        return self.grid.integrate(self.density * self.grid.x)

    @property
    def n_electrons(self) -> Tensor:
        """∫ n dx, ``[T, ...]``."""
        return self.grid.integrate(self.density)


def largest_time_step(grid: Grid1D) -> float:
    """2 Δx²/π: with longer steps the fastest wave turns by more than π per step and resonates with slow ones.

    J. A. C. Weideman, B. M. Herbst, SIAM J. Numer. Anal. 23, 485 (1986).
    """
    return 2 * grid.spacing**2 / math.pi


def propagate(
    system: KohnShamSystem,
    orbitals: Tensor,
    *,
    time_step: float,
    n_steps: int,
    field: Field | None = None,
    record_every: int = 1,
    start: float = 0.0,
    edge_tolerance: float = 1e-4,
) -> Trajectory:
    """Solve i ∂φ_i/∂t = (−½ ∂² + v_S[n](x, t) − x E(t)) φ_i.

    Args:
        system: electrons and ions; many systems at once are possible.
        orbitals: φ at the start, ``[..., orbital, N]``.
        time_step: Δt.
        n_steps: number of steps.
        field: E of the time, see ``Pulse``; none by default.
        record_every: steps from one record to the next.
        start: time at the start.
        edge_tolerance: largest number of electrons in the outermost fortieth of the box on either side.

    Raises:
        ValueError: a step longer than ``largest_time_step``, orbitals of another shape, electrons at the edge of the
            box.
    """
    limit = largest_time_step(system.grid)
    if not 0 < time_step <= limit * (1 + 1e-12):
        raise ValueError(
            f"the time step must be positive and at most 2 Δx²/π = {limit:.4g} on this grid, where splitting becomes "
            f"unstable; got {time_step:g}: take shorter steps or a coarser grid"
        )
    if n_steps < 1 or record_every < 1 or n_steps % record_every:
        raise ValueError(f"{n_steps} steps cannot be recorded every {record_every}")
    shape = (*system.external.shape[:-1], len(system.occupations), system.grid.n_points)
    if tuple(orbitals.shape) != shape:
        raise ValueError(f"orbitals must have the shape {list(shape)} of the system, got {list(orbitals.shape)}")
    kinetic = torch.exp(-0.5j * time_step * system.grid.wave_numbers**2)

    def half_phase(density: Tensor, time: float) -> Tensor:
        potential = system.potential(density)
        if field is not None:
            potential = potential - system.grid.x * field(time)[..., None]
        return torch.exp(-0.5j * time_step * potential)[..., None, :]

    density = system.density(orbitals)
    phase = half_phase(density, start)
    records: list[tuple[float, Tensor, Tensor]] = []
    for step in range(n_steps + 1):
        if step:
            orbitals = torch.fft.ifft(kinetic * torch.fft.fft(phase * orbitals))
            density = system.density(orbitals)
            phase = half_phase(density, start + step * time_step)
            orbitals = phase * orbitals
        if step % record_every == 0:
            time = start + step * time_step
            _check_edge(system.grid, density, time, edge_tolerance)
            records.append((time, density, system.energy(orbitals)))
    times, densities, energies = zip(*records, strict=True)
    return Trajectory(
        system.grid,
        torch.tensor(times, dtype=torch.float64),
        torch.stack(densities),
        torch.stack(energies),
        orbitals,
    )


def _check_edge(grid: Grid1D, density: Tensor, time: float, tolerance: float) -> None:
    outside = grid.x.abs() > 0.95 * grid.length / 2
    lost = float(grid.integrate(density * outside).max())
    if not lost <= tolerance:
        raise ValueError(
            f"{lost:.2g} electrons have reached the edge of the box at time {time:g} (allowed: {tolerance:g}), beyond "
            f"it they would come back on the other side: make the box longer than {grid.length:g} bohr, or the field "
            "or the time smaller"
        )
