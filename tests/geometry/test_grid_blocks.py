"""Blocks of grid points: complete, compact, with every atom that matters, differentiable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure, species_indices

DESCRIPTOR = PowerSpectrum((4, 12), cutoff=3.0, n_radial=2, lmax=1)


@pytest.fixture
def crystal() -> tuple[Structure, Grid]:
    atoms = bulk("BeMg", "cesiumchloride", a=3.0)
    atoms.set_cell(atoms.cell[:] @ [[1, 0.2, 0], [0, 1, -0.1], [0.3, 0, 1]], scale_atoms=True)
    structure = Structure.from_atoms(atoms)
    return structure, Grid(structure.cell, (5, 6, 7))


@pytest.mark.parametrize("max_points", [1, 30, 1000])
def test_every_point_once(crystal: tuple[Structure, Grid], max_points: int) -> None:
    structure, grid = crystal
    blocks = list(iterate_blocks(structure, grid, DESCRIPTOR.cutoff, max_points=max_points))
    flat = torch.cat([block.flat for block in blocks])
    assert sorted(flat.tolist()) == list(range(grid.n_points))
    assert max(len(block.flat) for block in blocks) <= max_points


def test_points_and_atoms_keep_their_distances(crystal: tuple[Structure, Grid]) -> None:
    """Distances within the cutoff, from every point of a block, are those of a large box of images."""
    structure, grid = crystal
    steps = torch.as_tensor(np.array(list(np.ndindex(9, 9, 9))) - 4, dtype=torch.float64) @ structure.cell
    images = (structure.positions[None] + steps[:, None]).reshape(-1, 3)
    for block in iterate_blocks(structure, grid, DESCRIPTOR.cutoff, max_points=40):
        expected = torch.cdist(grid.points(block.flat), images)
        found = torch.cdist(block.points, block.atoms)
        for row, wanted in zip(found, expected):
            near, right = row[row < DESCRIPTOR.cutoff], wanted[wanted < DESCRIPTOR.cutoff]
            torch.testing.assert_close(near.sort().values, right.sort().values, rtol=0, atol=1e-10)
        distances = found.amin(dim=0)
        # the lower bound of the distance sorts them, the distance itself nearly
        assert (distances[:-1] - distances[1:]).max() < 1.0


def test_coordinates_are_about_the_centre(crystal: tuple[Structure, Grid]) -> None:
    for block in iterate_blocks(*crystal, DESCRIPTOR.cutoff, max_points=40):
        torch.testing.assert_close(block.points.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_dtype_of_the_block(crystal: tuple[Structure, Grid]) -> None:
    block = next(iterate_blocks(*crystal, DESCRIPTOR.cutoff, dtype=torch.float32))
    assert block.points.dtype == block.atoms.dtype == torch.float32


def test_gradients_reach_positions_and_strain(crystal: tuple[Structure, Grid]) -> None:
    structure, grid = crystal
    weights = torch.linspace(0.5, 1.5, grid.n_points, dtype=torch.float64)

    def total(positions: torch.Tensor, strain: torch.Tensor) -> torch.Tensor:
        moved = replace(structure, positions=positions).strained(strain)
        parts = []
        for block in iterate_blocks(moved, Grid(moved.cell, grid.shape), DESCRIPTOR.cutoff, max_points=100):
            features = DESCRIPTOR(block.points, block.atoms, torch.zeros_like(block.owners))
            parts.append((weights[block.flat, None] * features).sum())
        return torch.stack(parts).sum()

    inputs = (structure.positions.clone().requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(total, inputs, eps=1e-5, atol=1e-5, rtol=1e-6)


def test_atoms_outside_the_cell(crystal: tuple[Structure, Grid]) -> None:
    structure, grid = crystal
    far = replace(
        structure, positions=structure.positions + torch.tensor([[7, -5, 2], [0, 0, 0]]).double() @ structure.cell
    )
    for one, other in zip(*(iterate_blocks(s, grid, DESCRIPTOR.cutoff, max_points=60) for s in (structure, far))):
        features = [DESCRIPTOR(block.points, block.atoms, torch.zeros_like(block.owners)) for block in (one, other)]
        torch.testing.assert_close(features[0], features[1], rtol=1e-10, atol=1e-10)


def test_foreign_elements_are_named() -> None:
    numbers = torch.as_tensor(Atoms("BeAlSi").numbers)
    with pytest.raises(ValueError, match="the model knows Be, Mg; the atoms contain Al, Si"):
        species_indices(numbers, (4, 12))
    assert species_indices(torch.tensor([12, 4, 12]), (4, 12)).tolist() == [1, 0, 1]
