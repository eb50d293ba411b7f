"""The closed-form derivatives of the power spectrum against automatic differentiation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def structures() -> list[Atoms]:
    alloy = bulk("BeMg", "cesiumchloride", a=3.0)
    one = bulk("Be", "bcc", a=2.5)
    hcp = bulk("Be", "hcp", a=2.27, c=3.57)
    for atoms in (alloy, hcp):
        atoms.rattle(0.1, seed=1)
    return [alloy, one, hcp]


@pytest.mark.parametrize("atoms", structures(), ids=["two species", "one atom", "hcp"])
@pytest.mark.parametrize("lmax", [0, 3])
def test_jacobian(atoms: Atoms, lmax: int) -> None:
    descriptor = PowerSpectrum((4, 12), cutoff=3.2, n_radial=2, lmax=lmax)
    structure = Structure.from_atoms(atoms)
    shape = (2, 3, 2)

    def features(positions: Tensor, strain: Tensor) -> Tensor:
        moved = replace(structure, positions=positions).strained(strain)
        (block,) = iterate_blocks(moved, Grid(moved.cell, shape), descriptor.cutoff, max_points=12)
        return descriptor(block.points, block.atoms, descriptor.encode_atoms(moved)[block.owners])

    strain = torch.zeros(3, 3, dtype=torch.float64)
    by_positions, by_strain = torch.autograd.functional.jacobian(features, (structure.positions, strain))
    (block,) = iterate_blocks(structure, Grid(structure.cell, shape), descriptor.cutoff, max_points=12)
    found = descriptor.jacobian(block, descriptor.encode_atoms(structure)[block.owners], len(atoms))
    n = 3 * len(atoms)
    assert found.shape == (12, n + 6, descriptor.n_features)
    torch.testing.assert_close(found[:, :n].mT, by_positions.flatten(2), rtol=1e-8, atol=1e-8)
    for place, (x, y) in enumerate(_VOIGT):
        # engineering shear: strain_yz = strain_zy = γ/2
        expected = (by_strain[..., x, y] + by_strain[..., y, x]) / 2
        torch.testing.assert_close(found[:, n + place], expected, rtol=1e-8, atol=1e-8)
