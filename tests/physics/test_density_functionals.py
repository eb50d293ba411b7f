"""The terms of the density slab by slab against the plain formulas and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics import density_functionals as module
from ase_ldos.physics.density_functionals import density_terms
from ase_ldos.physics.exchange_correlation import xc_energies
from ase_ldos.physics.hartree import hartree_energy

CELL = torch.tensor([[3.0, 0.2, -0.1], [-1.0, 2.7, 0.4], [0.5, 0.8, 4.0]], dtype=torch.float64)


def smooth_density(shape: tuple[int, int, int]) -> Tensor:
    """A metal's density with some structure, vanishing and slightly negative in places."""
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.fft.rfftn(torch.randn(shape, generator=generator, dtype=torch.float64))
    squared = Grid(CELL, shape).g_vectors().square().sum(dim=-1)
    field = torch.fft.irfftn(coefficients * torch.exp(-0.1 * squared), s=shape)
    return 0.25 * (0.8 + field / field.abs().max())


@pytest.mark.parametrize("functional", ["lda", "pbe"])
@pytest.mark.parametrize("slab", [1, 200, 10**6])
@pytest.mark.parametrize("shape", [(6, 9, 8), (5, 8, 7)])
def test_energies_and_derivatives(
    functional: str, slab: int, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SLAB", slab)
    density = smooth_density(shape)
    found = density_terms(density, Grid(CELL, shape), functional, differentiate=True)
    leaf = density.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    grid = Grid(CELL @ (torch.eye(3, dtype=torch.float64) + strain), shape)
    hartree, (xc, pulled) = hartree_energy(leaf, grid), xc_energies(leaf, grid, functional)
    potential, by_strain = torch.autograd.grad(-hartree + xc - pulled, (leaf, strain))
    for one, other in ((found.hartree, hartree), (found.xc, xc), (found.xc_potential, pulled)):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)
    assert found.potential is not None
    assert found.strain is not None
    torch.testing.assert_close(found.potential.reshape(shape), potential, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(found.strain, by_strain, rtol=1e-10, atol=1e-10)


def test_without_derivatives() -> None:
    density = smooth_density((6, 8, 8))
    grid = Grid(CELL, (6, 8, 8))
    found = density_terms(density, grid, "pbe", differentiate=False)
    both = density_terms(density, grid, "pbe", differentiate=True)
    assert found.potential is None
    assert found.strain is None
    torch.testing.assert_close(found.xc_potential, both.xc_potential, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.hartree, both.hartree, rtol=1e-13, atol=0)


def test_transforms_in_single_precision_keep_the_energy() -> None:
    """Below 0.001 meV/atom (a tenth of the goal) and 1e-5 of the potential, at 8 Å³ per atom."""
    shape = (24, 24, 30)
    density = smooth_density(shape)
    grid = Grid(CELL, shape)
    double, single = (
        density_terms(density, grid, "pbe", differentiate=True, fields=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    n_atoms = float(grid.volume) / 8
    for name in ("hartree", "xc", "xc_potential"):
        assert abs(float(getattr(single, name) - getattr(double, name))) / n_atoms < 1e-6
    assert single.potential is not None
    assert double.potential is not None
    largest = double.potential.abs().max()
    assert float((single.potential - double.potential).abs().max() / largest) < 1e-5
