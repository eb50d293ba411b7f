"""Sums over energies and atoms without the array grid × energy, against that array."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.local_density import atomic_dos, local_density, sum_over_energies, window_weights
from ase_ldos.prediction.predict import predict_ldos


def piecewise_linear_integral(nodes: np.ndarray, values: np.ndarray, low: float, high: float) -> float:
    """∫ of the broken line through the nodes and a zero one spacing outside of both ends, by very fine steps."""
    x = np.concatenate(([2 * nodes[0] - nodes[1]], nodes, [2 * nodes[-1] - nodes[-2]]))
    y = np.concatenate(([0.0], values, [0.0]))
    # trapezoids are exact where the line is straight: between all nodes and the ends of the window
    fine = np.unique(np.concatenate((x[(x > low) & (x < high)], [max(low, x[0]), min(high, x[-1])])))
    return float(np.trapezoid(np.interp(fine, x, y), fine))


@pytest.mark.parametrize("window", [(-1.0, 2.0), (0.31, 0.34), (-5.0, 0.4), (2.2, 99.0), (-99.0, 99.0), (1.0, 1.5)])
def test_window_weights_are_the_exact_integrals_of_the_broken_line(window: tuple[float, float]) -> None:
    random = np.random.default_rng(1)
    nodes = np.cumsum(random.uniform(0.05, 0.4, 12)) - 0.5
    values = random.normal(size=12)
    found = float(window_weights(torch.from_numpy(nodes), window) @ torch.from_numpy(values))
    assert found == pytest.approx(piecewise_linear_integral(nodes, values, *window), abs=1e-13)


@pytest.mark.parametrize("window", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (5.0, 6.0), (-9.0, -2.0)])
def test_a_window_that_makes_no_sense_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="energy window"):
        window_weights(torch.linspace(-1, 4, 20), window)


def test_the_local_density_is_the_integral_of_the_whole_ldos(be_atoms: Atoms, either_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    grid = Grid(structure.cell, (6, 5, 8))
    ldos = predict_ldos(either_model, structure, grid.shape)
    found = local_density(either_model, structure, grid, (-1.3, 3.1), chunk_size=70)
    assert found.shape == grid.shape
    torch.testing.assert_close(found, ldos @ window_weights(either_model.energies, (-1.3, 3.1)), rtol=0, atol=1e-10)


def test_windows_side_by_side_add_up(be_model: LDOSModel) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.calc = LDOSCalculator(be_model)
    atoms.get_potential_energy()
    whole = atoms.calc.get_local_density((-2.0, 5.0))
    parts = atoms.calc.get_local_density((-2.0, 1.23)) + atoms.calc.get_local_density((1.23, 5.0), atoms)
    assert whole.shape == atoms.calc.grid_shape
    np.testing.assert_allclose(parts, whole, atol=1e-10)
    with pytest.raises(InputError, match="smaller one first"):
        atoms.calc.get_local_density((2.0, 1.0))


def test_weights_of_another_energy_grid_are_refused(be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.27, c=3.57))
    with pytest.raises(ValueError, match="is needed"):
        sum_over_energies(be_model, structure, Grid(structure.cell, (4, 4, 6)), torch.ones(2, 7))


def test_the_dos_of_atoms_is_that_of_their_nearest_points(be_atoms: Atoms, either_model: LDOSModel) -> None:
    be_atoms.positions += be_atoms.cell[0] * 1.3  # outside the cell: images count, not places
    structure = Structure.from_atoms(be_atoms)
    grid = Grid(structure.cell, (6, 5, 8))
    found = atomic_dos(either_model, structure, grid, chunk_size=70)
    shifts = np.array(list(np.ndindex(7, 7, 7))) - 3
    images = (structure.positions.numpy()[:, None] + shifts @ be_atoms.cell[:]).reshape(-1, 3)
    distances = torch.cdist(grid.points(), torch.from_numpy(images))
    nearest = distances.argmin(dim=1) // len(shifts)
    ldos = predict_ldos(either_model, structure, grid.shape).reshape(grid.n_points, -1)
    expected = torch.zeros_like(found).index_add_(0, nearest, ldos) * grid.voxel_volume
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_dos_of_atoms_adds_up_in_a_cell_with_vacuum(be_model: LDOSModel) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.cell[2] *= 6
    atoms.calc = LDOSCalculator(be_model)
    by_atom = atoms.calc.get_atomic_dos(atoms)
    np.testing.assert_allclose(by_atom.sum(axis=0), atoms.calc.prediction.dos.numpy(), atol=1e-9)
    np.testing.assert_allclose(by_atom[0], by_atom[1], rtol=0.2, atol=0.05)
