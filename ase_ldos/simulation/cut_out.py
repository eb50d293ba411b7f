"""Small cells out of a large one: what surrounds an atom in a frame that is too large for DFT."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.simulation.primitive_cell import nearest_distance

#: An atom farther from its site than this, in nearest distances, is no longer a crystal's.
_ON_SITE = 0.4


def cut_out(
    frame: Atoms, perfect: Atoms, crystal: Atoms, small: Atoms, atom: int, *, closest: float = 0.75
) -> Atoms | None:
    """A small supercell with the displacements that the atoms around one atom of a large frame have.

    Each site of the small cell, laid around the atom's site, takes the displacement (and the frame the strain) of the
    atom of the large cell on that site. At the small cell's borders displacements meet that did not meet before.

    Args:
        frame: of the dynamics.
        perfect: the supercell that it began from, atoms in the same order, on their sites.
        crystal: the primitive cell that both are made of.
        small: supercell of the same crystal, on its sites.
        atom: the one to look at.
        closest: no pair of the result may be closer, in nearest distances of the crystal.

    Returns:
        ``None`` where there is none: atoms have left their sites, or come too close at the borders.
    """
    cell = perfect.cell.array
    moves = (frame.positions @ np.linalg.inv(frame.cell.array) - perfect.positions @ np.linalg.inv(cell)) @ cell
    # against one atom first: the whole crystal may have drifted by half a cell
    fractional = (moves - moves[atom]) @ np.linalg.inv(cell)
    moves = (fractional - fractional.round()) @ cell
    moves -= moves.mean(axis=0)
    distance = nearest_distance(crystal)
    if np.linalg.norm(moves, axis=1).max() > _ON_SITE * distance:
        return None
    deformation = np.linalg.solve(cell, frame.cell.array)
    # an atom of the small cell on the same sublattice; all sites are laid around it
    within = np.linalg.inv(crystal.cell.array)
    shifts = (small.positions - perfect.positions[atom]) @ within
    same = np.flatnonzero((np.abs(shifts - shifts.round()).max(axis=1) < 1e-3) & (small.numbers == frame.numbers[atom]))
    if len(same) == 0:
        return None
    result = periodic_copy(small)
    around = result.get_distances(int(same[0]), range(len(result)), mic=True, vector=True)
    for i, vector in enumerate(around):
        gaps = (perfect.positions - perfect.positions[atom] - vector) @ np.linalg.inv(cell)
        gaps = np.linalg.norm((gaps - gaps.round()) @ cell, axis=1)
        site = int(gaps.argmin())
        if gaps[site] > 1e-2 * distance or perfect.numbers[site] != small.numbers[i]:
            return None
        result.positions[i] += moves[site]
    result.set_cell(small.cell.array @ deformation, scale_atoms=True)
    if len(result) > 1 and nearest_distance(result) < closest * distance:
        return None
    return result
