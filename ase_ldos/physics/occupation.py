"""Fermi-Dirac occupation of a density of states: electrons, band energy, entropy, Fermi level.

The density of states is taken piecewise linear between the nodes of the energy grid and integrated analytically,
because kT (0.026 eV at room temperature) is smaller than the spacing of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ase_ldos.units import BOLTZMANN

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
    nodes = _with_ghosts(energies, thermal_energy)
    x = (nodes.positions - fermi_level) / thermal_energy
    L2, L3 = _polylog(2, -x), _polylog(3, -x)
    number = -(thermal_energy**2) * _second_difference(L2, nodes.spacing)
    excess = -(thermal_energy**3) * _second_difference(x * L2 + 2 * L3, nodes.spacing)
    entropy = thermal_energy**3 * _second_difference(x * L2 + 3 * L3, nodes.spacing)
    return OccupationWeights(number, excess + fermi_level * number, entropy)


def number_weights(energies: Tensor, fermi_level: float, thermal_energy: float) -> tuple[Tensor, Tensor]:
    """Weights of N and of ∂N/∂μ at μ = ``fermi_level`` (eV), without a graph, float64 ``[energy]`` each."""
    nodes = _with_ghosts(energies, thermal_energy)
    root = torch.tensor(fermi_level, dtype=torch.float64).to(energies.device)
    return _number(nodes, root, thermal_energy), _number(nodes, root, thermal_energy, 1)


def interpolate_dos(dos: Tensor, energies: Tensor, energy: float) -> Tensor:
    """D at an energy (eV), piecewise linear between the nodes and zero beyond the ghosts at either end, 1/eV, scalar.

    Args:
        dos: D, 1/eV, float64 ``[energy]``.
        energies: rising nodes, eV, ``[energy]``.
        energy: where D is wanted, eV.
    """
    nodes = _with_ghosts(energies, 1.0)
    hats = (energy - nodes.positions[:-2]) / nodes.spacing[:-1], (nodes.positions[2:] - energy) / nodes.spacing[1:]
    return torch.minimum(*hats).clamp(min=0.0) @ dos.to(torch.float64)


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
    nodes = _with_ghosts(energies, thermal_energy)
    _check_dos(dos, energies, n_electrons)
    with torch.no_grad():
        on_cpu = _Nodes(nodes.positions.cpu(), nodes.spacing.cpu())
        root = _search(dos.cpu(), on_cpu, n_electrons, _value(thermal_energy), guess).to(dos.device)
    residual = _number(nodes, root, thermal_energy) @ dos - n_electrons
    slope = (_number(nodes, root, thermal_energy, 1) @ dos).clamp(min=MINIMUM_SLOPE)
    curvature = _number(nodes, root, thermal_energy, 2) @ dos
    return root - residual / slope - curvature * residual**2 / (2 * slope**3)


def highest_temperature(dos: Tensor, energies: Tensor, n_electrons: float) -> float:
    """Highest electronic temperature, K, that the energy window allows; ``fermi_level`` refuses higher ones.

    There the top of the window has the occupation ``MAXIMUM_TOP_OCCUPATION``. It is 0 where the window holds too few
    states for the electrons.

    Args:
        dos: D, 1/eV, ``[energy]``.
        energies: rising nodes, eV, ``[energy]``.
        n_electrons: N.

    Raises:
        ValueError: N not positive, NaN in D, misshaped D.
    """
    _check_dos(dos, energies, n_electrons)
    nodes = _with_ghosts(energies.cpu(), 1.0)
    return _highest_thermal_energy(dos.detach().to("cpu", torch.float64), nodes, n_electrons) / BOLTZMANN


class _Nodes(NamedTuple):
    """Energy nodes with a ghost at either end, eV ``[energy + 2]``, and their distances ``[energy + 1]``."""

    positions: Tensor
    spacing: Tensor


def _with_ghosts(energies: Tensor, thermal_energy: float | Tensor) -> _Nodes:
    if not _value(thermal_energy) > 0:
        raise ValueError(f"thermal energy is {_value(thermal_energy)} eV; the electronic temperature must be positive")
    energies = energies.to(torch.float64)
    spacing = energies.diff()
    if spacing.numel() == 0 or not bool((spacing > 0).all()):
        raise ValueError("the energy grid must have at least two nodes and rise from each to the next")
    spacing = torch.cat((spacing[:1], spacing, spacing[-1:]))
    return _Nodes(torch.cat((energies[:1] - spacing[:1], energies, energies[-1:] + spacing[-1:])), spacing)


def _value(number: float | Tensor) -> float:
    return float(number.detach()) if isinstance(number, Tensor) else float(number)


def _second_difference(values: Tensor, spacing: Tensor) -> Tensor:
    """∫ φ_i g dε for all hat functions φ_i, from the second antiderivative of g at the nodes."""
    return (values.diff() / spacing).diff()


def _number(nodes: _Nodes, fermi_level: Tensor, thermal_energy: float | Tensor, order: int = 0) -> Tensor:
    """The number weights or their first or second derivative in μ, ``[energy]``."""
    x = (fermi_level - nodes.positions) / thermal_energy
    if order == 0:
        return -(thermal_energy**2) * _second_difference(_polylog(2, x), nodes.spacing)
    if order == 1:
        return -thermal_energy * _second_difference(_polylog(1, x), nodes.spacing)
    return _second_difference(torch.sigmoid(x), nodes.spacing)


def _check_dos(dos: Tensor, energies: Tensor, n_electrons: float) -> None:
    if dos.shape != energies.shape:
        raise ValueError(
            f"the DOS has shape {list(dos.shape)}, the energy grid {list(energies.shape)}; they must agree"
        )
    if not bool(torch.isfinite(dos).all()):
        raise ValueError("the density of states contains NaN or infinity; the LDOS it came from is broken")
    if not n_electrons > 0:
        raise ValueError(f"number of electrons is {n_electrons}; it must be positive")


def _search(dos: Tensor, nodes: _Nodes, n_electrons: float, kT: float, guess: float | None) -> Tensor:
    """Root of N(μ) − N by Newton's method inside a bracket that bisection keeps shrinking."""
    low, high = float(nodes.positions[0]) - 40 * kT, _highest_level(nodes, kT)
    if high <= low or _excess(dos, nodes, n_electrons, high, kT) < 0:
        raise ValueError(_window_message(dos, nodes, n_electrons, kT))
    level = guess if guess is not None and low < guess < high else (low + high) / 2
    for _ in range(200):
        value = _excess(dos, nodes, n_electrons, level, kT)
        low, high = (low, level) if value > 0 else (level, high)
        # what is left at 1e-11 the differentiable step takes away
        if abs(value) < 1e-11 * n_electrons or high - low < 4e-16 * max(abs(low), abs(high), kT):
            break
        slope = float(_number(nodes, torch.tensor(level, dtype=torch.float64), kT, 1) @ dos)
        step = level - value / slope if slope > MINIMUM_SLOPE else math.nan
        level = step if low < step < high else (low + high) / 2
    return torch.tensor(level, dtype=torch.float64)


