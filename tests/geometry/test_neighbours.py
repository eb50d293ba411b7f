"""Pairs and images against a sum over all images by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list
from torch import Tensor

from ase_ldos.geometry.neighbours import Images, check_distances, find_pairs
from ase_ldos.geometry.structure import Structure


def tricky_cells() -> dict[str, Atoms]:
    hcp = bulk("Be", "hcp", a=2.26, c=3.57)
    hcp.rattle(0.1, seed=1)
    skewed = hcp.copy()
    skewed.set_cell(np.array([[1, 0, 0], [3, 1, 0], [-2, 1, 1]]) @ hcp.cell[:])
    outside = hcp.copy()
    outside.positions += (11.0, -7.0, 23.0)
    slab = fcc111("Al", (2, 1, 3), vacuum=6.0)
    slab.pbc = True
    turned = hcp.copy()
    turned.rotate(40, (1, 1, 2), rotate_cell=True)
    return {
        "one atom": bulk("Po", "sc", a=2.0),
        "hcp": hcp,
        "skewed": skewed,
        "outside the cell": outside,
        "slab": slab,
        "turned": turned,
    }


CELLS = tricky_cells()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("cutoff", [2.5, 6.1])
def test_pairs_are_those_of_ase(name: str, cutoff: float) -> None:
    atoms = CELLS[name]
    i, j, distances = neighbor_list("ijd", atoms, cutoff)
    pairs = find_pairs(Structure.from_atoms(atoms), cutoff, full=True)
    found = np.array(sorted(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.distances.tolist())))
    expected = np.array(sorted(zip(i.tolist(), j.tolist(), distances.tolist())))
    np.testing.assert_allclose(found.reshape(-1, 3), expected.reshape(-1, 3), atol=1e-10)
    half = find_pairs(Structure.from_atoms(atoms), cutoff)
    assert 2 * len(half.first) == len(pairs.first)
    np.testing.assert_allclose(np.sort(half.distances.repeat(2)), np.sort(distances), atol=1e-10)


def test_vectors_point_from_first_to_second() -> None:
    atoms = CELLS["slab"]
    pairs = find_pairs(Structure.from_atoms(atoms), 4.0)
    difference = pairs.vectors.numpy() - (atoms.positions[pairs.second] - atoms.positions[pairs.first])
    shifts = difference @ np.linalg.inv(atoms.cell[:])
    np.testing.assert_allclose(shifts, shifts.round(), atol=1e-10)


def test_distances_have_gradients_in_positions_and_strain() -> None:
    start = Structure.from_atoms(CELLS["skewed"])

    def sums(positions: Tensor, strain: Tensor) -> Tensor:
        distances = find_pairs(Structure(start.numbers, positions, start.cell).strained(strain), 3.3).distances
        return torch.stack([(distances**power).sum() for power in (-2, -1, 1)])

    inputs = (start.positions.requires_grad_(), torch.zeros(3, 3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(sums, inputs)


def test_no_pairs_within_a_short_cutoff() -> None:
    pairs = find_pairs(Structure.from_atoms(CELLS["hcp"]), 0.5)
    assert len(pairs.first) == 0
    assert pairs.vectors.shape == (0, 3)


def test_overlapping_atoms_are_named() -> None:
    atoms = bulk("Be", "hcp", a=2.26, c=3.57).repeat(2)
    atoms.positions[5] = atoms.positions[2] + (0.1, 0.0, 0.3)
    with pytest.raises(ValueError, match=r"atoms (2 and 5|5 and 2) are 0\.316 Å apart; .* 1\.0 Å"):
        check_distances(Structure.from_atoms(atoms), 1.0)
    check_distances(Structure.from_atoms(atoms), 0.3)


def test_overlap_with_an_own_image_is_found() -> None:
    with pytest.raises(ValueError, match=r"atoms 0 and 0 are 1\.200"):
        check_distances(Structure.from_atoms(bulk("Po", "sc", a=1.2)), 1.5)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("radius", [1.0, 5.0])
def test_images_near_a_point_are_all_there(name: str, radius: float) -> None:
    atoms = CELLS[name]
    structure = Structure.from_atoms(atoms)
    images = Images(structure, reach=5.0)
    # lattice sums by hand, with more cells than any of these needs
    steps = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), -1).reshape(-1, 3)
    wrapped = atoms.get_positions(wrap=True)
    for fractional in ([0.0, 0.0, 0.0], [0.9, 0.2, 0.6], [0.99, 0.99, 0.0]):
        centre = np.array(fractional) @ atoms.cell[:]
        expected = []
        for atom in range(len(atoms)):
            vectors = steps @ atoms.cell[:] + wrapped[atom] - centre
            vectors = vectors[np.linalg.norm(vectors, axis=1) < radius].round(6) + 0.0
            expected += [(atom, tuple(vector)) for vector in vectors]
        near = images.near(torch.as_tensor(centre), radius)
        atom = images.atoms[near]
        vectors = images.positions[near] - torch.as_tensor(centre)
        found = [(int(a), tuple(v)) for a, v in zip(atom, vectors.numpy().round(6) + 0.0)]
        assert sorted(found) == sorted(expected)


def test_images_near_a_box_are_all_there_and_few_others() -> None:
    structure = Structure.from_atoms(CELLS["skewed"])
    rng = np.random.default_rng(0)
    images = Images(structure, reach=6.0)
    places = images.positions.numpy()
    edges = np.array([[1.0, 0.0, 0.2], [0.0, 1.4, 0.0], [0.3, 0.0, 0.8]])
    signs = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = rng.uniform(-0.5, 0.5, (4000, 3)) @ edges
    for fractional in ([0.0, 0.0, 0.0], [0.9, 0.2, 0.6]):
        centre = np.array(fractional) @ structure.cell.numpy()
        near = images.near_block(centre, signs @ edges, 3.0).numpy()
        assert len(set(near)) == len(near)
        distance = np.array([np.linalg.norm(points + centre - place, axis=1).min() for place in places])
        assert set(np.flatnonzero(distance < 3.0)) <= set(near)
        # a sphere about the box would hold far more than the box with rounded edges
        assert distance[near].max() < 3.3
        assert np.all(np.diff(distance[near].clip(min=1.0)) > -0.7)  # roughly the nearest first
    assert len(Images(structure, reach=6.0).near_block(np.full(3, 100.0), signs @ edges, 3.0)) == 0
