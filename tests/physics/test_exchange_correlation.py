"""Exchange and correlation: LDA, PBE and PBEsol, and functionals that others add."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.exchange_correlation import (
    FLOOR,
    FUNCTIONALS,
    PBE,
    EnergyDensity,
    fractional_gradient,
    pw92_correlation,
    xc_energies,
    xc_potential,
)
from ase_ldos.units import BOHR, HARTREE

TRICLINIC = torch.tensor([[3.0, 0.2, -0.1], [-1.0, 2.7, 0.4], [0.5, 0.8, 4.0]], dtype=torch.float64)


def tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def smooth_density(shape: tuple[int, int, int], low: float = 0.05) -> Tensor:
    s = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in shape), indexing="ij")
    x, y, z = (2 * math.pi * a for a in s)
    return low + 0.2 * (1 + torch.cos(x + 0.3)) * (1.2 + torch.sin(y - z))


def random_density(shape: tuple[int, int, int], seed: int = 4) -> Tensor:
    return 0.1 + torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- formulas


@pytest.mark.parametrize(("rs", "correlation"), [(1, -0.0598), (2, -0.0448), (5, -0.0282), (10, -0.0186)])
@pytest.mark.parametrize("functional", ["lda", "pbe", "pbesol"])
def test_uniform_electron_gas(rs: float, correlation: float, functional: str) -> None:
    # ε_x = −0.458165/r_s; correlation from table I of Perdew and Wang
    grid = Grid(TRICLINIC, (4, 3, 5))
    density = torch.full(grid.shape, 3 / (4 * math.pi * (rs * BOHR) ** 3), dtype=torch.float64)
    energy, potential = xc_energies(density, grid, functional)
    electrons = float(grid.integrate(density))
    exchange = -0.4581652932831429 / rs
    assert float(energy) / electrons / HARTREE - exchange == pytest.approx(correlation, abs=6e-5)
    # ∫ n v = n dε/dn with ε the energy per volume
    step = 1e-6
    more, less = (float(xc_energies(density * (1 + s), grid, functional)[0]) for s in (step, -step))
    assert float(potential) == pytest.approx((more - less) / (2 * step), rel=1e-8)


def test_exchange_of_the_hydrogen_atom() -> None:
    # literature: −0.3059 Ha with PBE, −0.2680 Ha with the local spin density; E_x[n, 0] = E_x[2n]/2
    r = torch.linspace(1e-6, 25, 200_001, dtype=torch.float64)
    n = 2 * torch.exp(-2 * r) / math.pi
    shell = 4 * math.pi * r**2 / 2
    exchange = PBE().exchange
    pbe = torch.trapezoid(shell * exchange(n, n ** (1 / 3), (2 * n) ** 2).f, r)
    local = torch.trapezoid(shell * exchange(n, n ** (1 / 3), torch.zeros_like(n)).f, r)
    assert float(pbe) == pytest.approx(-0.3059, abs=5e-5)
    assert float(local) == pytest.approx(-0.2680, abs=5e-5)


@pytest.mark.parametrize(
    ("functional", "mu", "beta"),
    [
        (FUNCTIONALS["pbe"], 0.2195149727645171, 0.06672455060314922),
        # PRL 100, 136406: the gradient expansion of exchange, and β = 0.046
        (FUNCTIONALS["pbesol"], 10 / 81, 0.046),
    ],
)
def test_limits_of_the_form_of_pbe(functional: PBE, mu: float, beta: float) -> None:
    n = tensor([1e-3, 1e-2, 0.1, 1.0])
    root = n ** (1 / 3)
    energy, _ = pw92_correlation(root)
    exchange = -0.75 * (3 / math.pi) ** (1 / 3) * root
    # Lieb-Oxford bound and vanishing correlation for rapid variation
    huge = 1e12 * n ** (8 / 3)
    torch.testing.assert_close(
        functional.exchange(n, root, huge).f / (n * exchange), tensor([1.804] * 4), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(functional.correlation(n, root, huge).f / n, torch.zeros(4).double(), rtol=0, atol=1e-6)
    # gradient expansion for slow variation: ε_x (1 + μ s²), H = β t²
    small = 1e-8 * n ** (8 / 3)
    s2 = 1e-8 / (4 * (3 * math.pi**2) ** (2 / 3))
    slope = (functional.exchange(n, root, small).f / (n * exchange) - 1) / s2
    torch.testing.assert_close(slope, tensor([mu] * 4), rtol=1e-5, atol=0)
    t2 = math.pi / 16 / (3 * math.pi**2) ** (1 / 3) * small / (n**2 * root)
    slope = (functional.correlation(n, root, small).f / n - energy) / t2
    torch.testing.assert_close(slope, tensor([beta] * 4), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", list(FUNCTIONALS))
def test_written_derivatives_are_those_of_autograd(name: str) -> None:
    functional = FUNCTIONALS[name]
    n = torch.logspace(-6, 1, 60, dtype=torch.float64).requires_grad_()
    for strength in (0.0, 1e-3, 1.0, 50.0):
        sigma = (strength * n.detach() ** (8 / 3)).requires_grad_()
        point = functional(n, sigma)
        assert point.f.shape == point.f_n.shape == point.f_sigma.shape == n.shape
        by_n, by_sigma = torch.autograd.grad(point.f.sum(), (n, sigma), allow_unused=True)
        assert (by_sigma is not None) == functional.needs_gradient
        torch.testing.assert_close(point.f_n, by_n, rtol=1e-11, atol=1e-14)
        if by_sigma is not None:
            # exchange and correlation cancel at σ = 0, by PBE's choice of μ
            scale = n.detach() ** (4 / 3)
            torch.testing.assert_close(point.f_sigma * scale, by_sigma * scale, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("functional", ["lda", "pbe", "pbesol"])
@pytest.mark.parametrize("with_core", [False, True])
@pytest.mark.parametrize("shape", [(5, 7, 9), (6, 8, 10)])
def test_second_integral_is_that_of_the_potential(
    functional: str, with_core: bool, shape: tuple[int, int, int]
) -> None:
    grid = Grid(TRICLINIC, shape)
    density = smooth_density(shape)
    core = smooth_density(shape).roll(2, 0) ** 2 if with_core else None
    _, integral = xc_energies(density, grid, functional, core)
    potential = xc_potential(density, grid, functional, core)
    assert float(grid.integrate(density * potential)) == pytest.approx(float(integral), rel=1e-12)


@pytest.mark.parametrize("shape", [(5, 7, 9), (6, 8, 10)])
def test_gradient_is_exact_for_waves(shape: tuple[int, int, int]) -> None:
    s = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in shape), indexing="ij")
    for miller in ((1, 0, 0), (2, -3, 4), (0, 2, -1)):
        phase = 2 * math.pi * sum(m * x for m, x in zip(miller, s)) + 0.3
        expected = torch.stack([-2 * math.pi * m * torch.sin(phase) for m in miller])
        torch.testing.assert_close(fractional_gradient(torch.cos(phase)), expected, rtol=0, atol=1e-12)


def test_gradient_of_the_nyquist_wave_is_zero() -> None:
    field = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(3)[:, None, None].expand(6, 4, 4)
    torch.testing.assert_close(fractional_gradient(field), torch.zeros(3, 6, 4, 4).double(), rtol=0, atol=1e-14)


def test_energy_converges_with_the_grid() -> None:
    energies = [
        float(xc_energies(smooth_density(shape, low=1.5), Grid(TRICLINIC, shape))[0])
        for shape in ((16, 18, 15), (24, 25, 27))
    ]
    assert energies[0] == pytest.approx(energies[1], abs=1e-7)


def test_rotation_translation_supercell() -> None:
    shape = (6, 5, 8)
    density = smooth_density(shape)
    energy, integral = (float(e) for e in xc_energies(density, Grid(TRICLINIC, shape)))
    turn = torch.linalg.qr(torch.rand(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    for field, cell, times in (
        (density, TRICLINIC @ turn, 1),
        (density.roll((1, 2, -3), (0, 1, 2)), TRICLINIC, 1),
        (density.repeat(1, 1, 2), TRICLINIC * tensor([[1.0], [1.0], [2.0]]), 2),
    ):
        got = xc_energies(field, Grid(cell, tuple(field.shape)))
        assert [float(e) / times for e in got] == pytest.approx([energy, integral], rel=1e-11)


def test_beryllium(be_files: list[Path]) -> None:
    for path in be_files:
        with np.load(path) as data:
            density = torch.as_tensor(data["density"])
            energy, _ = xc_energies(density, Grid(torch.as_tensor(data["cell"]), tuple(density.shape)))
            assert float(energy) == pytest.approx(float(data["xc"]), abs=7e-4 * len(data["numbers"])), path.name


# --- derivatives


@pytest.mark.parametrize("functional", ["lda", "pbe"])
def test_derivatives_in_density_core_and_strain(functional: str) -> None:
    shape = (3, 1, 3)

    def energies(density: Tensor, core: Tensor, strain: Tensor) -> Tensor:
        grid = Grid(TRICLINIC @ (torch.eye(3, dtype=torch.float64) + strain), shape)
        return torch.stack(xc_energies(density, grid, functional, core))

    inputs = (
        random_density(shape).requires_grad_(),
        random_density(shape, 6).requires_grad_(),
        torch.zeros(3, 3, dtype=torch.float64, requires_grad=True),
    )
    assert gradcheck(energies, inputs, eps=1e-5, atol=1e-6)
    assert gradgradcheck(energies, inputs, eps=1e-5, atol=1e-5)


def test_small_and_negative_densities_have_finite_derivatives() -> None:
    shape = (4, 4, 4)
    for values in (
        torch.linspace(-1e-3, 1e-3, 64, dtype=torch.float64),
        torch.zeros(64, dtype=torch.float64),
        torch.linspace(-0.5, 0.5, 64, dtype=torch.float64),
    ):
        density = values.reshape(shape).requires_grad_()
        energy, integral = xc_energies(density, Grid(TRICLINIC, shape))
        (first,) = torch.autograd.grad(energy - integral, density, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), density)
        for value in (energy, integral, first, second):
            assert bool(torch.isfinite(value).all())


def test_derivatives_across_the_floor() -> None:
    shape = (3, 3, 3)
    grid = Grid(TRICLINIC, shape)
    density = (FLOOR * torch.linspace(-3, 6, 27, dtype=torch.float64)).reshape(shape).requires_grad_()

    def energies(x: Tensor) -> Tensor:
        return torch.stack(xc_energies(x, grid)) / FLOOR

    assert gradcheck(energies, density, eps=1e-4 * FLOOR, rtol=1e-4, atol=1e-3)


def test_forces_are_smooth_where_a_negative_density_has_its_minimum() -> None:
    # a network may make the density slightly negative at a nucleus, and in a perfect crystal nuclei sit on grid points
    shape = (6, 6, 6)
    grid = Grid(3 * torch.eye(3, dtype=torch.float64), shape)
    waves = torch.arange(6, dtype=torch.float64) * (2 * math.pi / 6)

    def force(shift: float) -> float:
        moved = tensor(shift).requires_grad_()
        x, y, z = (torch.cos(waves - (moved if axis == 0 else 0.0)) for axis in range(3))
        density = 0.1 - (0.1 + 7e-4) * (x[:, None, None] + y[:, None] + z) / 3
        energy, integral = xc_energies(density, grid)
        return float(torch.autograd.grad(energy - integral, moved)[0])

    assert force(0.0) == pytest.approx(0.0, abs=1e-12)
    slope = force(1e-2) / 1e-2
    for shift in (1e-7, 1e-6, 1e-5, 1e-4):
        assert force(shift) == pytest.approx(slope * shift, rel=1e-2, abs=1e-12)


def test_floor_leaves_matter_alone() -> None:
    shape = (4, 4, 4)
    density = smooth_density(shape, low=1e-3)
    energy, _ = xc_energies(density, Grid(TRICLINIC, shape), "lda")
    bare = (
        FUNCTIONALS["lda"](density * BOHR**3, torch.zeros(shape)).f.sum()
        * Grid(TRICLINIC, shape).voxel_volume
        * HARTREE
        / BOHR**3
    )
    assert float(energy) == pytest.approx(float(bare), rel=1e-14)


# --- bad input


def test_unknown_functional_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown exchange-correlation functional 'b3lyp'; known: lda, pbe, pbesol"):
        xc_energies(torch.ones(2, 2, 2), Grid(TRICLINIC, (2, 2, 2)), "b3lyp")


def test_fields_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="the density has shape"):
        xc_energies(torch.ones(2, 2, 3), Grid(TRICLINIC, (2, 2, 2)))
    with pytest.raises(ValueError, match="the core density has shape"):
        xc_energies(torch.ones(2, 2, 2), Grid(TRICLINIC, (2, 2, 2)), core_density=torch.ones(2, 2, 3))


# --- functionals of others


class Wigner:
    """Wigner's correlation alone: f = −0.44 n/(r_s + 7.8)."""

    needs_gradient = False

    def __call__(self, density: Tensor, sigma: Tensor) -> EnergyDensity:  # noqa: ARG002
        a = (3 / (4 * math.pi)) ** (1 / 3)
        denominator = a * density ** (-1 / 3) + 7.8
        f_n = -0.44 / denominator * (1 + a * density ** (-1 / 3) / (3 * denominator))
        return EnergyDensity(-0.44 * density / denominator, f_n, torch.zeros_like(density))