def _excess(dos: Tensor, nodes: _Nodes, n_electrons: float, level: float, kT: float) -> float:
    """N(μ) − N."""
    return float(_number(nodes, torch.tensor(level, dtype=torch.float64), kT) @ dos) - n_electrons


def _highest_level(nodes: _Nodes, kT: float) -> float:
    """The μ, eV, at which the top of the window is occupied as much as is allowed."""
    return float(nodes.positions[-2]) - kT * math.log(1 / MAXIMUM_TOP_OCCUPATION - 1)


def _window_message(dos: Tensor, nodes: _Nodes, n_electrons: float, kT: float) -> str:
    """Say why the electrons do not fit below the top of the energy window."""
    window = f"the energy window {float(nodes.positions[1]):g} to {float(nodes.positions[-2]):g} eV"
    highest = _highest_thermal_energy(dos, nodes, n_electrons)
    if highest == 0:
        states = float((nodes.spacing[1:] + nodes.spacing[:-1]) @ dos) / 2
        return (
            f"{window} holds {states:.4g} states, too few for {n_electrons:g} electrons: "
            "the window or the number of valence electrons does not fit this structure"
        )
    return (
        f"the electronic temperature of {kT / BOLTZMANN:.0f} K is beyond {window}, whose top would be occupied by "
        f"more than {MAXIMUM_TOP_OCCUPATION:g}; at most {highest / BOLTZMANN:.0f} K is possible"
    )


def _highest_thermal_energy(dos: Tensor, nodes: _Nodes, n_electrons: float) -> float:
    """The kT, eV, at which the top of the window is occupied as much as is allowed; 0 if it is so at any kT."""
    low, high = 1e-4 * float(nodes.spacing[0]), float(nodes.positions[-1] - nodes.positions[0])
    if _excess(dos, nodes, n_electrons, _highest_level(nodes, low), low) < 0:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = _excess(dos, nodes, n_electrons, _highest_level(nodes, middle), middle) >= 0
        low, high = (middle, high) if fits else (low, middle)
    return low


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


def _polylog(order: int, x: Tensor) -> Tensor:
    """Li_n(−e^x) for n = 1, 2, 3 and any real x, to 1e-15 relative, with derivatives as good.

    The series Σ_k (−1)^k e^(kx)/k^n for x ≤ 0 and the inversion formulas of Li_n for x > 0. Both are smooth at
    zero, and neither overflows, so the branch that is not taken adds no NaN to a derivative.
    """
    if order == 1:
        return -softplus(x, threshold=50.0)
    # not abs(), whose derivative at zero belongs to neither branch
    decaying = torch.where(x > 0, -x, x)
    k = _K.to(x.device)
    series = torch.exp(decaying[..., None] * k) @ (-_WEIGHTS.to(x.device) / k**order)
    if order == 2:
        return torch.where(x > 0, -(math.pi**2) / 6 - x**2 / 2 - series, series)
    return torch.where(x > 0, series - math.pi**2 * x / 6 - x**3 / 6, series)
