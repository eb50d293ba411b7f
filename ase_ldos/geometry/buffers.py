"""Large arrays: how to get one from the system, and how to add up what belongs together."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def empty_in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array without values. On a CPU NumPy makes it, which asks the system for large pages; torch does not.

    An array of some 10 MB or more goes back to the system with each prediction. In small pages, cleared one by one, it
    took a tenth of the next one's time.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype=torch.empty(0, dtype=dtype).numpy().dtype))


def sum_rows(values: Tensor) -> Tensor:
    """Σ over the first axis of ``[row, column]`` in float64.

    Sixteen rows at a time are first added in their own type, which is several times as fast; its rounding is random and
    of the size of the rows' own.
    """
    whole = len(values) // 16 * 16
    total = values[:whole].unflatten(0, (-1, 16)).sum(dim=1).sum(dim=0, dtype=torch.float64)
    return total if whole == len(values) else total + values[whole:].sum(dim=0, dtype=torch.float64)


def add_rows(target: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Add rows to the rows of ``target`` that an index names, in place, in the same order every time.

    CUDA's ``index_add_`` adds by atomic operations, in whatever order they come; its ``index_put_`` sorts the index
    first, so that a second run gives the very same numbers.

    Args:
        target: ``[size, ...]``.
        index: int64 ``[row]``; may name a row many times.
        rows: ``[row, ...]``.
    """
    if target.is_cuda:
        return target.index_put_((index,), rows, accumulate=True)
    return target.index_add_(0, index, rows)
