"""What acts on electrons on a line: ions, the other electrons, exchange and correlation.

Charges on a line interact by the soft Coulomb potential 1/√(x² + 1): the bare one would let no electron past an ion.
All in atomic units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from scipy.special import iti0k0, k1
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.registry import Registry


def soft_coulomb(distance: Tensor, softening: float = 1.0) -> Tensor:
    """w(x) = 1/√(x² + a²), hartree.

    Args:
        distance: x, bohr.
        softening: a, bohr.
    """
    return (distance.square() + softening**2).rsqrt()


def ion_potential(x: Tensor, positions: Tensor | Sequence[float], charges: Tensor | Sequence[float]) -> Tensor:
    """v(x) = −Σ_I Z_I w(x − X_I), hartree.

    Args:
        x: points, bohr, ``[N]``.
        positions: X, bohr, ``[..., ion]``.
        charges: Z, ``[..., ion]``.

    Returns:
        ``[..., N]``.
    """
    positions, charges = torch.as_tensor(positions, dtype=x.dtype), torch.as_tensor(charges, dtype=x.dtype)
    return -(charges[..., None] * soft_coulomb(x - positions[..., None])).sum(dim=-2)


def interaction_matrix(grid: Grid1D) -> Tensor:
    """w(x_i − x_j) Δx: times a density it is the Hartree potential of that density alone, no copies, ``[N, N]``."""
    return soft_coulomb(grid.x[:, None] - grid.x) * grid.spacing


class Interaction(Protocol):
    """How electrons see each other: Hartree, exchange and correlation as functionals of the density [..., N].

    Attributes:
        repels: whether the Hartree potential is needed at all.
        differentiable: whether autograd can follow the potential back to the density.
    """

    repels: bool
    differentiable: bool

    def potential(self, density: Tensor, hartree: Tensor) -> Tensor:
        """v_H + v_xc, hartree, given n and v_H."""

    def energy_density(self, density: Tensor, hartree: Tensor) -> Tensor:
        """Whose integral is E_H + E_xc, hartree/bohr."""

    def check(self, n_electrons: int) -> None:
        """Raise ValueError for numbers of electrons that this functional is not made for."""


class Independent:
    """Electrons that do not see each other."""

    repels = False
    differentiable = True

    def potential(self, density: Tensor, hartree: Tensor) -> Tensor:  # noqa: ARG002
        """Zero."""
        return torch.zeros_like(density)

    def energy_density(self, density: Tensor, hartree: Tensor) -> Tensor:  # noqa: ARG002
        """Zero."""
        return torch.zeros_like(density)

    def check(self, n_electrons: int) -> None:
        """Any number."""


class ExactExchange:
    """Exact exchange of two electrons in one orbital: each sees the other one only, v_x = −v_H/2, E_x = −E_H/2."""

    repels = True
    differentiable = True

    def potential(self, density: Tensor, hartree: Tensor) -> Tensor:  # noqa: ARG002
        """v_H/2."""
        return hartree / 2

    def energy_density(self, density: Tensor, hartree: Tensor) -> Tensor:
        """N v_H/4."""
        return density * hartree / 4

    def check(self, n_electrons: int) -> None:
        """Two, no other number."""
        if n_electrons != 2:
            raise ValueError(f"exact exchange is known here for two electrons in one orbital, not for {n_electrons}")


class LocalDensity:
    """Hartree and the local density approximation of the gas on a line with soft Coulomb interaction, a = 1.

    Exchange in closed form, y = πn: v_x = −(1/π) ∫_0^y K0(q) dq and n ε_x = −(1/π²) [y ∫_0^y K0 − 1 + y K1(y)],
    from ∫ cos(qs)/√(1 + s²) ds = K0(q) in the exchange of a gas whose levels are filled up to k_F = πn/2.

    Correlation, rs = 1/(2n): ε_c = −½ (rs + E rs²) ln(1 + α rs + β rs^m) / (A + C rs² + D rs³), fitted to quantum Monte
    Carlo (M. Casula, S. Sorella, G. Senatore, Phys. Rev. B 74, 245427 (2006); N. Helbig et al., Phys. Rev. A 83,
    032503 (2011)).
    """

    repels = True
    differentiable = False  # Bessel functions of SciPy
    A, C, D, E, ALPHA, BETA, M = 18.40, 7.501, 0.10185, 0.012827, 1.511, 0.258, 4.424

    def potential(self, density: Tensor, hartree: Tensor) -> Tensor:
        """v_H + v_x + v_c, v_c = ε_c − rs dε_c/drs."""
        rs = _radius(density)
        with torch.enable_grad():
            leaf = rs.detach().requires_grad_()
            correlation = self._correlation(leaf)
            (slope,) = torch.autograd.grad(correlation.sum(), leaf)
        return hartree - _bessel_integral(math.pi * density) / math.pi + correlation.detach() - rs * slope

    def energy_density(self, density: Tensor, hartree: Tensor) -> Tensor:
        """N (v_H/2 + ε_x + ε_c)."""
        y = (math.pi * density).clamp_min(1e-12)
        exchange = -(y * _bessel_integral(y) - 1 + y * torch.as_tensor(k1(y.numpy()))) / math.pi**2
        return density * (hartree / 2 + self._correlation(_radius(density))) + exchange

    def check(self, n_electrons: int) -> None:
        """Any number."""

    def _correlation(self, rs: Tensor) -> Tensor:
        top = (rs + self.E * rs**2) * torch.log(1 + self.ALPHA * rs + self.BETA * rs**self.M)
        return -top / (2 * (self.A + self.C * rs**2 + self.D * rs**3))


def _radius(density: Tensor) -> Tensor:
    return 0.5 / density.clamp_min(1e-12)


def _bessel_integral(y: Tensor) -> Tensor:
    """∫_0^y K0(q) dq."""
    return torch.as_tensor(iti0k0(y.numpy())[1])


#: Interactions of electrons by name.
INTERACTIONS: Registry[Interaction] = Registry(
    "interaction",
    parts={"independent": Independent(), "exact_exchange": ExactExchange(), "lda": LocalDensity()},
)
