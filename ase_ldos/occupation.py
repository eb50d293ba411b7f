"""Fermi-Dirac occupation of a density of states: electrons, band energy, entropy, Fermi level.

The density of states is taken piecewise linear between the nodes of the energy grid and integrated analytically,
because kT (0.026 eV at room temperature) is smaller than the spacing of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import softplus

#: Largest occupation at the top of the energy window: beyond it, occupied states are missing from the window.
MAXIMUM_TOP_OCCUPATION = 1e-2
#: Smallest ∂N/∂μ (1/eV) that is divided by; second differences carry noise of this order.
MINIMUM_SLOPE = 1e-10


@dataclass(frozen=True)
class OccupationWeights:
    """Weights of the energy nodes, all float64 ``[energy]``.

    Attributes:
        number: N = Σ number · D.
        band: E_b = Σ band · D, eV.
        entropy: −TS = Σ entropy · D, eV.
    """

    number: Tensor
    band: Tensor
    entropy: Tensor


def occupation_weights(energies: Tensor, fermi_level: Tensor, thermal_energy: float | Tensor) -> OccupationWeights:
    """Integrate each node's hat function φ_i against f, ε f and kT [f ln f + (1−f) ln(1−f)].

    D vanishes one spacing outside the energy grid, on either side (one ghost node of zero each). By parts,
    ∫ φ_i g dε is the second divided difference of the second antiderivative of g; with x = (ε − μ)/kT,
    L_n = Li_n(−exp(−x)) these are f: −L2, x f: −x L2 − 2 L3, s: x L2 + 3 L3.

    Args:
        energies: rising nodes, uniform or not, eV, ``[energy]``.
        fermi_level: μ, eV, scalar; any number of derivatives is exact.
        thermal_energy: kT, eV.

    Raises:
        ValueError: thermal energy not positive, energies fewer than two or not rising.
    """
    x, width, kT = _reduced(energies, fermi_level, thermal_energy)
    L2, L3 = _polylog(2, -x), _polylog(3, -x)
    number = -kT * _second_difference(L2, width)
    excess = -(kT**2) * _second_difference(x * L2 + 2 * L3, width)
    entropy = kT**2 * _second_difference(x * L2 + 3 * L3, width)
    return OccupationWeights(number, excess + fermi_level * number, entropy)


def fermi_level(
    dos: Tensor, energies: Tensor, n_electrons: float, thermal_energy: float | Tensor, guess: float | None = None
) -> Tensor:
    """Find μ with ∫ f D dε = N, differentiable in D to second order.

    A safeguarded Newton search without a graph finds the root; one step of Chebyshev's method from there,
    μ − r/N' − N'' r²/(2 N'³) with r = N(μ) − N, carries the exact first and second derivatives
    (a Newton step alone would lose the N'' of the second).

    Args:
        dos: D, 1/eV, ``[energy]``.
        energies: rising nodes, eV, ``[energy]``.
        n_electrons: N.
        thermal_energy: kT, eV.
        guess: a μ to start from, eV, for example that of the last step.

    Raises:
        ValueError: thermal energy or N not positive, NaN in D, misshaped D, too few states in the energy
            window for N electrons, or an occupation above 0.01 at the top of the window.
    """
    dos = dos.to(torch.float64)
    with torch.no_grad():
        nodes, levels, kT = energies.cpu(), dos.cpu(), float(thermal_energy)
        _check_dos(levels, nodes, n_electrons)
        root = _search(levels, nodes, n_electrons, kT, guess)
    root = root.to(dos.device)
    residual = (_number(energies, root, thermal_energy, 0) * dos).sum() - n_electrons
    slope = (_number(energies, root, thermal_energy, 1) * dos).sum().clamp(min=MINIMUM_SLOPE)
    curvature = (_number(energies, root, thermal_energy, 2) * dos).sum()
    return root - residual / slope - curvature * residual**2 / (2 * slope**3)


def _reduced(
    energies: Tensor, fermi_level: Tensor, thermal_energy: float | Tensor
) -> tuple[Tensor, Tensor, float | Tensor]:
    """Nodes with ghosts as x = (ε − μ)/kT ``[energy + 2]``, their distances ``[energy + 1]``, and kT."""
    if not float(thermal_energy) > 0:
        raise ValueError(f"thermal energy is {float(thermal_energy)} eV; the electronic temperature must be positive")
    energies = energies.to(torch.float64)
    spacing = energies.diff()
    if spacing.numel() == 0 or not bool((spacing > 0).all()):
        raise ValueError("the energy grid must have at least two nodes and rise from each to the next")
    spacing = torch.cat((spacing[:1], spacing, spacing[-1:]))
    nodes = torch.cat((energies[:1] - spacing[:1], energies, energies[-1:] + spacing[-1:]))
    return (nodes - fermi_level) / thermal_energy, spacing / thermal_energy, thermal_energy


def _second_difference(values: Tensor, width: Tensor) -> Tensor:
    """∫ φ_i g dx for all hat functions, from the second antiderivative of g at the nodes."""
    return (values.diff() / width).diff()


def _number(energies: Tensor, fermi_level: Tensor, thermal_energy: float | Tensor, order: int) -> Tensor:
    """The number weights' derivative of the given order (0, 1, 2) in μ, ``[energy]``."""
    x, width, kT = _reduced(energies, fermi_level, thermal_energy)
    if order == 0:
        return -kT * _second_difference(_polylog(2, -x), width)
    if order == 1:
        return -_second_difference(_polylog(1, -x), width)
    return _second_difference(torch.sigmoid(-x), width) / kT


