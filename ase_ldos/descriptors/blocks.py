"""Walking over the grid in blocks: points, the atoms around them, and where their gradients go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ldos.descriptors.base import Descriptor
from ase_ldos.grid import Grid
from ase_ldos.neighbours import Images
from ase_ldos.structure import Structure

#: Grid points of a block: large enough for matrix products, small enough for the cache.
DEFAULT_BLOCK = 1024


@dataclass(frozen=True)
class Block:
    """A compact piece of the grid with every image within the cutoff of one of its points.

    Coordinates are about the block's centre, so that they are small and float32 keeps their digits.

    Attributes:
        flat: flat C-order point numbers, int64 ``[grid]``.
        points: Å, ``[grid, 3]``.
        atoms: positions of the images, Å, ``[image, 3]``.
        species: species index of the images, int64 ``[image]``.
        owners: atom index of the images, int64 ``[image]``.
    """

    flat: Tensor
    points: Tensor
    atoms: Tensor
    species: Tensor
    owners: Tensor


def species_indices(numbers: Tensor, species: tuple[int, ...]) -> Tensor:
    """Place of each atom's number in ``species``, int64 ``[atom]``.

    Raises:
        ValueError: an atom's element is not among the species.
    """
    known = torch.tensor(species, device=numbers.device)
    match = numbers[:, None] == known[None, :]
    if not bool(match.any(dim=1).all()):
        from ase.data import chemical_symbols

        foreign = sorted({chemical_symbols[int(n)] for n in numbers[~match.any(dim=1)]})
        names = ", ".join(chemical_symbols[n] for n in species)
        raise ValueError(f"the model knows {names}; the atoms contain {', '.join(foreign)}")
    return match.to(torch.int64).argmax(dim=1)


def iterate_blocks(
    descriptor: Descriptor,
    structure: Structure,
    grid: Grid,
    *,
    max_points: int = DEFAULT_BLOCK,
    dtype: torch.dtype = torch.float64,
) -> Iterator[Block]:
    """Walk over the whole grid; gradients flow from points and atoms to the structure's positions and cell.

    Memory is one block's: the caller lets go of a block before the next. Blocks of one shape share one tensor of
    points, unless it carries gradients, so that a descriptor may keep what depends on the points alone.
    """
    shapes: list[tuple[Tensor, Tensor]] = []
    species = species_indices(structure.numbers, descriptor.species)
    flats = grid.blocks(max_points)
    radius = _radius(grid.points(max(flats, key=len)).detach())
    images = Images(structure, descriptor.cutoff + radius)
    for flat in flats:
        points = grid.points(flat)
        centre = points.detach().mean(dim=0)
        near = images.near(centre, descriptor.cutoff + _radius(points.detach()))
        owners = images.atoms[near]
        atoms = structure.positions[owners] + images.shifts[near] @ structure.cell
        yield Block(flat, _shared(points - centre, shapes, dtype), (atoms - centre).to(dtype), species[owners], owners)


def _shared(points: Tensor, shapes: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> Tensor:
    """The points in the wanted precision; those of an earlier block where they are the same."""
    if points.requires_grad:
        return points.to(dtype)
    for place, (known, converted) in enumerate(shapes):
        if known.shape == points.shape and torch.allclose(known, points, rtol=0, atol=1e-9):
            shapes.insert(0, shapes.pop(place))
            return converted
    converted = points.to(dtype, copy=True)
    shapes.insert(0, (points, converted))
    del shapes[4:]
    return converted


def _radius(points: Tensor) -> float:
    """Distance from the centre of the points to the farthest of them, Å, with room for rounding."""
    return float((points - points.mean(dim=0)).norm(dim=1).max()) + 1e-6
