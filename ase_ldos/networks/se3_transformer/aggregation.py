"""Sums over the pairs of an atom: by torch-scatter where it is installed (extra ``scatter``), else by ``index_add``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from torch import Tensor

Scatter = Callable[[Tensor, Tensor, int, Tensor | None, int | None], Tensor]


def find_torch_scatter() -> Scatter | None:
    """``torch_scatter.scatter_sum``, or ``None`` where the package is missing or was built for another torch."""
    try:
        return cast("Scatter", import_module("torch_scatter").scatter_sum)
    except (ImportError, OSError, RuntimeError):
        return None


def add_by_index(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Σ over rows with the same index, by torch alone; see ``sum_at``.

    On CUDA by ``index_put``, which sorts the index and so adds in the same order every time.
    """
    nothing = values.new_zeros(size, *values.shape[1:])
    if values.is_cuda:
        return nothing.index_put((index,), values, accumulate=True)
    return nothing.index_add(0, index, values)


def add_by_scatter(scatter: Scatter, values: Tensor, index: Tensor, size: int) -> Tensor:
    """The same by torch-scatter."""
    return scatter(values, index, 0, None, size)


def sum_at(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Add up the rows of ``values`` that share an index; differentiable any number of times.

    Args:
        values: ``[pair, ...]``.
        index: where each row goes, int64 ``[pair]``.
        size: length of the result.

    Returns:
        ``[size, ...]``; zero where no row goes.
    """
    if _SCATTER is None:
        return add_by_index(values, index, size)
    return add_by_scatter(_SCATTER, values, index, size)


_SCATTER = find_torch_scatter()
