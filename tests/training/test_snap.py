"""Any descriptor can be trained: the Jacobian by automatic differentiation, and SNAP from labels to lower errors."""

from __future__ import annotations

from pathlib import Path

import torch
from predicted_labels import predicted_snapshot, rattled_beryllium
from recipes import recipe_head
from torch import Tensor

from ase_ldos.dataset.npz import save_snapshot
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import autograd_jacobian
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.training.settings import load_data, load_settings
from ase_ldos.training.train import train_stages

SETTINGS = (
    recipe_head("snap", 'kind = "snap", twojmax = 2, cutoff = 3.6', n_components=5, hidden=8, grid_spacing=0.7)
    + """
[[stages]]
name = "everything"
epochs = 4
learning_rate = 3e-3
validate_every = 1
weights = { forces = 20.0, ldos_points = 100 }
"""
)


def one_block(structure: Structure, cutoff: float) -> Block:
    grid = Grid(structure.cell, (2, 3, 2))
    (block,) = iterate_blocks(structure, grid, cutoff)
    return block


class Reference(PowerSpectrum):
    """The power spectrum by its defining formula, which is differentiable as often as wanted."""

    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        return self.reference(points, atoms, atom_state)


def test_the_autograd_jacobian_is_the_closed_form_of_the_power_spectrum() -> None:
    structure = Structure.from_atoms(rattled_beryllium(1))
    closed, reference = (kind((4,), cutoff=3.6, n_radial=2, lmax=2) for kind in (PowerSpectrum, Reference))
    block = one_block(structure, closed.cutoff)
    state = closed.encode_atoms(structure)[block.owners]
    expected = closed.jacobian(block, state, len(structure))
    found = autograd_jacobian(reference, block, state, len(structure))
    assert found.shape == (block.points.shape[0], 3 * 2 + 6, closed.n_features)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_the_jacobian_of_snap_is_its_finite_difference() -> None:
    """In positions, with all images of an atom moving, and in strain, with grid and atoms deformed together."""
    structure, snap, h = Structure.from_atoms(rattled_beryllium(1)), SNAP((4,), twojmax=2, cutoff=3.6), 1e-5
    block = one_block(structure, snap.cutoff)
    state = snap.encode_atoms(structure)[block.owners]
    jacobian = snap.jacobian(block, state, len(structure))
    for atom in range(2):
        for axis in range(3):
            shift = torch.zeros_like(block.atoms)
            shift[block.owners == atom, axis] = h
            slope = (
                snap(block.points, block.atoms + shift, state) - snap(block.points, block.atoms - shift, state)
            ) / h
            torch.testing.assert_close(jacobian[:, 3 * atom + axis], slope / 2, rtol=1e-5, atol=1e-6)
    for place, (row, column) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        values = []
        for sign in (1, -1):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[row, column] += sign * h / 2
            strain[column, row] += sign * h / 2
            values.append(snap(*(x + x @ strain for x in (block.points, block.atoms)), state))
        torch.testing.assert_close(jacobian[:, 6 + place], (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-6)


def test_a_short_training_of_snap_lowers_the_error_of_the_forces(be_model: LDOSModel, tmp_path: Path) -> None:
    """Two cells to learn from, one held back."""
    (tmp_path / "data").mkdir()
    for seed in range(3):
        atoms = rattled_beryllium(seed)
        shape = Grid.with_spacing(Structure.from_atoms(atoms).cell, 0.7).shape
        snapshot = predicted_snapshot(f"be_{seed:02d}", atoms, be_model, grid_shape=shape)
        save_snapshot(tmp_path / "data" / f"{snapshot.name}.npz", snapshot)
    (tmp_path / "snap.toml").write_text(SETTINGS)
    settings = load_settings(tmp_path / "snap.toml")
    trained = train_stages(settings, load_data(settings), progress=False)
    assert isinstance(trained.model.descriptor, SNAP)
    forces = trained.histories["everything"].column("forces")
    assert forces[-1] < 0.8 * forces[0]
