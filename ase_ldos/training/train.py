"""From a recipe and data to a trained model: least squares, then the LDOS alone, then everything at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn

from ase_ldos.communicator import Communicator
from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.protocol import FixedFeatures, PointFeatures
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import make_point_features
from ase_ldos.training.data_parallel import SharedLoss
from ase_ldos.training.history import History
from ase_ldos.training.learned_features import fixed_scaler, graft, whole_scaler
from ase_ldos.training.loop import fit
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, Trainee, measure, relative_square
from ase_ldos.training.precompute import Scaler, TrainingSnapshot, fit_scaler, prepare_snapshots
from ase_ldos.training.provenance import core_charges
from ase_ldos.training.settings import Recipe, TrainingRecipe
from ase_ldos.training.soap import SOAP

#: Unit of the network's outputs, 1/(eV Å³): the size of an LDOS in a metal.
LDOS_SCALE = 0.03


def build_model(recipe: Recipe, features: PointFeatures, scaler: Scaler, generator: torch.Generator) -> LDOSModel:
    """The untrained model of a recipe."""
    settings = recipe.model
    energies = torch.as_tensor(settings.energies)
    n_inputs = scaler.projection.shape[1]
    network = MLP(n_inputs, len(energies), settings.hidden, settings.activation, True, generator)
    metadata = ModelMetadata(
        name=recipe.name,
        valence=dict(settings.valence),
        functional=settings.functional,
        electronic_temperature=settings.electronic_temperature,
        broadening=settings.broadening,
        grid_spacing=settings.grid_spacing,
        fermi_level=sum(settings.window) / 2,
        minimum_distance=settings.minimum_distance,
        core_charges=core_charges(recipe),
    )
    return LDOSModel(
        features, network, energies, metadata, mean=scaler.mean, projection=scaler.projection, ldos_scale=LDOS_SCALE
    )


def train_model(
    recipe: Recipe,
    training: Sequence[Snapshot],
    validation: Sequence[Snapshot],
    *,
    start: LDOSModel | None = None,
    checkpoint: Path | None = None,
    time_limit: float | None = None,
    progress: bool = True,
    communicator: Communicator | None = None,
) -> tuple[LDOSModel, History]:
    """Train the model of a recipe: least squares, then the LDOS alone, then everything at once.

    Args:
        recipe: what and how.
        training: snapshots to learn from; at least one with LDOS.
        validation: whole snapshots that are never trained on.
        start: a model of the same recipe whose weights to go on from; the first two stages are left out then. For a
            graph network with a fixed power spectrum also a model of that power spectrum alone.
        checkpoint: file from which a killed run goes on.
        time_limit: seconds for the last stage.
        progress: show bars.
        communicator: ranks that share the snapshots of a step of the last stage.

    Raises:
        ValueError: no training snapshot has an LDOS, none is held back, or data that do not fit the recipe.
    """
    with_ldos = [snapshot for snapshot in training if snapshot.ldos is not None]
    if not with_ldos or not validation:
        raise ValueError(
            f"{len(with_ldos)} training snapshots with LDOS and {len(validation)} held back; one of each is the least"
        )
    plan, communicator = recipe.training, Communicator() if communicator is None else communicator
    if plan.batch < communicator.size:
        raise ValueError(
            f"the recipe's batch is {plan.batch} snapshots a step; {communicator.size} ranks need that many or more"
        )
    progress = progress and communicator.is_root
    generator = torch.Generator().manual_seed(recipe.seed)
    model = _first_model(recipe, start, with_ldos, generator, progress)
    descriptor, scaler = model.descriptor.fixed, fixed_scaler(model)
    ready, held_back = (_prepare(recipe, part, descriptor, scaler, progress) for part in (training, validation))
    points = LDOSPoints.gather(ready)
    assert points is not None
    if start is None:
        complete = points.completed(model)
        start_linear(model, complete)
        _train_on_ldos(model, complete, plan, generator, progress)
    trainee = Trainee(model, [snapshot.family for snapshot in ready])
    history = fit(
        trainee,
        lambda _: _shuffled(ready, plan.batch, generator),
        SharedLoss(LDOSLoss(plan.weights, generator, points), communicator),
        optimizer := SOAP(trainee.parameters(), lr=plan.learning_rate),
        epochs=plan.epochs,
        scheduler=_one_cycle(
            optimizer, plan.learning_rate, plan.epochs * math.ceil(len(ready) / plan.batch), plan.warmup
        ),
        validate=lambda module: measure(module, held_back, plan.weights),
        monitor="loss",
        validate_every=plan.validate_every,
        clip_norm=plan.clip_norm,
        average=plan.average,
        checkpoint=checkpoint,
        generator=generator,
        progress=progress,
        time_limit=time_limit,
        communicator=communicator,
    )
    return model.eval(), history


def _point_features(recipe: Recipe, generator: torch.Generator) -> PointFeatures:
    species = [atomic_numbers[symbol] for symbol in recipe.model.valence]
    return make_point_features({"kind": "power_spectrum", **recipe.model.descriptor, "species": species}, generator)


def _fit_scaler(
    recipe: Recipe, snapshots: Sequence[Snapshot], descriptor: FixedFeatures | None, progress: bool
) -> Scaler:
    settings = recipe.model
    if descriptor is None:
        return Scaler(torch.zeros(0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64))
    floor, spacing = settings.whitening_floor, settings.grid_spacing
    return fit_scaler(descriptor, snapshots, settings.n_inputs, floor=floor, spacing=spacing, progress=progress)


def _first_model(
    recipe: Recipe,
    start: LDOSModel | None,
    snapshots: Sequence[Snapshot],
    generator: torch.Generator,
    progress: bool,
) -> LDOSModel:
    """The model before the first step: a fresh one, the one to go on from, or a fresh one with the latter's knowledge.

    Raises:
        ValueError: ``start`` is not of this recipe.
    """
    features = _point_features(recipe, generator)
    if start is None:
        scaler = _fit_scaler(recipe, snapshots, features.fixed, progress)
    else:
        _check_start(recipe, start, features)
        if start.descriptor.settings() == features.settings():
            return start.train().requires_grad_(True)
        scaler = fixed_scaler(start)
    whole = whole_scaler(features, scaler, snapshots, recipe.model.grid_spacing)
    model = build_model(recipe, features, whole, generator)
    if start is not None:
        graft(start.network, model.network)
    return model


def _check_start(recipe: Recipe, start: LDOSModel, features: PointFeatures) -> None:
    """Refuse a model that the recipe's model does not contain: the same one, or that of its power spectrum alone."""
    settings, fixed = recipe.model, features.fixed
    wanted = {
        "descriptor": features.settings(),
        "inputs of fixed features": settings.n_inputs,
        "hidden": list(settings.hidden),
        "activation": settings.activation,
        "energies": settings.energies.tolist(),
    }
    found = {
        "descriptor": start.descriptor.settings(),
        "inputs of fixed features": fixed_scaler(start).projection.shape[1],
        "hidden": list(start.network.hidden),
        "activation": start.network.activation,
        "energies": start.energies.tolist(),
    }
    if fixed is not None and found["descriptor"] == fixed.settings():
        wanted["descriptor"] = fixed.settings()
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"the model to start from is not of this recipe: {name} {_shown(found[name])}, the recipe asks for "
                f"{_shown(value)}"
            )


