"""Exchange and correlation of a spin-unpolarised density; functionals are known by name (``FUNCTIONALS``).

The total free energy needs E_xc[n + n_core] and ∫ n v_xc[n + n_core]. With E_xc = ∫ f(n, σ), σ = |∇n|², the second is

    ∫ n v_xc = ∫ [n f_n + 2 f_σ ∇n·∇(n + n_core)]

after integrating by parts, so no divergence is taken. A functional gives f, f_n and f_σ written out, which leaves
autograd two derivatives for training on forces.

Another functional is one entry: an object as ``Functional`` describes it, registered under its name by
``FUNCTIONALS.register`` or by an entry point in the group ``ase_ldos.functionals``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ase_ldos.geometry.grid import Grid
from ase_ldos.registry import Registry
from ase_ldos.units import BOHR, HARTREE

#: Density (e/Å³) that the smooth floor tends to for vanishing and negative densities, and the floor's width.
FLOOR = 1e-5

_SLATER = 0.75 * (3 / math.pi) ** (1 / 3)
_WIGNER_SEITZ = (3 / (4 * math.pi)) ** (1 / 3)
# s² and t² of PBE per σ n^(−8/3) and σ n^(−7/3)
_S_SQUARED = 1 / (4 * (3 * math.pi**2) ** (2 / 3))
_T_SQUARED = math.pi / (16 * (3 * math.pi**2) ** (1 / 3))
_GAMMA = (1 - math.log(2)) / math.pi**2
_PW92_A, _PW92_ALPHA = 0.0310907, 0.21370
_PW92_BETA = (7.5957, 3.5876, 1.6382, 0.49294)


class EnergyDensity(NamedTuple):
    """Energy per volume f, its derivatives f_n and f_σ, Hartree atomic units, any shape."""

    f: Tensor
    f_n: Tensor
    f_sigma: Tensor


class Functional(Protocol):
    """An exchange-correlation functional E_xc = ∫ f(n, σ) d³r of a spin-unpolarised density."""

    @property
    def needs_gradient(self) -> bool:
        """Whether f depends on σ = |∇n|²; where it does not, no gradient is taken and f_σ is not used."""
        ...

    def __call__(self, density: Tensor, sigma: Tensor) -> EnergyDensity:
        """f, f_n and f_σ, each differentiable twice more.

        Args:
            density: n, positive, 1/bohr³, any shape.
            sigma: |∇n|², 1/bohr⁸, of the same shape; zero where the functional needs no gradient.
        """
        ...


@dataclass(frozen=True)
class LDA:
    """Local density approximation: Slater exchange, correlation of Perdew and Wang, PRB 45, 13244 (1992)."""

    @property
    def needs_gradient(self) -> bool:
        """Not needed."""
        return False

    def __call__(self, density: Tensor, sigma: Tensor) -> EnergyDensity:  # noqa: ARG002
        """Energy density n (ε_x + ε_c) and f_n; f_σ is zero."""
        root = density ** (1 / 3)
        exchange = -_SLATER * root
        energy, slope = pw92_correlation(root)
        f_n = 4 / 3 * exchange + energy - slope / 3
        return EnergyDensity(density * (exchange + energy), f_n, torch.zeros_like(density))


@dataclass(frozen=True)
class PBE:
    """The form of Perdew, Burke and Ernzerhof, PRL 77, 3865 (1996); by default with their constants.

    Attributes:
        mu: μ, gradient coefficient of exchange for slow variation, F = 1 + μ s².
        beta: β, that of correlation, H = β t².
        kappa: κ, by which F exceeds 1 at most (the bound of Lieb and Oxford).
    """

    mu: float = 0.2195149727645171
    beta: float = 0.06672455060314922
    kappa: float = 0.804

    @property
    def needs_gradient(self) -> bool:
        """Needed."""
        return True

    def __call__(self, density: Tensor, sigma: Tensor) -> EnergyDensity:
        """f, f_n and f_σ of exchange and correlation together."""
        root = density ** (1 / 3)
        exchange, correlation = self.exchange(density, root, sigma), self.correlation(density, root, sigma)
        return EnergyDensity(*(x + c for x, c in zip(exchange, correlation)))

    def exchange(self, n: Tensor, root: Tensor, sigma: Tensor) -> EnergyDensity:
        """Exchange n ε_x F with F(s²) = 1 + μ s²/(1 + μ s²/κ) (eq. 14); root is n^(1/3)."""
        inverse = 1 / (n * root)
        s2 = _S_SQUARED * sigma * inverse**2
        damping = 1 / (1 + (self.mu / self.kappa) * s2)
        enhancement, slope = 1 + self.mu * s2 * damping, self.mu * damping**2
        per_electron = -_SLATER * root
        return EnergyDensity(
            n * per_electron * enhancement,
            4 / 3 * per_electron * (enhancement - 2 * s2 * slope),
            -_SLATER * _S_SQUARED * slope * inverse,
        )

    def correlation(self, n: Tensor, root: Tensor, sigma: Tensor) -> EnergyDensity:
        """Correlation n (ε_c + H) (eq. 7); root is n^(1/3).

        With w = exp(−ε_c/γ) − 1 and u = A t² = β t²/(γ w), H = γ ln[1 + w (u + u²)/(1 + u + u²)].
        """
        energy, slope = pw92_correlation(root)
        t2 = _T_SQUARED * sigma / (n**2 * root)
        grown = torch.exp(-energy / _GAMMA)
        w = grown - 1  # at least 0.3 above the floor, so nothing cancels
        u = (self.beta / _GAMMA) * t2 / w
        p = 1 + u + u**2
        x = w * (u + u**2) / p
        h = _GAMMA * torch.log1p(x)
        common = 1 / ((1 + x) * p**2)
        h_t2 = self.beta * (1 + 2 * u) * common  # ∂H/∂t²
        h_energy = -grown * u**3 * (2 + u) * common  # ∂H/∂ε_c
        return EnergyDensity(
            n * (energy + h),
            energy + h - slope / 3 * (1 + h_energy) - 7 / 3 * t2 * h_t2,
            _T_SQUARED * h_t2 / (n * root),
        )


#: Functionals by name. "pbesol" has the form of PBE with the gradient coefficients of Perdew et al., PRL 100, 136406
#: (2008): μ of the gradient expansion of exchange, β fitted to the surface energy of jellium.
FUNCTIONALS: Registry[Functional] = Registry(
    "exchange-correlation functional",
    "ase_ldos.functionals",
    {"lda": LDA(), "pbe": PBE(), "pbesol": PBE(mu=10 / 81, beta=0.046)},
)


def xc_energies(
    density: Tensor, grid: Grid, functional: str = "pbe", core_density: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """E_xc[n + n_core] and ∫ n v_xc[n + n_core] d³r, eV.

    Args:
        density: n of the valence electrons, e/Å³, ``[nx, ny, nz]``.
        grid: the grid of the density.
        functional: a name of ``FUNCTIONALS``.
        core_density: n_core, the pseudopotential's partial core charge, e/Å³, ``[nx, ny, nz]``.

    Raises:
        ValueError: unknown functional, density not on the grid.
    """
    formula = FUNCTIONALS[functional]
    for name, field in (("density", density), ("core density", core_density)):
        if field is not None and field.shape != grid.shape:
            raise ValueError(f"the {name} has shape {list(field.shape)}, its grid {list(grid.shape)}; they must agree")
    valence = density.to(torch.float64) * BOHR**3
    total = valence if core_density is None else valence + core_density.to(torch.float64) * BOHR**3
    along_valence, along_total = None, None
    if formula.needs_gradient:
        along_total = fractional_gradient(total)
        along_valence = along_total if core_density is None else fractional_gradient(valence)
    voxel = grid.voxel_volume.to(torch.float64) * (HARTREE / BOHR**3)
    energy, potential = xc_sums(formula, valence, total, along_valence, along_total, metric(grid))
    return energy * voxel, potential * voxel


def xc_sums(
    functional: Functional,
    valence: Tensor,
    total: Tensor,
    along_valence: Tensor | None,
    along_total: Tensor | None,
    metric: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ f and Σ n δf/δn over any set of points, Hartree/bohr³.

    Args:
        functional: gives f.
        valence: n, 1/bohr³, ``[...]``.
        total: n + n_core, 1/bohr³, ``[...]``.
        along_valence: derivatives of n along the fractional coordinates, ``[3, ...]``; None where they are not needed.
        along_total: of n + n_core.
        metric: 1/bohr², ``[3, 3]``.
    """
    floored, slope = _floor(total)
    if along_valence is None or along_total is None:
        local = functional(floored, torch.zeros_like(floored))
        return local.f.sum(), (valence * local.f_n * slope).sum()
    sigma = _dot(along_total, metric, along_total)
    mixed = sigma if along_valence is along_total else _dot(along_valence, metric, along_total)
    # the gradient of the floored density: with that of n, forces would jump where a negative n has an extremum
    point = functional(floored, slope**2 * sigma)
    bend = slope * (1 - slope) / (FLOOR * BOHR**3)
    varied = slope * bend * sigma * valence + slope**2 * mixed
    return point.f.sum(), (valence * point.f_n * slope + 2 * point.f_sigma * varied).sum()


