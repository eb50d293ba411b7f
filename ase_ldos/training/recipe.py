"""From a recipe, one TOML file, to a trained model: ``ase-ldos train RECIPE.toml``."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from ase_ldos.data.snapshot import Snapshot, load_snapshots
from ase_ldos.descriptors.factory import make_descriptor
from ase_ldos.descriptors.power_spectrum import PowerSpectrum
from ase_ldos.model import LDOSModel, ModelMetadata
from ase_ldos.networks.mlp import MLP
from ase_ldos.training.batches import Scaler, TrainingSnapshot, fit_scaler, prepare_snapshots
from ase_ldos.training.history import History
from ase_ldos.training.loop import fit
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, LossWeights, Trainee, measure
from ase_ldos.training.soap import SOAP

Table = TypeVar("Table")
#: Unit of the network's outputs, 1/(eV Å³): the size of an LDOS in a metal.
LDOS_SCALE = 0.03


@dataclass(frozen=True)
class ModelRecipe:
    """What the model is (the table ``[model]``); quantities as in ``ModelMetadata``.

    Attributes:
        valence: electrons per atom by chemical symbol; its symbols are the species.
        smearing: σ of the LDOS, eV.
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
    """

    valence: dict[str, float]
    smearing: float
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
        epochs: of the second stage, on everything, one snapshot a step.
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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    training = dict(table.pop("training", {}))
    training["weights"] = _build(LossWeights, training.pop("weights", {}), f"{path}: [training.weights]")
    table["training"] = _build(TrainingRecipe, training, f"{path}: [training]")
    table["model"] = _build(ModelRecipe, table.pop("model", {}), f"{path}: [model]")
    recipe = _build(Recipe, table | {"folder": path.parent}, str(path))
    if recipe.hold_back < 2 or not 0 <= recipe.hold_back_offset < recipe.hold_back:
        raise ValueError(
            f"{path}: hold_back is {recipe.hold_back} with offset {recipe.hold_back_offset}; at least every second "
            "snapshot must stay for training and the offset lie below hold_back"
        )
    return recipe


def _build(kind: type[Table], table: Mapping[str, Any], source: str) -> Table:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(f"{source}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{source}: {error}".replace("__init__() ", "")) from error


def split_data(recipe: Recipe) -> tuple[list[Snapshot], list[Snapshot]]:
    """Load the data and hold back whole snapshots: training set and validation set.

    Raises:
        FileNotFoundError: a source is not there.
    """
    training: list[Snapshot] = []
    validation: list[Snapshot] = []
    for source in recipe.data:
        path = next((p for p in (recipe.folder / source, Path(source)) if p.exists()), None)
        if path is None:
            raise FileNotFoundError(f"no data at {source}, neither in {recipe.folder} nor in the working directory")
        for number, snapshot in enumerate(sorted(load_snapshots(path), key=lambda item: item.name)):
            held_back = number % recipe.hold_back == recipe.hold_back_offset
            (validation if held_back else training).append(snapshot)
    return training, validation


def build_model(recipe: Recipe, descriptor: PowerSpectrum, scaler: Scaler, generator: torch.Generator) -> LDOSModel:
    """The untrained model of a recipe."""
    settings = recipe.model
    energies = torch.as_tensor(settings.energies)
    network = MLP(settings.n_inputs, len(energies), settings.hidden, settings.activation, True, generator)
    metadata = ModelMetadata(
        name=recipe.name,
        valence=dict(settings.valence),
        functional=settings.functional,
        electronic_temperature=settings.electronic_temperature,
        smearing=settings.smearing,
        grid_spacing=settings.grid_spacing,
        fermi_level=sum(settings.window) / 2,
        minimum_distance=settings.minimum_distance,
    )
    return LDOSModel(
        descriptor, network, energies, metadata, mean=scaler.mean, projection=scaler.projection, ldos_scale=LDOS_SCALE
    )


def train_model(
    recipe: Recipe,
    training: Sequence[Snapshot],
    validation: Sequence[Snapshot],
    *,
    checkpoint: Path | None = None,
    time_limit: float | None = None,
    progress: bool = True,
) -> tuple[LDOSModel, History]:
    """Train the model of a recipe: least squares, then the LDOS alone, then everything at once.

    Args:
        recipe: what and how.
        training: snapshots to learn from; at least one with LDOS.
        validation: whole snapshots that are never trained on.
        checkpoint: file from which a killed run goes on.
        time_limit: seconds for the last stage.
        progress: show bars.

    Raises:
        ValueError: no training snapshot has an LDOS, none is held back, or data that do not fit the recipe.
    """
    with_ldos = [snapshot for snapshot in training if snapshot.ldos is not None]
    if not with_ldos or not validation:
        raise ValueError(
            f"{len(with_ldos)} training snapshots with LDOS and {len(validation)} held back; one of each is the least"
        )
    settings, plan = recipe.model, recipe.training
    generator = torch.Generator().manual_seed(recipe.seed)
    species = [atomic_numbers[symbol] for symbol in settings.valence]
    descriptor = make_descriptor({"kind": "power_spectrum", **settings.descriptor, "species": species})
    if not isinstance(descriptor, PowerSpectrum):
        raise ValueError(f"descriptor {settings.descriptor.get('kind')!r} has no Jacobian; train with power_spectrum")
    scaler = fit_scaler(
        descriptor,
        with_ldos,
        settings.n_inputs,
        floor=settings.whitening_floor,
        spacing=settings.grid_spacing,
        progress=progress,
    )
    charges = {atomic_numbers[symbol]: float(charge) for symbol, charge in settings.valence.items()}
    ready, held_back = (
        prepare_snapshots(
            part,
            descriptor,
            scaler,
            charges,
            energies=settings.energies,
            smearing=settings.smearing,
            spacing=settings.grid_spacing,
            progress=progress,
        )
        for part in (training, validation)
    )
    model = build_model(recipe, descriptor, scaler, generator)
    points = LDOSPoints.gather(ready)
    assert points is not None
    _start_linear(model, points)
    _train_on_ldos(model, points, plan, generator, progress)
    trainee = Trainee(model, [snapshot.family for snapshot in ready])
    history = fit(
        trainee,
        lambda _: _shuffled(ready, generator),
        LDOSLoss(plan.weights, generator, points),
        optimizer := SOAP(trainee.parameters(), lr=plan.learning_rate),
        epochs=plan.epochs,
        scheduler=_one_cycle(optimizer, plan.learning_rate, plan.epochs * len(ready), plan.warmup),
        validate=lambda module: measure(module, held_back, plan.weights),
        monitor="loss",
        validate_every=plan.validate_every,
        clip_norm=plan.clip_norm,
        average=plan.average,
        checkpoint=checkpoint,
        generator=generator,
        progress=progress,
        time_limit=time_limit,
    )
    return model.eval(), history


def _start_linear(model: LDOSModel, points: LDOSPoints) -> None:
    """Least squares of the LDOS in the inputs: the network starts as this linear map."""
    size = points.inputs.shape[1] + 1
    left, right = (
        torch.zeros(size, size, dtype=torch.float64),
        torch.zeros(size, len(model.energies), dtype=torch.float64),
    )
    for inputs, ldos in zip(points.inputs.split(20000), points.ldos.split(20000)):
        columns = torch.cat((inputs, torch.ones(len(inputs), 1)), dim=1).double()
        left, right = left + columns.T @ columns, right + columns.T @ ldos.double()
    left += 1e-6 * len(points.inputs) * torch.eye(size, dtype=torch.float64)
    solution = torch.linalg.solve(left, right) / model.ldos_scale
    model.network.set_linear(solution[:-1].T, solution[-1])


def _train_on_ldos(
    model: LDOSModel, points: LDOSPoints, plan: TrainingRecipe, generator: torch.Generator, progress: bool
) -> None:
    """First stage: cheap steps on random points of all snapshots bring the LDOS in order."""
    if plan.ldos_steps == 0:
        return

    def batches(_: int) -> Iterator[Tensor]:
        for _ in range(plan.ldos_steps):
            yield torch.randint(len(points.inputs), (plan.ldos_batch,), generator=generator)

    def loss(module: nn.Module, chosen: Tensor) -> Tensor:
        assert isinstance(module, LDOSModel)
        reference = points.ldos[chosen]
        found = module.network(points.inputs[chosen]) * module.ldos_scale
        return (found - reference).square().sum() / reference.square().sum()

    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.ldos_learning_rate)
    schedule = _one_cycle(optimizer, plan.ldos_learning_rate, plan.ldos_steps, plan.warmup)
    fit(model, batches, loss, optimizer, epochs=1, scheduler=schedule, generator=generator, progress=progress)


def _one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=warmup)


def _shuffled(snapshots: Sequence[TrainingSnapshot], generator: torch.Generator) -> Iterator[TrainingSnapshot]:
    for place in torch.randperm(len(snapshots), generator=generator).tolist():
        yield snapshots[place]
