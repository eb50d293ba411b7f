"""Fields of a crystal from the irreducible part of a mesh."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.labelling.dft_settings import LDOSRecipe, Recipe
from ase_ldos.labelling.pw import calculate, input_text
from ase_ldos.labelling.symmetry import (
    Operation,
    check_operations,
    has_symmetry,
    read_operations,
    symmetric_grid,
    symmetrise,
)

IDENTITY = Operation(np.eye(3, dtype=int), np.zeros(3))
#: A glide: x → x + 1/2, y → −y.
GLIDE = Operation(np.diag([1, -1, 1]), np.array([0.5, 0.0, 0.0]))


def test_the_mean_over_a_group_is_invariant_and_keeps_the_integral() -> None:
    field = np.random.default_rng(0).random((4, 6, 3, 2))
    found = symmetrise(field, [IDENTITY, GLIDE])
    rolled = np.roll(found[:, (-np.arange(6)) % 6], -2, axis=0)
    np.testing.assert_allclose(found, rolled, atol=1e-14)
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), field.mean(axis=(0, 1, 2)), atol=1e-14)
    np.testing.assert_allclose(symmetrise(found, [IDENTITY, GLIDE]), found, atol=1e-14)
    assert symmetrise(field, [IDENTITY]) is field


def test_a_grid_without_the_symmetry_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the grid \[5, 6, 3\] does not have the crystal's symmetry"):
        symmetrise(np.zeros((5, 6, 3)), [IDENTITY, GLIDE])


def test_a_grid_is_made_as_fine_as_the_symmetry_asks() -> None:
    assert symmetric_grid([IDENTITY], (15, 18, 20)) == (15, 18, 20)
    assert symmetric_grid([IDENTITY, GLIDE], (15, 18, 20)) == (16, 18, 20)
    # two axes that change places; the third one alone may be coarser
    swap = Operation(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), np.zeros(3))
    assert symmetric_grid([IDENTITY, swap], (32, 30, 20)) == (32, 32, 20)
    # as pw.x finds beta-tin germanium: equivalent axes, and quarters of them
    turn = Operation(np.array([[0, -1, 1], [0, -1, 0], [1, -1, 0]]), np.array([0.25, -0.25, 0.5]))
    assert symmetric_grid([IDENTITY, turn], (32, 32, 30)) == (32, 32, 32)
    assert symmetric_grid([IDENTITY, turn], (30, 30, 30)) == (32, 32, 32)
    fine = Operation(np.eye(3, dtype=int), np.array([1 / 11, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"no grid up to twice as fine as \[8, 8, 8\]"):
        symmetric_grid([IDENTITY, fine], (8, 8, 8))


def test_crystals_have_symmetry_and_frames_of_dynamics_none() -> None:
    silicon = bulk("Si", a=5.47)
    frame = silicon.repeat((2, 2, 1))
    frame.rattle(0.05, seed=1)
    assert not has_symmetry(frame)
    pushed, across = silicon.repeat((2, 1, 1)), silicon.repeat((2, 1, 1))
    pushed.positions[1] += [0.1, 0.1, 0.1]  # along a bond
    across.positions[1] += [0.13, 0.02, 0.37]
    cases = {
        "diamond": (silicon, True),
        "one atom": (bulk("Al", a=4.05), True),
        "sheared": (bulk("Be", "hcp", a=2.25, c=3.54), True),
        "two copies": (silicon.repeat((2, 1, 1)), True),
        "along a bond": (pushed, True),
        "in any direction": (across, False),
        "wrapped": (frame, False),
    }
    cases["sheared"][0].set_cell(cases["sheared"][0].cell.array @ [[1, 0.02, 0], [0, 1, 0], [0.01, 0, 1]])
    frame.wrap()
    assert {name: has_symmetry(atoms) for name, (atoms, _) in cases.items()} == {n: h for n, (_, h) in cases.items()}
    # two atoms of any kinds are each other's inversion where they are the same
    pair = Atoms(
        "SiGe", positions=[[0, 0, 0], [1.3, 1.1, 1.7]], cell=[[4, 0.1, 0.3], [0.2, 5, 0.7], [0.4, 0.6, 6]], pbc=True
    )
    assert not has_symmetry(pair)
    pair.numbers = [14, 14]
    assert has_symmetry(pair)


def test_symmetry_is_left_aside_where_there_is_none() -> None:
    recipe = Recipe(
        pseudopotentials={"Be": "Be.gth-pbe-uzh-q2.UPF"},
        pseudo_dir=".",
        cutoff=20.0,
        electronic_temperature=1000.0,
        kspacing=0.3,
        bands_per_atom=4.0,
        options={"system": {"nosym": False}},
    )
    crystal = bulk("Be", "hcp", a=2.25, c=3.54).repeat((2, 2, 1))
    frame = crystal.copy()
    frame.rattle(0.05, seed=1)
    for atoms, wanted in ((crystal, ".false."), (frame, ".true.")):
        (line,) = (line for line in input_text(atoms, recipe, "scf", Path()).splitlines() if "nosym" in line)
        assert line.endswith(wanted)


def test_the_sign_of_a_translation_is_found_from_the_atoms() -> None:
    numbers = np.array([4, 4])
    fractional = np.array([[0.0, 0.1, 0.0], [0.3, -0.1, 0.0]])
    right = Operation(np.diag([1, -1, 1]), np.array([0.3, 0.0, 0.0]))
    # the image of the second atom lies at 0.6: no operation of this pair
    with pytest.raises(ValueError, match="does not map the crystal onto itself"):
        check_operations([right], numbers, fractional)
    fractional = np.array([[0.0, 0.1, 0.2], [0.0, 0.1, 0.6], [0.0, 0.4, 0.2]])
    cyclic = np.array([[0.0, 0, 0], [0.25, 0, 0], [0.5, 0, 0], [0.75, 0, 0]])
    (found,) = check_operations([Operation(np.eye(3, dtype=int), np.array([0.25, 0, 0]))], np.array([4] * 4), cyclic)
    assert found.translation[0] == 0.25
    ordered = np.array([4, 5, 6])
    three = np.array([[0.0, 0, 0], [1 / 3, 0, 0], [2 / 3, 0, 0]])
    with pytest.raises(ValueError, match="does not map"):
        check_operations([Operation(np.eye(3, dtype=int), np.array([1 / 3, 0, 0]))], ordered, three)
    # an inversion about 1/8: written with the other sign it maps nothing
    diamond = np.array([[0.0, 0, 0], [0.25, 0.25, 0.25]])
    inversion = Operation(-np.eye(3, dtype=int), np.full(3, -0.25))
    (found,) = check_operations([inversion], np.array([14, 14]), diamond)
    np.testing.assert_array_equal(found.translation, np.full(3, 0.25))


@pytest.mark.qe
@pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")
@pytest.mark.parametrize(
    ("displaced", "strain", "cutoff", "grid", "order"),
    [(0.0, 0.0, 8.0, (16, 16, 16), 48), (0.05, 0.0, 8.0, (15, 15, 15), 6), (0.0, 0.1, 11.0, (16, 20, 20), 16)],
)
def test_a_reduced_mesh_gives_the_ldos_of_the_whole_one(
    tmp_path: Path, displaced: float, strain: float, cutoff: float, grid: tuple[int, ...], order: int
) -> None:
    """Diamond, whose operations have translations; one atom moved along a diagonal; on a grid without its symmetry."""
    write_upf(find_potential("Si"), tmp_path)
    recipe = Recipe(
        {"Si": "Si.gth-pbe-uzh-q4.UPF"},
        tmp_path,
        cutoff=cutoff,
        electronic_temperature=1000,
        kspacing=0.7,
        bands_per_atom=3,
        convergence=1e-9,
        grid_spacing=0.45,
        ldos=LDOSRecipe(0.4, -8, 8, 1.0, 0.7, 3),
    )
    # energies of so few waves on so coarse a grid are not compared with their parts
    system = {"input_dft": "PBE"}
    atoms = bulk("Si", "diamond", a=5.47)
    atoms.positions[1] += displaced
    atoms.set_cell(atoms.cell.array @ np.diag([1 + strain, 1, 1]), scale_atoms=True)
    found = {}
    for nosym in (True, False):
        setup = replace(recipe, options={"system": {**system, "nosym": nosym}})
        folder = tmp_path / str(nosym)
        folder.mkdir()
        found[nosym] = calculate("si", atoms, setup, folder)
    assert len(read_operations(tmp_path / "False/pwscf.save")) == order
    assert tuple(found[False].fft_grid) == grid
    assert len(found[False].k_weights) < len(found[True].k_weights) / 2
    whole, reduced = found[True].ldos_values(), found[False].ldos_values()
    # where the bands end, they may end within a degenerate set
    known = found[True].energies < found[True].complete_below - 4 * 0.4
    assert known.sum() > 8
    assert np.abs(whole - reduced)[..., known].max() < 1e-3 * np.abs(whole).max()
    assert np.abs(whole - np.roll(reduced, 1, axis=0))[..., known].max() > 0.1 * np.abs(whole).max()
    # on a grid without the crystal's symmetry forces do not vanish where they should, by its egg-box effect
    np.testing.assert_allclose(found[False].forces, found[True].forces, atol=2e-4 if strain else 1e-4)
