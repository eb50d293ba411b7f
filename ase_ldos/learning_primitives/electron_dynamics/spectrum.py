"""Absorption by the dipole after a kick, and by linear response."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import GroundState, KohnShamSystem
from ase_ldos.learning_primitives.electron_dynamics.propagation import Trajectory


def kick(orbitals: Tensor, x: Tensor, strength: float) -> Tensor:
    """e^(iκx) φ: all electrons are given the momentum κ at once, as by a flash of all frequencies."""
    return torch.exp(1j * strength * x) * orbitals


def dipole_spectrum(times: Tensor, dipole: Tensor, strength: float, frequencies: Tensor) -> Tensor:
    """Dipole strength function S(ω) = (2ω/πκ) ∫ sin(ωt) [d(t) − d(0)] g(t) dt after a kick of strength κ.

    Its integral over ω is the number of electrons; its lines have the width of the window g = 1 − 3s² + 2s³, s = t/T
    (K. Yabana, G. F. Bertsch, Phys. Rev. B 54, 4484 (1996)).

    Args:
        times: from 0 in equal steps, ``[T]``.
        dipole: ∫ x n dx, ``[T]``.
        strength: κ.
        frequencies: ω, ``[F]``.

    Returns:
        ``[F]``.
    """
    share = times / times[-1]
    window = 1 - 3 * share**2 + 2 * share**3
    weight = torch.full_like(times, float(times[1] - times[0]))
    weight[0] /= 2
    wave = torch.sin(frequencies[:, None] * times)
    return 2 * frequencies / (torch.pi * strength) * (wave @ (weight * window * (dipole - dipole[0])))


def spectrum_of(trajectory: Trajectory, strength: float, frequencies: Tensor) -> Tensor:
    """``dipole_spectrum`` of a run of one system."""
    return dipole_spectrum(trajectory.times - trajectory.times[0], trajectory.dipole, strength, frequencies)


@dataclass(frozen=True)
class Excitations:
    """Excited states of linear response.

    Attributes:
        energies: hartree, ascending, ``[K]``.
        strengths: oscillator strengths, ``[K]``; their sum is the number of electrons.
    """

    energies: Tensor
    strengths: Tensor


def linear_response(system: KohnShamSystem, ground: GroundState) -> Excitations:
    """Excitations by Casida's equation for closed shells, with the response of v_S to the density in full.

    Ω F = ω² F, Ω_(ia,jb) = δ ω_ia² + 4 √ω_ia (ia|f|jb) √ω_jb, f = δ(v_H + v_xc)/δn, over occupied i and empty a (M. E.
    Casida, in Recent Advances in Density Functional Methods I, 155 (1995)).

    Args:
        system: one system, with an even number of electrons.
        ground: its ground state.

    Raises:
        ValueError: an odd number of electrons, or more systems than one.
    """
    if system.n_electrons % 2 or system.external.dim() != 1:
        raise ValueError("linear response is for one system with an even number of electrons")
    n_occupied, spacing = len(system.occupations), system.grid.spacing
    states, levels = ground.states, ground.levels
    pairs = (states[:n_occupied, None] * states[None, n_occupied:]).reshape(-1, system.grid.n_points)
    gaps = (levels[None, n_occupied:] - levels[:n_occupied, None]).reshape(-1)
    kernel = _response_kernel(system, ground.density)
    root = gaps.sqrt()
    coupling = pairs @ kernel @ pairs.T * spacing
    squares, vectors = torch.linalg.eigh(torch.diag(gaps**2) + 4 * root[:, None] * coupling * root)
    moments = system.grid.integrate(pairs * system.grid.x)
    return Excitations(squares.sqrt(), 4 * ((moments * root) @ vectors).square())


def _response_kernel(system: KohnShamSystem, density: Tensor, change: float = 1e-4) -> Tensor:
    """∂v_S(x_i)/∂n(x_j), ``[N, N]``.

    The nonlocal part is linear in n and the local one diagonal, so two differences give all: the change of v_S for
    a density whose Hartree potential is kept (local part), and for one unit of Hartree potential.
    """
    # a floor: where there is no density, there is no pair of orbitals either to feel the slope
    density = density.clamp_min(1e-8)
    zero, ones = torch.zeros_like(density), torch.ones_like(density)
    functional = system.functional
    share = functional.potential(density, ones) - functional.potential(density, zero)
    step = change * density
    slope = (functional.potential(density + step, zero) - functional.potential(density - step, zero)) / (2 * step)
    return share[:, None] * system.repulsion + torch.diag(slope)
