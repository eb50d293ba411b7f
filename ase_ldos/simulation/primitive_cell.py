"""The smallest cell of a crystal, in which DFT costs least."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce


def primitive_cell(atoms: Atoms, *, tolerance: float = 1e-3) -> Atoms:
    """The primitive cell of a crystal, Minkowski-reduced; the crystal's own, if there is no smaller one.

    A vector between two atoms of the rarest kind is a lattice vector if it maps every atom onto one of its kind. The
    three of them, and of the given ones, that span the least volume and are shortest make the cell.

    Args:
        atoms: the crystal, periodic in three directions; it is not changed.
        tolerance: by how far an image may miss an atom, Å.
    """
    cell = atoms.cell.array
    fractional = np.linalg.solve(cell.T, atoms.positions.T).T
    kinds, counts = np.unique(atoms.numbers, return_counts=True)
    rare = np.flatnonzero(atoms.numbers == kinds[counts.argmin()])
    inside = [s for s in fractional[rare[1:]] - fractional[rare[0]] if _is_translation(atoms, fractional, s, tolerance)]
    if not inside:
        return _bare(atoms, atoms.cell.array, np.arange(len(atoms)))
    shifts = np.array(list(np.ndindex(3, 3, 3))) - 1
    vectors = np.concatenate([(s + shifts) @ cell for s in inside] + [np.eye(3) @ cell])
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1))]
    n_atoms = len(atoms) // (len(inside) + 1)
    smallest = abs(np.linalg.det(cell)) / (len(inside) + 1)
    # the shortest ones suffice: a reduced cell is made of them
    triple = next(
        np.array(three)
        for three in combinations(vectors[:60], 3)
        if abs(abs(np.linalg.det(np.array(three))) - smallest) < 1e-3 * smallest
    )
    reduced = reduced_lattice(triple)
    within = atoms.positions @ np.linalg.inv(reduced)
    chosen: list[int] = []
    for i in range(len(atoms)):
        difference = within[chosen] - within[i]
        gaps = np.linalg.norm((difference - difference.round()) @ reduced, axis=1)
        if not np.any((gaps < 2 * tolerance) & (atoms.numbers[chosen] == atoms.numbers[i])):
            chosen.append(i)
    if len(chosen) != n_atoms:  # atoms a little off their places: no cell but the given one is safe
        return _bare(atoms, atoms.cell.array, np.arange(len(atoms)))
    found = _bare(atoms, reduced, np.array(chosen))
    found.wrap(eps=1e-6)
    return found


def reduced_lattice(cell: np.ndarray) -> np.ndarray:
    """Shortest lattice vectors (Minkowski's), right-handed, ``[3, 3]``."""
    reduced = np.asarray(minkowski_reduce(cell)[0])
    return -reduced if np.linalg.det(reduced) < 0 else reduced


def _is_translation(atoms: Atoms, fractional: np.ndarray, shift: np.ndarray, tolerance: float) -> bool:
    difference = (fractional + shift)[:, None] - fractional[None]
    gaps = np.linalg.norm((difference - difference.round()) @ atoms.cell.array, axis=2)
    return bool(((gaps < tolerance) & (atoms.numbers[:, None] == atoms.numbers[None])).any(axis=1).all())


def _bare(atoms: Atoms, cell: np.ndarray, chosen: np.ndarray) -> Atoms:
    return Atoms(atoms.numbers[chosen], positions=atoms.positions[chosen], cell=cell, pbc=True)


def nearest_distance(atoms: Atoms) -> float:
    """Distance of the closest pair of atoms, periodic images included, Å."""
    from ase.neighborlist import neighbor_list

    reach = 1.5 * (atoms.get_volume() / len(atoms)) ** (1 / 3)
    while True:
        distances = neighbor_list("d", atoms, reach)
        if len(distances):
            return float(distances.min())
        reach *= 1.5
