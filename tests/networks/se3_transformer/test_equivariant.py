"""Equivariant blocks: they commute with rotations and reflections, and their signals stay of order one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ase_ldos.descriptors.solid_harmonics import degree_slices
from ase_ldos.networks.se3_transformer.equivariant import DegreeLinear, DegreeNorm, GatedFeedForward

LMAXES = range(5)


def features(lmax: int, channels: int, n_atoms: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_atoms, (lmax + 1) ** 2, channels, dtype=torch.float64, generator=generator)


def blocks(lmax: int) -> list[nn.Module]:
    generator = torch.Generator().manual_seed(3)
    linear, norm = DegreeLinear(lmax, 4, 6, generator), DegreeNorm(lmax, 4)
    for parameter in (linear.bias, norm.gain):
        nn.init.normal_(parameter, generator=generator)
    return [linear.double(), norm.double(), GatedFeedForward(lmax, 4, generator).double()]


@pytest.mark.parametrize("lmax", LMAXES)
def test_equivariance(lmax: int, representation: Callable[[int], list[Tensor]]) -> None:
    x, turn = features(lmax, 4), torch.block_diag(*representation(lmax))
    for block in blocks(lmax):
        torch.testing.assert_close(block(turn @ x), turn @ block(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("lmax", [0, 2])
def test_first_and_second_derivatives(lmax: int) -> None:
    x = features(lmax, 4, n_atoms=1).requires_grad_()
    for block in blocks(lmax):
        assert torch.autograd.gradcheck(block, (x,))
        assert torch.autograd.gradgradcheck(block, (x,))


def test_linear_is_one_matrix_per_degree() -> None:
    linear = blocks(2)[0]
    assert isinstance(linear, DegreeLinear)
    x = features(2, 4)
    expected = [x[:, rows] @ weight for rows, weight in zip(degree_slices(2), linear.weights)]
    expected[0] = expected[0] + linear.bias
    torch.testing.assert_close(linear(x), torch.cat(expected, dim=1), rtol=1e-13, atol=1e-13)


def test_norm_is_one_for_all_degrees_and_smooth_where_a_degree_vanishes() -> None:
    norm = DegreeNorm(2, 16).double()
    x = features(2, 16)
    mean = torch.stack([norm(5 * x)[:, rows].square().mean(dim=(1, 2)) for rows in degree_slices(2)]).mean(dim=0)
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=1e-4, atol=1e-4)
    # degree 1 vanishes by symmetry: a small displacement gives a small output
    x[:, 1:4] = 1e-6
    assert norm(x)[:, 1:4].abs().max() < 1e-5
    assert torch.equal(norm(torch.zeros_like(x)), torch.zeros_like(x))


def test_signal_neither_dies_nor_explodes() -> None:
    x = features(3, 64, n_atoms=50)
    feed = GatedFeedForward(3, 64, torch.Generator().manual_seed(4)).double()
    for rows in degree_slices(3):
        assert 0.1 < float(feed(x)[:, rows].detach().std()) < 3


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (GatedFeedForward(1, 3, torch.Generator().manual_seed(seed)).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["first.weights.0"], other["first.weights.0"])
    assert {value.dtype for value in one.values()} == {torch.float32}
