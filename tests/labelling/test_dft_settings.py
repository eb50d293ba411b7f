"""Recipes: what they hold and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ase_ldos.labelling.dft_settings import load_recipe

MINIMAL = """
pseudopotentials = { Be = "Be.gth" }
cutoff = 30
electronic_temperature = 300
kspacing = 0.3
bands_per_atom = 1.5
"""


def test_recipe_is_that_of_the_snapshots_beside_it(be_files: list[Path], dft_folder: Path) -> None:
    recipe = load_recipe(be_files[0].with_name("recipe.toml"), pseudo_dir=dft_folder)
    assert recipe.pseudopotential_path("Be").name == "Be.pbe-gth-q2.gth"
    with np.load(be_files[0]) as data:
        assert recipe.cutoff == data["ecutwfc_Ry"]
        assert recipe.electronic_temperature == pytest.approx(float(data["electronic_temperature"]), abs=1e-4)
        assert recipe.ldos is not None
        assert recipe.ldos.sigma == data["ldos_sigma"]
        np.testing.assert_allclose(recipe.ldos.energies, data["energies"], atol=1e-12)


def test_files_are_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(MINIMAL + 'pseudo_dir = "pseudo"\n[options.electrons]\nmixing_beta = 0.3\n')
    recipe = load_recipe(tmp_path / "r.toml")
    assert recipe.pseudo_dir == tmp_path / "pseudo"
    assert recipe.options == {"electrons": {"mixing_beta": 0.3}}
    assert recipe.ldos is None
    with pytest.raises(ValueError, match="pseudopotential of Be is not at"):
        recipe.pseudopotential_path("Be")
    with pytest.raises(ValueError, match="no pseudopotential of Mg; it has Be"):
        recipe.pseudopotential_path("Mg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.replace("cutoff = 30", ""), "key 'cutoff' is missing"),
        (MINIMAL.replace("cutoff = 30", "cutoff = -3"), "cutoff is -3; it must be a positive number"),
        (MINIMAL + "cut = 3", "key 'cut' is unknown"),
        (MINIMAL + "[ldos]\nsigma = 0.2", r"\[ldos\]: key 'minimum' is missing"),
        (
            MINIMAL + "[ldos]\nsigma=0.2\nminimum=3\nmaximum=1\nspacing=0.1\nkspacing=0.1\nbands_per_atom=2",
            "above ldos.minimum",
        ),
        (MINIMAL + "[dos]\nsigma=0.3\nminimum=-6\nspacing=0", r"dos.spacing is 0; it must be a positive number"),
        (MINIMAL + "[dos]\nsigma=0.3\nspacing=0.1", r"\[dos\]: key 'minimum' is missing"),
        (MINIMAL + "[pulay]\nMg = 0.02", "pulay.Mg is 0.02; a number of eV is expected, for an element that has"),
        (MINIMAL + "[pulay]\nBe = 'much'", "key 'pulay', 'Be', is 'much'"),
        (MINIMAL + "[pulay]\nBe = nan", "key 'pulay', 'Be', is nan"),
        (MINIMAL + "time_limit = 0", "time_limit is 0; it must be a positive number"),
        (MINIMAL + "[", "is not a TOML file"),
    ],
)
def test_bad_recipes_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "r.toml")


def test_energies_of_the_dos_end_below_the_first_missing_state(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(MINIMAL + "[dos]\nsigma = 0.3\nminimum = -6.0\nspacing = 0.1\n")
    sampling = load_recipe(tmp_path / "r.toml").dos
    assert sampling is not None
    energies = sampling.energies(8.25)
    np.testing.assert_allclose(energies[[0, 1, -1]], [-6.0, -5.9, 7.6], atol=1e-12)
    with pytest.raises(ValueError, match=r"complete only below -5.50 eV; raise bands_per_atom"):
        sampling.energies(-5.5)


def test_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no recipe .*none\.toml"):
        load_recipe(tmp_path / "none.toml")
