"""Features of many blocks at once against those of one block after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import GridBatches
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure, species_indices


def check_batches(features: Any, *, tolerance: float) -> None:  # noqa: ANN401 - two protocols at once
    """Values of all points; forces, virial and, where the atoms have a state, its derivatives, for random weights.

    Args:
        features: float64, of a cutoff below 4 Å.
        tolerance: of values.
    """
    assert isinstance(features, BatchedFeatures)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.numbers[:] = np.resize(features.species, len(atoms))
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, (8, 6, 8))
    state = features.encode_atoms(structure).detach()
    learned = state.is_floating_point()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(grid.n_points, features.n_features, dtype=torch.float64, generator=generator)
    values = torch.empty_like(weights)
    sums = [torch.zeros(len(structure), 3).double(), torch.zeros(3, 3).double(), torch.zeros_like(state).double()]

    def pull(found: Tensor, leaves: list[Tensor], owners: Tensor, flat: Tensor) -> None:
        by_atoms, by_points, *by_state = torch.autograd.grad(found, leaves, weights[flat])
        sums[0].index_add_(0, owners.flatten(), by_atoms.flatten(end_dim=-2))
        # each block has a centre of its own: only the sum of both is the same
        for leaf, part in zip(leaves, (by_atoms, by_points)):
            sums[1].add_(leaf.detach().flatten(end_dim=-2).T @ part.flatten(end_dim=-2))
        for part in by_state:
            sums[2].index_add_(0, owners.flatten(), part.flatten(end_dim=-2))

    def leaves_of(atoms: Tensor, points: Tensor, owners: Tensor) -> list[Tensor]:
        return [part.clone().requires_grad_() for part in (atoms, points, *([state[owners]] if learned else []))]

    for block in iterate_blocks(structure, grid, features.cutoff, max_points=50):
        leaves = leaves_of(block.atoms, block.points, block.owners)
        found = features(leaves[1], leaves[0], leaves[2] if learned else state[block.owners])
        values[block.flat] = found.detach()
        pull(found, leaves, block.owners, block.flat)
    expected = [part.clone() for part in sums]
    for part in sums:
        part.zero_()
    batches = GridBatches(
        structure,
        grid,
        features.batch_radii(torch.float64),
        grid.equal_block_ranges(64),
        kinds=species_indices(structure.numbers, features.species).numpy(),
        n_kinds=len(features.species),
        points=400,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    found_batches = list(batches.iterate())
    assert max(batch.n_blocks for batch in found_batches) > 1
    for batch in found_batches:
        leaves = leaves_of(batch.atoms, batch.points, batch.owners)
        found = features.of_batch(replace(batch, atoms=leaves[0], points=leaves[1]), leaves[2] if learned else None)
        torch.testing.assert_close(found, values[batch.flat], rtol=tolerance, atol=tolerance)
        pull(found, leaves, batch.owners, batch.flat)
    for one, other in zip(sums, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
