"""Generated structures against crystallography, reference cells and each other."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.simulation.sampling import (
    distinct,
    farthest_points,
    frame_features,
    harmonically_rattled,
    pick_frames,
    rattled,
    spring_matrix,
    strained,
)
from ase_ldos.simulation.stacking import polytype

A, C = 2.245, 2.245 * np.sqrt(8 / 3)


def test_rattling_has_the_asked_width_and_seed() -> None:
    crystal = polytype("Be", A, C, "AB", (8, 8))
    moved = rattled(crystal, 0.07, np.random.default_rng(3))
    assert (moved.positions - crystal.positions).std() == pytest.approx(0.07, rel=0.1)
    np.testing.assert_array_equal(moved.positions, rattled(crystal, 0.07, np.random.default_rng(3)).positions)
    apart = rattled(crystal, 0.05, np.random.default_rng(4), minimum_distance=1.95)
    assert neighbor_list("d", apart, 2.5).min() >= 1.95
    with pytest.raises(ValueError, match="in each of 100 draws"):
        rattled(crystal, 0.3, np.random.default_rng(5), minimum_distance=2.2)
    with pytest.raises(ValueError, match="must not be negative"):
        rattled(crystal, -1, np.random.default_rng(5))


@pytest.mark.parametrize("crystal", [bulk("Si", a=5.47), bulk("Be", "hcp", a=2.25, c=3.54)], ids=str)
def test_harmonic_rattling_has_the_covariance_of_springs(crystal: Atoms) -> None:
    cell, sigma, rng = crystal.repeat((2, 2, 1)), 0.04, np.random.default_rng(7)
    moves = np.array([(harmonically_rattled(cell, sigma, rng).positions - cell.positions).ravel() for _ in range(4000)])
    stiffness, einstein = spring_matrix(cell)
    wanted = sigma**2 * einstein * np.linalg.pinv(stiffness, rcond=1e-9)
    np.testing.assert_allclose(moves.T @ moves / len(moves), wanted, atol=0.08 * wanted.max())
    # energy by equipartition, and no drift of the whole
    energies = 0.5 * np.einsum("ni,ij,nj->n", moves, stiffness, moves)
    assert energies.mean() == pytest.approx(0.5 * (3 * len(cell) - 3) * einstein * sigma**2, rel=0.03)
    np.testing.assert_allclose(moves.reshape(len(moves), -1, 3).mean(axis=1), 0, atol=1e-12)


def test_springs_hold_a_crystal_and_do_not_know_its_cell() -> None:
    crystal = bulk("Al", a=4.05)
    small, einstein = spring_matrix(crystal)
    np.testing.assert_allclose(small, 0, atol=1e-12)  # an atom and its images move as one
    stiffness, of_large = spring_matrix(crystal.repeat(3))
    assert of_large == pytest.approx(einstein)
    np.testing.assert_allclose(stiffness, stiffness.T, atol=1e-12)
    values = np.linalg.eigvalsh(stiffness)
    np.testing.assert_allclose(values[:3], 0, atol=1e-10)
    assert values[3] > 0.05 * einstein
    # the nearest of an fcc crystal by hand: 12 bonds, each (1 - 0.15) along it and 0.15 in all three directions
    near, second = 12 * (0.85 + 0.45) / 3, 6 * 2**-4 * (0.85 + 0.45) / 3
    third = 24 * 3**-4 * (0.85 + 0.45) / 3  # the fourth, at twice the nearest distance, lies on the rim
    fourth = 12 * 2**-8 * (0.85 + 0.45) / 3
    assert near + second + third - 1e-9 <= einstein <= near + second + third + fourth + 1e-9
    # neighbours move together: by chance bonds would change by twice the square of a displacement
    cell, rng = crystal.repeat(4), np.random.default_rng(1)
    moves = np.array([harmonically_rattled(cell, 0.1, rng).positions - cell.positions for _ in range(50)])
    first, other, bonds = neighbor_list("ijD", cell, 2.9)
    changes = ((moves[:, first] - moves[:, other]) * bonds / np.linalg.norm(bonds, axis=1)[:, None]).sum(axis=2)
    assert (changes**2).mean() < 1.75 * (moves**2).mean()
    assert (moves**2).mean() > 1.02 * 0.1**2


def test_harmonic_rattling_refuses_what_cannot_be() -> None:
    crystal = bulk("Al", a=4.05).repeat(2)
    moved = harmonically_rattled(crystal, 0.15, np.random.default_rng(4), minimum_distance=2.45)
    assert neighbor_list("d", moved, 2.9).min() >= 2.45
    with pytest.raises(ValueError, match="in each of 100 draws"):
        harmonically_rattled(crystal, 0.5, np.random.default_rng(5), minimum_distance=2.8)
    with pytest.raises(ValueError, match="must not be negative"):
        harmonically_rattled(crystal, -1, np.random.default_rng(5))


def test_straining_keeps_to_its_limits() -> None:
    crystal, rng = polytype("Be", A, C, "AB"), np.random.default_rng(1)
    volumes = [strained(crystal, rng, volume=(-0.1, 0.04)).get_volume() / crystal.get_volume() for _ in range(200)]
    assert -0.1 <= min(volumes) - 1 < -0.09
    assert 0.03 < max(volumes) - 1 <= 0.04
    only = strained(crystal, rng, strain=0.03, volume=(0, 0))
    assert only.get_volume() == pytest.approx(crystal.get_volume(), rel=1e-12)
    np.testing.assert_allclose(only.get_scaled_positions(), crystal.get_scaled_positions(), atol=1e-12)
    deformation = np.linalg.solve(crystal.cell.array, only.cell.array)
    np.testing.assert_allclose(deformation, deformation.T, atol=1e-12)
    with pytest.raises(ValueError, match="impossible"):
        strained(crystal, rng, volume=(-1, 0))


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 3 points"):
        farthest_points(np.ones((3, 2)), 0)


def test_duplicates_are_dropped() -> None:
    crystal = polytype("Be", A, C, "AB", (2, 1))
    shifted, wrapped, other = crystal.copy(), crystal.copy(), crystal.copy()
    shifted.positions += 0.3
    wrapped.positions[1] += crystal.cell[1]
    other.positions[2, 0] += 0.01
    kept = distinct([crystal, shifted, wrapped, other, crystal, polytype("Be", A, C, "AB"), bulk("Mg")])
    assert [len(atoms) for atoms in kept] == [4, 4, 2, 2]
    assert kept[1] is other


def test_farthest_points_on_a_line() -> None:
    points = np.array([[0.0], [1.0], [10.0], [4.0], [10.0]])
    assert farthest_points(points, 3) == [0, 2, 3]
    assert farthest_points(points, 9) == [0, 2, 3, 1]


def test_frames_that_differ_are_picked() -> None:
    rng = np.random.default_rng(0)
    crystal = polytype("Be", A, C, "ABAB", (2, 2))
    frames = [rattled(crystal, 0.001, rng) for _ in range(6)]
    frames[3] = rattled(polytype("Be", A, C, "ABCB", (2, 2)), 0.001, rng)
    frames[5] = strained(crystal, rng, volume=(0.1, 0.1))
    descriptor = PowerSpectrum((4,))
    assert sorted(pick_frames(frames, 3, descriptor)) == [0, 3, 5]
    moved = frames[3].copy()
    moved.rotate(40, (1, 2, 3), rotate_cell=True)
    moved.positions += (20.0, -30.0, 7.0)
    features = frame_features([*frames, moved], descriptor)
    np.testing.assert_allclose(features[-1], features[3], atol=1e-6)
