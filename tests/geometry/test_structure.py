"""Atoms as tensors, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111

from ase_ldos.geometry.structure import Structure, check_atoms


def beryllium() -> Atoms:
    return bulk("Be", "hcp", a=2.26, c=3.57)


def test_atoms_become_tensors() -> None:
    atoms = beryllium()
    structure = Structure.from_atoms(atoms)
    assert len(structure) == 2
    assert structure.numbers.dtype == torch.int64
    assert structure.positions.dtype == structure.cell.dtype == torch.float64
    np.testing.assert_array_equal(structure.positions.numpy(), atoms.positions)
    np.testing.assert_array_equal(structure.cell.numpy(), atoms.cell[:])
    assert float(structure.volume) == pytest.approx(atoms.get_volume(), rel=1e-14)
    assert Structure.from_atoms(atoms, dtype=torch.float32).positions.dtype == torch.float32


def test_tensors_are_copies() -> None:
    atoms = beryllium()
    structure = Structure.from_atoms(atoms)
    atoms.positions += 1
    assert float(structure.positions[0].abs().max()) == 0


def test_left_handed_cell_has_a_positive_volume() -> None:
    atoms = beryllium()
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    assert float(Structure.from_atoms(atoms).volume) == pytest.approx(atoms.get_volume(), rel=1e-14)


def test_strain_is_that_of_ase() -> None:
    atoms = beryllium()
    strain = np.array([[0.01, 0.02, 0.0], [0.02, -0.03, 0.01], [0.0, 0.01, 0.02]])
    strained = Structure.from_atoms(atoms).strained(torch.as_tensor(strain))
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    np.testing.assert_allclose(strained.positions.numpy(), atoms.positions, atol=1e-14)
    np.testing.assert_allclose(strained.cell.numpy(), atoms.cell[:], atol=1e-14)


def test_derivative_of_the_volume_in_strain_is_the_volume() -> None:
    structure = Structure.from_atoms(beryllium())
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(structure.strained(strain).volume, strain)
    torch.testing.assert_close(gradient, structure.volume * torch.eye(3, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda s: structure.strained(s).positions, strain)


def refuse(atoms: Atoms, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Structure.from_atoms(atoms)
    with pytest.raises(ValueError, match=match):
        check_atoms(atoms.positions, atoms.cell[:], atoms.pbc)


def test_no_atoms() -> None:
    refuse(Atoms(cell=[3, 3, 3], pbc=True), "no atoms")


@pytest.mark.parametrize("periodic", [False, (True, True, False)])
def test_not_periodic(periodic: object) -> None:
    atoms = beryllium()
    atoms.pbc = periodic
    refuse(atoms, "all three must be True")


def test_slab_with_vacuum_but_without_third_vector() -> None:
    slab = fcc111("Al", (1, 1, 3))
    slab.pbc = True
    refuse(slab, "singular")


@pytest.mark.parametrize("cell", [[[2, 0, 0], [0, 2, 0], [2, 2, 0]], [[2, 0, 0], [0, 2, 0], [2, 2, 1e-7]]])
def test_singular_cell(cell: list[list[float]]) -> None:
    refuse(Atoms("Be", cell=cell, pbc=True), "singular")


def test_tiny_cell() -> None:
    refuse(Atoms("Be2", positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[1, 1, 1], pbc=True), "0.5 Å³ per atom")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_positions_and_cell(value: float) -> None:
    atoms = beryllium()
    atoms.positions[1, 2] = value
    refuse(atoms, "NaN or infinity")
    with pytest.raises(ValueError, match="NaN or infinity"):
        check_atoms(np.zeros((1, 3)), np.array([[value, 0, 0], [0, 2, 0], [0, 0, 2]]), np.array([True] * 3))
