"""Fermi-Dirac integrals of a piecewise linear density of states, and the Fermi level."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import spence
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ase_ldos.physics.occupation import _polylog, fermi_level, highest_temperature, occupation_weights
from ase_ldos.units import BOLTZMANN


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def fermi(x: float) -> float:
    return 0.5 * (1 - math.tanh(x / 2))


def entropy(x: float) -> float:
    f = fermi(abs(x))
    return f * math.log(f) + (1 - f) * math.log1p(-f) if f > 0 else 0.0


UNEVEN = (-5.0, -4.2, -3.9, -1.0, 0.3, 0.5, 2.5)


# --- formulas


def test_polylogarithms_match_scipy_and_their_inversion() -> None:
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    # spence rounds 1 + e^x
    torch.testing.assert_close(_polylog(2, x), tensor(spence(1 + np.exp(x.numpy()))), rtol=1e-14, atol=3e-16)
    torch.testing.assert_close(
        _polylog(3, x) - _polylog(3, -x), -(x**3) / 6 - math.pi**2 * x / 6, rtol=1e-13, atol=1e-13
    )
    # Li_3(-1) = -3/4 ζ(3)
    assert float(_polylog(3, tensor(0.0))) == pytest.approx(-0.75 * 1.2020569031595942, rel=1e-15)


def test_primitives_of_the_conventions_page() -> None:
    # D is a box (or a line) between 6.83 and 7.11 eV, its edges nearly vertical
    edge = 1e-9
    low, high, level, kT = 6.83, 7.11, tensor(7.0), BOLTZMANN * 298
    energies = tensor([low - edge, low, high, high + edge])
    weights = occupation_weights(energies, level, kT)
    box, line = tensor([0.0, 1, 1, 0]), tensor([0.0, low - 7, high - 7, 0])
    excess = weights.band - level * weights.number
    assert float(weights.number @ box) == pytest.approx(0.1696824234, abs=2e-9)
    assert float(excess @ box) == pytest.approx(-0.0134197164, abs=2e-9)
    assert float(excess @ line) == pytest.approx(0.0016322823, abs=2e-9)
    assert float(weights.entropy @ box) == pytest.approx(-0.0021050818, abs=2e-9)
    assert float(weights.entropy @ line) == pytest.approx(6.44278e-06, abs=2e-9)


@pytest.mark.parametrize("kT", [1e-3, 0.0257, 0.3, 3.0])
@pytest.mark.parametrize("level", [-4.05, 0.3, 2.0])
def test_weights_match_quadrature(kT: float, level: float) -> None:
    energies = np.array(UNEVEN)
    nodes = np.concatenate(([2 * energies[0] - energies[1]], energies, [2 * energies[-1] - energies[-2]]))
    weights = occupation_weights(tensor(energies), tensor(level), kT)
    for i in range(len(energies)):
        a, b, c = nodes[i : i + 3]

        def integral(function: Callable[[float], float], a: float = a, b: float = b, c: float = c) -> float:
            total = 0.0
            marks = level + kT * np.array([-30, -8, -3, 0, 3, 8, 30])
            for lower, upper, foot in ((a, b, a), (b, c, c)):
                cuts = [lower, *(m for m in marks if lower < m < upper), upper]
                for x, y in pairwise(cuts):
                    total += quad(lambda e, f=foot: (e - f) / (b - f) * function(e), x, y, epsabs=1e-14)[0]
            return total

        assert float(weights.number[i]) == pytest.approx(integral(lambda e: fermi((e - level) / kT)), abs=1e-11)
        assert float(weights.band[i]) == pytest.approx(integral(lambda e: e * fermi((e - level) / kT)), abs=1e-10)
        assert float(weights.entropy[i]) == pytest.approx(integral(lambda e: kT * entropy((e - level) / kT)), abs=1e-10)


def test_deep_states_are_full_and_high_ones_empty_to_1e10() -> None:
    # |x| up to 2e4
    energies = torch.linspace(-10, 10, 401, dtype=torch.float64)
    weights = occupation_weights(energies, tensor(0.0123), 1e-3)
    deep, high = energies < -0.2, energies > 0.2
    ones = torch.full_like(energies, 0.05)
    torch.testing.assert_close(weights.number[deep], ones[deep], rtol=0, atol=1e-11)
    torch.testing.assert_close(weights.band[deep], (0.05 * energies)[deep], rtol=0, atol=1e-10)
    torch.testing.assert_close(weights.entropy[deep], torch.zeros_like(ones)[deep], rtol=0, atol=1e-10)
    for name in ("number", "band", "entropy"):
        assert float(getattr(weights, name)[high].abs().max()) < 1e-12


def test_density_of_states_of_levels_gives_the_sums_over_levels() -> None:
    levels, degeneracy, kT = np.array([-3.0, -1.0, 0.02, 0.5]), np.array([2.0, 4.0, 2.0, 6.0]), 0.2
    energies = np.arange(-4.5, 12, 0.005)
    dos = sum(g * np.exp(-((energies - e) ** 2) / (2 * 0.02**2)) for e, g in zip(levels, degeneracy))
    dos = tensor(dos / (0.02 * math.sqrt(2 * math.pi)))
    level = fermi_level(dos, tensor(energies), 8.0, kT)
    weights = occupation_weights(tensor(energies), level, kT)
    f = np.array([fermi((e - float(level)) / kT) for e in levels])
    s = np.array([entropy((e - float(level)) / kT) for e in levels])
    # the levels' width of 0.02 eV matters by (0.02/kT)²/2 of the curvature
    assert degeneracy @ f == pytest.approx(8, abs=0.01)
    assert float(weights.band @ dos) == pytest.approx(degeneracy @ (f * levels), abs=0.02)
    assert float(weights.entropy @ dos) == pytest.approx(kT * degeneracy @ s, abs=0.01)


def test_linear_density_of_states() -> None:
    """Of D = a (ε + 5) Sommerfeld's expansions end: they are exact, at nodes however few."""
    energies, a, n_electrons, kT = torch.linspace(-5, 20, 11, dtype=torch.float64), 0.04, 4.0, 0.0258
    dos = a * (energies + 5)
    level = fermi_level(dos, energies, n_electrons, kT)
    weights = occupation_weights(energies, level, kT)
    squared = (math.pi * kT) ** 2
    height = math.sqrt(2 * n_electrons / a - squared / 3)
    assert float(level) == pytest.approx(height - 5, abs=1e-12)
    band = a * (height**3 / 3 - 5 * height**2 / 2 + squared / 6 * (2 * height - 5))
    assert float(weights.band @ dos) == pytest.approx(band, abs=1e-11)
    assert float(weights.entropy @ dos) == pytest.approx(-squared / 3 * a * height, rel=1e-10)


