"""Who is near whom: pairs of atoms (by vesin) and images near a point, with vectors that torch can differentiate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor
from vesin import NeighborList

from ase_ldos.geometry.structure import Structure

#: So many atoms and images, or pairs, are searched for at most; 100 million atoms with their images fit.
MAXIMUM_IMAGES = 2e8


@dataclass(frozen=True)
class Pairs:
    """Each pair of atoms (or of an atom and an image) once.

    Attributes:
        first: atom i, int64 ``[pair]``.
        second: atom j, int64 ``[pair]``.
        vectors: R_j + S·cell − R_i, Å, ``[pair, 3]``, differentiable in positions and cell.
    """

    first: Tensor
    second: Tensor
    vectors: Tensor

    @property
    def distances(self) -> Tensor:
        """Lengths of the vectors, Å, ``[pair]``."""
        return self.vectors.norm(dim=-1)

    def to(self, device: torch.device) -> Pairs:
        """The pairs on a device, in one transfer, for which the host waits once."""
        if device == self.vectors.device:
            return self
        numbers = torch.stack((self.first, self.second), dim=1).double()
        packed = torch.cat((numbers, self.vectors.double()), dim=1).to(device)
        first, second = packed[:, :2].detach().long().unbind(1)
        return Pairs(first, second, packed[:, 2:].to(self.vectors.dtype))


def find_pairs(structure: Structure, cutoff: float, *, full: bool = False) -> Pairs:
    """Find all pairs closer than ``cutoff`` (Å); ``full`` lists each pair from both sides.

    Distances are built again in torch from i, j and the cell shifts, so that gradients reach positions and cell.
    """
    density = len(structure) / float(structure.volume.detach())
    _refuse_too_many(len(structure) * density * 4 / 3 * math.pi * cutoff**3, f"in pairs closer than {cutoff:g} Å")
    search = NeighborList(cutoff=cutoff, full_list=full)
    first, second, shifts = search.compute(
        points=structure.positions.detach().cpu().double().numpy(),
        box=structure.cell.detach().cpu().double().numpy(),
        periodic=True,
        quantities="ijS",
        copy=True,
    )
    device = structure.positions.device
    i = torch.as_tensor(first.astype("int64"), device=device)
    j = torch.as_tensor(second.astype("int64"), device=device)
    shift = torch.as_tensor(shifts.astype("float64"), device=device).to(structure.cell.dtype)
    vectors = structure.positions[j] - structure.positions[i] + shift @ structure.cell
    return Pairs(i, j, vectors)


def check_distances(structure: Structure, minimum: float) -> None:
    """Refuse atoms that lie on top of each other.

    Raises:
        ValueError: two atoms are closer than ``minimum`` (Å); the message names them and their distance.
    """
    pairs = find_pairs(structure, minimum)
    if len(pairs.first):
        closest = int(pairs.distances.argmin())
        raise ValueError(
            f"atoms {int(pairs.first[closest])} and {int(pairs.second[closest])} are "
            f"{float(pairs.distances[closest]):.3f} Å apart; the model knows no distances below {minimum} Å"
        )


def _refuse_too_many(count: float, where: str) -> None:
    """Refuse a search by the number of what it would find, before lists are built.

    Raises:
        ValueError: more than memory holds, or not a number.
    """
    if not count <= MAXIMUM_IMAGES:
        raise ValueError(
            f"some {count:.2g} atoms and images lie {where}; at most {MAXIMUM_IMAGES:.0e} can be handled: is a cutoff "
            "or the cell wrong (lengths are in Å)?"
        )


class Images:
    """All atoms and periodic images that lie within ``reach`` of the cell, searchable by position.

    Args:
        structure: the atoms; they may lie outside the cell.
        reach: how far outside the cell (Å) images are kept: the descriptor's cutoff plus the radius of a block.

    Attributes:
        atoms: atom index of each image, int64 ``[image]``.
        positions: Å, ``[image, 3]``, differentiable in the structure's positions and cell.
    """

    def __init__(self, structure: Structure, reach: float) -> None:
        cell = structure.cell.detach().cpu().double().numpy()
        positions = structure.positions.detach().cpu().double().numpy()
        fractional = positions @ np.linalg.inv(cell)
        # distance between opposite faces of the cell, which is what counts for how many cells `reach` covers
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        pad = reach / heights
        base = np.floor(fractional)
        _refuse_too_many(
            len(positions) * math.prod(1 + 2 * float(part) for part in pad), f"within {reach:g} Å of the cell"
        )
        # whether an image in this layer of cells is near, axis by axis, then all three: [x, y, z, atom]
        offsets = [np.arange(-math.ceil(part), math.ceil(part) + 1) for part in pad]
        inside = [along + layers[:, None] for along, layers in zip((fractional - base).T, offsets)]
        x, y, z = ((part >= -most) & (part <= 1 + most) for part, most in zip(inside, pad))
        *layers, index = np.nonzero(x[:, None, None] & y[:, None] & z)
        shift = np.stack([offset[layer] for offset, layer in zip(offsets, layers)], axis=-1) - base[index]
        device = structure.positions.device
        self._places = positions[index] + shift @ cell
        self._tree = KDTree(self._places)
        self.atoms = torch.as_tensor(index, device=device)
        steps = torch.as_tensor(shift, device=device).to(structure.cell.dtype)
        self.positions = structure.positions[self.atoms] + steps @ structure.cell

    def near(self, centre: Tensor, radius: float) -> Tensor:
        """Numbers of the images within ``radius`` (Å) of ``centre`` ``[3]``, ascending, int64 ``[image]``."""
        return torch.as_tensor(self._found(centre.detach().cpu().numpy(), radius), device=self.atoms.device)

    def near_block(self, centre: np.ndarray, corners: np.ndarray, cutoff: float) -> Tensor:
        """Numbers of the images that may be within ``cutoff`` (Å) of a point of a block, the nearest first.

        By a lower bound of their distance: no point of the block reaches farther along the vector r from the centre
        than one of its corners c, so the distance is at least r − max_c r̂·c.

        Args:
            centre: of the block, Å, ``[3]``.
            corners: about the centre, Å, ``[8, 3]``.
            cutoff: Å.

        Returns:
            int64 ``[image]``.
        """
        found = self._found(centre, cutoff + float(np.sqrt((corners * corners).sum(axis=1).max())))
        vectors = self._places[found] - centre
        lengths = np.sqrt((vectors * vectors).sum(axis=1))
        bounds = lengths - (vectors @ corners.T).max(axis=1, initial=0.0) / np.maximum(lengths, 1e-12)
        order = bounds.argsort(kind="stable")[: np.count_nonzero(bounds <= cutoff + 1e-6)]
        return torch.as_tensor(found[order], device=self.atoms.device)

    def _found(self, centre: np.ndarray, radius: float) -> np.ndarray:
        # NumPy reads a list several times as fast as torch
        return np.array(self._tree.query_ball_point(centre, radius, return_sorted=True), dtype=np.int64)
