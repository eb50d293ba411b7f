"""Stacked layers against crystallography and ASE."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.neighborlist import neighbor_list

from ase_ldos.simulation.stacking import fault_energy, polytype, relax_normal, stacking_fault

A, C = 2.245, 2.245 * np.sqrt(8 / 3)


def coordination(atoms: Atoms) -> list[int]:
    """Numbers of first neighbours."""
    return np.bincount(neighbor_list("i", atoms, 1.1 * A), minlength=len(atoms)).tolist()


def second_shell(atoms: Atoms) -> int:
    """Pairs at √(8/3) a per atom: 2 in hcp, 0 in fcc."""
    distances = neighbor_list("d", atoms, 1.7 * A)
    return int((abs(distances - np.sqrt(8 / 3) * A) < 0.01).sum())


@pytest.mark.parametrize("stacking", ["AB", "ABC", "ABCB", "ABABAC"])
def test_ideal_polytypes_are_close_packed(stacking: str) -> None:
    atoms = polytype("Be", A, C, stacking, (2, 2))
    assert len(atoms) == 4 * len(stacking)
    assert set(coordination(atoms)) == {12}
    assert atoms.get_volume() / len(atoms) == pytest.approx(A**3 / np.sqrt(2))


def test_hcp_is_that_of_ase() -> None:
    ours, theirs = polytype("Be", A, 3.53, "AB"), bulk("Be", "hcp", a=A, c=3.53)
    np.testing.assert_allclose(ours.cell.array, theirs.cell.array, atol=1e-10)
    np.testing.assert_allclose(neighbor_list("d", ours, 6.0), neighbor_list("d", theirs, 6.0), atol=1e-10)


def test_fcc_has_no_hcp_neighbours() -> None:
    assert second_shell(polytype("Be", A, C, "ABC")) == 0
    hcp = polytype("Be", A, C, "AB")
    assert second_shell(hcp) == 2 * len(hcp)


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_slide_ends_in_the_intrinsic_fault(layers: int) -> None:
    start = stacking_fault("Be", A, C, 0.0, layers=layers)
    np.testing.assert_allclose(start.positions, polytype("Be", A, C, "AB" * (layers // 2)).positions, atol=1e-12)
    fault = stacking_fault("Be", A, C, 1.0, layers=layers)
    assert set(coordination(fault)) == {12}
    # two pairs of next-nearest layers reach across the slip plane; each was straight above one another
    assert second_shell(fault) == second_shell(start) - 4
    middle = stacking_fault("Be", A, C, 0.5, layers=layers)
    assert neighbor_list("d", middle, 1.2 * A).min() > 0.95 * A
    assert middle.get_volume() == pytest.approx(start.get_volume())


def straight_pairs(atoms: Atoms) -> list[int]:
    """For every layer of one atom, how many atoms lie straight above or below, two layers away."""
    first, distances = neighbor_list("id", atoms, 1.7 * A)
    return np.bincount(first[abs(distances - np.sqrt(8 / 3) * A) < 0.01], minlength=len(atoms)).tolist()


@pytest.mark.parametrize(
    ("kinds", "letters"), [("hh", "AB"), ("ccc", "ABC"), ("hchc", "ABCB"), ("hhhhhh", "ABABAB"), ("cccccc", "ABCABC")]
)
def test_kinds_and_letters_name_the_same_crystals(kinds: str, letters: str) -> None:
    ours, theirs = (polytype("Be", A, C, stacking) for stacking in (kinds, letters))
    distances = [np.sort(neighbor_list("d", atoms, 3 * A)) for atoms in (ours, theirs)]
    np.testing.assert_allclose(*distances, atol=1e-10)
    assert ours.cell.array[2, :2] == pytest.approx([0, 0])


@pytest.mark.parametrize("kinds", ["c", "hhhhhhc", "hhhhcc", "hhhhccc", "cccchh", "cccchch"])
def test_a_leaning_cell_holds_one_fault(kinds: str) -> None:
    """Every layer has twelve neighbours, and sees its like across a layer of kind h, on either side."""
    atoms = polytype("Be", A, C, kinds)
    assert set(coordination(atoms)) == {12}
    n = len(kinds)
    expected = [(kinds[i - 1] == "h") + (kinds[(i + 1) % n] == "h") for i in range(n)]
    assert straight_pairs(atoms) == expected
    assert atoms.get_volume() / n == pytest.approx(A**3 / np.sqrt(2))


def test_the_end_of_the_slide_is_the_fault_of_kinds() -> None:
    slid, stacked = stacking_fault("Be", A, C, 1.0, layers=6), polytype("Be", A, C, "hhhhcc")
    distances = [np.sort(neighbor_list("d", atoms, 3 * A)) for atoms in (slid, stacked)]
    np.testing.assert_allclose(*distances, atol=1e-9)


def test_fault_energy_is_an_excess_per_area() -> None:
    faulted, perfect = Atoms("Be10", cell=[[2, 0, 0], [1, 2, 0], [0, 0, 20]]), Atoms("Be2")
    faulted.calc = SinglePointCalculator(faulted, energy=-9.5)
    perfect.calc = SinglePointCalculator(perfect, energy=-2.0)
    assert fault_energy(faulted, perfect) == pytest.approx(0.5 / 4 * 16021.766)
    assert np.isnan(fault_energy(None, perfect))
    assert np.isnan(fault_energy(faulted, None))


def test_layers_relax_along_their_normal_only() -> None:
    atoms = stacking_fault("Be", A, C, 0.5, layers=4)
    atoms.calc = LennardJones(sigma=A * 0.89, epsilon=0.3, rc=7.0, smooth=True)
    before, cell = atoms.positions.copy(), atoms.cell.array.copy()
    start = atoms.get_potential_energy()
    relax_normal(atoms, fmax=1e-4)
    assert atoms.get_potential_energy() < start - 1e-3
    assert np.abs(atoms.get_forces()[:, 2]).max() < 2e-4
    assert abs(atoms.get_stress()[2]) * atoms.get_volume() < 2e-3
    np.testing.assert_allclose(atoms.positions[:, :2], before[:, :2], atol=1e-9)
    cell[2, 2] = atoms.cell[2, 2]
    np.testing.assert_allclose(atoms.cell.array, cell, atol=1e-9)
    assert not atoms.constraints
    atoms.positions[0, 2] += 0.2
    with pytest.raises(RuntimeError, match="not at rest after 1 steps"):
        relax_normal(atoms, steps=1)
    assert not atoms.constraints


@pytest.mark.parametrize("bad", ["A", "", "AAB", "ABA", "ABX", "hhc h", "hhh", "chc"])
def test_impossible_stackings_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="stacking is"):
        polytype("Be", A, C, bad)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="no chemical element 'Xx'"):
        polytype("Xx", A, C, "AB")
    with pytest.raises(ValueError, match="5 layers"):
        stacking_fault("Be", A, C, 0.5, layers=5)