def test_fermi_level_of_the_dense_mesh(be_files: list[Path]) -> None:
    for path in be_files:
        with np.load(path) as data:
            if "ldos" not in data:
                continue
            energies, dos, kT = (
                tensor(data["energies"]),
                tensor(data["dos"]),
                BOLTZMANN * data["electronic_temperature"],
            )
            n_electrons = float(data["valence"]) * len(data["numbers"])
            level = fermi_level(dos, energies, n_electrons, float(kT))
            assert float(occupation_weights(energies, level, float(kT)).number @ dos) == pytest.approx(
                n_electrons, abs=1e-9
            )
            # the LDOS is broadened by 0.2 eV, the eigenvalues are not; beryllium has few states at its Fermi level
            assert float(level) == pytest.approx(float(data["fermi_level_dense"]), abs=0.1)
            at_dft_level = occupation_weights(energies, tensor(data["fermi_level_dense"]), float(kT)).number @ dos
            assert float(at_dft_level) == pytest.approx(n_electrons, rel=5e-3)


# --- derivatives


@pytest.mark.parametrize("kT", [1e-3, 0.0257, 3.0])
@pytest.mark.parametrize("level", [0.3, 0.41, -20.0, 20.0])  # 0.3 is a node: both branches meet there
def test_three_derivatives_in_the_fermi_level(kT: float, level: float) -> None:
    energies = tensor(UNEVEN)
    unit = kT if abs(level) < 5 else 1.0

    # any D will do; its random numbers let every node take part
    dos = torch.rand(len(UNEVEN), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def integrals(x: Tensor) -> Tensor:
        w = occupation_weights(energies, level + unit * x, kT)
        return torch.stack((w.number @ dos, w.band @ dos, w.entropy @ dos)) / unit

    def slopes(x: Tensor) -> Tensor:
        return torch.stack([torch.autograd.grad(i, x, create_graph=True)[0] for i in integrals(x)])

    x = tensor(0.0).requires_grad_()
    assert gradcheck(integrals, x, eps=1e-4, atol=1e-6)
    assert gradcheck(slopes, x, eps=1e-4, atol=1e-6)
    assert gradgradcheck(slopes, x, eps=1e-4, atol=1e-6)
    assert bool(torch.isfinite(integrals(x)).all())


def test_derivative_in_the_temperature() -> None:
    energies = tensor(UNEVEN)
    assert gradcheck(lambda kT: occupation_weights(energies, tensor(0.1), kT).entropy, tensor(0.1).requires_grad_())


def model_dos(energies: Tensor) -> Tensor:
    return (energies + 5.5).clamp(min=0).sqrt() * (1.2 + torch.sin(2 * energies))


@pytest.mark.parametrize("kT", [0.0257, 0.5])
def test_two_derivatives_of_the_fermi_level(kT: float) -> None:
    energies = torch.linspace(-5, 10, 13, dtype=torch.float64)
    dos = model_dos(energies).requires_grad_()
    assert gradcheck(lambda d: fermi_level(d, energies, 6.0, kT), dos, eps=1e-5, atol=1e-7)
    assert gradgradcheck(lambda d: fermi_level(d, energies, 6.0, kT), dos, eps=1e-5, atol=1e-6)


def test_free_energy_of_electrons_has_the_weights_as_derivative() -> None:
    # ∂(E_b − TS − μN)/∂D_i at the root: all terms through μ cancel at fixed N
    energies = torch.linspace(-5, 10, 31, dtype=torch.float64)
    dos = model_dos(energies).requires_grad_()
    level = fermi_level(dos, energies, 6.0, 0.2)
    weights = occupation_weights(energies, level, 0.2)
    (gradient,) = torch.autograd.grad((weights.band + weights.entropy) @ dos, dos)
    fixed = occupation_weights(energies, level.detach(), 0.2)
    expected = fixed.band + fixed.entropy - level.detach() * fixed.number
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)


