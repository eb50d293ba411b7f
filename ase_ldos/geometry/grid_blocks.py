"""Walking over the grid in blocks: points, the atoms around them, and where their gradients go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure

#: Grid points of a block: large enough for matrix products, small enough for the cache.
DEFAULT_BLOCK = 2048


@dataclass(frozen=True)
class Block:
    """A compact block of the grid with every image within the cutoff of one of its points.

    Coordinates are about the block's centre, so that they are small and float32 keeps their digits. The images nearest
    to the block come first: a descriptor may leave out the far ones where they do not count.

    Attributes:
        flat: flat C-order point numbers, int64 ``[grid]``.
        points: Å, ``[grid, 3]``.
        atoms: positions of the images, Å, ``[image, 3]``.
        owners: atom index of the images, int64 ``[image]``.
    """

    flat: Tensor
    points: Tensor
    atoms: Tensor
    owners: Tensor

    @property
    def n_blocks(self) -> int:
        """One; see ``grid_batches.BlockBatch``."""
        return 1


def iterate_blocks(
    structure: Structure,
    grid: Grid,
    cutoff: float,
    *,
    max_points: int = DEFAULT_BLOCK,
    dtype: torch.dtype = torch.float64,
    ranges: Sequence[BlockRange] | None = None,
) -> Iterator[Block]:
    """Walk over the grid; gradients flow from points and atoms to the structure's positions and cell.

    Memory is one block's: the caller lets go of a block before the next. Blocks of one shape share one tensor of
    points, unless it carries gradients, so that a descriptor may keep what depends on the points alone.

    Args:
        structure: the atoms.
        grid: the points.
        cutoff: images that are farther from every point of a block are left out, Å.
        max_points: of a block.
        dtype: of points and atoms.
        ranges: only these blocks (of ``grid.block_ranges``); default is the whole grid.
    """
    _retain_freed_memory()
    ranges = grid.block_ranges(max_points) if ranges is None else ranges
    shapes: dict[tuple[int, int, int], _Shape] = {}
    for block in ranges:
        if block.shape not in shapes:
            shapes[block.shape] = _Shape.of(grid, block.shape, dtype, structure.positions.device)
    radius = max(float(np.linalg.norm(shape.corners, axis=1).max()) for shape in shapes.values())
    images = Images(structure, cutoff + radius + 1e-6)  # with room for rounding
    centres = grid.centres(ranges)
    places = centres.detach().cpu().numpy()
    centres = centres.to(structure.positions.device)
    for number, block in enumerate(ranges):
        shape = shapes[block.shape]
        near = images.near_block(places[number], shape.corners, cutoff)
        owners = images.atoms[near]
        atoms = (images.positions[near] - centres[number]).to(dtype)
        points = shape.points if not grid.cell.requires_grad else grid.offsets(block.shape).to(centres.device, dtype)
        yield Block(shape.numbers + grid.number(block.first), points, atoms, owners)


def _retain_freed_memory() -> None:
    """Make the C library keep what a block frees for the next block.

    glibc gives freed memory back to the system above a threshold that follows the largest piece freed so far, up to
    32 MiB. Without this, pages that come back empty took half of the time of a block.
    """
    with suppress(RuntimeError):  # where memory is as short as that, without
        torch.empty(31 * 2**20, dtype=torch.uint8)


@dataclass(frozen=True)
class _Shape:
    """What blocks of one shape have in common.

    Numbers of the points in the block at the origin, points about the centre, and corners ``[8, 3]``, Å.
    """

    numbers: Tensor
    points: Tensor
    corners: np.ndarray

    @classmethod
    def of(cls, grid: Grid, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> _Shape:
        points = grid.offsets(shape).detach()
        ends = [[0, n - 1] for n in shape]
        places = [(i * shape[1] + j) * shape[2] + k for i in ends[0] for j in ends[1] for k in ends[2]]
        numbers = grid.numbers(BlockRange((0, 0, 0), shape), device)
        return cls(numbers, points.to(device, dtype), points[places].cpu().numpy())