def xc_potential(density: Tensor, grid: Grid, functional: str = "pbe", core_density: Tensor | None = None) -> Tensor:
    """v_xc = δE_xc/δn at n + n_core, eV, ``[nx, ny, nz]``, without a graph; arguments as in ``xc_energies``."""
    with torch.enable_grad():
        leaf = density.detach().to(torch.float64).requires_grad_()
        energy, _ = xc_energies(leaf, grid, functional, core_density)
        (gradient,) = torch.autograd.grad(energy, leaf)
    return gradient / grid.voxel_volume.detach()


def _floor(density: Tensor) -> tuple[Tensor, Tensor]:
    """Density with a smooth positive floor, and its slope.

    δ [1 + softplus(n/δ − 1)] differs from n by exp(−n/δ), that is by nothing in matter, and stays above δ where
    a network or Fourier ringing makes n vanish or negative; there f would have no derivatives. Its gradient is
    slope · ∇n.
    """
    floor = FLOOR * BOHR**3
    reduced = density / floor - 1
    return floor * (1 + softplus(reduced, threshold=50.0)), torch.sigmoid(reduced)


def fractional_gradient(field: Tensor) -> Tensor:
    """Derivatives of a periodic field along the fractional coordinates, ``[3, nx, ny, nz]``; free of the cell."""
    coefficients = torch.fft.rfftn(field, norm="forward")
    shape = (field.shape[0], field.shape[1], field.shape[2])
    gradients = [
        torch.fft.irfftn(coefficients * fractional_wave(shape, axis, field), s=shape, norm="forward")
        for axis in range(3)
    ]
    return torch.stack(gradients)


