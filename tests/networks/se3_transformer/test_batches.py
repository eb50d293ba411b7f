"""Many blocks at once against one after the other: values, and derivatives in atoms, points and the atoms' states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor
from torch.autograd import gradcheck

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import BlockBatch, GridBatches
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.image_table import ImageGroup
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.networks.se3_transformer.network import SE3Transformer

#: Fields alone, and with all that a readout may have.
OPTIONS = {"fields": {"moments": 0, "spectrum_radial": 3}, "all": {"moments": 2, "point_heads": 2}}


def network(species: tuple[int, ...], **options: int) -> SE3Transformer:
    return SE3Transformer(
        species, cutoff=3.9, atom_cutoff=3.0, lmax=2, channels=4, heads=2, n_radial=3, fields=4, **options
    ).double()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("species", [(4,), (4, 12)])
def test_values_and_derivatives_of_blocks(options: str, species: tuple[int, ...]) -> None:
    features = network(species, **OPTIONS[options])
    assert isinstance(features, BatchedFeatures)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.numbers[:] = np.resize(species, len(atoms))
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, (8, 6, 8))
    state = features.encode_atoms(structure).detach()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(grid.n_points, features.n_features, dtype=torch.float64, generator=generator)
    values = torch.empty_like(weights)
    sums = [torch.zeros(len(structure), 3).double(), torch.zeros(3, 3).double(), torch.zeros_like(state)]

    def pull(found: Tensor, leaves: list[Tensor], owners: Tensor, flat: Tensor) -> None:
        by_atoms, by_points, by_state = torch.autograd.grad(found, leaves, weights[flat])
        sums[0].index_add_(0, owners.flatten(), by_atoms.flatten(end_dim=-2))
        # each block has a centre of its own: only the sum of both is the same
        for leaf, part in ((leaves[0], by_atoms), (leaves[1], by_points)):
            sums[1].add_(leaf.detach().flatten(end_dim=-2).T @ part.flatten(end_dim=-2))
        sums[2].index_add_(0, owners.flatten(), by_state.flatten(end_dim=-2))

    for block in iterate_blocks(structure, grid, features.cutoff, max_points=50):
        leaves = [part.clone().requires_grad_() for part in (block.atoms, block.points, state[block.owners])]
        found = features(leaves[1], leaves[0], leaves[2])
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
        n_kinds=len(species),
        points=400,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    found_batches = list(batches.iterate())
    assert max(batch.n_blocks for batch in found_batches) > 1
    for batch in found_batches:
        leaves = [part.clone().requires_grad_() for part in (batch.atoms, batch.points, state[batch.owners])]
        found = features.of_batch(replace(batch, atoms=leaves[0], points=leaves[1]), leaves[2])
        torch.testing.assert_close(found, values[batch.flat], rtol=1e-11, atol=1e-11)
        pull(found, leaves, batch.owners, batch.flat)
    for one, other in zip(sums, expected):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_narrow_functions_leave_out_what_they_do_not_reach() -> None:
    features = network((4,), spectrum_radial=2)
    radii = features.batch_radii(torch.float64)
    assert radii[0] == features.cutoff
    assert radii[-2:] == tuple(features.readout.supports[1:])
    assert len(radii) == 2 + 2
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 3, dtype=torch.float64, generator=generator) - 0.5
    atoms = 8 * torch.rand(2, 9, 3, dtype=torch.float64, generator=generator) - 4
    atoms = torch.stack([part[part.norm(dim=1).argsort()] for part in atoms])
    reach = float(points.norm(dim=1).max())
    counts = [int((atoms.norm(dim=2) < radius + reach).sum(dim=1).max()) for radius in radii]
    assert counts[-1] < counts[0]
    states = torch.cat((torch.zeros(2, 9, 1), torch.randn(2, 9, 120, generator=generator)), dim=2).double()
    states = states[..., : 1 + features.readout.coefficients(torch.zeros(1, 9, 4).double()).shape[1]]
    flat, owners = torch.arange(6), torch.zeros(2, 9, dtype=torch.int64)

    def of_batch(points: Tensor, atoms: Tensor, states: Tensor, counts: list[int]) -> Tensor:
        group = ImageGroup(slice(0, 9), (9, *counts[1:]))
        return features.of_batch(BlockBatch(flat, points, atoms, owners, (group,)), states)

    torch.testing.assert_close(
        of_batch(points, atoms, states, counts), of_batch(points, atoms, states, [9] * 4), rtol=0, atol=1e-12
    )
    leaves = [part.requires_grad_() for part in (points, atoms, states)]
    assert gradcheck(lambda *parts: of_batch(*parts, counts), leaves, atol=1e-6, fast_mode=True)
