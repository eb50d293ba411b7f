"""The total free energy against Quantum ESPRESSO, its derivatives, its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.density_functionals import density_energies
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.exchange_correlation import xc_potential
from ase_ldos.physics.free_energy import TERMS, Energies
from ase_ldos.physics.hartree import hartree_potential


def energies_of(path: Path) -> tuple[Energies, dict[str, float]]:
    with np.load(path) as data:
        structure = Structure.from_arrays(data["numbers"], data["positions"], data["cell"])
        density = torch.as_tensor(data["density"])
        charges = torch.full((len(structure),), float(data["valence"]), dtype=torch.float64)
        energies = Energies(
            band=torch.as_tensor(data["band_energy"]),
            entropy_term=torch.as_tensor(data["smearing_TS"]),
            **vars(density_energies(density, Grid(structure.cell, tuple(density.shape)), "pbe")),
            ewald=ewald_energy(structure, charges),
        )
        keys = ("free_energy", "hartree", "xc", "ewald")
        return energies, {key: float(data[key]) for key in keys} | {"atoms": len(structure)}


def test_beryllium_total_energy(be_files: list[Path]) -> None:
    for path in be_files:
        energies, reference = energies_of(path)
        assert float(energies.free_energy) == pytest.approx(reference["free_energy"], abs=4e-4 * reference["atoms"]), (
            path.name
        )


def test_definitions_and_table() -> None:
    values = [1.0, -0.1, 2.0, -3.0, -4.0, -5.0]
    energies = Energies(*(torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values), n_atoms=2)
    assert float(energies.free_energy.detach()) == pytest.approx(1 - 0.1 - 2 - 3 + 4 - 5)
    assert float(energies.internal_energy.detach()) == pytest.approx(-5.0)
    assert float(energies.extrapolated.detach()) == pytest.approx((-5.1 - 5.0) / 2)
    lines = str(energies).splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    assert lines[0].split() == ["eV", "eV/atom"]
    table = {line[:24].strip(): [float(x) for x in line[24:].split()] for line in lines[1:] if not line.startswith("-")}
    assert table["free energy A"] == [-5.1, -2.55]
    parts = ("band energy", "entropy term -TS", "minus Hartree", "exchange-correlation", "minus n v_xc", "ion-ion")
    assert sum(table[part][0] for part in parts) == pytest.approx(-5.1)
    assert "eV/atom" not in str(Energies(*(torch.tensor(v) for v in values)))


def test_terms_and_back() -> None:
    energies = Energies(*(torch.tensor(v, dtype=torch.float64) for v in (1.0, -0.1, 2.0, -3.0, -4.0, -5.0)), n_atoms=2)
    again = Energies.from_terms(energies.terms(), 2)
    assert vars(again) == vars(energies)
    assert set(vars(energies)) == {*TERMS, "n_atoms"}
    signs = torch.tensor([term.sign for term in TERMS.values()], dtype=torch.float64)
    assert float(signs @ energies.terms()) == pytest.approx(float(energies.free_energy), abs=1e-15)


def example() -> tuple[Structure, Tensor, Tensor]:
    structure = Structure.from_arrays(
        np.array([4, 4]),
        np.array([[0.1, 0.2, 0.0], [1.2, 1.1, 1.6]]),
        np.array([[2.4, 0.1, 0.0], [-1.0, 2.1, 0.2], [0.1, 0.3, 3.5]]),
    )
    density = 0.1 + torch.rand(3, 3, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return structure, density, torch.tensor([2.0, 2.0], dtype=torch.float64)


def free_energy(density: Tensor, positions: Tensor, strain: Tensor) -> Tensor:
    structure, _, charges = example()
    structure = Structure(structure.numbers, positions, structure.cell).strained(strain)
    energies = Energies(
        band=torch.tensor(1.0).double(),
        entropy_term=torch.tensor(-0.1).double(),
        **vars(density_energies(density, Grid(structure.cell, tuple(density.shape)), "pbe")),
        ewald=ewald_energy(structure, charges),
    )
    return energies.free_energy


def test_derivatives_in_density_positions_and_strain() -> None:
    structure, density, _ = example()
    inputs = (
        density.requires_grad_(),
        structure.positions.requires_grad_(),
        torch.zeros(3, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(free_energy, inputs, eps=1e-5, atol=1e-5)
    assert torch.autograd.gradgradcheck(free_energy, inputs, eps=1e-4, atol=1e-4)


def test_double_counting_terms_are_minus_the_response_of_the_potential() -> None:
    # d/dn (−E_H + E_xc − ∫ n v_xc) along δn is −∫ n δv_Hxc: no other term of A depends on the density
    structure, density, _ = example()
    grid = Grid(structure.cell, (3, 3, 1))
    change = torch.rand(3, 3, 1, generator=torch.Generator().manual_seed(8), dtype=torch.float64) - 0.5

    def potential(step: float) -> Tensor:
        moved = density + step * change
        return hartree_potential(moved, grid) + xc_potential(moved, grid)

    leaf = density.clone().requires_grad_()
    zero = torch.zeros(3, 3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(free_energy(leaf, structure.positions, zero), leaf)
    response = (potential(1e-5) - potential(-1e-5)) / 2e-5
    assert float((gradient * change).sum()) == pytest.approx(-float(grid.integrate(density * response)), rel=1e-7)
