"""The terms of the density block by block against the plain formulas and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.density_functionals import density_energies, density_terms

CELL = torch.tensor([[3.0, 0.2, -0.1], [-1.0, 2.7, 0.4], [0.5, 0.8, 4.0]], dtype=torch.float64)


def smooth_density(shape: tuple[int, int, int]) -> Tensor:
    """A metal's density with some structure, vanishing and slightly negative in places."""
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.fft.rfftn(torch.randn(shape, generator=generator, dtype=torch.float64))
    squared = Grid(CELL, shape).g_vectors().square().sum(dim=-1)
    field = torch.fft.irfftn(coefficients * torch.exp(-0.1 * squared), s=shape)
    return 0.25 * (0.8 + field / field.abs().max())


@pytest.mark.parametrize("functional", ["lda", "pbe", "pbesol"])
@pytest.mark.parametrize("with_core", [False, True])
@pytest.mark.parametrize("block_points", [1, 200, 10**6])
@pytest.mark.parametrize("shape", [(6, 9, 8), (5, 8, 7)])
def test_energies_and_derivatives(
    functional: str, with_core: bool, block_points: int, shape: tuple[int, int, int]
) -> None:
    density = smooth_density(shape)
    core = smooth_density(shape).roll(2, 0) ** 2 if with_core else None
    grid = Grid(CELL, shape)
    found = density_terms(density, grid, functional, differentiate=True, core=core, block_points=block_points)
    leaf = density.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    grid = Grid(CELL @ (torch.eye(3, dtype=torch.float64) + strain), shape)
    core_leaf = None if core is None else core.clone().requires_grad_()
    plain = density_energies(leaf, grid, functional, core_leaf)
    leaves = [leaf, strain] if core_leaf is None else [leaf, strain, core_leaf]
    potential, by_strain, *by_core = torch.autograd.grad(-plain.hartree + plain.xc - plain.xc_potential, leaves)
    for name, value in vars(plain).items():
        torch.testing.assert_close(getattr(found.energies, name), value.detach(), rtol=1e-12, atol=1e-12)
    assert found.potential is not None
    assert found.strain is not None
    torch.testing.assert_close(found.potential.reshape(shape), potential, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(found.strain, by_strain, rtol=1e-10, atol=1e-10)
    assert (found.core_potential is None) == (core is None)
    if found.core_potential is not None:
        torch.testing.assert_close(found.core_potential.reshape(shape), by_core[0], rtol=1e-10, atol=1e-11)


def test_without_derivatives() -> None:
    density = smooth_density((6, 8, 8))
    grid = Grid(CELL, (6, 8, 8))
    found = density_terms(density, grid, "pbe", differentiate=False)
    both = density_terms(density, grid, "pbe", differentiate=True)
    assert found.potential is None
    assert found.strain is None
    torch.testing.assert_close(found.energies.xc_potential, both.energies.xc_potential, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.energies.hartree, both.energies.hartree, rtol=1e-13, atol=0)


def test_transforms_in_single_precision_keep_the_energy() -> None:
    """Below 0.001 meV/atom (a tenth of the goal) and 1e-5 of the potential, at 8 Å³ per atom."""
    shape = (24, 24, 30)
    density = smooth_density(shape)
    grid = Grid(CELL, shape)
    double, single = (
        density_terms(density, grid, "pbe", differentiate=True, single_from=threshold)
        for threshold in (grid.n_points + 1, grid.n_points)
    )
    n_atoms = float(grid.volume) / 8
    for name in ("hartree", "xc", "xc_potential"):
        assert abs(float(getattr(single.energies, name) - getattr(double.energies, name))) / n_atoms < 1e-6
    assert single.potential is not None
    assert double.potential is not None
    largest = double.potential.abs().max()
    assert float((single.potential - double.potential).abs().max() / largest) < 1e-5


def test_an_unknown_functional_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown exchange-correlation functional 'b3lyp'; known: lda, pbe, pbesol"):
        density_terms(torch.ones(2, 2, 2).double(), Grid(CELL, (2, 2, 2)), "b3lyp", differentiate=False)
