"""Who is near many places at once, found on a device in a few calls, however many places there are.

Atoms are sorted into bins of the cell. What may be near a place lies in a fixed set of bins about its own, periodic
images included, so that all distances are one array operation; no list is built by the host and nothing waits for it,
except that the numbers of images are read once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_ldos.geometry.structure import Structure

#: Pairs of a place and an atom that are looked at in one piece: some 130 bytes each.
_CANDIDATES = 2**22


@dataclass(frozen=True)
class ImageGroup:
    """Images of one kind of atoms on the axis of images.

    Attributes:
        rows: where they are; the nearest come first.
        counts: how many of them may be within each radius that was asked for.
    """

    rows: slice
    counts: tuple[int, ...]


@dataclass(frozen=True)
class NearImages:
    """Images near some places. What is missing in a row is filled up with images that are far from everything.

    Attributes:
        vectors: from the place to the image, Å, ``[place, image, 3]``.
        owners: atom of each image, int64 ``[place, image]``.
        groups: the kinds of atoms.
    """

    vectors: Tensor
    owners: Tensor
    groups: tuple[ImageGroup, ...]


class ImageRoom:
    """Numbers of images with room to spare, which stay the same while atoms move a little; they only grow."""

    def __init__(self) -> None:
        self._counts: list[list[int]] = []

    def fit(self, counts: list[list[int]]) -> list[list[int]]:
        """Numbers no smaller than ``counts`` ``[kind, radius]``: those of the last time where these suffice."""
        known = self._counts
        same = [len(row) for row in known] == [len(row) for row in counts]
        if same and all(n <= most for row, mosts in zip(counts, known) for n, most in zip(row, mosts)):
            return known
        wanted = [[_with_room(n) for n in row] for row in counts]
        if same:
            wanted = [[max(pair) for pair in zip(*rows)] for rows in zip(wanted, known)]
        self._counts = wanted
        return wanted


def _with_room(count: int) -> int:
    """An eighth more, and a multiple of eight; none where there is none."""
    return -(-(count + max(4, count // 8)) // 8) * 8 if count else 0


class ImageTable:
    """Finds the images near places, each of which is the centre of a body of the same shape.

    Args:
        structure: the atoms; they may lie outside the cell.
        places: in the cell, Å, ``[place, 3]``.
        radii: Å, falling; images beyond the first of every point of the body are left out.
        corners: of the body about its centre, Å, ``[corner, 3]``; default is a single point.
        kinds: kind of each atom, 0 … n_kinds − 1, ``[atom]``; default is one kind.
        n_kinds: number of kinds.
        device: where to search.
    """

    def __init__(
        self,
        structure: Structure,
        places: np.ndarray,
        radii: tuple[float, ...],
        *,
        corners: np.ndarray | None = None,
        kinds: np.ndarray | None = None,
        n_kinds: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        cell = structure.cell.detach().cpu().double().numpy()
        positions = structure.positions.detach().cpu().double().numpy()
        corners = np.zeros((1, 3)) if corners is None else corners
        kinds = np.zeros(len(positions), dtype=np.int64) if kinds is None else kinds
        self.n_places, self.n_kinds = len(places), n_kinds
        self._radii = tuple(radius + 1e-6 for radius in radii)  # with room for rounding
        reach = self._radii[0] + float(np.linalg.norm(corners, axis=1).max())
        # beyond the cutoff of every point of the body, and no farther, so that powers of it stay small
        self._far = 2 * reach
        inverse = np.linalg.inv(cell)
        bins, offsets = _bins(cell, len(positions), reach)
        inside = positions @ inverse
        inside -= np.floor(inside)
        number = _bin_numbers(inside, bins)
        order = np.argsort(number, kind="stable")
        counts = np.bincount(number, minlength=int(bins.prod()))
        self._most = int(counts.max())
        self._bins = tuple(bins.tolist())
        own = np.minimum(np.floor((places @ inverse) * bins), bins - 1)
        # all in one transfer: waiting for the device costs more than the bytes
        parts = [
            (inside @ cell)[order],
            np.stack((order, kinds[order]), axis=1),
            np.stack((np.cumsum(counts) - counts, counts), axis=1),
            offsets,
            places,
            own,
            cell,
            corners,
            np.array(self._radii),
        ]
        packed = torch.from_numpy(np.concatenate([np.asarray(part, dtype=float).ravel() for part in parts])).to(device)
        pieces = packed.split([part.size for part in parts])
        views = [piece.reshape(part.shape) for piece, part in zip(pieces, parts)]
        self._positions, atoms, filling, moves, self._places, mine, self._cell, self._corners, self._limits = views
        self._owners, self._kinds = atoms.to(torch.int64).unbind(1)
        self._starts, self._counts = filling.to(torch.int64).unbind(1)
        self._offsets, self._own = moves.to(torch.int64), mine.to(torch.int64)

    @property
    def chunk(self) -> int:
        """Number of places that are best looked at together."""
        return max(1, _CANDIDATES // (len(self._offsets) * self._most))

    def near(self, rows: slice, dtype: torch.dtype, room: ImageRoom | None = None) -> NearImages:
        """Images near some of the places; vectors in this number type. Waits once for the device.

        Args:
            rows: of the places.
            dtype: of the vectors.
            room: makes the numbers of images larger, so that they are the same another time.
        """
        vectors, slots, outside = self._candidates(rows)
        lengths = vectors.norm(dim=-1)
        # no point of the body reaches farther along the vector than one of its corners
        bounds = lengths - (vectors @ self._corners.T).amax(dim=-1).clamp_(min=0) / lengths.clamp(min=1e-12)
        bounds.masked_fill_(outside, math.inf)
        sorts, counts = [], []
        for kind in range(self.n_kinds):
            own = bounds if self.n_kinds == 1 else bounds.masked_fill(self._kinds[slots] != kind, math.inf)
            sorts.append(own.sort(dim=1))
            limits = self._limits.expand(len(own), -1).contiguous()
            counts.append(torch.searchsorted(sorts[-1].values, limits, right=True).amax(dim=0))
        groups, places, far, first = [], [], [], 0
        numbers: list[list[int]] = torch.stack(counts).tolist()
        for found, number in zip(sorts, numbers if room is None else room.fit(numbers)):
            width = -(-number[0] // 8) * 8  # products of matrices are faster with eights
            spare = width - found.indices.shape[1]
            if room is None:
                width, spare = min(width, found.indices.shape[1]), 0
            groups.append(ImageGroup(slice(first, first + width), (width, *number[1:])))
            places.append(found.indices[:, :width])
            far.append(found.values[:, :width] > self._radii[0])
            if spare > 0:
                places[-1] = torch.nn.functional.pad(places[-1], (0, spare))
                far[-1] = torch.nn.functional.pad(far[-1], (0, spare), value=True)
            first += width
        chosen, missing = torch.cat(places, dim=1), torch.cat(far, dim=1)
        near = vectors.gather(1, chosen[..., None].expand(-1, -1, 3)).to(dtype)
        near.masked_fill_(missing[..., None], self._far)
        return NearImages(near, self._owners[slots.gather(1, chosen)], tuple(groups))

    def _candidates(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors from places to all atoms in the bins about them, these atoms' slots, and which slots are empty."""
        _, ny, nz = self._bins
        there = self._own[rows, None] + self._offsets
        shifts, bins = [], []
        for axis, n in enumerate(self._bins):
            shifts.append(torch.div(there[..., axis], n, rounding_mode="floor"))
            bins.append(there[..., axis] - shifts[-1] * n)
        number = (bins[0] * ny + bins[1]) * nz + bins[2]
        step = torch.arange(self._most, device=number.device)
        outside = (step >= self._counts[number][..., None]).flatten(1)
        slots = (self._starts[number][..., None] + step).clamp_(max=len(self._owners) - 1).flatten(1)
        origins = torch.stack(shifts, dim=-1).to(self._cell) @ self._cell - self._places[rows, None]
        return self._positions[slots] + origins.repeat_interleave(self._most, dim=1), slots, outside


def _bin_numbers(fractional: np.ndarray, bins: np.ndarray) -> np.ndarray:
    place = np.minimum((fractional * bins).astype(np.int64), bins - 1)
    return np.asarray((place[:, 0] * bins[1] + place[:, 1]) * bins[2] + place[:, 2])


def _bins(cell: np.ndarray, n_atoms: int, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of bins along the lattice vectors ``[3]``, and the bins within ``reach`` about one, ``[offset, 3]``."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    # some four atoms of a bin: emptier ones cost more than they spare
    edge = max(reach / 3, (4 * abs(np.linalg.det(cell)) / n_atoms) ** (1 / 3))
    bins = np.maximum(1, np.floor(heights / edge)).astype(np.int64)
    most = np.floor(reach / (heights / bins)).astype(int) + 1
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
    sides = cell / bins[:, None]
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
    diagonal = np.linalg.norm(signs @ sides, axis=1).max()
    return bins, offsets[np.linalg.norm(offsets @ sides, axis=1) <= reach + diagonal]
