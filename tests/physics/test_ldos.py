"""Integrals of the local density of states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ase_ldos.geometry.grid import Grid
from ase_ldos.physics.ldos import density_of_states, electron_density
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.units import BOLTZMANN

CELL = torch.tensor([[2.0, 0.1, 0.0], [-1.0, 1.9, 0.3], [0.2, 0.4, 3.0]], dtype=torch.float64)
ENERGIES = torch.linspace(-3, 5, 17, dtype=torch.float64)


def random_ldos(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_dos_of_a_constant_is_the_volume() -> None:
    grid = Grid(CELL, (4, 3, 5))
    dos = density_of_states(torch.full((4, 3, 5, 17), 0.25), grid)
    assert dos.dtype == torch.float64
    torch.testing.assert_close(dos, 0.25 * grid.volume.expand(17))


def test_flat_and_boxed_points_agree_and_single_precision_sums_in_double() -> None:
    grid = Grid(CELL, (4, 3, 5))
    ldos = random_ldos(4, 3, 5, 17)
    flat = density_of_states(ldos.reshape(60, 17), grid)
    torch.testing.assert_close(flat, density_of_states(ldos, grid), rtol=1e-14, atol=0)
    single = ldos.float()
    torch.testing.assert_close(
        density_of_states(single, grid), density_of_states(single.double(), grid), rtol=1e-14, atol=0
    )


def test_density_integrates_to_the_electrons() -> None:
    grid = Grid(CELL, (4, 3, 5))
    ldos = random_ldos(4, 3, 5, 17)
    dos = density_of_states(ldos, grid)
    level = fermi_level(dos, ENERGIES, 7.0, 0.1)
    density = electron_density(ldos, occupation_weights(ENERGIES, level, 0.1))
    assert density.shape == grid.shape
    assert float(grid.integrate(density)) == pytest.approx(7, abs=1e-11)


def test_density_of_chunks_is_that_of_the_whole() -> None:
    weights = occupation_weights(ENERGIES, torch.tensor(0.3, dtype=torch.float64), 0.1)
    ldos = random_ldos(60, 17)
    parts = torch.cat([electron_density(chunk, weights) for chunk in ldos.split(7)])
    torch.testing.assert_close(parts, electron_density(ldos, weights), rtol=1e-14, atol=0)


def test_gradients_reach_ldos_through_the_fermi_level_and_the_cell() -> None:
    def density(ldos: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        dos = density_of_states(ldos, Grid(cell, (2, 1, 2)))
        level = fermi_level(dos, ENERGIES[::4], 7.0, 0.3)
        return electron_density(ldos, occupation_weights(ENERGIES[::4], level, 0.3))

    inputs = (random_ldos(2, 1, 2, 5).requires_grad_(), CELL.clone().requires_grad_())
    assert torch.autograd.gradcheck(density, inputs, eps=1e-5, atol=1e-7)
    assert torch.autograd.gradgradcheck(density, inputs, eps=1e-5, atol=1e-6)


def test_beryllium_ldos_gives_its_dos_and_density(be_files: list[Path]) -> None:
    checked = 0
    for path in be_files:
        with np.load(path) as data:
            if "ldos" not in data:
                continue
            ldos = torch.as_tensor(data["ldos"]).float() * float(data["ldos_scale"])
            grid = Grid(torch.as_tensor(data["cell"]), tuple(ldos.shape[:3]))
            stored, energies = torch.as_tensor(data["dos"]), torch.as_tensor(data["energies"])
            dos = density_of_states(ldos, grid)
            # float16 carries 11 bits; rounding averages out over the grid
            assert float((dos - stored).abs().max()) < 1e-5 * float(stored.max())
            kT = BOLTZMANN * float(data["electronic_temperature"])
            level = fermi_level(dos, energies, float(data["valence"]) * len(data["numbers"]), kT)
            density = electron_density(ldos, occupation_weights(energies, level, kT))
            reference = torch.as_tensor(data["density"]).double()
            # broadening by 0.2 eV and another k-mesh move the density by 0.06 to 0.24 %
            assert float((density - reference).abs().sum() / reference.sum()) < 0.003
            checked += 1
    assert checked > 0


def test_ldos_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[4, 3, 4, 17\]; a grid \[4, 3, 5\]"):
        density_of_states(torch.ones(4, 3, 4, 17), Grid(CELL, (4, 3, 5)))
    with pytest.raises(ValueError, match="59"):
        density_of_states(torch.ones(59, 17), Grid(CELL, (4, 3, 5)))


def test_weights_of_other_energies_are_refused() -> None:
    weights = occupation_weights(ENERGIES, torch.tensor(0.3, dtype=torch.float64), 0.1)
    with pytest.raises(ValueError, match="16 energies"):
        electron_density(torch.ones(5, 16), weights)
