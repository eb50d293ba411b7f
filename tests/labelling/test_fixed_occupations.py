"""Fixed occupations and shifted k-meshes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.labelling.dft_settings import LDOSRecipe, Recipe, load_recipe
from ase_ldos.labelling.provenance import recipe_table
from ase_ldos.labelling.pw import calculate, input_text
from ase_ldos.labelling.subprocesses import CalculationError

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")


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
    lines = ['pseudopotentials = { Si = "x" }', "cutoff = 10", "electronic_temperature = 300", "kspacing = 0.5"]
    (tmp_path / "r.toml").write_text("\n".join([*lines, "bands_per_atom = 4", line, ""]))
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "r.toml")
