"""Exchange and correlation of a spin-unpolarised density: LDA (Slater, PW92) and PBE.

The total free energy needs E_xc[n + n_core] and ∫ n v_xc[n + n_core]. With E_xc = ∫ f(n, σ), σ = |∇n|², the second is

    ∫ n v_xc = ∫ [n f_n + 2 f_σ ∇n·∇(n + n_core)]

after integrating by parts, so no divergence is taken. f, f_n and f_σ are written out, which leaves autograd
two derivatives for training on forces. Sources: Perdew and Wang, PRB 45, 13244 (1992); Perdew, Burke and
Ernzerhof, PRL 77, 3865 (1996).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ase_ldos.geometry.grid import Grid
from ase_ldos.units import BOHR, HARTREE

#: Functionals that can be asked for.
FUNCTIONALS = ("lda", "pbe")
#: Density (e/Å³) that the smooth floor tends to for vanishing and negative densities, and the floor's width.
FLOOR = 1e-5

_SLATER = 0.75 * (3 / math.pi) ** (1 / 3)
_WIGNER_SEITZ = (3 / (4 * math.pi)) ** (1 / 3)
# s² and t² of PBE per σ n^(−8/3) and σ n^(−7/3)
_S_SQUARED = 1 / (4 * (3 * math.pi**2) ** (2 / 3))
_T_SQUARED = math.pi / (16 * (3 * math.pi**2) ** (1 / 3))
_KAPPA, _MU = 0.804, 0.2195149727645171
_BETA, _GAMMA = 0.06672455060314922, (1 - math.log(2)) / math.pi**2
_PW92_A, _PW92_ALPHA = 0.0310907, 0.21370
_PW92_BETA = (7.5957, 3.5876, 1.6382, 0.49294)


class _Density(NamedTuple):
    """Energy per volume f, its derivatives f_n and f_σ, Hartree atomic units, any shape."""

    f: Tensor
    f_n: Tensor
    f_sigma: Tensor


def xc_energies(
    density: Tensor, grid: Grid, functional: str = "pbe", core_density: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """E_xc[n + n_core] and ∫ n v_xc[n + n_core] d³r, eV.

    Args:
        density: n of the valence electrons, e/Å³, ``[nx, ny, nz]``.
        grid: the grid of the density.
        functional: "lda" or "pbe".
        core_density: n_core, the pseudopotential's partial core charge, e/Å³, ``[nx, ny, nz]``.

    Raises:
        ValueError: unknown functional, density not on the grid.
    """
    if functional not in FUNCTIONALS:
        raise ValueError(f'exchange-correlation functional is "{functional}"; known are {", ".join(FUNCTIONALS)}')
    for name, field in (("density", density), ("core density", core_density)):
        if field is not None and field.shape != grid.shape:
            raise ValueError(f"the {name} has shape {list(field.shape)}, its grid {list(grid.shape)}; they must agree")
    valence = density.to(torch.float64) * BOHR**3
    total = valence if core_density is None else valence + core_density.to(torch.float64) * BOHR**3
    along_valence, along_total = None, None
    if functional != "lda":
        along_total = fractional_gradient(total)
        along_valence = along_total if core_density is None else fractional_gradient(valence)
    voxel = grid.voxel_volume.to(torch.float64) * (HARTREE / BOHR**3)
    energy, potential = xc_sums(valence, total, along_valence, along_total, metric(grid))
    return energy * voxel, potential * voxel


def xc_sums(
    valence: Tensor, total: Tensor, along_valence: Tensor | None, along_total: Tensor | None, metric: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ f and Σ n δf/δn over any set of points, Hartree/bohr³; PBE with gradients, without them LDA.

    Args:
        valence: n, 1/bohr³, ``[...]``.
        total: n + n_core, 1/bohr³, ``[...]``.
        along_valence: derivatives of n along the fractional coordinates, ``[3, ...]``.
        along_total: of n + n_core.
        metric: 1/bohr², ``[3, 3]``.
    """
    floored, slope = _floor(total)
    if along_valence is None or along_total is None:
        lda = _lda(floored)
        return lda.f.sum(), (valence * lda.f_n * slope).sum()
    sigma = _dot(along_total, metric, along_total)
    mixed = sigma if along_valence is along_total else _dot(along_valence, metric, along_total)
    # the gradient of the floored density: with that of n, forces would jump where a negative n has an extremum
    pbe = _pbe(floored, slope**2 * sigma)
    bend = slope * (1 - slope) / (FLOOR * BOHR**3)
    varied = slope * bend * sigma * valence + slope**2 * mixed
    return pbe.f.sum(), (valence * pbe.f_n * slope + 2 * pbe.f_sigma * varied).sum()


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


def _pw92(root: Tensor) -> tuple[Tensor, Tensor]:
    """ε_c(r_s) and r_s ε_c'(r_s) of the electron gas (PW92, eq. 10) from n^(1/3)."""
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


def _lda(n: Tensor) -> _Density:
    """Slater exchange and PW92 correlation; n in 1/bohr³."""
    root = n ** (1 / 3)
    exchange = -_SLATER * root
    energy, slope = _pw92(root)
    return _Density(n * (exchange + energy), 4 / 3 * exchange + energy - slope / 3, torch.zeros_like(n))


def _pbe(n: Tensor, sigma: Tensor) -> _Density:
    """PBE; n in 1/bohr³, σ in 1/bohr⁸."""
    root = n ** (1 / 3)
    exchange, correlation = _pbe_exchange(n, root, sigma), _pbe_correlation(n, root, sigma)
    return _Density(*(x + c for x, c in zip(exchange, correlation)))


def _pbe_exchange(n: Tensor, root: Tensor, sigma: Tensor) -> _Density:
    """Exchange n ε_x F with F(s²) = 1 + μ s²/(1 + μ s²/κ) (PBE, eq. 14); root is n^(1/3)."""
    inverse = 1 / (n * root)
    s2 = _S_SQUARED * sigma * inverse**2
    damping = 1 / (1 + (_MU / _KAPPA) * s2)
    enhancement, slope = 1 + _MU * s2 * damping, _MU * damping**2
    per_electron = -_SLATER * root
    return _Density(
        n * per_electron * enhancement,
        4 / 3 * per_electron * (enhancement - 2 * s2 * slope),
        -_SLATER * _S_SQUARED * slope * inverse,
    )


def _pbe_correlation(n: Tensor, root: Tensor, sigma: Tensor) -> _Density:
    """Correlation n (ε_c + H) (PBE, eq. 7); root is n^(1/3).

    With w = exp(−ε_c/γ) − 1 and u = A t² = β t²/(γ w), H = γ ln[1 + w (u + u²)/(1 + u + u²)].
    """
    energy, slope = _pw92(root)
    t2 = _T_SQUARED * sigma / (n**2 * root)
    grown = torch.exp(-energy / _GAMMA)
    w = grown - 1  # at least 0.3 above the floor, so nothing cancels
    u = (_BETA / _GAMMA) * t2 / w
    p = 1 + u + u**2
    x = w * (u + u**2) / p
    h = _GAMMA * torch.log1p(x)
    common = 1 / ((1 + x) * p**2)
    h_t2 = _BETA * (1 + 2 * u) * common  # ∂H/∂t²
    h_energy = -grown * u**3 * (2 + u) * common  # ∂H/∂ε_c
    return _Density(
        n * (energy + h),
        energy + h - slope / 3 * (1 + h_energy) - 7 / 3 * t2 * h_t2,
        _T_SQUARED * h_t2 / (n * root),
    )
