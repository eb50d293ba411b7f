"""A training recipe, one TOML file: what the model is, which data it learns from and how."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ase_ldos.dataset.npz import Snapshot, load_snapshots
from ase_ldos.physics.exchange_correlation import FUNCTIONALS
from ase_ldos.toml_settings import build, read_toml
from ase_ldos.training.losses import LossWeights


@dataclass(frozen=True)
class ModelRecipe:
    """What the model is (the table ``[model]``); quantities as in ``ModelMetadata``.

    Attributes:
        valence: electrons per atom by chemical symbol; its symbols are the species.
        broadening: σ of the LDOS, eV.
        window: first and last energy, eV.
        spacing: of the energies, eV.
        descriptor: settings of the descriptor without its species.
        n_inputs: principal components kept.
        whitening_floor: see ``fit_scaler``.
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        functional: exchange-correlation.
        electronic_temperature: default of predictions, K.
        grid_spacing: Å.
        minimum_distance: Å.
        pseudopotentials: files of those that have a partial core charge, by chemical symbol, relative to the recipe's
            folder or the working directory.
    """

    valence: dict[str, float]
    broadening: float
    window: tuple[float, float]
    spacing: float
    descriptor: dict[str, Any]
    n_inputs: int
    whitening_floor: float = 1e-6
    hidden: tuple[int, ...] = (128, 128)
    activation: str = "silu"
    functional: str = "pbe"
    electronic_temperature: float = 300.0
    grid_spacing: float = 0.25
    minimum_distance: float = 1.0
    pseudopotentials: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a functional that is not known."""
        FUNCTIONALS[self.functional]

    @property
    def energies(self) -> np.ndarray:
        """Nodes of the energy grid, eV."""
        first, last = self.window
        return np.linspace(first, last, round((last - first) / self.spacing) + 1)


@dataclass(frozen=True)
class TrainingRecipe:
    """How it is trained (the table ``[training]``).

    Attributes:
        ldos_steps: steps of the first stage, on the LDOS alone.
        ldos_batch: points of each of them.
        ldos_learning_rate: their peak learning rate (AdamW).
        epochs: of the second stage, on everything.
        batch: snapshots of a step of it; the ranks of torchrun share them.
        learning_rate: its peak (SOAP).
        warmup: part of the steps before the peak.
        clip_norm: longest gradient.
        average: decay of the moving average of the weights.
        validate_every: epochs.
        weights: of the losses.
    """

    ldos_steps: int = 300
    ldos_batch: int = 2048
    ldos_learning_rate: float = 2e-3
    epochs: int = 100
    batch: int = 1
    learning_rate: float = 1e-3
    warmup: float = 0.1
    clip_norm: float = 5.0
    average: float = 0.99
    validate_every: int = 5
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class Recipe:
    """All of a recipe.

    Attributes:
        name: of the model.
        data: snapshot files or folders, relative to the recipe's folder or the working directory.
        model: what it is.
        training: how it is trained.
        hold_back: every n-th snapshot of each source, by name, is kept for validation.
        hold_back_offset: number of the first one.
        seed: of the only random generator.
        folder: where the recipe lies.
    """

    name: str
    data: tuple[str, ...]
    model: ModelRecipe
    training: TrainingRecipe
    hold_back: int = 6
    hold_back_offset: int = 1
    seed: int = 0
    folder: Path = Path()


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, or a key that is unknown or missing; the message names it.
    """
    path = Path(path)
    table = read_toml(path)
    training = dict(table.pop("training", {}))
    training["weights"] = build(LossWeights, training.pop("weights", {}), f"{path}, [training.weights]")
    table["training"] = build(TrainingRecipe, training, f"{path}, [training]")
    table["model"] = build(ModelRecipe, table.pop("model", {}), f"{path}, [model]")
    recipe = build(Recipe, table | {"folder": path.parent}, str(path))
    if recipe.hold_back < 2 or not 0 <= recipe.hold_back_offset < recipe.hold_back:
        raise ValueError(
            f"{path}: hold_back is {recipe.hold_back} with offset {recipe.hold_back_offset}; at least every second "
            "snapshot must stay for training and the offset lie below hold_back"
        )
    return recipe


def data_paths(recipe: Recipe) -> list[Path]:
    """Where the data of a recipe lie.

    Raises:
        FileNotFoundError: a source is not there.
    """
    return [find_source(recipe, source) for source in recipe.data]


def find_source(recipe: Recipe, source: str) -> Path:
    """Where a file or folder of a recipe lies: in the recipe's own folder or the working directory.

    Raises:
        FileNotFoundError: in neither.
    """
    path = next((p for p in (recipe.folder / source, Path(source)) if p.exists()), None)
    if path is None:
        raise FileNotFoundError(f"there is no {source}, neither in {recipe.folder} nor in the working directory")
    return path


def split_data(recipe: Recipe) -> tuple[list[Snapshot], list[Snapshot]]:
    """Load the data and hold back whole snapshots: training set and validation set.

    Raises:
        FileNotFoundError: a source is not there.
    """
    training: list[Snapshot] = []
    validation: list[Snapshot] = []
    for path in data_paths(recipe):
        for number, snapshot in enumerate(sorted(load_snapshots(path), key=lambda item: item.name)):
            held_back = number % recipe.hold_back == recipe.hold_back_offset
            (validation if held_back else training).append(snapshot)
    return training, validation