def fractional_wave(shape: tuple[int, int, int], axis: int, like: Tensor) -> Tensor:
    """2πi × Miller index along an axis, by which ``rfftn``'s coefficients are differentiated, in the type of ``like``.

    Of an even number of points the Nyquist coefficient has no partner of opposite sign: the smoothest wave through
    the points is a cosine whose slope is zero at all of them, so its derivative is dropped.
    """
    n = shape[axis]
    frequency = torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq
    miller = frequency(n, 1 / n, dtype=like.dtype, device=like.device)
    miller = torch.where(miller.abs() * 2 == n, 0.0, miller)
    return (2j * math.pi) * miller.reshape([-1 if a == axis else 1 for a in range(3)])


def metric(grid: Grid) -> Tensor:
    """Reciprocal metric g with ∇a·∇b = Σ g_ij ∂_i a ∂_j b in fractional coordinates, 1/bohr², ``[3, 3]``."""
    inverse = torch.linalg.inv(grid.cell.to(torch.float64)) * BOHR
    return inverse.T @ inverse


def _dot(first: Tensor, metric: Tensor, second: Tensor) -> Tensor:
    """∇a·∇b from fractional derivatives ``[3, nx, ny, nz]``."""
    return (first * torch.tensordot(metric, second, dims=1)).sum(dim=0)


def pw92_correlation(root: Tensor) -> tuple[Tensor, Tensor]:
    """ε_c(r_s) and r_s ε_c'(r_s) of the electron gas, Hartree, from n^(1/3), 1/bohr.

    Source: Perdew and Wang, PRB 45, 13244 (1992), eq. 10.
    """
    rs = _WIGNER_SEITZ / root
    y = rs.sqrt()
    b1, b2, b3, b4 = (2 * _PW92_A * b for b in _PW92_BETA)
    q = y * (b1 + y * (b2 + y * (b3 + y * b4)))
    rs_slope = y * (b1 / 2 + y * (b2 + y * (1.5 * b3 + y * 2 * b4)))
    logarithm = torch.log1p(1 / q)
    prefactor = -2 * _PW92_A * (1 + _PW92_ALPHA * rs)
    energy = prefactor * logarithm
    slope = -2 * _PW92_A * _PW92_ALPHA * rs * logarithm - prefactor * rs_slope / (q * (q + 1))
    return energy, slope
