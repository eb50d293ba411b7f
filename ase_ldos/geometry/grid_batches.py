"""Walking over the grid on a device where a call costs the same however little it does: many equal blocks at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.image_table import ImageGroup, ImageRoom, ImageTable
from ase_ldos.geometry.structure import Structure

#: Grid points of a batch: some 5 GB of temporary arrays with forces.
BATCH_POINTS = 2**19
#: Pairs of a point and an image in a batch; each is some ten numbers while forces are found.
_PAIRS = 2**28


@dataclass(frozen=True)
class BlockBatch:
    """Blocks of one shape; their points are the same about their centres. Compare with ``grid_blocks.Block``.

    Attributes:
        flat: flat C-order point numbers, block after block, int64 ``[block · grid]``.
        points: about the centre of each block, Å, ``[grid, 3]``.
        atoms: positions of the images about the block's centre, Å, ``[block, image, 3]``.
        owners: atom index of the images, int64 ``[block, image]``.
        groups: the kinds of atoms on the axis of images.
    """

    flat: Tensor
    points: Tensor
    atoms: Tensor
    owners: Tensor
    groups: tuple[ImageGroup, ...]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self.atoms)


class GridBatches:
    """Batches of blocks of a grid, with one table of images for all of them.

    Args:
        structure: the atoms.
        grid: the points.
        radii: Å, falling; images that are farther from every point of a block than the first are left out.
        ranges: the blocks; neighbours in the list of one shape are put together.
        kinds: kind of each atom, ``[atom]``.
        n_kinds: number of kinds.
        points: of a batch, about.
        dtype: of points and atoms.
        device: where they are wanted.
        room: for numbers of images that stay the same while atoms move a little.
    """

    def __init__(
        self,
        structure: Structure,
        grid: Grid,
        radii: tuple[float, ...],
        ranges: Sequence[BlockRange],
        *,
        kinds: np.ndarray,
        n_kinds: int,
        points: int,
        dtype: torch.dtype,
        device: torch.device,
        room: ImageRoom | None = None,
    ) -> None:
        self._ranges, self._points, self._dtype, self._room = ranges, points, dtype, room
        cell = grid.cell.detach().cpu().double().numpy()
        first = np.array([block.first for block in ranges], dtype=float)
        sizes = np.array([block.shape for block in ranges], dtype=float)
        self._firsts = torch.from_numpy((first[:, 0] * grid.shape[1] + first[:, 1]) * grid.shape[2] + first[:, 2])
        plain = Grid(torch.from_numpy(cell), grid.shape)
        self._shapes = {shape: _points_of(plain, shape, dtype, device) for shape in {block.shape for block in ranges}}
        # bodies of all shapes lie in this one
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        corners = signs * ((sizes.max(axis=0) - 1) / 2 / grid.shape) @ cell
        places = (first + (sizes - 1) / 2) / grid.shape @ cell
        self._table = ImageTable(structure, places, radii, corners=corners, kinds=kinds, n_kinds=n_kinds, device=device)
        self._numbers = self._firsts.to(device, torch.int64)

    def iterate(self, done: int = 0) -> Iterator[BlockBatch]:
        """Batches from the ``done``-th block on."""
        numbers = range(done, len(self._ranges))
        for shape, members in groupby(numbers, key=lambda number: self._ranges[number].shape):
            own = list(members)
            flat, points = self._shapes[shape]
            for start in range(own[0], own[-1] + 1, self._table.chunk):
                chunk = slice(start, min(start + self._table.chunk, own[-1] + 1))
                near = self._table.near(chunk, self._dtype, self._room)
                most = min(self._points // len(points), _PAIRS // (len(points) * max(1, near.owners.shape[1])))
                size = max(1, most)
                for first in range(0, chunk.stop - chunk.start, size):
                    part = slice(first, min(first + size, chunk.stop - chunk.start))
                    own_numbers = self._numbers[chunk][part]
                    yield BlockBatch(
                        (own_numbers[:, None] + flat).flatten(),
                        points,
                        near.vectors[part],
                        near.owners[part],
                        near.groups,
                    )


def _points_of(
    grid: Grid, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Numbers of the points of a block at the origin, and the points about their mean: one transfer."""
    numbers = grid.numbers(BlockRange((0, 0, 0), shape)).double()
    packed = torch.cat((numbers[:, None], grid.offsets(shape).double()), dim=1).to(device)
    return packed[:, 0].to(torch.int64), packed[:, 1:].to(dtype)
