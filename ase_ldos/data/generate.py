"""Structures worth labelling: rattled, strained, stacked otherwise, or picked from a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

if TYPE_CHECKING:
    from ase_ldos.descriptors.base import Descriptor

#: In-plane places of the close-packed layers, in units of the primitive lattice vectors.
_SITES = {"A": (0.0, 0.0), "B": (1 / 3, 2 / 3), "C": (2 / 3, 1 / 3)}


def rattled(atoms: Atoms, sigma: float, rng: np.random.Generator, *, minimum_distance: float = 0.0) -> Atoms:
    """Displace every atom by a Gaussian in each direction.

    Args:
        atoms: the structure; it is not changed.
        sigma: standard deviation, Å.
        rng: source of random numbers.
        minimum_distance: draw again (at most 100 times) until no two atoms are closer, Å.

    Raises:
        ValueError: σ is negative, or no draw keeps the distance.
    """
    from ase.neighborlist import neighbor_list

    if not sigma >= 0:
        raise ValueError(f"sigma is {sigma} Å; it must not be negative")
    for _ in range(100):
        new = atoms.copy()
        new.positions += rng.normal(0.0, sigma, new.positions.shape)
        if minimum_distance <= 0 or len(neighbor_list("i", new, minimum_distance)) == 0:
            return new
    raise ValueError(f"with sigma {sigma} Å atoms come closer than {minimum_distance} Å in each of 100 draws")


def strained(
    atoms: Atoms, rng: np.random.Generator, *, strain: float = 0.02, volume: tuple[float, float] = (-0.05, 0.05)
) -> Atoms:
    """Deform cell and atoms: a random volume, and a random symmetric strain without trace.

    Args:
        atoms: the structure; it is not changed.
        rng: source of random numbers.
        strain: largest size of a strain component.
        volume: least and greatest relative change of volume.

    Raises:
        ValueError: a strain outside 0 … 0.5, or a volume change at or below −1.
    """
    low, high = volume
    if not 0 <= strain < 0.5 or not -1 < low <= high:
        raise ValueError(f"strain {strain} and volume {volume} are impossible; give 0 ≤ strain < 0.5, −1 < low ≤ high")
    tensor = rng.uniform(-strain, strain, (3, 3))
    tensor = (tensor + tensor.T) / 2
    deformation = np.eye(3) + tensor - np.eye(3) * np.trace(tensor) / 3
    deformation *= ((1 + rng.uniform(low, high)) / np.linalg.det(deformation)) ** (1 / 3)
    new = atoms.copy()
    new.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return new


def polytype(symbol: str, a: float, c: float, stacking: str, size: tuple[int, int] = (1, 1)) -> Atoms:
    """Close-packed layers in any order.

    Args:
        symbol: chemical element.
        a: distance of atoms in a layer, Å.
        c: twice the distance of layers (hcp's c), Å.
        stacking: letters A, B, C: ``"AB"`` is hcp, ``"ABC"`` fcc, ``"ABCB"`` double hcp, ``"ABABAC"`` a fault.
        size: repetitions along the two vectors of the layer.

    Raises:
        ValueError: an unknown element or letter, or neighbouring layers (the last and the first too) that are equal.
    """
    if symbol not in atomic_numbers:
        raise ValueError(f"there is no chemical element {symbol!r}")
    if len(stacking) < 2 or any(letter not in _SITES for letter in stacking):
        raise ValueError(f"stacking is {stacking!r}; at least two letters A, B, C are expected")
    if any(stacking[i - 1] == stacking[i] for i in range(len(stacking))):
        raise ValueError(f"stacking is {stacking!r}; neighbouring layers must differ, across the cell's end too")
    scaled = [(*_SITES[letter], (i + 0.25) / len(stacking)) for i, letter in enumerate(stacking)]
    cell = [[a, 0, 0], [-a / 2, np.sqrt(3) / 2 * a, 0], [0, 0, c / 2 * len(stacking)]]
    atoms = Atoms(f"{symbol}{len(scaled)}", cell=cell, scaled_positions=scaled, pbc=True)
    return atoms.repeat((*size, 1))


def stacking_fault(
    symbol: str, a: float, c: float, slide: float, *, layers: int = 4, size: tuple[int, int] = (1, 1)
) -> Atoms:
    """An hcp crystal whose upper half has slid along the partial Burgers vector: the path of the basal fault.

    The cell leans with the slide, so that one of the two interfaces stays perfect.

    Args:
        symbol: chemical element.
        a: hcp's a, Å.
        c: hcp's c, Å.
        slide: 0 is hcp, 1 the intrinsic fault I₂ (B over A becomes C over A).
        layers: number of layers, even.
        size: repetitions along the two vectors of the layer.

    Raises:
        ValueError: the number of layers is odd or below 4.
    """
    if layers < 4 or layers % 2:
        raise ValueError(f"{layers} layers are asked for; an even number of at least 4 is needed")
    atoms = polytype(symbol, a, c, "AB" * (layers // 2))
    cell = atoms.cell.array
    # a layer A above B moves to C along one of the three equivalent partial vectors, a layer B above A the other way
    sign = 1 if layers // 2 % 2 == 0 else -1
    vector = -sign * slide * np.array([1 / 3, 2 / 3, 0.0]) @ cell
    atoms.positions[atoms.get_scaled_positions()[:, 2] > 0.5] += vector
    cell[2] += vector
    atoms.set_cell(cell)
    return atoms.repeat((*size, 1))


def distinct(structures: Sequence[Atoms], tolerance: float = 1e-3) -> list[Atoms]:
    """Drop structures that repeat an earlier one up to a common translation.

    Args:
        structures: the structures, atoms in the same order where they are equal.
        tolerance: largest difference of a coordinate, Å.
    """
    kept: list[Atoms] = []
    for atoms in structures:
        if not any(_equal(atoms, other, tolerance) for other in kept):
            kept.append(atoms)
    return kept


def _equal(first: Atoms, second: Atoms, tolerance: float) -> bool:
    if len(first) != len(second) or np.any(first.numbers != second.numbers):
        return False
    if np.abs(first.cell.array - second.cell.array).max() > tolerance:
        return False
    difference = (first.positions - first.positions[0]) - (second.positions - second.positions[0])
    scaled = difference @ np.linalg.inv(first.cell.array)
    return bool(np.abs((scaled - np.round(scaled)) @ first.cell.array).max() <= tolerance)


def farthest_points(features: np.ndarray, n: int, *, start: int = 0) -> list[int]:
    """Pick points one after another, each time the one farthest from all picked before.

    Args:
        features: ``[point, feature]``.
        n: how many; fewer come back when only duplicates are left.
        start: the first one.

    Returns:
        Indices in the order of picking, so that any beginning of the list is a good choice too.

    Raises:
        ValueError: n below 1, or no points.
    """
    if n < 1 or len(features) == 0:
        raise ValueError(f"{n} of {len(features)} points are asked for; at least 1 of 1 is needed")
    picked = [start]
    distances = np.linalg.norm(features - features[start], axis=1)
    threshold = 1e-9 * max(1.0, float(np.abs(features).max()))
    while len(picked) < min(n, len(features)):
        new = int(distances.argmax())
        if distances[new] <= threshold:
            break
        picked.append(new)
        distances = np.minimum(distances, np.linalg.norm(features - features[new], axis=1))
    return picked


def frame_features(frames: Sequence[Atoms], descriptor: Descriptor) -> np.ndarray:
    """Mean and standard deviation over the atoms of the descriptor at their places, ``[frame, 2 · feature]``.

    Each column is scaled to unit variance over the frames.
    """
    import torch

    from ase_ldos.descriptors.blocks import species_indices
    from ase_ldos.neighbours import Images
    from ase_ldos.structure import Structure

    rows = []
    for atoms in frames:
        wrapped = atoms.copy()
        wrapped.wrap()
        structure = Structure.from_atoms(wrapped)
        species = species_indices(structure.numbers, descriptor.species)
        images = Images(structure, descriptor.cutoff + 0.01)
        values = []
        with torch.no_grad():
            for position in structure.positions:
                near = images.near(position, descriptor.cutoff)
                owners = images.atoms[near]
                around = structure.positions[owners] + images.shifts[near] @ structure.cell - position
                values.append(descriptor(torch.zeros_like(position)[None], around, species[owners])[0])
        table = torch.stack(values)
        rows.append(torch.cat([table.mean(dim=0), table.std(dim=0, correction=0)]).numpy())
    features = np.array(rows)
    spread = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(spread > 1e-12 * np.abs(features).max(), spread, 1))


def pick_frames(frames: Sequence[Atoms], n: int, descriptor: Descriptor) -> list[int]:
    """Pick frames of a trajectory that differ most in what surrounds their atoms; see :func:`farthest_points`."""
    return farthest_points(frame_features(frames, descriptor), n)