# --- the search


@pytest.mark.parametrize("guess", [None, 3.0, -100.0, 9.5])
def test_guess_does_not_matter(guess: float | None) -> None:
    energies = torch.linspace(-5, 10, 151, dtype=torch.float64)
    dos = model_dos(energies)
    level = fermi_level(dos, energies, 12.0, 0.0257, guess)
    assert float(level) == pytest.approx(float(fermi_level(dos, energies, 12.0, 0.0257)), abs=1e-10)
    assert float(occupation_weights(energies, level, 0.0257).number @ dos) == pytest.approx(12, abs=1e-11)


def test_gap_at_the_fermi_level_is_survived() -> None:
    energies = torch.linspace(-5, 10, 151, dtype=torch.float64)
    dos = torch.where((energies > 0) & (energies < 2), 0.0, 1.0).to(torch.float64)
    n_electrons = float(dos[energies <= 0].sum() * 0.1)
    dos = dos.requires_grad_()
    level = fermi_level(dos, energies, n_electrons, 0.0257)
    (gradient,) = torch.autograd.grad(level, dos)
    assert 0 < float(level.detach()) < 2
    assert bool(torch.isfinite(gradient).all())


def test_slightly_negative_dos_is_survived() -> None:
    energies = torch.linspace(-5, 10, 151, dtype=torch.float64)
    dos = model_dos(energies) - 0.02
    level = fermi_level(dos, energies, 6.0, 0.0257)
    assert float(occupation_weights(energies, level, 0.0257).number @ dos) == pytest.approx(6, abs=1e-10)


# --- bad input


def refuse(match: str, **changes: object) -> None:
    energies = torch.linspace(-5, 10, 31, dtype=torch.float64)
    arguments = {"dos": model_dos(energies), "energies": energies, "n_electrons": 6.0, "thermal_energy": 0.0257}
    with pytest.raises(ValueError, match=match):
        fermi_level(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("kT", [0.0, -0.1, math.nan])
def test_temperature_must_be_positive(kT: float) -> None:
    refuse("electronic temperature must be positive", thermal_energy=kT)


def test_nan_is_refused() -> None:
    refuse("NaN or infinity", dos=torch.full((31,), math.nan, dtype=torch.float64))


def test_shapes_must_agree() -> None:
    refuse(r"shape \[30\]", dos=torch.ones(30, dtype=torch.float64))


def test_energies_must_rise() -> None:
    refuse("rise", energies=torch.linspace(10, -5, 31, dtype=torch.float64))


def test_electrons_must_be_positive() -> None:
    refuse("must be positive", n_electrons=0.0)


def test_too_few_states() -> None:
    refuse("too few for 600 electrons", n_electrons=600.0)


def test_temperature_beyond_the_window_names_the_limit() -> None:
    energies = torch.linspace(-5, 10, 31, dtype=torch.float64)
    dos = model_dos(energies)
    with pytest.raises(ValueError, match=r"at most (\d+) K is possible") as caught:
        fermi_level(dos, energies, 12.0, BOLTZMANN * 60000)
    limit = int(str(caught.value).split("at most ")[1].split(" K")[0])
    level = float(fermi_level(dos, energies, 12.0, BOLTZMANN * (limit - 1)))
    assert fermi((10 - level) / (BOLTZMANN * limit)) == pytest.approx(1e-2, rel=1e-2)
    with pytest.raises(ValueError, match="beyond"):
        fermi_level(dos, energies, 12.0, BOLTZMANN * (limit + 1))
    assert highest_temperature(dos, energies, 12.0) == pytest.approx(limit, abs=0.5)


def test_no_temperature_fits_a_full_window() -> None:
    energies = torch.linspace(-5, 10, 31, dtype=torch.float64)
    assert highest_temperature(model_dos(energies), energies, 600.0) == 0
    with pytest.raises(ValueError, match="must be positive"):
        highest_temperature(model_dos(energies), energies, 0.0)
