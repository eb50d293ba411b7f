"""Sums over pairs: the definition, derivatives, and the same results with and without torch-scatter."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from ase_ldos.networks.se3_transformer import aggregation
from ase_ldos.networks.se3_transformer.aggregation import add_by_index, add_by_scatter, find_torch_scatter, sum_at

INDEX = torch.tensor([2, 0, 2, 2, 4])


def values(*shape: int) -> Tensor:
    return torch.randn(len(INDEX), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_rows_of_an_index_are_added_up(shape: tuple[int, ...]) -> None:
    rows = values(*shape)
    expected = torch.stack([rows[place == INDEX].sum(dim=0) for place in range(6)])
    torch.testing.assert_close(sum_at(rows, INDEX, 6), expected, rtol=1e-14, atol=1e-14)


def test_no_rows_give_zeros() -> None:
    assert torch.equal(sum_at(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 2), torch.zeros(2, 3))


def test_first_and_second_derivatives() -> None:
    rows = values(2).requires_grad_()
    squares = lambda x: sum_at(x * x, INDEX, 6).square()  # noqa: E731
    assert torch.autograd.gradcheck(squares, (rows,))
    assert torch.autograd.gradgradcheck(squares, (rows,))


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_torch_scatter_gives_the_same(shape: tuple[int, ...]) -> None:
    scatter = find_torch_scatter()
    if scatter is None:
        pytest.skip("torch-scatter is not installed")
    one, other = values(*shape).requires_grad_(), values(*shape).requires_grad_()
    results = add_by_index(one, INDEX, 6), add_by_scatter(scatter, other, INDEX, 6)
    torch.testing.assert_close(*results, rtol=0, atol=1e-14)
    slopes = []
    for leaf, result in zip((one, other), results):
        (first,) = torch.autograd.grad(result.pow(3).sum(), leaf, create_graph=True)
        slopes.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(*slopes, rtol=1e-13, atol=1e-13)


def test_without_torch_scatter_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    assert find_torch_scatter() is None


def test_the_choice_is_made_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def scatter(rows: Tensor, index: Tensor, dim: int, out: Tensor | None, size: int | None) -> Tensor:
        assert (dim, out, size) == (0, None, 6)
        called.append(True)
        return add_by_index(rows, index, 6)

    monkeypatch.setattr(aggregation, "_SCATTER", scatter)
    torch.testing.assert_close(sum_at(values(2), INDEX, 6), add_by_index(values(2), INDEX, 6))
    assert called