def _shown(value: object) -> str:
    """A setting in a message; energies by their range."""
    if isinstance(value, list) and len(value) > 10:
        return f"{len(value)} from {value[0]} to {value[-1]} eV"
    return str(value)


def _prepare(
    recipe: Recipe, snapshots: Sequence[Snapshot], descriptor: FixedFeatures | None, scaler: Scaler, progress: bool
) -> list[TrainingSnapshot]:
    settings = recipe.model
    return prepare_snapshots(
        snapshots,
        descriptor,
        scaler,
        {atomic_numbers[symbol]: float(charge) for symbol, charge in settings.valence.items()},
        energies=settings.energies,
        broadening=settings.broadening,
        spacing=settings.grid_spacing,
        progress=progress,
    )


def start_linear(model: LDOSModel, points: LDOSPoints) -> None:
    """Least squares of the LDOS in the inputs: the network starts as this linear map.

    Each energy is fitted to the points at which it is known: all energies below the lowest end of a label at once,
    then those up to the next one.

    Args:
        model: whose network is set.
        points: inputs and LDOS.

    Raises:
        ValueError: the top of the energy window is not known at any point.
    """
    size = points.inputs.shape[1] + 1
    known = points.ldos.isfinite().sum(dim=1)
    solution = torch.zeros(size, len(model.energies), dtype=torch.float64)
    first = 0
    for last in known.unique().tolist():
        left, right = (torch.zeros(size, n, dtype=torch.float64) for n in (size, last - first))
        for rows in (known >= last).nonzero().squeeze(1).split(20000):
            columns = torch.cat((points.inputs[rows], torch.ones(len(rows), 1)), dim=1).double()
            left += columns.T @ columns
            right += columns.T @ points.ldos[rows, first:last].double()
        left += 1e-6 * float((known >= last).sum()) * torch.eye(size, dtype=torch.float64)
        solution[:, first:last] = torch.linalg.solve(left, right)
        first = last
    if first < len(model.energies):
        raise ValueError(
            f"no LDOS reaches the top of the window, {float(model.energies[-1]):.2f} eV; the highest known energy is "
            f"{float(model.energies[first - 1]):.2f} eV"
        )
    solution = solution / model.ldos_scale
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
        found = module.network(points.inputs[chosen]) * module.ldos_scale
        return relative_square(found, points.ldos[chosen])

    # not those of learned features: their inputs are those of the initial weights in this stage
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=plan.ldos_learning_rate)
    schedule = _one_cycle(optimizer, plan.ldos_learning_rate, plan.ldos_steps, plan.warmup)
    fit(model, batches, loss, optimizer, epochs=1, scheduler=schedule, generator=generator, progress=progress)


def _one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=warmup)


def _shuffled(
    snapshots: Sequence[TrainingSnapshot], batch: int, generator: torch.Generator
) -> Iterator[list[TrainingSnapshot]]:
    for places in torch.randperm(len(snapshots), generator=generator).split(batch):
        yield [snapshots[place] for place in places.tolist()]
