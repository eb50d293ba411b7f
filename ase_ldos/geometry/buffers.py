"""Large arrays: how to get one from the system, and how to add one up."""

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
