"""Blocks of atoms: every atom once, at its place in the cell, with all neighbours; coordinates without gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ase_ldos.geometry.atom_blocks import iterate_atom_blocks
from ase_ldos.geometry.structure import Structure

CUTOFF = 4.3


@pytest.mark.parametrize("repeat", [(1, 1, 1), (7, 3, 2)])
def test_every_atom_once_with_its_neighbours(repeat: tuple[int, int, int]) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(repeat)
    atoms.rattle(0.3, seed=1)
    # outside the cell, by whole lattice vectors and a little
    atoms.positions[::2] += atoms.cell[0] - 2 * atoms.cell[1]
    structure = Structure.from_atoms(atoms)
    blocks = list(iterate_atom_blocks(structure, CUTOFF, dtype=torch.float32))
    assert (len(blocks) > 1) == (repeat != (1, 1, 1))
    assert sorted(torch.cat([block.flat for block in blocks]).tolist()) == list(range(len(atoms)))
    first, distances = neighbor_list("id", atoms, CUTOFF)
    for block in blocks:
        assert block.points.dtype == block.atoms.dtype == torch.float32
        found = torch.cdist(block.points.double(), block.atoms.double())
        for row, atom in zip(found, block.flat.tolist()):
            near = np.sort(row[row < CUTOFF].numpy())
            # the atom itself is among the images
            np.testing.assert_allclose(near, np.sort([0.0, *distances[first == atom]]), atol=1e-3)
            assert int(block.owners[row.argmin()]) == atom


def test_no_gradients_flow() -> None:
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.27, c=3.57))
    structure.positions.requires_grad_()
    (block,) = iterate_atom_blocks(structure, CUTOFF)
    assert not block.points.requires_grad
    assert not block.atoms.requires_grad