def _check_dos(dos: Tensor, energies: Tensor, n_electrons: float) -> None:
    if dos.shape != energies.shape:
        raise ValueError(
            f"the DOS has shape {list(dos.shape)}, the energy grid {list(energies.shape)}; they must agree"
        )
    if not bool(torch.isfinite(dos).all()):
        raise ValueError("the density of states contains NaN or infinity; the LDOS it came from is broken")
    if not n_electrons > 0:
        raise ValueError(f"number of electrons is {n_electrons}; it must be positive")


def _search(dos: Tensor, energies: Tensor, n_electrons: float, kT: float, guess: float | None) -> Tensor:
    """Root of N(μ) − N by Newton's method inside a bracket that bisection keeps shrinking."""

    def excess(level: float, derivative: int = 0) -> float:
        weights = _number(energies, torch.tensor(level, dtype=torch.float64), kT, derivative)
        return float(weights @ dos) - (0.0 if derivative else n_electrons)

    low = float(energies[0] - (energies[1] - energies[0])) - 40 * kT
    high = float(energies[-1]) - kT * math.log(1 / MAXIMUM_TOP_OCCUPATION - 1)
    if high <= low or excess(high) < 0:
        raise ValueError(_window_message(dos, energies, n_electrons, kT))
    level = guess if guess is not None and low < guess < high else (low + high) / 2
    for _ in range(200):
        value = excess(level)
        if abs(value) < 1e-13 * n_electrons:
            break
        low, high = (low, level) if value > 0 else (level, high)
        slope = excess(level, 1)
        step = level - value / slope if slope > MINIMUM_SLOPE else math.nan
        level = step if low < step < high else (low + high) / 2
        if high - low < 4e-16 * max(abs(low), abs(high), kT):
            break
    return torch.tensor(level, dtype=torch.float64)


def _window_message(dos: Tensor, energies: Tensor, n_electrons: float, kT: float) -> str:
    """Say why the electrons do not fit below the top of the energy window."""
    top = float(energies[-1])
    window = f"the energy window {float(energies[0]):g} to {top:g} eV"

    def fits(thermal_energy: float) -> bool:
        level = torch.tensor(top - thermal_energy * math.log(1 / MAXIMUM_TOP_OCCUPATION - 1), dtype=torch.float64)
        return float(_number(energies, level, thermal_energy, 0) @ dos) >= n_electrons

    coldest = 1e-4 * float(energies[1] - energies[0])
    if coldest >= kT or not fits(coldest):
        x, width, _ = _reduced(energies, energies[0], 1.0)
        states = float(0.5 * (width[1:] + width[:-1]) @ dos) if x.numel() else 0.0
        return (
            f"{window} holds {states:.4g} states for {n_electrons:g} electrons: too few below its top; "
            "the model's energy window or the number of valence electrons is wrong for this structure"
        )
    low, high = coldest, kT
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    kelvin = 11604.518
    return (
        f"the electronic temperature {kT * kelvin:.0f} K (kT = {kT:.4g} eV) is beyond {window}: its top is occupied "
        f"by more than {MAXIMUM_TOP_OCCUPATION:g}; at most {low * kelvin:.0f} K is possible"
    )


def _alternating_weights(terms: int) -> Tensor:
    """Weights c_k that sum Σ_k (−1)^k a_k from its first terms, (−1)^k included, ``[terms]``.

    Error 5.8^−terms for moments a_k of a positive measure on [0, 1]. Source: Cohen, Rodriguez Villegas and
    Zagier, Exp. Math. 9, 3 (2000), algorithm 1.
    """
    d = (3 + math.sqrt(8)) ** terms
    d = (d + 1 / d) / 2
    b, c, weights = -1.0, -d, []
    for k in range(terms):
        c = b - c
        weights.append(c / d)
        b = (k + terms) * (k - terms) * b / ((k + 0.5) * (k + 1))
    return torch.tensor(weights, dtype=torch.float64)


_TERMS = 24
_K = torch.arange(1, _TERMS + 1, dtype=torch.float64)
_WEIGHTS = _alternating_weights(_TERMS)


class _HighPolylog(torch.autograd.Function):
    """Li_n(−e^x) for n = 2, 3, whose derivative is Li_{n−1}(−e^x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: int) -> Tensor:
        k = _K.to(x.device)
        coefficients = -_WEIGHTS.to(x.device) / k**order
        inner = torch.exp(-x.abs()[..., None] * k) @ coefficients
        if order == 2:
            return torch.where(x > 0, -(math.pi**2) / 6 - x**2 / 2 - inner, inner)
        return torch.where(x > 0, inner - math.pi**2 * x / 6 - x**3 / 6, inner)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * _polylog(ctx.order - 1, ctx.saved_tensors[0]), None


def _polylog(order: int, x: Tensor) -> Tensor:
    """Li_n(−e^x) for n = 1, 2, 3 and any real x, to 1e-15 relative to its size."""
    if order == 1:
        return -softplus(x, threshold=50.0)
    return cast("Tensor", _HighPolylog.apply(x, order))
