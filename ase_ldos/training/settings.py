"""The settings of a training, one TOML file: what the model is, which labels it learns from and in which stages."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from ase.data import atomic_numbers

from ase_ldos.dataset.npz import Snapshot, load_snapshots
from ase_ldos.descriptors.registry import DESCRIPTORS
from ase_ldos.model.model_file import WIDEST
from ase_ldos.networks.mlp import ACTIVATIONS
from ase_ldos.networks.registry import NETWORKS, make_point_features
from ase_ldos.physics.exchange_correlation import FUNCTIONALS
from ase_ldos.toml_settings import (
    Fraction,
    Limit,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    build,
    check_arguments,
    read_toml,
)
from ase_ldos.training.alignment import LEVELS
from ase_ldos.training.losses import LossWeights

#: Where the package's own labels come from.
REPOSITORY = "the repository of ase-ldos (an installed package does not carry labels)"


#: Largest number of energies of a model.
MOST_ENERGIES = 10_000


@dataclass(frozen=True)
class ModelSettings:
    """What the model is (the table ``[model]``); quantities as in ``ModelMetadata``.

    Attributes:
        valence: electrons per atom by chemical symbol; its symbols are the species.
        broadening: σ of the LDOS, eV.
        energy_window: first and last energy, eV.
        energy_spacing: of the energies, eV.
        descriptor: settings of the descriptor or network of the points, without its species.
        n_components: principal components of the fixed features that are kept.
        whitening_floor: see ``fit_scaler``.
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        functional: exchange-correlation.
        electronic_temperature: default of predictions, K.
        grid_spacing: Å.
        minimum_distance: Å.
        alignment: of energies of different densities and compositions, see ``training.alignment``: "none",
            "band_energy" or "fermi_level". With one the energy window is that of the aligned energies.
        pseudopotentials: files of those that have a partial core charge, by chemical symbol, relative to the folder of
            the settings or the working directory.

    Raises:
        ValueError: an unknown element, functional, activation or descriptor, or settings that do not fit it.
    """

    valence: dict[str, PositiveFloat]
    broadening: PositiveFloat
    energy_window: tuple[float, float]
    energy_spacing: PositiveFloat
    descriptor: dict[str, Any]
    n_components: NonNegativeInt
    whitening_floor: NonNegativeFloat = 1e-6
    hidden: tuple[PositiveInt, ...] = (128, 128)
    activation: str = "silu"
    functional: str = "pbe"
    electronic_temperature: PositiveFloat = 300.0
    grid_spacing: PositiveFloat = 0.25
    minimum_distance: NonNegativeFloat = 1.0
    alignment: str = "none"
    pseudopotentials: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no model can be."""
        first, last = self.energy_window
        if not last > first or not 0.5 < (last - first) / self.energy_spacing < MOST_ENERGIES:
            raise ValueError(
                f"energy_window is {list(self.energy_window)} with energy_spacing {self.energy_spacing}; "
                f"the window must rise and hold two energies or more, at most {MOST_ENERGIES}"
            )
        widths = {"hidden": max(self.hidden, default=0), "n_components": self.n_components}
        for name, width in widths.items():
            if width > WIDEST:
                raise ValueError(f"{name} asks for {width} values side by side; at most {WIDEST} can be handled")
        unknown = [symbol for symbol in self.valence if symbol not in atomic_numbers]
        if unknown or not self.valence:
            found = repr(unknown[0]) if unknown else "nothing"
            raise ValueError(f"valence names {found}; it must name chemical elements, e.g. {{ Be = 2.0 }}")
        for name, value, known in (
            ("activation", self.activation, list(ACTIVATIONS)),
            ("functional", self.functional, list(FUNCTIONALS)),
            ("alignment", self.alignment, list(LEVELS)),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        options = {key: value for key, value in self.feature_settings.items() if key not in ("kind", "species")}
        kind = self.feature_settings["kind"]
        # an unknown kind is refused by make_point_features
        for registry in (DESCRIPTORS, NETWORKS):
            if kind in registry:
                check_arguments(registry[kind], options, "descriptor")
        make_point_features(self.feature_settings)

    @property
    def energies(self) -> np.ndarray:
        """Nodes of the energy grid, eV."""
        first, last = self.energy_window
        return np.linspace(first, last, round((last - first) / self.energy_spacing) + 1)

    @property
    def feature_settings(self) -> dict[str, Any]:
        """Settings of the features of points, as ``make_point_features`` takes them."""
        species = [atomic_numbers[symbol] for symbol in self.valence]
        return {"kind": "power_spectrum", **self.descriptor, "species": species}


@dataclass(frozen=True)
class LDOSStage:
    """A stage on the LDOS alone: cheap steps on random points of all snapshots (a table ``[[stages]]`` with ``steps``).

    Attributes:
        name: of the stage.
        steps: optimiser steps (AdamW).
        learning_rate: the peak.
        data: which of the training's label sets; default: all.
        points: grid points of a step.
        warmup: part of the steps before the peak.
    """

    name: str
    steps: PositiveInt
    learning_rate: PositiveFloat = 2e-3
    data: tuple[str, ...] | None = None
    points: PositiveInt = 2048
    warmup: Fraction = 0.1


@dataclass(frozen=True)
class SnapshotStage:
    """A stage on all that is known of whole snapshots (a table ``[[stages]]`` with ``epochs``).

    Attributes:
        name: of the stage.
        epochs: how often every snapshot is seen (SOAP).
        learning_rate: the peak.
        data: which of the training's label sets; default: all.
        weights: of the losses.
        energy_offset: largest error of DFT's energies that all structures of one cell type or set-up may share, as
            those of different k-meshes do, eV/atom; found beside the model, see ``losses.ModelWithOffsets``.
        batch_size: snapshots of a step; the ranks of torchrun share them.
        warmup: part of the steps before the peak.
        max_gradient_norm: longer gradients are scaled down to it.
        ema_decay: of the moving average of the weights.
        validate_every: epochs.
        patience: the stage ends when its best weights are this many epochs old; by default it takes all epochs.
    """

    name: str
    epochs: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    data: tuple[str, ...] | None = None
    weights: LossWeights = field(default_factory=LossWeights)
    energy_offset: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 1
    warmup: Fraction = 0.1
    max_gradient_norm: PositiveFloat = 5.0
    ema_decay: Fraction = 0.99
    validate_every: PositiveInt = 5
    patience: PositiveInt | None = None


StageSettings = LDOSStage | SnapshotStage


@dataclass(frozen=True)
class ValidationSettings:
    """Which snapshots are held back: those that are named, or else of each label set, by name, every n-th.

    Attributes:
        every: n.
        offset: number of the first one, counted from 0.
        names: of snapshots; a split by names stays where it is when labels are added.
    """

    every: Annotated[
        int, Limit(lambda x: x >= 2, "2 or more: at least every second snapshot must stay for training")
    ] = 6
    offset: NonNegativeInt = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an offset that holds nothing back, and names that stand twice."""
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"names holds {twice[0]!r} twice; name each snapshot once")
        if self.offset >= self.every:
            raise ValueError(f"offset is {self.offset}; it must be below every, {self.every}")


@dataclass(frozen=True)
class TrainingSettings:
    """All of a training.

    Attributes:
        name: of the model.
        data: label sets, files or folders, relative to the folder of the settings or the working directory.
        model: what it is.
        stages: how it is trained, one after the other. Before the first the network is the linear map of least squares.
        validation: which snapshots are held back.
        seed: of the only random generator.
        folder: where the settings lie.
    """

    name: str
    data: tuple[str, ...]
    model: ModelSettings
    stages: tuple[StageSettings, ...]
    validation: ValidationSettings = ValidationSettings()
    seed: NonNegativeInt = 0
    folder: Path = Path()

    def __post_init__(self) -> None:
        """Refuse stages that share a name or ask for labels that are not there."""
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two stages are named {twice[0]!r}; every stage needs a name of its own")
        if not self.stages or not self.data:
            raise ValueError("there are no stages or no data; a training needs at least one of each")
        for stage in self.stages:
            foreign = [source for source in stage.data or () if source not in self.data]
            if foreign or stage.data == ():
                raise ValueError(
                    f"stage {stage.name!r} has data {', '.join(map(repr, foreign)) or 'nothing'}; it must name some of "
                    f"{', '.join(self.data)}"
                )

    def with_data(self, data: tuple[str, ...]) -> TrainingSettings:
        """The same training on other label sets, all of them in every stage."""
        return replace(self, data=data, stages=tuple(replace(stage, data=None) for stage in self.stages))

    def with_epochs(self, epochs: int) -> TrainingSettings:
        """The same training with this many epochs in every stage on whole snapshots.

        Raises:
            ValueError: fewer than one.
        """
        if epochs < 1:
            raise ValueError(f"the number of epochs is {epochs}; it must be 1 or more")
        changed = (replace(s, epochs=epochs) if isinstance(s, SnapshotStage) else s for s in self.stages)
        return replace(self, stages=tuple(changed))

    def as_table(self) -> dict[str, Any]:
        """What the numbers of a training depend on, beside the data: all settings but the folder."""
        return {key: value for key, value in asdict(self).items() if key != "folder"}


@dataclass(frozen=True)
class TrainingData:
    """Snapshots by label set.

    Attributes:
        training: to learn from.
        validation: whole snapshots that are never trained on.
    """

    training: dict[str, list[Snapshot]]
    validation: dict[str, list[Snapshot]]

    def chosen(self, sources: tuple[str, ...] | None) -> tuple[list[Snapshot], list[Snapshot]]:
        """Training and validation snapshots of some label sets, or of all."""
        names = list(self.training) if sources is None else [name for name in self.training if name in sources]
        training = [item for name in names for item in self.training[name]]
        return training, [item for name in names for item in self.validation[name]]


def load_settings(path: str | os.PathLike[str]) -> TrainingSettings:
    """Read the settings of a training.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TOML, a key that is unknown or missing, or a value that makes no sense; the message names file,
            key and value and says what would be right.
    """
    path = Path(path)
    table = read_toml(path)
    stages = table.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError(f"{path}: key 'stages' is {stages!r}; it must be tables, each headed [[stages]]")
    built: list[StageSettings] = []
    for place, stage in enumerate(stages, start=1):
        source = f"{path}, [[stages]] {stage.get('name', place)}"
        if ("steps" in stage) == ("epochs" in stage):
            raise ValueError(f"{source}: give either steps (LDOS alone) or epochs (whole snapshots)")
        if "steps" in stage:
            built.append(build(LDOSStage, stage, source))
        else:
            built.append(build(SnapshotStage, stage, source))
    model = build(ModelSettings, table.get("model", {}), f"{path}, [model]")
    return build(TrainingSettings, table | {"model": model, "stages": built, "folder": path.parent}, str(path))


def data_paths(settings: TrainingSettings) -> list[Path]:
    """Where the label sets of a training lie.

    Raises:
        FileNotFoundError: one is not there; the message says where to get it or how to make it.
    """
    return [find_source(settings, source) for source in settings.data]


def find_source(settings: TrainingSettings, source: str) -> Path:
    """Where a file or folder of a training lies: in the folder of the settings or the working directory.

    Raises:
        FileNotFoundError: in neither.
    """
    path = next((p for p in (settings.folder / source, Path(source)) if p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"there is no {source}, neither in {settings.folder} nor in the working directory; the labels of bundled "
            f"models come with {REPOSITORY}, others are made by `ase-ldos label STRUCTURES --recipe "
            f"{settings.folder / 'dft.toml'} --pseudo-dir FOLDER --out {Path(source).with_suffix('')}`"
        )
    return path


def load_data(settings: TrainingSettings) -> TrainingData:
    """Load the label sets and hold back whole snapshots.

    Raises:
        FileNotFoundError: a label set is not there.
        ValueError: a name stands twice, so that nobody could tell which of the two was held back, or a snapshot that
            is to be held back is not there.
    """
    training: dict[str, list[Snapshot]] = {}
    validation: dict[str, list[Snapshot]] = {}
    rule, homes = settings.validation, dict[str, str]()
    for source, path in zip(settings.data, data_paths(settings), strict=True):
        parts: tuple[list[Snapshot], list[Snapshot]] = ([], [])
        for number, snapshot in enumerate(sorted(load_snapshots(path), key=lambda item: item.name)):
            if homes.setdefault(snapshot.name, source) != source:
                raise ValueError(
                    f"snapshot {snapshot.name!r} is in {homes[snapshot.name]} and in {source}; rename one of them"
                )
            held_back = snapshot.name in rule.names if rule.names else number % rule.every == rule.offset
            parts[held_back].append(snapshot)
        training[source], validation[source] = parts
    missing = sorted(set(rule.names) - set(homes))
    if missing:
        raise ValueError(f"validation names {missing[0]!r}, which is in none of {', '.join(settings.data)}")
    return TrainingData(training, validation)
