"""Structures worth labelling: rattled, strained, or picked from a trajectory; ``simulation.stacking`` stacks layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

    from ase_ldos.descriptors.protocol import PointFeatures

#: Springs between atoms: reach in nearest distances, power of their decay, part of the stiffness across a bond. The
#: second neighbours of a body-centred crystal, and those that hold the angles of diamond, are within reach.
SPRING_REACH, SPRING_DECAY, SPRING_ACROSS = 2.0, 8, 0.15


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
    _check_sigma(sigma)
    return _kept_apart(atoms, lambda: rng.normal(0.0, sigma, (len(atoms), 3)), sigma, minimum_distance)


def harmonically_rattled(
    atoms: Atoms, sigma: float, rng: np.random.Generator, *, minimum_distance: float = 0.0
) -> Atoms:
    """Displace atoms as those of a crystal of springs do in thermal motion: neighbours move together.

    Between atoms at a distance r, to twice the nearest one d, springs are put of stiffness (d/r)⁸ along the bond and
    0.15 of that across it. Displacements u then have the distribution exp(−u·K·u / 2 s) of that crystal at rest (its
    mean moves nowhere), with s such that an atom between atoms that stand still has the asked deviation. The energy
    that they cost is that of independent displacements with this deviation, less the three of the mean, whatever the
    size of the cell; they themselves are larger, the more so the larger the cell.

    Args:
        atoms: a crystal at rest, all atoms on their sites; it is not changed.
        sigma: standard deviation in each direction of an atom whose neighbours stand still, Å.
        rng: source of random numbers.
        minimum_distance: draw again (at most 100 times) until no two atoms are closer, Å.

    Raises:
        ValueError: σ is negative, or no draw keeps the distance.
    """
    _check_sigma(sigma)
    stiffness, einstein = spring_matrix(atoms)
    values, modes = np.linalg.eigh(stiffness)
    moving = values > 1e-9 * einstein  # not the three translations
    widths = np.sqrt(einstein / values[moving])

    def draw() -> np.ndarray:
        return sigma * (modes[:, moving] @ (widths * rng.normal(size=len(widths)))).reshape(-1, 3)

    return _kept_apart(atoms, draw, sigma, minimum_distance)


def spring_matrix(atoms: Atoms) -> tuple[np.ndarray, float]:
    """Stiffness K ``[3 · atom + x, 3 · atom + x]`` of ``harmonically_rattled``, and Einstein's constant.

    The constant is the mean curvature of the energy in the coordinates of an atom whose neighbours and own images stand
    still; it does not depend on the cell that a crystal is described by.
    """
    from ase.neighborlist import neighbor_list

    from ase_ldos.simulation.primitive_cell import nearest_distance

    nearest = nearest_distance(atoms)
    first, second, distances, vectors = neighbor_list("ijdD", atoms, SPRING_REACH * nearest)
    along = vectors / distances[:, None]
    springs = (1 - SPRING_ACROSS) * along[:, :, None] * along[:, None, :] + SPRING_ACROSS * np.eye(3)
    springs *= ((nearest / distances) ** SPRING_DECAY)[:, None, None]
    blocks = np.zeros((len(atoms), len(atoms), 3, 3))
    np.add.at(blocks, (first, first), springs)
    einstein = float(np.trace(blocks.sum(axis=(0, 1)))) / (3 * len(atoms))
    np.add.at(blocks, (first, second), -springs)
    return blocks.transpose(0, 2, 1, 3).reshape(3 * len(atoms), 3 * len(atoms)), einstein


def _kept_apart(atoms: Atoms, draw: Callable[[], np.ndarray], sigma: float, minimum_distance: float) -> Atoms:
    """The atoms with displacements that are drawn again until no two are closer, at most 100 times."""
    from ase.neighborlist import neighbor_list

    for _ in range(100):
        new = atoms.copy()
        new.positions += draw()
        if minimum_distance <= 0 or len(neighbor_list("i", new, minimum_distance)) == 0:
            return new
    raise ValueError(f"with sigma {sigma} Å atoms come closer than {minimum_distance} Å in each of 100 draws")


def _check_sigma(sigma: float) -> None:
    if not sigma >= 0:
        raise ValueError(f"sigma is {sigma} Å; it must not be negative")


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


def frame_features(frames: Sequence[Atoms], descriptor: PointFeatures) -> np.ndarray:
    """Mean and standard deviation over the atoms of the descriptor at their places, ``[frame, 2 · feature]``.

    Each column is scaled to unit variance over the frames.
    """
    import torch

    from ase_ldos.geometry.atom_blocks import iterate_atom_blocks
    from ase_ldos.geometry.structure import Structure

    rows = []
    for atoms in frames:
        structure = Structure.from_atoms(atoms)
        with torch.no_grad():
            atom_state = descriptor.encode_atoms(structure)
            blocks = iterate_atom_blocks(structure, descriptor.cutoff)
            table = torch.cat([descriptor(b.points, b.atoms, atom_state[b.owners]) for b in blocks])
        rows.append(torch.cat([table.mean(dim=0), table.std(dim=0, correction=0)]).numpy())
    features = np.array(rows)
    spread = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(spread > 1e-12 * np.abs(features).max(), spread, 1))


def pick_frames(frames: Sequence[Atoms], n: int, descriptor: PointFeatures) -> list[int]:
    """Pick frames of a trajectory that differ most in what surrounds their atoms; see :func:`farthest_points`."""
    return farthest_points(frame_features(frames, descriptor), n)
