"""The Fourier neural operator for crystals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk
from scipy.spatial.transform import Rotation
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.density_operator import DensityOperator, superposed_gaussians
from ase_ldos.networks.registry import GRID_NETWORKS


def rattled(seed: int = 1) -> Structure:
    atoms = bulk("Be", "hcp", a=2.29, c=3.59)
    atoms.rattle(0.1, seed=seed)
    return Structure.from_atoms(atoms)


def charges(structure: Structure) -> Tensor:
    return torch.full((len(structure),), 2.0, dtype=torch.float64)


def operator() -> DensityOperator:
    network = DensityOperator(width=4, n_layers=2, n_radial=8).double()
    with torch.no_grad():
        network.project.head.weight *= 10.0
    return network


def test_gaussians_are_a_sum_over_images() -> None:
    structure = rattled()
    grid = Grid(structure.cell, (12, 12, 18))
    found = superposed_gaussians(structure, charges(structure), grid, 0.4).flatten()
    shifts = torch.cartesian_prod(*[torch.arange(-3.0, 4.0, dtype=torch.float64)] * 3) @ structure.cell
    images = (structure.positions[:, None] + shifts).reshape(-1, 3)
    square = torch.cdist(grid.points(), images).square()
    expected = 2 * torch.exp(-square / (2 * 0.4**2)).sum(dim=1) / (2 * np.pi * 0.4**2) ** 1.5
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_number_of_electrons_is_right() -> None:
    structure = rattled()
    grid = Grid(structure.cell, (8, 8, 12))
    density = operator()(structure, charges(structure), grid).detach()
    assert float(grid.integrate(density)) == pytest.approx(4.0, rel=1e-12)
    assert float(density.std()) > 1e-3


def test_a_repeated_cell_has_the_repeated_density() -> None:
    structure, network = rattled(), operator()
    small = network(structure, charges(structure), Grid(structure.cell, (8, 8, 12)))
    cell = structure.cell * torch.tensor([[2.0], [1.0], [2.0]])
    shifts = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in (2, 1, 2))) @ structure.cell
    positions = (structure.positions + shifts[:, None]).reshape(-1, 3)
    large = Structure(structure.numbers.repeat(4), positions, cell)
    found = network(large, charges(large), Grid(cell, (16, 8, 24)))
    torch.testing.assert_close(found, small.repeat(2, 1, 2))


def test_rotation_moves_nothing() -> None:
    structure, network = rattled(), operator()
    turn = torch.as_tensor(Rotation.from_rotvec([0.3, -1.1, 0.5]).as_matrix()).T
    turned = Structure(structure.numbers, structure.positions @ turn, structure.cell @ turn)
    densities = [network(s, charges(s), Grid(s.cell, (8, 8, 12))) for s in (structure, turned)]
    torch.testing.assert_close(densities[0], densities[1])


def test_settings_build_the_same_network() -> None:
    first = GRID_NETWORKS["density_operator"](width=4, n_layers=1, n_radial=6)
    assert isinstance(first, DensityOperator)
    second = DensityOperator(**first.settings())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert GRID_NETWORKS.names() == ["density_operator", "fno"]


def test_bad_settings() -> None:
    for settings in ({"width": 0}, {"n_layers": 0}, {"n_radial": 1}, {"cutoff": 0.0}, {"deviations": ()}):
        with pytest.raises(ValueError, match="needs channels, layers"):
            DensityOperator(**settings)  # type: ignore[arg-type]
