"""The regular real-space grid: points, voxel, reciprocal vectors, integrals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

#: Points of the largest grid: some seven million atoms at 600 points each.
MAXIMUM_POINTS = 4e9


class BlockRange(NamedTuple):
    """Which points of the grid a block holds.

    Attributes:
        first: numbers (i, j, k) of its first point.
        shape: numbers of points along its edges.
    """

    first: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def n_points(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Grid:
    """A regular grid that divides the cell: point (i, j, k) lies at i/nx a1 + j/ny a2 + k/nz a3.

    Everything is differentiable in ``cell``, so that a strain of the cell reaches points, voxel volume and
    reciprocal vectors.

    Attributes:
        cell: rows are the lattice vectors, Å, ``[3, 3]``.
        shape: numbers of points (nx, ny, nz).
    """

    cell: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def with_spacing(cls, cell: Tensor, spacing: float) -> Grid:
        """Make the grid whose points are about ``spacing`` (Å) apart, with sizes that suit an FFT."""
        return cls(cell, grid_shape(cell.detach().cpu().numpy(), spacing))

    @property
    def n_points(self) -> int:
        """Number of grid points."""
        return math.prod(self.shape)

    @property
    def volume(self) -> Tensor:
        """Volume of the cell, Å³."""
        return torch.linalg.det(self.cell).abs()

    @property
    def voxel_volume(self) -> Tensor:
        """Volume that belongs to one point, Å³."""
        return self.volume / self.n_points

    def indices(self, flat: Tensor) -> Tensor:
        """Split flat C-order point numbers ``[grid]`` into (i, j, k), ``[grid, 3]``."""
        _, ny, nz = self.shape
        return torch.stack((flat // (ny * nz), (flat // nz) % ny, flat % nz), dim=-1)

    def points(self, flat: Tensor | None = None) -> Tensor:
        """Cartesian coordinates, Å, ``[grid, 3]``, of the flat point numbers (default: all, C order)."""
        if flat is None:
            flat = torch.arange(self.n_points, device=self.cell.device)
        shape = torch.tensor(self.shape, dtype=self.cell.dtype, device=self.cell.device)
        return (self.indices(flat).to(self.cell.dtype) / shape) @ self.cell

    def block_ranges(self, max_points: int) -> list[BlockRange]:
        """Divide the grid into compact blocks of at most ``max_points`` points."""
        steps = np.linalg.norm(self.cell.detach().cpu().numpy(), axis=1) / self.shape
        edges = _block_edges(self.shape, steps, max_points)
        counts = [math.ceil(n / edge) for n, edge in zip(self.shape, edges)]
        bounds = [[part * n // count for part in range(count + 1)] for n, count in zip(self.shape, counts)]
        return [
            BlockRange((x, y, z), (next_x - x, next_y - y, next_z - z))
            for x, next_x in pairwise(bounds[0])
            for y, next_y in pairwise(bounds[1])
            for z, next_z in pairwise(bounds[2])
        ]

    def equal_block_ranges(self, max_points: int) -> list[BlockRange]:
        """Divide the grid into compact blocks of one shape; without such, into those of ``block_ranges`` by shape.

        The numbers of points along the edges are divisors of the grid's, chosen so that the fewest images are near a
        block. A grid without suitable divisors (a prime number of points, say) gets up to eight shapes.

        Args:
            max_points: of a block; of one shape at least a quarter of it.
        """
        steps = np.linalg.norm(self.cell.detach().cpu().numpy(), axis=1) / self.shape
        edges = _dividing_edges(self.shape, steps, max_points)
        if edges is None:
            return sorted(self.block_ranges(max_points), key=lambda block: (block.shape, block.first))
        starts = (range(0, n, edge) for n, edge in zip(self.shape, edges))
        return [BlockRange((i, j, k), edges) for i, j, k in itertools.product(*starts)]

    def numbers(self, block: BlockRange, device: torch.device | None = None) -> Tensor:
        """Flat C-order numbers of the points of a block, int64 ``[grid]``; on the device of the cell by default."""
        i, j, k = (torch.arange(n, device=self.cell.device if device is None else device) for n in block.shape)
        _, ny, nz = self.shape
        return ((i[:, None, None] * ny + j[:, None]) * nz + k).flatten() + self.number(block.first)

    def number(self, point: tuple[int, int, int]) -> int:
        """Flat C-order number of a point (i, j, k)."""
        i, j, k = point
        _, ny, nz = self.shape
        return (i * ny + j) * nz + k

    def centres(self, blocks: Sequence[BlockRange]) -> Tensor:
        """Mean of the points of each block, Å, ``[block, 3]``."""
        middle = torch.tensor(
            [[first + (n - 1) / 2 for first, n in zip(*block)] for block in blocks], dtype=self.cell.dtype
        )
        shape = torch.tensor(self.shape, dtype=self.cell.dtype)
        return (middle.reshape(-1, 3) / shape).to(self.cell.device) @ self.cell

    def offsets(self, shape: tuple[int, int, int]) -> Tensor:
        """Points of a block of this shape about their mean, Å, ``[grid, 3]``: the same wherever the block lies."""
        axes = [
            (torch.arange(n, dtype=self.cell.dtype, device=self.cell.device) - (n - 1) / 2) / whole
            for n, whole in zip(shape, self.shape)
        ]
        return torch.cartesian_prod(*axes) @ self.cell

    def g_vectors(self, rows: slice = slice(None), device: torch.device | None = None) -> Tensor:
        """Reciprocal vectors of ``torch.fft.rfftn``'s coefficients, 1/Å, ``[nx, ny, nz // 2 + 1, 3]``.

        Args:
            rows: which of the first axis; default is all.
            device: where they are made; default is that of the cell.
        """
        reciprocal = (2 * math.pi * torch.linalg.inv(self.cell).T).to(device)
        nx, ny, nz = self.shape
        dtype, device = reciprocal.dtype, reciprocal.device
        axes = (
            torch.fft.fftfreq(nx, 1 / nx, dtype=dtype, device=device)[rows],
            torch.fft.fftfreq(ny, 1 / ny, dtype=dtype, device=device),
            torch.fft.rfftfreq(nz, 1 / nz, dtype=dtype, device=device),
        )
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ reciprocal

    def half_weights(self, device: torch.device | None = None) -> Tensor:
        """How often each of ``rfftn``'s coefficients stands in the full transform (1 or 2), ``[nz // 2 + 1]``."""
        nz = self.shape[2]
        device = self.cell.device if device is None else device
        weights = torch.full((nz // 2 + 1,), 2.0, dtype=self.cell.dtype, device=device)
        weights[:1].fill_(1.0)  # not by a number's tensor, which would wait for the device
        if nz % 2 == 0:
            weights[-1:].fill_(1.0)
        return weights

    def integrate(self, field: Tensor) -> Tensor:
        """∫ d³r over the last three axes (or a last flat axis), float64: sum × voxel volume."""
        axes = (-3, -2, -1) if field.shape[-3:] == self.shape else (-1,)
        return field.sum(dim=axes, dtype=torch.float64) * self.voxel_volume


def grid_shape(cell: np.ndarray, spacing: float) -> tuple[int, int, int]:
    """Numbers of points along the lattice vectors for a distance of at most about ``spacing`` (Å).

    The sizes are even products of 2, 3 and 5, which every FFT library likes; the nearest one above 97 % of
    length/spacing is taken.

    Raises:
        ValueError: the spacing is not positive, or asks for more points than can be handled.
    """
    if not spacing > 0:
        raise ValueError(f"grid spacing is {spacing} Å; it must be positive")
    lengths = np.linalg.norm(cell, axis=1)
    points = math.prod(max(1.0, float(length) / spacing) for length in lengths)
    if not points <= MAXIMUM_POINTS:
        raise ValueError(
            f"a grid spacing of {spacing:g} Å asks for some {points:.2g} points in a cell of "
            f"{' x '.join(f'{length:.4g}' for length in lengths)} Å; at most {MAXIMUM_POINTS:.0e} can be handled"
        )
    half = [next_fast_len(max(1, math.ceil(0.97 * length / spacing / 2)), real=True) for length in lengths]
    return (2 * half[0], 2 * half[1], 2 * half[2])


def _block_edges(shape: tuple[int, int, int], steps: np.ndarray, max_points: int) -> list[int]:
    """Numbers of points along the edges of a block, as cubic as can be in space, that holds at most ``max_points``."""
    edges = [1, 1, 1]
    while True:
        growable = [
            axis
            for axis in range(3)
            if edges[axis] < shape[axis] and math.prod(edges) // edges[axis] * (edges[axis] + 1) <= max_points
        ]
        if not growable:
            return edges
        edges[min(growable, key=lambda axis: edges[axis] * steps[axis])] += 1


def _dividing_edges(shape: tuple[int, int, int], steps: np.ndarray, max_points: int) -> tuple[int, int, int] | None:
    """Divisors of the grid's sizes for blocks of a quarter of ``max_points`` to all of it; None if there are none."""
    divisors = [np.array([k for k in range(1, n + 1) if n % k == 0]) for n in shape]
    edges = np.stack(np.meshgrid(*divisors, indexing="ij"), axis=-1).reshape(-1, 3)
    sizes = edges.prod(axis=1)
    for least in (max_points // 2, max_points // 4):
        fitting = edges[(sizes <= max_points) & (sizes >= min(least, math.prod(shape)))]
        if len(fitting):
            # volume within a typical cutoff of the block: work for each of its points grows with it
            a, b, c = (fitting * steps).T
            reach = 6.0
            volumes = a * b * c + 2 * reach * (a * b + b * c + c * a) + math.pi * reach**2 * (a + b + c)
            i, j, k = fitting[volumes.argmin()].tolist()
            return (i, j, k)
    return None
