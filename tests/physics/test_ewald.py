"""Ewald energy of point charges in a neutralising background."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch.autograd import gradcheck

from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.units import COULOMB


def energy_of(atoms: Atoms, charges: list[float]) -> float:
    return float(ewald_energy(Structure.from_atoms(atoms), torch.tensor(charges, dtype=torch.float64)))


def rattled(repeat: int | tuple[int, int, int] = 1, seed: int = 3) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.26, c=3.57).repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_madelung_constants() -> None:
    side = 5.64
    rocksalt = energy_of(bulk("NaCl", "rocksalt", a=side), [1, -1])
    assert -rocksalt * side / 2 / COULOMB == pytest.approx(1.747564594633182, rel=1e-12)
    caesium = energy_of(bulk("CsCl", "cesiumchloride", a=4.1), [1, -1])
    assert -caesium * 4.1 * math.sqrt(3) / 2 / COULOMB == pytest.approx(1.762674773070988, rel=1e-12)
    blende = energy_of(bulk("ZnS", "zincblende", a=5.4), [2, -2])
    assert -blende * 5.4 * math.sqrt(3) / 4 / COULOMB / 4 == pytest.approx(1.638055053388789, rel=1e-12)


def test_charges_in_their_background() -> None:
    # Wigner crystals: −0.895929255682 (bcc), −0.895873615195 (fcc) e²/r_s
    for lattice, atoms_per_cube, constant in (("bcc", 2, 0.895929255682), ("fcc", 4, 0.895873615195)):
        radius = (3 * 4.0**3 / atoms_per_cube / (4 * math.pi)) ** (1 / 3)
        assert -energy_of(bulk("X", lattice, a=4.0), [1]) * radius / COULOMB == pytest.approx(constant, rel=1e-11)


@pytest.mark.parametrize("transform", [[[1, 0, 0], [3, 1, 0], [5, -2, 1]], [[0, 1, 0], [0, 0, 1], [1, 7, -4]]])
def test_skewed_cell_of_the_same_crystal(transform: list[list[int]]) -> None:
    atoms = rattled()
    skewed = atoms.copy()
    skewed.set_cell(np.array(transform) @ atoms.cell[:])
    assert energy_of(skewed, [2, 2]) == pytest.approx(energy_of(atoms, [2, 2]), abs=1e-9)


def test_supercell_rotation_permutation_wrapping() -> None:
    atoms = rattled()
    energy = energy_of(atoms, [2, 3])
    assert energy_of(atoms.repeat((2, 1, 3)), [2, 3] * 6) == pytest.approx(6 * energy, abs=1e-8)
    turned = atoms.copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    assert energy_of(turned, [2, 3]) == pytest.approx(energy, abs=1e-9)
    assert energy_of(atoms[[1, 0]], [3, 2]) == pytest.approx(energy, abs=1e-9)
    moved = atoms.copy()
    moved.positions += (3.3, -8.1, 20.7)
    assert energy_of(moved, [2, 3]) == pytest.approx(energy, abs=1e-9)


@pytest.mark.parametrize("mesh", [False, True])
def test_derivatives_in_positions_and_strain(mesh: bool) -> None:
    start = Structure.from_atoms(rattled())
    charges = torch.tensor([2.0, 3.0], dtype=torch.float64)

    def energy(positions: Tensor, strain: Tensor) -> Tensor:
        structure = Structure(start.numbers, positions, start.cell).strained(strain)
        return ewald_energy(structure, charges, mesh_from=0 if mesh else 10**6)

    inputs = (start.positions.requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True))
    assert gradcheck(energy, inputs, eps=1e-4, atol=3e-4 if mesh else 1e-6)


def test_energy_is_smooth_along_a_strain() -> None:
    # pairs and waves come and go along the way; a step would show in the second differences
    start = Structure.from_atoms(rattled())
    charges = torch.tensor([2.0, 2.0], dtype=torch.float64)
    shear = torch.tensor([[0.3, 1.0, 0.0], [1.0, -0.2, 0.5], [0.0, 0.5, 0.1]], dtype=torch.float64)
    steps = torch.linspace(0, 0.02, 101, dtype=torch.float64)
    energies = np.array([float(ewald_energy(start.strained(step * shear), charges)) for step in steps])
    assert np.abs(np.diff(energies, 4)).max() < 2e-9


def test_mesh_agrees_with_plain_sum() -> None:
    atoms = rattled((3, 4, 3))
    structure = Structure.from_atoms(atoms)
    charges = torch.full((len(atoms),), 2.0, dtype=torch.float64)
    results = []
    for threshold in (10**6, 0):
        positions = structure.positions.clone().requires_grad_()
        moved = Structure(structure.numbers, positions, structure.cell)
        energy = ewald_energy(moved, charges, mesh_from=threshold)
        results.append((float(energy.detach()), torch.autograd.grad(energy, positions)[0]))
        # the mesh leaves out what only derivatives need
        without = float(ewald_energy(structure, charges, mesh_from=threshold))
        assert without == pytest.approx(results[-1][0], abs=1e-10)
    assert results[1][0] == pytest.approx(results[0][0], abs=1e-7 * len(atoms))
    torch.testing.assert_close(results[1][1], results[0][1], rtol=0, atol=1e-5)


def test_beryllium(be_files: list[Path]) -> None:
    for path in be_files:
        with np.load(path) as data:
            structure = Structure.from_arrays(data["numbers"], data["positions"], data["cell"])
            charges = torch.full((len(structure),), float(data["valence"]), dtype=torch.float64)
            assert float(ewald_energy(structure, charges)) == pytest.approx(float(data["ewald"]), abs=5e-3), path.name


def test_one_charge_for_each_atom() -> None:
    with pytest.raises(ValueError, match="for 2 atoms"):
        energy_of(rattled(), [2.0])
