"""From settings and labels to a trained model, stage by stage."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from ase_ldos.checkpoint import read_checkpoint
from ase_ldos.communicator import Communicator
from ase_ldos.dataset.npz import Snapshot, snapshot_to_arrays
from ase_ldos.descriptors.protocol import FixedFeatures, PointFeatures
from ase_ldos.devices import find_device
from ase_ldos.files import PathLike, check_output, check_output_folder
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import make_point_features
from ase_ldos.training.alignment import fit_level_constants
from ase_ldos.training.calibrate import calibrate
from ase_ldos.training.calibrate_uncertainty import calibrate_uncertainty
from ase_ldos.training.data_parallel import SharedLoss
from ase_ldos.training.evaluate import SnapshotErrors, evaluate_model, summarise
from ase_ldos.training.fine_tuning import features_with_elements, new_species, with_elements
from ase_ldos.training.history import History
from ase_ldos.training.input_files import InputFiles
from ase_ldos.training.learned_features import fixed_scaler, graft, whole_scaler
from ase_ldos.training.loop import check_context, fit
from ase_ldos.training.losses import (
    ElectronWindowError,
    LDOSLoss,
    LDOSPoints,
    ModelWithOffsets,
    measure,
    relative_square,
)
from ase_ldos.training.precompute import Scaler, TrainingSnapshot, fit_scaler, prepare_snapshots
from ase_ldos.training.provenance import core_charges, describe_sources
from ase_ldos.training.settings import (
    LDOSStage,
    SnapshotStage,
    StageSettings,
    TrainingData,
    TrainingSettings,
    load_data,
    load_settings,
)
from ase_ldos.training.soap import SOAP

logger = logging.getLogger(__name__)

#: Space that is asked for at the start of a training: larger than most models and their checkpoints.
_MODEL_BYTES = 4 * 2**20
#: Most atoms within the cutoff of a point; models in use have some hundred.
_MOST_NEIGHBOURS = 1e5
#: Unit of the network's outputs, 1/(eV Å³): the size of an LDOS in a metal.
LDOS_SCALE = 0.03


@dataclass(frozen=True)
class TrainedModel:
    """What a training gave.

    Attributes:
        model: with its errors and provenance in ``metadata``, where ``train_model`` made it.
        histories: of the stages that were begun, by their names.
        finished: whether all stages are done; a time limit may have ended the training before.
        errors: on each snapshot that was held back; empty from ``train_stages``.
        failure: why a stage broke off, in a sentence; the model has the best weights until then.
    """

    model: LDOSModel
    histories: dict[str, History]
    finished: bool
    errors: list[SnapshotErrors] = field(default_factory=list)
    failure: str = ""


def train_model(
    settings: TrainingSettings | PathLike,
    *,
    out: PathLike | None = None,
    checkpoint: PathLike | None = None,
    init_from: LDOSModel | PathLike | None = None,
    data: Sequence[PathLike] | None = None,
    epochs: int | None = None,
    time_limit: float | None = None,
    progress: bool = True,
    communicator: Communicator | None = None,
    device: str | torch.device = "auto",
    inputs_folder: PathLike | None = None,
) -> TrainedModel:
    """Train a model, measure it on the snapshots held back, and write its file.

    Args:
        settings: what and how, or the TOML file that says it (``models/NAME/training.toml``).
        out: the model file; nothing is written without.
        checkpoint: file from which an interrupted training resumes, in whatever stage it was.
        init_from: a model, its file or the name of a bundled one, to start from its weights in place of least squares
            and stages on the LDOS alone. Mean and projection of the features stay that model's, because its weights
            belong to them; name, electronic temperature and grid are those of the settings.
        data: label sets instead of those of the settings, all of them in every stage.
        epochs: of every stage on whole snapshots, instead of those of the settings.
        time_limit: s; no epoch starts that would probably end later.
        progress: show bars.
        communicator: ranks that share the snapshots of a step; the model of the first one is complete.
        device: where steps are taken, see ``devices.find_device``; the model of the result lies there.
        inputs_folder: where inputs and derivatives are kept and looked for (``InputFiles``): trainings on the same
            cells share them. They are as large as the memory that they take.

    Returns:
        The model with range, errors and provenance, and the histories of its stages.

    Raises:
        FileNotFoundError: a label set or the folder of ``out`` is not there.
        OSError: ``out`` or the checkpoint cannot be written; found out at the start, or else the message tells where
            the model is.
        ValueError: settings or data that make no sense, or a checkpoint of another training.
    """
    communicator = Communicator() if communicator is None else communicator
    settings = settings if isinstance(settings, TrainingSettings) else load_settings(settings)
    if data is not None:
        settings = settings.with_data(tuple(map(str, data)))
    if epochs is not None:
        settings = settings.with_epochs(epochs)
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"the time limit is {time_limit} s; it must be positive")
    for path in (out, checkpoint):
        if path is not None and communicator.is_root:
            if path is checkpoint:  # its folder is made
                check_output_folder(Path(path).parent)
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            check_output(path, _MODEL_BYTES)
    start = init_from if init_from is None or isinstance(init_from, LDOSModel) else load_model(init_from)
    origin = start.metadata.provenance if start else None
    sources, snapshots = describe_sources(settings), load_data(settings)
    trained = train_stages(
        settings,
        snapshots,
        start=start,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        time_limit=time_limit,
        progress=progress,
        communicator=communicator,
        device=device,
        inputs_folder=inputs_folder,
    )
    if not communicator.is_root:
        return trained
    model, (training, validation) = trained.model, snapshots.chosen(None)
    model.metadata = replace(
        model.metadata,
        provenance={
            "settings": _as_json(settings.as_table()),
            **sources,
            "training": sorted(snapshot.name for snapshot in training),
            "held back": sorted(snapshot.name for snapshot in validation),
            "epochs": {name: len(history.records) for name, history in trained.histories.items()},
            "finished": trained.finished,
            "started from": origin,
            "torch": version("torch"),
            "ase-ldos": version("ase-ldos"),
        },
    )
    if out is not None:
        # what follows may fail on one structure, which must not cost the training; the end tells if the place is gone
        with suppress(OSError):
            save_model(model, Path(out))
    _calibrate(model, training, validation, progress)
    errors = evaluate_model(model, validation, progress=progress)
    model.metadata = replace(model.metadata, errors=summarise(errors))
    if out is not None:
        _save_where_possible(model, Path(out))
    return replace(trained, errors=errors)


def _calibrate(model: LDOSModel, training: list[Snapshot], validation: list[Snapshot], progress: bool) -> None:
    """Range, warning and, where the labels allow them, standard deviations."""
    calibrate(model, training, validation, progress=progress)
    if not any(item.ldos is not None for item in (*training, *validation)):
        return
    try:
        # samples of forces cost many predictions; `ase-ldos calibrate` makes up for them
        calibrate_uncertainty(model, training, validation, force_samples=0, progress=progress)
    except ValueError as error:  # held-back structures without some labels: a model without error bars
        logger.warning("the model gets no standard deviations: %s", error)


def _save_where_possible(model: LDOSModel, out: Path) -> None:
    """Write the model file, or, where its place cannot be written to any more, keep hours of work in another.

    Raises:
        OSError: its own place cannot be written to; the message tells where the model is.
    """
    try:
        save_model(model, out)
    except OSError as error:
        kept = _save_elsewhere(model, f"{out.stem}-{os.getpid()}.safetensors")
        if kept is None:
            raise
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}; the model is kept as {kept}") from error


def _save_elsewhere(model: LDOSModel, name: str) -> Path | None:
    """Write a model file where it can be: here, or among the temporary files; None if it cannot."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            save_model(model, folder / name)
            return folder / name
    return None


