"""Solutions of Schrödinger's equation in closed form, to judge solvers and networks by; atomic units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def oscillator_state(level: int, x: Tensor, omega: float | Tensor = 1.0) -> Tensor:
    """Eigenstate of −½∂² + ½ω²x², of energy (level + ½) ω.

    φ_n(x) = (ω/π)^¼ (2ⁿ n!)^(−½) H_n(√ω x) exp(−ω x²/2), by the stable recursion
    φ_n = √(2/n) √ω x φ_(n−1) − √((n−1)/n) φ_(n−2).

    Raises:
        ValueError: a negative level.
    """
    if level < 0:
        raise ValueError(f"levels of the oscillator are 0, 1, 2, ..., got {level}")
    omega = torch.as_tensor(omega, dtype=x.dtype)
    y = omega.sqrt() * x
    before, state = torch.zeros_like(y), (omega / math.pi) ** 0.25 * torch.exp(-y.square() / 2)
    for n in range(1, level + 1):
        before, state = state, math.sqrt(2 / n) * y * state - math.sqrt((n - 1) / n) * before
    return state


@dataclass(frozen=True)
class OscillatorSuperposition:
    """ψ_mn = (φ_m e^(−i E_m t) + φ_n e^(−i E_n t)) / √2 of the harmonic oscillator, E_n = (n + ½) ω.

    Attributes:
        levels: m and n.
    """

    levels: tuple[int, int]

    def __call__(self, x: Tensor, time: float | Tensor, omega: float | Tensor = 1.0) -> Tensor:
        """ψ, complex, in the broadcast shape of the three."""
        parts = []
        for level in self.levels:
            angle = -(level + 0.5) * torch.as_tensor(omega * time, dtype=x.dtype)
            parts.append(oscillator_state(level, x, omega) * torch.polar(torch.ones_like(angle), angle))
        return (parts[0] + parts[1]) / math.sqrt(2)


def free_packet(x: Tensor, time: float, *, width: float = 1.0, momentum: float = 0.0) -> Tensor:
    """A Gaussian wave packet without forces, which spreads: ∫ |ψ|² dx = 1, complex.

    ψ = (2π)^(−¼) (σ s)^(−½) exp(−(x − k t)² / (4 σ² s) + i k (x − k t/2)), s = 1 + i t / (2 σ²).

    Args:
        x: bohr.
        time: t.
        width: σ, standard deviation of the density at time 0, bohr.
        momentum: k, 1/bohr.
    """
    spread = torch.tensor(1 + 0.5j * time / width**2, dtype=torch.complex128)
    shape = torch.exp(-((x - momentum * time) ** 2) / (4 * width**2 * spread))
    wave = torch.exp(1j * momentum * (x - momentum * time / 2))
    return (2 * math.pi) ** -0.25 * (width * spread) ** -0.5 * shape * wave
