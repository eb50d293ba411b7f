"""SNAP of many blocks at once against one block after the other: values, forces, virial."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import GridBatches
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure


@pytest.mark.parametrize("species", [(4,), (4, 12)])
def test_values_and_derivatives_of_blocks(species: tuple[int, ...]) -> None:
    snap = SNAP(species, twojmax=3, cutoff=3.1, weights=[1.0, 0.6][: len(species)])
    assert isinstance(snap, BatchedFeatures)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.numbers[:] = np.resize(species, len(atoms))
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, (8, 6, 8))
    state = snap.encode_atoms(structure)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(grid.n_points, snap.n_features, dtype=torch.float64, generator=generator)
    values = torch.empty_like(weights)
    forces, virial = torch.zeros(len(structure), 3).double(), torch.zeros(3, 3).double()

    def pull(found: Tensor, leaves: list[Tensor], owners: Tensor, flat: Tensor) -> None:
        by_atoms, by_points = torch.autograd.grad(found, leaves, weights[flat])
        forces.index_add_(0, owners.flatten(), by_atoms.flatten(end_dim=-2))
        # each block has a centre of its own: only the sum of both is the same
        for leaf, part in zip(leaves, (by_atoms, by_points)):
            virial.add_(leaf.detach().flatten(end_dim=-2).T @ part.flatten(end_dim=-2))

    for block in iterate_blocks(structure, grid, snap.cutoff, max_points=50):
        leaves = [part.clone().requires_grad_() for part in (block.atoms, block.points)]
        found = snap(leaves[1], leaves[0], state[block.owners])
        values[block.flat] = found.detach()
        pull(found, leaves, block.owners, block.flat)
    expected = (forces.clone(), virial.clone())
    forces.zero_()
    virial.zero_()
    batches = GridBatches(
        structure,
        grid,
        snap.batch_radii(torch.float64),
        grid.equal_block_ranges(64),
        kinds=state.numpy(),
        n_kinds=len(species),
        points=400,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    for batch in batches.iterate():
        leaves = [part.clone().requires_grad_() for part in (batch.atoms, batch.points)]
        found = snap.of_batch(replace(batch, atoms=leaves[0], points=leaves[1]))
        torch.testing.assert_close(found, values[batch.flat], rtol=1e-10, atol=1e-10)
        pull(found, leaves, batch.owners, batch.flat)
    torch.testing.assert_close(forces, expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(virial, expected[1], rtol=0, atol=1e-9)
