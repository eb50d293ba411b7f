"""When memory runs out: tell it from other errors, and find a block of grid points that fits."""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.grid_pass import hidden_bytes
from ase_ldos.prediction.grid_walk import GridWalk
from ase_ldos.prediction.request import PredictionRequest

#: What torch and the system say when an allocation on the CPU fails.
_PHRASES = ("out of memory", "not enough memory", "allocate memory")
#: Float64 arrays of the size of the grid that Hartree and exchange-correlation energies hold at once, about.
_WORK_ARRAYS = 12


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is a failed allocation, on the CPU or on a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


def largest_fitting_block(model: LDOSModel, request: PredictionRequest) -> int | None:
    """A number of grid points per block whose memory was there twice; None if none is.

    Found by trying and halving, from half of the request's block on: twice, because a whole prediction leaves memory in
    pieces that one block does not see.

    Args:
        model: whose features are evaluated.
        request: of the prediction that did not fit.
    """
    grid = request.grid
    size = min(request.chunk_size, grid.n_points)
    while (size := size // 2) >= 1:
        gc.collect()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            _try_block(model, request, min(2 * size, grid.n_points))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
    return None


def _try_block(model: LDOSModel, request: PredictionRequest, size: int) -> None:
    """Evaluate one block beside the memory that a whole prediction needs for other things."""
    grid, backward = request.grid, request.needs_gradient
    kept = min(request.thresholds.keep_bytes, hidden_bytes(model, grid))
    ballast = torch.empty(kept + 8 * _WORK_ARRAYS * grid.n_points, dtype=torch.uint8, device=model.device)
    walk = GridWalk(model, request.structure, grid, size)
    block = next(walk.blocks())
    atoms = block.atoms.detach().requires_grad_(backward)
    with torch.set_grad_enabled(backward):
        hidden = walk.hidden(replace(block, atoms=atoms))
        if backward:
            torch.autograd.grad(hidden.sum(), atoms)
    del ballast