def test_a_functional_from_outside() -> None:
    functionals = type(FUNCTIONALS)(FUNCTIONALS.what, None, {name: FUNCTIONALS[name] for name in FUNCTIONALS})
    functionals.register("wigner", Wigner())
    assert functionals.names() == ["lda", "pbe", "pbesol", "wigner"]
    n = torch.logspace(-3, 1, 20, dtype=torch.float64).requires_grad_()
    point = functionals["wigner"](n, torch.zeros_like(n))
    torch.testing.assert_close(point.f_n, torch.autograd.grad(point.f.sum(), n)[0], rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="functional 'pbe' already"):
        functionals.register("pbe", Wigner())


def test_pbesol_binds_less_where_the_density_varies() -> None:
    """μ below PBE's: exchange of an inhomogeneous density is weaker, in a uniform one there is no difference."""
    shape = (8, 9, 10)
    grid, density = Grid(TRICLINIC, shape), smooth_density((8, 9, 10))
    energies = {name: float(xc_energies(density, grid, name)[0]) for name in ("lda", "pbe", "pbesol")}
    assert energies["pbe"] < energies["pbesol"] < energies["lda"]
    flat = torch.full(shape, 0.3, dtype=torch.float64)
    uniform = [float(xc_energies(flat, grid, name)[0]) for name in ("lda", "pbe", "pbesol")]
    assert uniform == pytest.approx([uniform[0]] * 3, rel=1e-13)