def train_stages(
    settings: TrainingSettings,
    data: TrainingData,
    *,
    start: LDOSModel | None = None,
    checkpoint: Path | None = None,
    time_limit: float | None = None,
    progress: bool = True,
    communicator: Communicator | None = None,
    device: str | torch.device = "auto",
    inputs_folder: PathLike | None = None,
) -> TrainedModel:
    """Train the model of some settings on snapshots that are loaded, and nothing else.

    Args:
        settings: what and how.
        data: snapshots by the label sets of the settings.
        start: a model of the same settings, elements apart (see ``training.fine_tuning``), whose weights to start from
            in place of least squares and stages on the LDOS alone; for a graph network with a fixed power spectrum also
            a model of that power spectrum alone.
        checkpoint: file from which an interrupted training resumes.
        time_limit: s; no epoch starts that would probably end later.
        progress: show bars.
        communicator: ranks that share the snapshots of a step.
        device: where steps are taken, see ``devices.find_device``. Snapshots are prepared and stay on the CPU.
        inputs_folder: see ``train_model``.

    Raises:
        ValueError: no training snapshot of a stage has an LDOS, none is held back, data that do not fit the settings,
            or a checkpoint of another training.
    """
    began, communicator = time.monotonic(), Communicator() if communicator is None else communicator
    _check_elements(settings, data, start)
    if start is not None:
        # what these cheap steps find the model knows already
        settings = replace(settings, stages=tuple(s for s in settings.stages if isinstance(s, SnapshotStage)))
    for stage in settings.stages:
        _check_stage(stage, *data.chosen(stage.data), communicator)
    _check_reach(settings, data.chosen(None)[0])
    progress = progress and communicator.is_root
    context = _fingerprint(settings, data, start)
    done, known_epochs = _resume_point(checkpoint, context, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    files = None if inputs_folder is None else InputFiles(Path(inputs_folder))
    run = _Training(settings, data, start, generator, progress, find_device(device), files)
    if start is None and not done:
        start_linear(run.model, run.points(settings.stages[0]).completed(run.model))
    histories: dict[str, History] = {name: History.from_dict(known) for name, known in done.items()}
    for stage in settings.stages[len(done) :]:
        left = None if time_limit is None else time_limit - (time.monotonic() - began)
        # a stage that an earlier call finished is only read, which must not keep the next one from its first epoch
        if left is not None and left <= 0 and sum(len(h.records) for h in histories.values()) > known_epochs:
            break
        logger.info("stage %s", stage.name)
        try:
            histories[stage.name] = run.fit(
                stage,
                checkpoint=checkpoint,
                context=context | {"stage": stage.name, "finished": {n: h.to_dict() for n, h in histories.items()}},
                time_limit=None if left is None else max(left, 1e-9),
                communicator=communicator,
            )
        except ElectronWindowError as error:
            failure = f"stage {stage.name!r} broke off: {error}"
            logger.warning("%s", failure)
            return TrainedModel(run.model.eval(), histories, False, failure=failure)
        if histories[stage.name].stopped == "time limit":
            break
    last = histories.get(settings.stages[-1].name)
    finished = last is not None and last.stopped in ("epochs", "patience")
    return TrainedModel(run.model.eval(), histories, finished)


class _Training:
    """The model and its data, prepared once for all stages.

    Args:
        settings: of the training.
        data: the snapshots.
        start: see ``train_stages``.
        generator: of all randomness.
        progress: show bars.
        device: of the model.
        files: see ``prepare_snapshot``.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        data: TrainingData,
        start: LDOSModel | None,
        generator: torch.Generator,
        progress: bool,
        device: torch.device,
        files: InputFiles | None,
    ) -> None:
        self.settings, self.data, self.generator, self.progress = settings, data, generator, progress
        with_ldos = [snapshot for snapshot in data.chosen(None)[0] if snapshot.ldos is not None]
        start = None if start is None else start.to("cpu")
        if start is None:
            known, species = {}, tuple(atomic_numbers[symbol] for symbol in settings.model.valence)
        else:
            # elements that join a model without constants have none either
            known = start.metadata.level_constants
            species = new_species(start, settings) if known else ()
        fitted = fit_level_constants(data.chosen(None)[0], species, settings.model.alignment, known)
        constants = {**known, **fitted}
        self.model = _first_model(settings, start, with_ldos, constants, generator, progress)
        used = {source for stage in settings.stages for source in stage.data or settings.data}
        training, validation = data.chosen(tuple(used))
        wants_forces = any(isinstance(stage, SnapshotStage) for stage in settings.stages)
        scaler = fixed_scaler(self.model)
        prepared = _prepare(
            settings,
            [*training, *validation],
            self.model.descriptor.fixed,
            scaler,
            self.model.metadata.level_constants,
            wants_forces,
            progress,
            files,
        )
        self._prepared = {snapshot.name: snapshot for snapshot in prepared}
        self.model.to(device)

    def snapshots(self, stage: StageSettings) -> tuple[list[TrainingSnapshot], list[TrainingSnapshot]]:
        """Prepared training and validation snapshots of a stage."""
        training, validation = self.data.chosen(stage.data)
        return [self._prepared[item.name] for item in training], [self._prepared[item.name] for item in validation]

    def points(self, stage: StageSettings) -> LDOSPoints:
        """Points with LDOS of the training snapshots of a stage."""
        points = LDOSPoints.gather(self.snapshots(stage)[0])
        assert points is not None
        return points

    def fit(self, stage: StageSettings, **options: Any) -> History:  # noqa: ANN401 - those of training.loop.fit
        """Train for one stage; a checkpoint of this stage is resumed."""
        options |= {"generator": self.generator, "progress": self.progress}
        checkpoint, context = options["checkpoint"], options["context"]
        resume = checkpoint is not None and checkpoint.exists() and read_checkpoint(checkpoint)["context"] == context
        options["resume"] = resume
        if isinstance(stage, LDOSStage):
            return self._fit_ldos(stage, options)
        return self._fit_snapshots(stage, options)

    def _fit_ldos(self, stage: LDOSStage, options: dict[str, Any]) -> History:
        points, model = self.points(stage).completed(self.model), self.model

        def batches(_: int) -> Iterator[Tensor]:
            for _ in range(stage.steps):
                yield torch.randint(len(points.inputs), (stage.points,), generator=self.generator)

        def loss(module: nn.Module, chosen: Tensor) -> Tensor:
            assert isinstance(module, LDOSModel)
            inputs, ldos = points.inputs[chosen].to(model.device), points.ldos[chosen].to(model.device)
            return relative_square(module.network(inputs) * module.ldos_scale, ldos)

        # every rank takes all of these cheap steps and writes the same checkpoint, so there is nothing to add up
        options.pop("communicator")
        # not those of learned features: their inputs are those of the initial weights in this stage
        optimizer = torch.optim.AdamW(model.network.parameters(), lr=stage.learning_rate)
        schedule = _one_cycle(optimizer, stage.learning_rate, stage.steps, stage.warmup)
        return fit(model, batches, loss, optimizer, epochs=1, scheduler=schedule, **options)

    def _fit_snapshots(self, stage: SnapshotStage, options: dict[str, Any]) -> History:
        training, validation = self.snapshots(stage)
        trained = ModelWithOffsets(self.model, [snapshot.group for snapshot in training], stage.energy_offset)
        optimizer = SOAP(trained.parameters(), lr=stage.learning_rate)
        steps = stage.epochs * math.ceil(len(training) / stage.batch_size)
        return fit(
            trained,
            lambda _: _shuffled(training, stage.batch_size, self.generator),
            SharedLoss(LDOSLoss(stage.weights, self.generator, self.points(stage)), options["communicator"]),
            optimizer,
            epochs=stage.epochs,
            scheduler=_one_cycle(optimizer, stage.learning_rate, steps, stage.warmup),
            validate=lambda module: measure(module, validation, stage.weights),
            monitor="loss",
            validate_every=stage.validate_every,
            patience=stage.patience,
            max_gradient_norm=stage.max_gradient_norm,
            ema_decay=stage.ema_decay,
            **options,
        )


def _check_elements(settings: TrainingSettings, data: TrainingData, start: LDOSModel | None) -> None:
    """Refuse elements of the settings without data, and data of elements that the model would not know."""
    asked = set(settings.model.valence)
    known = asked | ({chemical_symbols[n] for n in start.descriptor.species} if start else set())
    training, validation = data.chosen(None)
    there = {chemical_symbols[int(number)] for snapshot in training for number in snapshot.numbers}
    missing = [symbol for symbol in settings.model.valence if symbol not in there]
    if missing:
        raise ValueError(
            f"the settings are for {', '.join(settings.model.valence)}, but no training snapshot has "
            f"{', '.join(missing)}; add labels of it, or take it out of valence"
        )
    for snapshot in (*training, *validation):
        foreign = sorted({chemical_symbols[int(number)] for number in snapshot.numbers} - known)
        if foreign:
            raise ValueError(
                f"{snapshot.name} has {', '.join(foreign)}, which the model will not know: it knows "
                f"{', '.join(sorted(known))}; add it to valence"
            )


def _check_stage(
    stage: StageSettings, training: Sequence[Snapshot], validation: Sequence[Snapshot], communicator: Communicator
) -> None:
    with_ldos = [snapshot for snapshot in training if snapshot.ldos is not None]
    if not with_ldos or not validation:
        raise ValueError(
            f"stage {stage.name!r} has {len(with_ldos)} training snapshots with LDOS and {len(validation)} held back; "
            "one of each is the least"
        )
    if isinstance(stage, SnapshotStage) and stage.batch_size < communicator.size:
        raise ValueError(
            f"stage {stage.name!r} takes {stage.batch_size} snapshots a step (batch_size); {communicator.size} ranks "
            "need that many or more"
        )


def _check_reach(settings: TrainingSettings, snapshots: Sequence[Snapshot]) -> None:
    """Refuse a cutoff that makes every point see whole crystals: a training would not end."""
    cutoff = make_point_features(settings.model.feature_settings).cutoff
    for snapshot in snapshots:
        seen = len(snapshot) / abs(np.linalg.det(snapshot.cell)) * 4 / 3 * math.pi * cutoff**3
        if seen > _MOST_NEIGHBOURS:
            raise ValueError(
                f"within the descriptor's cutoff of {cutoff:g} Å a point of {snapshot.name} sees some {seen:.2g} "
                f"atoms; at most {_MOST_NEIGHBOURS:.0e} can be handled"
            )


def _fingerprint(settings: TrainingSettings, data: TrainingData, start: LDOSModel | None) -> dict[str, Any]:
    """What the numbers of a training depend on, JSON-able: settings, content of the snapshots, initial weights."""

    def content(snapshots: Sequence[Snapshot]) -> str:
        digest = hashlib.sha256()
        for snapshot in snapshots:
            digest.update(snapshot.name.encode())
            for key, array in snapshot_to_arrays(snapshot).items():
                digest.update(f"{key} {array.shape} {array.dtype.str} ".encode() + array.tobytes())
        return digest.hexdigest()

    weights = hashlib.sha256()
    for name, value in ({} if start is None else start.state_dict()).items():
        weights.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    table = _as_json(settings.as_table())
    for stage in table["stages"]:
        stage.pop("epochs", None)  # more of them go on from what there is, see _resume_point
    return {
        "settings": table,
        "data": {source: content([*data.training[source], *data.validation[source]]) for source in data.training},
        "core charges": hashlib.sha256(repr(core_charges(settings)).encode()).hexdigest(),
        "initial weights": weights.hexdigest() if start is not None else "least squares",
    }


def _resume_point(
    checkpoint: Path | None, context: dict[str, Any], settings: TrainingSettings
) -> tuple[dict[str, Any], int]:
    """Histories of the stages that were finished before the one of a checkpoint, by name, and epochs done in all.

    The stage of the checkpoint may have got another number of epochs since: it goes on with the learning rates of the
    longer cycle. A stage that another has followed cannot.

    Raises:
        ValueError: the checkpoint is of another training, or of one with other epochs in a finished stage.
    """
    if checkpoint is None or not checkpoint.exists():
        return {}, 0
    state = read_checkpoint(checkpoint)
    found = dict(state.get("context", {}))
    done = dict(found.pop("finished", {}))
    found.pop("stage", None)
    check_context(checkpoint, found, context)
    for stage in settings.stages:
        taken = len(done[stage.name]["records"]) if stage.name in done else None
        if isinstance(stage, SnapshotStage) and taken not in (None, stage.epochs):
            raise ValueError(
                f"the checkpoint {checkpoint} is beyond stage {stage.name!r}, which had {taken} epochs and has "
                f"{stage.epochs} here: name another file, or train on from its model by --init-from"
            )
    return done, sum(len(history["records"]) for history in (*done.values(), state["history"]))


def _as_json(table: dict[str, Any]) -> dict[str, Any]:
    """As a file holds it: lists in place of tuples."""
    return dict(json.loads(json.dumps(table)))


def build_model(
    settings: TrainingSettings,
    features: PointFeatures,
    scaler: Scaler,
    generator: torch.Generator,
    level_constants: dict[str, float] | None = None,
) -> LDOSModel:
    """The untrained model of some settings."""
    chosen = settings.model
    energies = torch.as_tensor(chosen.energies)
    n_inputs = scaler.projection.shape[1]
    network = MLP(n_inputs, len(energies), chosen.hidden, chosen.activation, True, generator)
    metadata = _metadata(settings, sum(chosen.energy_window) / 2, level_constants)
    return LDOSModel(
        features, network, energies, metadata, mean=scaler.mean, projection=scaler.projection, ldos_scale=LDOS_SCALE
    )


def _metadata(
    settings: TrainingSettings, fermi_level: float, level_constants: dict[str, float] | None = None
) -> ModelMetadata:
    """What some settings say of their model."""
    chosen = settings.model
    return ModelMetadata(
        name=settings.name,
        valence=dict(chosen.valence),
        functional=chosen.functional,
        electronic_temperature=chosen.electronic_temperature,
        broadening=chosen.broadening,
        grid_spacing=chosen.grid_spacing,
        fermi_level=fermi_level,
        minimum_distance=chosen.minimum_distance,
        core_charges=core_charges(settings),
        level_constants=level_constants or {},
    )


def _point_features(settings: TrainingSettings, generator: torch.Generator) -> PointFeatures:
    return make_point_features(settings.model.feature_settings, generator)


def _fit_scaler(
    settings: TrainingSettings, snapshots: Sequence[Snapshot], descriptor: FixedFeatures | None, progress: bool
) -> Scaler:
    if descriptor is None:
        return Scaler(torch.zeros(0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64))
    chosen = settings.model
    floor, spacing = chosen.whitening_floor, chosen.grid_spacing
    return fit_scaler(descriptor, snapshots, chosen.n_components, floor=floor, spacing=spacing, progress=progress)


def _first_model(
    settings: TrainingSettings,
    start: LDOSModel | None,
    snapshots: Sequence[Snapshot],
    level_constants: dict[str, float],
    generator: torch.Generator,
    progress: bool,
) -> LDOSModel:
    """The model before the first step: a fresh one, the one to start from, or a fresh one with the latter's knowledge.

    Raises:
        ValueError: ``start`` is not of these settings.
    """
    features = _point_features(settings, generator)
    if start is None:
        scaler = _fit_scaler(settings, snapshots, features.fixed, progress)
    else:
        whole_settings = features_with_elements(start.descriptor, features)
        _check_start(settings, start, features, same_features=whole_settings is not None)
        start.thermal_correction = None  # it belongs to hidden features that change now
        if whole_settings is not None:
            model = with_elements(start, settings, whole_settings, level_constants)
            metadata, old = _metadata(settings, start.metadata.fermi_level, level_constants), model.metadata
            # it goes on knowing the elements that the settings leave out
            model.metadata = replace(
                metadata,
                valence={**old.valence, **metadata.valence},
                core_charges={**old.core_charges, **metadata.core_charges},
            )
            return model.train().requires_grad_(True)
        scaler = fixed_scaler(start)
    whole = whole_scaler(features, scaler, snapshots, settings.model.grid_spacing)
    model = build_model(settings, features, whole, generator, level_constants)
    if start is not None:
        graft(start.network, model.network)
    return model


def _check_start(settings: TrainingSettings, start: LDOSModel, features: PointFeatures, *, same_features: bool) -> None:
    """Refuse a model that the one to train does not contain: the same one, or that of its power spectrum alone."""
    chosen, fixed = settings.model, features.fixed
    wanted = {
        "descriptor": features.settings(),
        "inputs of fixed features": chosen.n_components,
        "hidden": list(chosen.hidden),
        "activation": chosen.activation,
        "energies": chosen.energies.tolist(),
    }
    found = {
        "descriptor": start.descriptor.settings(),
        "inputs of fixed features": fixed_scaler(start).projection.shape[1],
        "hidden": list(start.network.hidden),
        "activation": start.network.activation,
        "energies": start.energies.tolist(),
    }
    if same_features:
        wanted["descriptor"] = found["descriptor"]
    elif fixed is not None and found["descriptor"] == fixed.settings():
        wanted["descriptor"] = fixed.settings()
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"the model to start from is not of these settings: {name} {_shown(found[name])}, they ask for "
                f"{_shown(value)}"
            )


def _shown(value: object) -> str:
    """A setting in a message; energies by their range."""
    if isinstance(value, list) and len(value) > 10:
        return f"{len(value)} from {value[0]} to {value[-1]} eV"
    return str(value)


def _prepare(
    settings: TrainingSettings,
    snapshots: Sequence[Snapshot],
    descriptor: FixedFeatures | None,
    scaler: Scaler,
    level_constants: dict[str, float],
    wants_forces: bool,
    progress: bool,
    files: InputFiles | None,
) -> list[TrainingSnapshot]:
    chosen = settings.model
    return prepare_snapshots(
        snapshots,
        descriptor,
        scaler,
        {atomic_numbers[symbol]: float(charge) for symbol, charge in chosen.valence.items()},
        energies=chosen.energies,
        broadening=chosen.broadening,
        level_constants=level_constants,
        spacing=chosen.grid_spacing,
        jacobian=torch.float16 if wants_forces else None,
        progress=progress,
        files=files,
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


def _one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=warmup)


def _shuffled(
    snapshots: Sequence[TrainingSnapshot], batch: int, generator: torch.Generator
) -> Iterator[list[TrainingSnapshot]]:
    for places in torch.randperm(len(snapshots), generator=generator).split(batch):
        yield [snapshots[place] for place in places.tolist()]
