"""The head of the training recipes of tests: beryllium with labels by ``predicted_labels``, a small network."""

from __future__ import annotations

from pathlib import Path

from predicted_labels import labelled

from ase_ldos.dataset.npz import save_snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.training.settings import TrainingSettings, load_settings


def recipe_head(
    name: str = "toy",
    descriptor: str = "cutoff = 4.2, n_radial = 3, lmax = 2",
    n_components: int | str = 20,
    hidden: int = 16,
    grid_spacing: float = 0.45,
) -> str:
    """TOML up to the stages; labels lie in ``data`` beside the file, every third is held back."""
    return f"""
name = "{name}"
data = ["data"]
validation = {{ every = 3, offset = 2 }}

[model]
valence = {{ Be = 2.0 }}
broadening = 0.3
energy_window = [-5.0, 12.0]
energy_spacing = 0.2881355932203390
descriptor = {{ {descriptor} }}
n_components = {n_components}
hidden = [{hidden}]
electronic_temperature = 3000.0
grid_spacing = {grid_spacing}
"""


def recipe_with_labels(
    model: LDOSModel, folder: Path, name: str, recipe: str, number: int, without_ldos: frozenset[int] = frozenset()
) -> TrainingSettings:
    """The settings of a recipe, written to ``folder``, whose data are labels of so many seeds by a model."""
    (folder / "data").mkdir()
    for seed in range(number):
        snapshot = labelled(model, seed, with_ldos=seed not in without_ldos)
        save_snapshot(folder / "data" / f"{snapshot.name}.npz", snapshot)
    (folder / f"{name}.toml").write_text(recipe)
    return load_settings(folder / f"{name}.toml")
