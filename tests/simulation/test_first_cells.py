"""First cells of a material, primitive cells, and small cells cut out of large ones."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from ase_ldos.simulation.cut_out import cut_out
from ase_ldos.simulation.first_cells import (
    VOLUMES,
    compact_supercell,
    near_cubic_supercell,
    rattled_cells,
    supercell_beyond,
    surface_cells,
    symmetric_cells,
)
from ase_ldos.simulation.primitive_cell import nearest_distance, primitive_cell

SILICON = bulk("Si", "diamond", a=5.47)
CRYSTALS = {
    "diamond": (bulk("Si", "diamond", a=5.47, cubic=True), 2),
    "fcc": (bulk("Al", "fcc", a=4.05, cubic=True), 1),
    "bcc": (bulk("Na", "bcc", a=4.2, cubic=True).repeat((2, 1, 3)), 1),
    "hcp": (bulk("Be", "hcp", a=2.25, c=3.54).repeat((2, 3, 1)), 2),
    "rock salt": (bulk("NaCl", "rocksalt", a=5.6, cubic=True), 2),
    "its own": (bulk("Be", "hcp", a=2.25, c=3.54), 2),
    "skew": (make_supercell(bulk("Si", "diamond", a=5.47), [[2, 1, 0], [0, 1, 3], [1, 0, 1]]), 2),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_primitive_cells_are_the_same_crystal(name: str) -> None:
    atoms, size = CRYSTALS[name]
    found = primitive_cell(atoms)
    assert len(found) == size
    assert found.get_volume() / len(found) == pytest.approx(atoms.get_volume() / len(atoms))
    assert np.linalg.det(found.cell.array) > 0
    # every atom of the given crystal lies on an atom of its kind of the primitive one
    gaps = (atoms.positions[:, None] - found.positions[None]) @ np.linalg.inv(found.cell.array)
    distances = np.linalg.norm((gaps - gaps.round()) @ found.cell.array, axis=2)
    assert distances.min(axis=1).max() < 1e-6
    np.testing.assert_array_equal(found.numbers[distances.argmin(axis=1)], atoms.numbers)
    assert nearest_distance(found) == pytest.approx(nearest_distance(atoms))


def test_a_rattled_crystal_has_no_smaller_cell() -> None:
    atoms = bulk("Si", "diamond", a=5.47, cubic=True)
    atoms.rattle(0.05, seed=1)
    assert len(primitive_cell(atoms)) == 8


def test_symmetric_cells_keep_names_apart_and_cover_volumes() -> None:
    cells = symmetric_cells([SILICON, bulk("Al", "fcc", a=4.05)])
    names = [cell.info["name"] for cell in cells]
    assert len(set(names)) == len(names) == 34
    assert all(name.startswith(f"n{len(cell)}_c") for name, cell in zip(names, cells))
    volumes = [c.get_volume() / SILICON.get_volume() - 1 for c in cells if "_c0-volume" in c.info["name"]]
    np.testing.assert_allclose(volumes, VOLUMES, atol=1e-9)
    for cell in cells:
        if "stretch" in cell.info["name"] or "shear" in cell.info["name"]:
            home = SILICON if len(cell) == 2 and cell.numbers[0] == 14 else bulk("Al", "fcc", a=4.05)
            assert cell.get_volume() == pytest.approx(home.get_volume())
    # a crystal of one atom has its atom moved in a doubled cell
    assert {len(c) for c in cells if c.numbers[0] == 13 and "along" in c.info["name"]} == {2}


def test_rattled_cells_are_reproducible_and_keep_their_distance() -> None:
    large = compact_supercell(SILICON, 8)
    first, again = (rattled_cells([SILICON], [large], 12, np.random.default_rng(3), prefix="r0") for _ in range(2))
    for left, right in zip(first, again):
        np.testing.assert_array_equal(left.positions, right.positions)
    assert [len(cell) for cell in first] == [16, 2, 16, 4, 16, 8] * 2
    assert min(map(nearest_distance, first)) >= 0.75 * nearest_distance(SILICON) - 1e-9
    ratios = [c.get_volume() / len(c) / SILICON.get_volume() * 2 for c in first]
    assert 0.93 < min(ratios) < max(ratios) < 1.07
    holes = rattled_cells([SILICON], [large], 3, np.random.default_rng(3), prefix="v", vacancies=True)
    assert [len(cell) for cell in holes] == [15, 15, 15]


def test_rattled_cells_of_one_atom_are_repeated_till_something_moves() -> None:
    aluminium = bulk("Al", "fcc", a=4.05)
    cells = rattled_cells([aluminium], [compact_supercell(aluminium, 16)], 6, np.random.default_rng(3), prefix="r")
    assert [len(cell) for cell in cells] == [16, 2, 16, 4, 16, 8]
    only = rattled_cells([SILICON], [SILICON], 2, np.random.default_rng(3), prefix="r")
    assert [len(cell) for cell in only] == [2, 2]


@pytest.mark.parametrize(
    ("crystal", "multiple", "shortest"),
    [
        (SILICON, 1, 5.47 / 2**0.5),
        (SILICON, 4, 5.47),  # the cube
        (SILICON, 8, 2 * 5.47 / 2**0.5),
        (bulk("CsCl", "cesiumchloride", a=4.1), 2, 4.1 * 2**0.5),  # face-centred
        (bulk("CsCl", "cesiumchloride", a=4.1), 4, 4.1 * 3**0.5),  # body-centred
    ],
    ids=str,
)
def test_supercells_are_compact(crystal: Atoms, multiple: int, shortest: float) -> None:
    cell = compact_supercell(crystal, multiple)
    assert len(cell) == multiple * len(crystal)
    assert np.linalg.norm(cell.cell.array, axis=1).min() == pytest.approx(shortest)
    assert cell.cell.volume == pytest.approx(multiple * crystal.get_volume())
    assert np.linalg.det(cell.cell.array) > 0
    assert nearest_distance(cell) == pytest.approx(nearest_distance(crystal))


def test_images_are_beyond_a_distance_in_the_smallest_cell_that_can_be() -> None:
    cell = supercell_beyond(SILICON, 6.0, largest=32)
    assert np.linalg.norm(cell.cell.array, axis=1).min() >= 6.0
    smaller = [compact_supercell(SILICON, n) for n in range(1, len(cell) // 2)]
    assert max(np.linalg.norm(c.cell.array, axis=1).min() for c in smaller) < 6.0
    # what cannot be had is approached
    assert len(supercell_beyond(SILICON, 30.0, largest=17)) == 16
    assert len(supercell_beyond(CRYSTALS["diamond"][0], 30.0, largest=4)) == 8


def test_one_cell_near_a_cube_is_the_crystal_itself() -> None:
    assert len(near_cubic_supercell(SILICON, 2)) == 2


@pytest.mark.parametrize(
    ("crystal", "atoms", "wanted"),
    [
        (SILICON, 8, 8),
        (SILICON, 64, 64),
        (bulk("Al", a=4.05), 32, 32),
        (bulk("Fe", a=2.87), 16, 16),
        (bulk("CsCl", "cesiumchloride", a=4.1), 16, 16),
        (bulk("Fe", a=2.87), 54, 54),
    ],
    ids=str,
)
def test_supercells_of_cubic_crystals_are_cubes(crystal: Atoms, atoms: int, wanted: int) -> None:
    cell = near_cubic_supercell(crystal, atoms)
    assert len(cell) == wanted
    np.testing.assert_allclose(cell.cell.angles(), 90)
    assert np.ptp(cell.cell.lengths()) == pytest.approx(0, abs=1e-9)
    assert cell.get_volume() / len(cell) == pytest.approx(crystal.get_volume() / len(crystal))
    assert nearest_distance(cell) == pytest.approx(nearest_distance(crystal))


def test_supercells_of_hexagonal_crystals_are_nearly_cubes() -> None:
    cell = near_cubic_supercell(bulk("Be", "hcp", a=2.25, c=3.54), 64)
    assert 54 <= len(cell) <= 74
    assert np.abs(cell.cell.angles() - 90).max() < 1e-6
    assert np.ptp(np.log(cell.cell.lengths())) < 0.3


def test_slabs_have_room_around_them() -> None:
    slabs = surface_cells([SILICON], largest=8)
    assert [len(slab) for slab in slabs] == [8, 8, 8]
    assert all(slab.pbc.all() and slab.get_volume() > 1.4 * 4 * SILICON.get_volume() for slab in slabs)


@pytest.mark.parametrize("atom", [0, 5, 23])
def test_cut_out_cells_have_the_displacements_around_an_atom(atom: int) -> None:
    perfect, small = SILICON.repeat(3), SILICON.repeat((2, 1, 2))
    rng = np.random.default_rng(atom)
    frame = perfect.copy()
    frame.positions += rng.normal(0, 0.08, frame.positions.shape)
    strain = np.eye(3) + 0.01 * rng.normal(size=(3, 3))
    frame.set_cell(frame.cell.array @ strain, scale_atoms=True)
    frame.positions += 7.3  # the whole crystal drifts, and atoms are wrapped
    frame.wrap()
    found = cut_out(frame, perfect, SILICON, small, atom)
    assert found is not None
    assert len(found) == 8
    np.testing.assert_allclose(found.cell.array, small.cell.array @ strain, atol=1e-9)
    # three of its four bonds are the frame's; the fourth neighbour is an image of one of the others
    bonds = found.get_all_distances(mic=True, vector=True)
    wanted = frame.get_distances(atom, range(len(frame)), mic=True, vector=True)
    near = wanted[np.argsort(np.linalg.norm(wanted, axis=1))[1:5]]
    best = max(
        sum(np.linalg.norm(bonds[i] - vector, axis=1).min() < 1e-6 for vector in near) for i in range(len(found))
    )
    assert best == 3


def test_nothing_is_cut_out_of_what_is_no_crystal_any_more() -> None:
    perfect, small = SILICON.repeat(3), SILICON.repeat((2, 2, 1))
    frame = perfect.copy()
    frame.positions[7] += 1.5
    assert cut_out(frame, perfect, SILICON, small, 7) is None
    close = perfect.copy()
    assert cut_out(close, perfect, SILICON, small, 0, closest=1.1) is None
    foreign = Atoms("Ge2", positions=SILICON.positions, cell=SILICON.cell, pbc=True)
    assert cut_out(close, perfect, SILICON, foreign, 0) is None
