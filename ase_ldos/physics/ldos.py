"""From the local density of states to density of states and electron density."""

from __future__ import annotations

import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.occupation import OccupationWeights


def density_of_states(ldos: Tensor, grid: Grid) -> Tensor:
    """D(ε) = ∫ d(ε, r) d³r, 1/eV, float64 ``[energy]``.

    Args:
        ldos: d, 1/(eV Å³), ``[nx, ny, nz, energy]`` or ``[grid, energy]`` with all points of the grid.
        grid: its grid.

    Raises:
        ValueError: the LDOS is not on the grid.
    """
    if ldos.shape[:-1] not in (grid.shape, (grid.n_points,)):
        raise ValueError(
            f"the LDOS has shape {list(ldos.shape)}; a grid {list(grid.shape)} needs [*{list(grid.shape)}, energy] "
            f"or [{grid.n_points}, energy]"
        )
    points = tuple(range(ldos.dim() - 1))
    return ldos.sum(dim=points, dtype=torch.float64) * grid.voxel_volume


def electron_density(ldos: Tensor, weights: OccupationWeights) -> Tensor:
    """n(r) = ∫ f(ε) d(ε, r) dε, e/Å³, float64, of the shape of the LDOS without its energy axis.

    Args:
        ldos: d, 1/(eV Å³), ``[..., energy]``; a block of points will do.
        weights: occupation weights of the energy nodes.

    Raises:
        ValueError: another number of energies than weights.
    """
    if ldos.shape[-1:] != weights.number.shape:
        raise ValueError(f"the LDOS has {ldos.shape[-1]} energies, the occupation weights {len(weights.number)}")
    return ldos.to(torch.float64) @ weights.number
