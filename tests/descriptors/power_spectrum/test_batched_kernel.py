"""Many blocks at once against one after the other: values, derivatives, several species, both number types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor
from torch.autograd import gradcheck

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import BlockBatch, GridBatches
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.image_table import ImageGroup
from ase_ldos.geometry.structure import Structure

#: Weights of two pseudo-species.
CHANNELS = {"Be": [1.0, -0.6], "Mg": [1.0, 0.8], "Al": [0.3, 0.1]}


def compressed(species: tuple[int, ...], *, cutoff: float, n_radial: int, lmax: int) -> CompressedPowerSpectrum:
    return CompressedPowerSpectrum(species, channels=CHANNELS, cutoff=cutoff, n_radial=n_radial, lmax=lmax)


#: The descriptors that know batches.
KINDS = {"elements": PowerSpectrum, "pseudo-species": compressed}


def batches(
    descriptor: PowerSpectrum | CompressedPowerSpectrum,
    structure: Structure,
    grid: Grid,
    dtype: torch.dtype = torch.float64,
) -> list[BlockBatch]:
    found = GridBatches(
        structure,
        grid,
        descriptor.batch_radii(dtype),
        grid.equal_block_ranges(64),
        kinds=descriptor.encode_atoms(structure).numpy(),
        n_kinds=len(descriptor.species),
        points=400,
        dtype=dtype,
        device=torch.device("cpu"),
    )
    return list(found.iterate())


def crystal(species: tuple[int, ...]) -> tuple[Structure, Grid]:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=1)
    atoms.numbers[:] = np.resize(species, len(atoms))
    structure = Structure.from_atoms(atoms)
    return structure, Grid(structure.cell, (8, 6, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("species", [(4,), (4, 12), (4, 12, 13)])
@pytest.mark.parametrize("lmax", [0, 2, 4])
def test_values_and_derivatives_of_blocks(kind: str, species: tuple[int, ...], lmax: int) -> None:
    descriptor = KINDS[kind](species, cutoff=3.9, n_radial=4, lmax=lmax)
    # the last species has no atoms
    structure, grid = crystal(species[: max(1, len(species) - 1)])
    state = descriptor.encode_atoms(structure)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(grid.n_points, descriptor.n_features, dtype=torch.float64, generator=generator)
    values = torch.empty_like(weights)
    forces = torch.zeros(len(structure), 3, dtype=torch.float64)
    virial = torch.zeros(3, 3, dtype=torch.float64)

    def pull(features: Tensor, atoms: Tensor, owners: Tensor, points: Tensor, flat: Tensor) -> None:
        by_atoms, by_points = torch.autograd.grad(features, (atoms, points), weights[flat])
        forces.index_add_(0, owners.flatten(), by_atoms.flatten(end_dim=-2))
        virial.add_(atoms.detach().flatten(end_dim=-2).T @ by_atoms.flatten(end_dim=-2))
        virial.add_(points.detach().T @ by_points)

    for block in iterate_blocks(structure, grid, descriptor.cutoff, max_points=50):
        atoms, points = block.atoms.clone().requires_grad_(), block.points.clone().requires_grad_()
        features = descriptor(points, atoms, state[block.owners])
        values[block.flat] = features.detach()
        pull(features, atoms, block.owners, points, block.flat)
    expected = (forces.clone(), virial.clone())
    forces.zero_()
    virial.zero_()
    for batch in batches(descriptor, structure, grid):
        atoms, points = batch.atoms.clone().requires_grad_(), batch.points.clone().requires_grad_()
        moved = BlockBatch(batch.flat, points, atoms, batch.owners, batch.groups)
        features = descriptor.of_batch(moved)
        torch.testing.assert_close(features, values[batch.flat], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(descriptor.of_batch(batch), features, rtol=1e-12, atol=1e-12)  # without a graph
        pull(features, atoms, batch.owners, points, batch.flat)
    torch.testing.assert_close(forces, expected[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(virial, expected[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(kind: str) -> None:
    descriptor = KINDS[kind]((4, 12), cutoff=3.0, n_radial=2, lmax=2)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 3, dtype=torch.float64, generator=generator) - 0.5
    atoms = 4 * torch.rand(2, 5, 3, dtype=torch.float64, generator=generator) - 2
    groups = (ImageGroup(slice(0, 3), (3, 3)), ImageGroup(slice(3, 5), (2, 2)))
    owners = torch.zeros(2, 5, dtype=torch.int64)

    def features(points: Tensor, atoms: Tensor) -> Tensor:
        return descriptor.of_batch(BlockBatch(torch.arange(6), points, atoms, owners, groups))

    assert gradcheck(features, (points.requires_grad_(), atoms.requires_grad_()), atol=1e-6)
    values = features(points, atoms)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(values.sum(), atoms, create_graph=True)


def test_narrow_functions_leave_out_what_is_below_rounding() -> None:
    descriptor = PowerSpectrum((4,), cutoff=6.0, n_radial=6, lmax=4)
    structure, grid = crystal((4,))
    found = batches(descriptor, structure, grid, torch.float32)
    counts = found[0].groups[0].counts
    assert counts[-1] < counts[0] / 4
    for batch in found:
        (group,) = batch.groups
        whole = replace(batch, groups=(ImageGroup(group.rows, group.counts[:1] * len(group.counts)),))
        expected = descriptor.of_batch(whole)
        error = (descriptor.of_batch(batch) - expected).abs() / expected.abs().amax(dim=0)
        assert float(error.max()) < 2e-6
