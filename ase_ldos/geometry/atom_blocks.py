"""Walking over the atoms in boxes: points that are the atoms' places, with the images around them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure

#: Edge of the boxes whose atoms are handled at once, Å.
BOX = 6.0


def iterate_atom_blocks(structure: Structure, cutoff: float, *, dtype: torch.dtype = torch.float64) -> Iterator[Block]:
    """Walk over the atoms: the points of a block are the places of the atoms ``block.flat``, wrapped into the cell.

    Coordinates are about the mean of the block's points and carry no gradients; what a point is pulled by belongs to
    its atom, what an image is pulled by to its owner.

    Args:
        structure: the atoms; they may lie outside the cell.
        cutoff: images that are farther from every point of a block may be left out, Å.
        dtype: of points and images.
    """
    cell = structure.cell.detach()
    fractional = structure.positions.detach() @ torch.linalg.inv(cell)
    # Images knows the surroundings of the cell: atoms that have left it are looked at where they come in again
    fractional = fractional - fractional.floor()
    points = fractional @ cell
    boxes = _boxes(fractional, cell)
    centres = [points[box].mean(dim=0) for box in boxes]
    corners = [_corners(points[box] - centre) for box, centre in zip(boxes, centres)]
    radius = max(float(np.linalg.norm(places, axis=1).max()) for places in corners)
    images = Images(structure, cutoff + radius + 1e-6)  # with room for rounding
    for box, centre, places in zip(boxes, centres, corners):
        near = images.near_block(centre.cpu().numpy(), places, cutoff)
        around = (images.positions[near].detach() - centre).to(dtype)
        yield Block(box, (points[box] - centre).to(dtype), around, images.atoms[near])


def _corners(points: Tensor) -> np.ndarray:
    """Corners of the smallest upright box around points, Å, ``[8, 3]``."""
    low, high = (bound.cpu().numpy() for bound in (points.amin(dim=0), points.amax(dim=0)))
    return np.array([np.where(pick, high, low) for pick in np.ndindex(2, 2, 2)])


def _boxes(fractional: Tensor, cell: Tensor) -> list[Tensor]:
    """Numbers of the atoms in each box of the cell, from coordinates in 0 … 1."""
    heights = 1 / np.linalg.norm(np.linalg.inv(cell.cpu().numpy()), axis=0)
    counts = np.maximum(1, np.floor(heights / BOX)).astype(int)
    places = np.minimum((fractional.cpu().numpy() * counts).astype(int), counts - 1)
    box = np.ravel_multi_index(tuple(places.T), tuple(counts))
    order = np.argsort(box, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(box[order])) + 1)
    return [torch.as_tensor(part, device=cell.device) for part in parts]
