"""LDOS and density of runs that leave k-points to the crystal's symmetry; fixed occupations; shifted meshes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.labelling.dft_settings import LDOSRecipe, Recipe, load_recipe
from ase_ldos.labelling.provenance import recipe_table
from ase_ldos.labelling.pw import PREFIX, calculate, input_text
from ase_ldos.labelling.subprocesses import CalculationError
from ase_ldos.labelling.symmetry import Operation, read_operations, symmetrised

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")
TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def silicon(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("pseudo")
    write_upf(find_potential("Si"), folder)
    return Recipe(
        pseudopotentials={"Si": "Si.gth-pbe-uzh-q4.UPF"},
        pseudo_dir=folder,
        cutoff=10.0,
        electronic_temperature=300.0,
        kspacing=0.6,
        bands_per_atom=4,
        grid_spacing=0.4,
        ldos=LDOSRecipe(sigma=0.2, minimum=-14, maximum=12, spacing=0.1, kspacing=0.6, bands_per_atom=4),
    )


def diamond() -> Atoms:
    return bulk("Si", "diamond", a=5.47)


def test_mean_over_a_fourfold_axis() -> None:
    field = np.random.default_rng(0).normal(size=(2, 4, 4, 3))
    operations, whole = [], np.eye(3)
    for _ in range(4):
        operations.append(Operation(whole, np.zeros(3)))
        whole = whole @ TURN
    found = symmetrised(field, operations)
    places = [(1, 2), (-2, 1), (-1, -2), (2, -1)]
    expected = np.mean([field[:, x % 4, y % 4] for x, y in places], axis=0)
    for x, y in places:
        np.testing.assert_allclose(found[:, x % 4, y % 4], expected, atol=1e-14)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), field.mean(axis=(1, 2, 3)), atol=1e-14)


def test_translations_of_a_screw_axis() -> None:
    field = np.arange(8.0).reshape(1, 2, 2, 2)
    half = Operation(np.diag([-1.0, -1.0, 1.0]), np.array([0.0, 0.0, 0.5]))
    found = symmetrised(field, [Operation(np.eye(3), np.zeros(3)), half])
    np.testing.assert_allclose(found[..., 0], found[..., 1])


def test_a_grid_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="not mapped onto itself"):
        symmetrised(np.zeros((1, 4, 3, 3)), [Operation(TURN, np.zeros(3))])


@needs_pw
@pytest.mark.qe
def test_symmetry_changes_nothing_but_the_cost(silicon: Recipe, tmp_path: Path) -> None:
    crystal, found = diamond(), []
    for place, nosym in enumerate((True, False)):
        (folder := tmp_path / str(place)).mkdir()
        setup = replace(silicon, options={"system": {"nosym": nosym}})
        found.append(calculate("si", crystal, setup, folder))
    assert len(read_operations(tmp_path / "1" / f"{PREFIX}.save")) == 48
    assert found[1].k_weights is not None
    assert found[0].k_weights is not None
    assert len(found[1].k_weights) < len(found[0].k_weights) / 3
    whole, kept = (snapshot.ldos_values() for snapshot in found)
    np.testing.assert_allclose(kept, whole, atol=2e-3 * whole.max())
    np.testing.assert_allclose(found[1].density, found[0].density, atol=1e-4 * float(np.max(found[0].density)))


@needs_pw
@pytest.mark.qe
def test_fixed_occupations_are_those_of_a_cold_gap(silicon: Recipe, tmp_path: Path) -> None:
    labels = {}
    for occupations in ("smearing", "fixed"):
        (folder := tmp_path / occupations).mkdir()
        setup = replace(silicon, occupations=occupations, options={"system": {"nosym": False}})
        labels[occupations] = calculate("si", diamond(), setup, folder)
    fixed, smeared = labels["fixed"], labels["smearing"]
    assert fixed.free_energy == pytest.approx(smeared.free_energy, abs=1e-6)
    assert fixed.smearing_TS == 0
    assert fixed.eigenvalues is not None
    edges = fixed.eigenvalues[:, 3].max(), fixed.eigenvalues[:, 4].min()
    assert fixed.fermi_level == pytest.approx(sum(edges) / 2, abs=1e-5)
    assert fixed.ldos_energy_defect == pytest.approx(smeared.ldos_energy_defect, abs=1e-4)
    hot = replace(silicon, occupations="fixed", electronic_temperature=3000.0)
    (tmp_path / "hot").mkdir()
    with pytest.raises(CalculationError, match="fixed occupations stand for electrons at 3000 K only where"):
        calculate("si", diamond(), hot, tmp_path / "hot")


def test_input_of_fixed_occupations_and_a_shifted_mesh(silicon: Recipe, tmp_path: Path) -> None:
    setup = replace(silicon, occupations="fixed", kpoint_shift=[1, 0, 1])
    text = input_text(diamond(), setup, "scf", tmp_path)
    assert "degauss" not in text
    assert "smearing" not in text
    assert "fixed" in text
    assert text.split("K_POINTS automatic\n")[1].split("\n")[0].split() == ["4", "4", "4", "1", "0", "1"]
    assert recipe_table(setup)["kpoint_shift"] == [1, 0, 1]
    # a record of an earlier version names the same set-up
    assert not {"occupations", "kpoint_shift"} & recipe_table(silicon).keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('occupations = "tetrahedra"', "'smearing' or 'fixed'"),
        ("kpoint_shift = [1, 2, 0]", "each 0 or 1"),
        ("kpoint_shift = [1, 1]", "three numbers"),
    ],
)
def test_what_recipes_refuse(tmp_path: Path, line: str, message: str) -> None:
    base = 'pseudopotentials = { Si = "x" }\ncutoff = 10\nelectronic_temperature = 300\nkspacing = 0.5\nbands_per_atom = 4\n'
    (tmp_path / "r.toml").write_text(base + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "r.toml")
