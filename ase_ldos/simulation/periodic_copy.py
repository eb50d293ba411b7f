"""A copy of the atoms alone."""

from __future__ import annotations

from ase import Atoms


def periodic_copy(atoms: Atoms, **info: object) -> Atoms:
    """The same elements, places and cell, periodic, without calculator, momenta, constraints and remarks.

    Args:
        atoms: the structure.
        **info: remarks of the copy.
    """
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=True, info=info)
