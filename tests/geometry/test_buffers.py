"""Sums in float64 and arrays without values."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.geometry.buffers import add_rows, empty_in_huge_pages, sum_rows


@pytest.mark.parametrize("n_rows", [1, 15, 16, 160, 1733])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 1e-7)])
def test_sum_of_rows_is_in_double_precision(n_rows: int, dtype: torch.dtype, tolerance: float) -> None:
    values = torch.rand(n_rows, 7, generator=torch.Generator().manual_seed(n_rows)).to(dtype)
    total = sum_rows(values)
    assert total.dtype == torch.float64
    torch.testing.assert_close(total, values.double().sum(dim=0), rtol=tolerance, atol=0)


def test_no_rows_give_zero() -> None:
    assert sum_rows(torch.empty(0, 3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arrays_of_any_size_can_be_written(dtype: torch.dtype) -> None:
    for shape in ((0, 3), (2, 3), (2**20, 3)):
        array = empty_in_huge_pages(shape, dtype, torch.device("cpu"))
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.is_contiguous()
        array.fill_(1)
        assert float(array.sum(dtype=torch.float64)) == shape[0] * shape[1]


def test_rows_are_added_up() -> None:
    generator = torch.Generator().manual_seed(0)
    index, rows = torch.randint(5, (40,), generator=generator), torch.randn(40, 3, generator=generator)
    target = torch.randn(5, 3, generator=generator)
    expected = target + torch.stack([rows[index == number].sum(dim=0) for number in range(5)])
    assert add_rows(target, index, rows) is target
    torch.testing.assert_close(target, expected)
