"""Recipes and the page of a measured set-up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import bulk

import ase_ldos.active_learning.setup as setting_up
from ase_ldos import load_model
from ase_ldos.active_learning.recipes import model_settings, write_dft_recipe, write_training_recipe
from ase_ldos.active_learning.setup import collect_pseudopotentials, set_up_like, setup_page
from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.labelling.convergence import NOT_TAKEN, Series, SetupMeasurement
from ase_ldos.labelling.dft_settings import DOSRecipe, LDOSRecipe, Recipe, load_recipe
from ase_ldos.labelling.provenance import recipe_table
from ase_ldos.labelling.selfcheck import DerivativeCheck
from ase_ldos.training.settings import load_settings


@pytest.fixture
def measured(tmp_path: Path) -> SetupMeasurement:
    (tmp_path / "pseudo").mkdir()
    write_upf(find_potential("Si"), tmp_path / "pseudo")
    recipe = Recipe(
        {"Si": "Si.gth-pbe-uzh-q4.UPF"},
        Path("pseudo"),
        cutoff=30.0,
        electronic_temperature=1000.0,
        kspacing=0.31,
        bands_per_atom=4.5,
        convergence=1e-8,
        grid_spacing=0.25,
        pulay={"Si": 0.0247},
        options={"system": {"nosym": False}, "electrons": {"mixing_mode": "TF", "mixing_beta": 0.3}},
        ldos=LDOSRecipe(0.3, -7.65, 10.8, 0.15, 0.31, 4.5),
    )
    columns = ("cutoff (Ry)", "A (meV/atom)", "difference of A (meV/atom)", "force (meV/Å)", "stress (GPa)")
    rows = ((12.0, -9.0, 30.0, 80.0, 0.0), (30.0, -10.0, 0.7, 5.0, 0.0), (36.0, -10.5, 0.0, 0.0, 0.0))
    bounds = {columns[2]: 1.0, columns[3]: 8.0, columns[4]: 0.1}
    series = Series("cutoff", "Ry", columns, rows, bounds, 30.0, met=True)
    check = DerivativeCheck("si", 0.19, -0.003, 1e-5, 0.0247)
    return SetupMeasurement(recipe, (series,), check, {"Si": 4.0}, 66.0)


def test_the_dft_recipe_is_read_back_as_it_was(tmp_path: Path, measured: SetupMeasurement) -> None:
    write_dft_recipe(tmp_path / "dft.toml", measured)
    found = load_recipe(tmp_path / "dft.toml")
    assert recipe_table(found) == recipe_table(measured.recipe)
    assert found.pseudopotential_path("Si").is_file()
    assert found.one_mesh
    assert "# cutoff: 30 Ry\n" in (tmp_path / "dft.toml").read_text()


def test_what_an_insulator_needs_is_written_too(tmp_path: Path, measured: SetupMeasurement) -> None:
    recipe = replace(
        measured.recipe,
        occupations="fixed",
        kpoint_shift=(1, 1, 0),
        time_limit=900.0,
        ldos=None,
        dos=DOSRecipe(0.2, -8.0, 0.1),
    )
    write_dft_recipe(tmp_path / "dft.toml", replace(measured, recipe=recipe))
    assert recipe_table(load_recipe(tmp_path / "dft.toml")) == recipe_table(recipe)


def test_the_training_recipe_fits_the_set_up(tmp_path: Path, measured: SetupMeasurement) -> None:
    recipe = replace(measured.recipe, pseudo_dir=tmp_path / "pseudo")
    model = model_settings(recipe, [bulk("Si", "diamond", a=5.47)])
    write_training_recipe(tmp_path / "training.toml", 'my "Si"', model)
    found = load_settings(tmp_path / "training.toml")
    assert found.model == model
    assert found.name == 'my "Si"'
    assert found.model.valence == {"Si": 4.0}
    assert found.model.functional == "pbe"
    assert found.model.energy_window == pytest.approx((-7.65, 10.8))
    assert recipe.ldos is not None
    assert len(found.model.energies) == len(recipe.ldos.energies)
    assert found.model.descriptor["cutoff"] == pytest.approx(2.3 * 5.47 * 3**0.5 / 4, abs=0.01)
    assert found.model.minimum_distance == pytest.approx(0.65 * 5.47 * 3**0.5 / 4, abs=0.001)
    with pytest.raises(ValueError, match=r"has no \[ldos\]"):
        model_settings(replace(recipe, ldos=None), [bulk("Si")])


def test_a_model_tells_the_recipes_of_its_labels(
    tmp_path: Path, measured: SetupMeasurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coarser(_structures: object, recipe: Recipe, _folder: object, **_: object) -> SetupMeasurement:
        return replace(measured, recipe=replace(recipe, kspacing=0.25), check=None)

    monkeypatch.setattr(setting_up, "measure_mesh", coarser)
    model = load_model("be")
    set_up_like(model, [bulk("Be")], tmp_path, name="hot")
    recipe, training = load_recipe(tmp_path / "dft.toml"), load_settings(tmp_path / "training.toml")
    theirs = model.metadata.provenance
    assert recipe_table(recipe) == theirs["data"][0]["labels"]["recipes"][0] | {"kspacing": 0.25}
    text = (tmp_path / "dft.toml").read_text()
    assert text.startswith(
        "# As labels of the model 'be', with a k-mesh measured anew; the tables are in setup.html.\n"
    )
    assert "Stress and forces beside" not in (tmp_path / "setup.html").read_text()
    assert recipe.pseudopotential_path("Be").is_file()
    assert training.name == "hot"
    assert training.model.energy_window == (-5.0, 17.0)
    # a training from the model's weights accepts them
    assert training.model.descriptor == theirs["settings"]["model"]["descriptor"]
    assert len(training.model.energies) == len(model.energies)
    assert list(training.model.hidden) == list(model.network.hidden)


def test_recipes_of_a_model_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    model = load_model("be")
    with pytest.raises(ValueError, match=r"'be' knows Be, not Al; begin from scratch, or put dft\.toml"):
        set_up_like(model, [bulk("Be"), bulk("Al")], tmp_path)
    with pytest.raises(ValueError, match=r"'al' does not tell the recipes for Al"):
        set_up_like(load_model("al"), [bulk("Al")], tmp_path)
    text = write_upf(find_potential("Be"), tmp_path / "own").read_text()
    other = tmp_path / "Be.other.UPF"
    first = text.index("<PP_LOCAL")
    number = next(word for word in text[first:].split() if word.startswith("-"))
    other.write_text(text[:first] + text[first:].replace(number, "-1.0", 1))
    with pytest.raises(ValueError, match=r"Be\.other\.UPF is not the pseudopotential Be\.gth-pbe-uzh-q2\.UPF of Be"):
        set_up_like(model, [bulk("Be")], tmp_path / "x", pseudopotentials=[other])


def test_the_page_shows_tables_pictures_and_what_was_taken(measured: SetupMeasurement) -> None:
    text = setup_page("Si", measured)
    assert '<tr class="chosen"><td>30</td>' in text
    assert "stress (GPa)</th>" not in text  # nothing but zeros
    assert text.count("<svg") == 1
    assert "Measured in 1.1 CPU minutes" in text
    other = replace(measured, series=(replace(measured.series[0], outcome=NOT_TAKEN),))
    assert "cutoff: not taken" in setup_page("Si", other)
    assert '<tr class="chosen">' not in setup_page("Si", other)
    missed = replace(measured, series=(replace(measured.series[0], met=False),))
    assert "The target is not met" in setup_page("Si", missed)
    assert "The target is not met" not in text


def test_potentials_are_the_users_or_gth(tmp_path: Path) -> None:
    own = write_upf(find_potential("Si"), tmp_path / "own")
    mine = tmp_path / "own/mine.upf"
    own.rename(mine)
    (tmp_path / "pseudo").mkdir()
    files = collect_pseudopotentials(["Al", "Si"], tmp_path / "pseudo", [mine])
    assert files == {"Al": "Al.gth-pbe-uzh-q3.UPF", "Si": "mine.upf"}
    assert all((tmp_path / "pseudo" / name).is_file() for name in files.values())
    with pytest.raises(ValueError, match="both pseudopotentials of Si"):
        collect_pseudopotentials(["Si"], tmp_path / "pseudo", [mine, mine])
