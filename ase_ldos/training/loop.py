"""The training loop. It knows models, batches, losses and optimisers, and nothing of what they mean."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ase_ldos.checkpoint import read_checkpoint, write_checkpoint
from ase_ldos.communicator import Communicator
from ase_ldos.training.history import EpochRecord, History
from ase_ldos.training.moving_average import MovingAverage

__all__ = ["EpochRecord", "History", "fit"]

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch")
Loss = Callable[[nn.Module, Batch], Tensor | tuple[Tensor, dict[str, float]]]
Batches = Callable[[int], Iterable[Batch]] | Iterable[Batch]
Validation = Callable[[nn.Module], dict[str, float]]
Callback = Callable[[nn.Module, History], bool | None]


def fit(
    model: nn.Module,
    batches: Batches[Batch],
    loss: Loss[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    validate: Validation | None = None,
    monitor: str = "loss",
    validate_every: int = 1,
    patience: int | None = None,
    max_gradient_norm: float | None = None,
    ema_decay: float | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1,
    resume: bool = True,
    context: dict[str, Any] | None = None,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    time_limit: float | None = None,
    communicator: Communicator | None = None,
) -> History:
    """Train ``model`` in place and leave the best weights in it.

    One step: loss of one batch, backward, clipping, optimiser, scheduler. One epoch: a step per batch, then the
    validation. The grad mode is left alone, so losses and validations may call ``torch.autograd.grad``.

    A run that was interrupted resumes from its checkpoint with the very numbers of an uninterrupted one, if all
    randomness of the batches and the loss comes from ``generator``.

    Args:
        model: its parameters; it may wrap whatever the loss needs.
        batches: called with the epoch, or iterated anew in every epoch.
        loss: scalar to minimise, of the model and one batch; with it, if wanted, numbers to record.
        optimizer: holds the parameters to train.
        epochs: number of epochs, those before a resume included.
        scheduler: stepped after every optimiser step. A resumed run may have more steps than before: it goes on at its
            step with the rates of the longer cycle.
        validate: numbers that judge the model (in eval mode), after every ``validate_every``-th and the last epoch.
        monitor: which of those numbers (without ``validate``: of the training's) is smallest at the best weights.
        validate_every: epochs from one validation to the next.
        patience: stop when the best weights are this many epochs old.
        max_gradient_norm: longest gradient (2-norm over all parameters of the optimiser); longer ones are scaled down.
        ema_decay: decay per step of an exponential moving average of the weights, which is then what is validated
            and kept as the best; in early steps t the decay is at most (1 + t) / (10 + t).
        checkpoint: file for the state of the run; never half-written, and free of pickle.
        checkpoint_every: epochs from one checkpoint to the next; the last epoch always gets one.
        resume: continue from ``checkpoint`` if the file is there.
        context: what else the run depends on (settings, data, what came before), JSON-able; it is kept in the
            checkpoint, and a checkpoint with another one is refused.
        generator: its state goes into the checkpoint.
        callbacks: called after every epoch with the model (its latest weights) and the history; True stops the run.
        progress: show a progress bar.
        time_limit: s; no epoch starts that would probably end later than this after the call.
        communicator: ranks whose losses and gradients are added up in every step; each calls this with a loss that is
            its part.

    Returns:
        The history, with the epochs before a resume.

    Raises:
        ValueError: unusable settings, empty batches, a loss that is no scalar or does not depend on a parameter,
            a checkpoint of another model, optimiser or context, ``monitor`` not among the numbers.
        FloatingPointError: loss or gradient is not finite; the last checkpoint is the state before that epoch.

    After an error, whichever, the best weights so far are in the model.
    """
    whole = {"epochs": epochs, "validate_every": validate_every, "patience": patience}
    _check_positive(
        {**whole, "checkpoint_every": checkpoint_every},
        {"max_gradient_norm": max_gradient_norm, "time_limit": time_limit},
    )
    if not callable(batches) and iter(batches) is batches:
        raise ValueError("batches can be iterated only once: give a list, a data loader or a function of the epoch")
    communicator = Communicator() if communicator is None else communicator
    run = _Run(
        model,
        optimizer,
        scheduler,
        generator,
        max_gradient_norm,
        History(monitor),
        MovingAverage(model, ema_decay),
        communicator,
        {} if context is None else context,
    )
    if checkpoint is not None and resume and Path(checkpoint).exists():
        run.load(Path(checkpoint))
    started, was_training = time.monotonic(), model.training
    try:
        with tqdm(
            total=epochs,
            initial=len(run.history.records),
            disable=not (progress and communicator.is_root),
            unit="epoch",
        ) as bar:
            reason = run.reason_to_stop(epochs, patience, time_limit, started)
            while not reason:
                epoch = len(run.history.records)
                judged = validate is None or epoch + 1 == epochs or (epoch + 1) % validate_every == 0
                run.do_epoch(batches(epoch) if callable(batches) else batches, loss, validate, judged, bar)
                # a list, not a generator: the callbacks after one that stops are called as well
                if any([callback(model, run.history) for callback in callbacks]):  # noqa: C419
                    run.history.stopped = "callback"
                reason = run.reason_to_stop(epochs, patience, time_limit, started)
                if checkpoint is not None and communicator.is_root and (reason or (epoch + 1) % checkpoint_every == 0):
                    run.save(Path(checkpoint))
    except Exception:
        run.take_best()
        raise
    finally:
        model.train(was_training)
    run.history.stopped = reason
    run.take_best()
    return run.history


@dataclass
class _Run:
    """The state of a run: all that a checkpoint holds, and the steps that change it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    generator: torch.Generator | None
    max_gradient_norm: float | None
    history: History
    average: MovingAverage
    communicator: Communicator
    context: dict[str, Any]
    best: dict[str, Tensor] = field(default_factory=dict)
    judged: bool = True

    def do_epoch(
        self, batches: Iterable[Batch], loss: Loss[Batch], validate: Validation | None, judged: bool, bar: tqdm[Any]
    ) -> None:
        """Train on every batch once, validate, and keep the weights if they are the best so far."""
        begin, learning_rate = time.monotonic(), float(self.optimizer.param_groups[0]["lr"])
        train = self.train(batches, loss, bar)
        validation: dict[str, float] = {}
        if validate is not None and judged:
            self.model.eval()
            with self.average.applied(self.model):
                validation = {name: _number(value) for name, value in validate(self.model).items()}
        seconds = time.monotonic() - begin
        record = EpochRecord(len(self.history.records), train, validation, learning_rate, seconds)
        self.history.records.append(record)
        self.judged = judged
        if judged:
            self.judge(train if validate is None else validation)
        logger.info("epoch %d: train %s, validation %s", record.epoch, train, validation)
        bar.set_postfix_str(self._summary(train), refresh=False)
        bar.update()

    def judge(self, numbers: dict[str, float]) -> None:
        """Keep the weights if ``monitor`` is the smallest so far."""
        if self.history.monitor not in numbers:
            raise ValueError(f"monitor {self.history.monitor!r} is not among the numbers {', '.join(numbers)}")
        value = numbers[self.history.monitor]
        if value < self.history.best:
            self.history.best, self.history.best_epoch = value, len(self.history.records) - 1
            with self.average.applied(self.model):
                self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def train(self, batches: Iterable[Batch], loss: Loss[Batch], bar: tqdm[Any]) -> dict[str, float]:
        """Take one step per batch; return the means of the recorded numbers."""
        self.model.train()
        sums: dict[str, list[float]] = {}
        shown = time.monotonic()
        for index, batch in enumerate(batches):
            where = f"epoch {len(self.history.records)}, batch {index}"
            for name, value in self.take_step(batch, loss, where).items():
                sums.setdefault(name, []).append(value)
            if time.monotonic() - shown > 0.5:
                shown = time.monotonic()
                bar.set_postfix_str(f"batch {index}, {self._summary(_means(sums))}")
        if not sums:
            raise ValueError(f"there are no batches in epoch {len(self.history.records)}")
        return _means(sums)

    def take_step(self, batch: Batch, loss: Loss[Batch], where: str) -> dict[str, float]:
        """Take one optimiser step; return loss, gradient norm and what else the loss reports."""
        self.optimizer.zero_grad(set_to_none=True)
        result = loss(self.model, batch)
        value, metrics = result if isinstance(result, tuple) else (result, {})
        if value.numel() != 1:
            raise ValueError(f"the loss must be a scalar, got an array {list(value.shape)} in {where}")
        number = float(self.communicator.all_reduce(value.detach().clone()))
        if not math.isfinite(number):
            raise FloatingPointError(f"the loss is {number} in {where}: lower the learning rate or look at this batch")
        if not value.requires_grad:
            raise ValueError(f"the loss of {where} does not depend on any trainable parameter")
        value.backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if parameter.grad is not None:
                self.communicator.all_reduce(parameter.grad)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm or math.inf))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite ({norm}) in {where}, though the loss is {number}")
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.average.update(self.model)
        return {"loss": number, **{name: _number(metric) for name, metric in metrics.items()}, "gradient_norm": norm}

    def reason_to_stop(self, epochs: int, patience: int | None, time_limit: float | None, started: float) -> str:
        """Why no further epoch should start; empty if one should."""
        reason = self._own_reason(epochs, patience, time_limit, started)
        # clocks differ: that of rank 0 counts
        stop = self.communicator.broadcast(torch.tensor([int(bool(reason))]))
        return (reason or "time limit") if int(stop) else ""

    def _own_reason(self, epochs: int, patience: int | None, time_limit: float | None, started: float) -> str:
        records, best = self.history.records, self.history.best_epoch
        if self.history.stopped == "callback":
            return "callback"
        if len(records) >= epochs:
            return "epochs"
        if patience is not None and self.judged and best is not None and len(records) - 1 - best >= patience:
            return "patience"
        now = time.monotonic()
        if time_limit is not None and records and now - started + records[-1].seconds > time_limit:
            return "time limit"
        return ""

    def take_best(self) -> None:
        """Leave the best weights in the model."""
        if self.best:
            self.model.load_state_dict(self.best)

    def save(self, path: Path) -> None:
        """Write the checkpoint."""
        state = {
            "context": self.context,
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "generator": None if self.generator is None else self.generator.get_state(),
            "average": self.average.state_dict(),
            "best": self.best,
            "judged": self.judged,
            "history": self.history.to_dict(),
        }
        write_checkpoint(path, state)

    def load(self, path: Path) -> None:
        """Take over the state in a checkpoint."""
        state = read_checkpoint(path)
        check_context(path, state.get("context", {}), self.context)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                _resume_schedule(self.scheduler, state["scheduler"])
            if self.generator is not None:
                self.generator.set_state(state["generator"])
            self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"the checkpoint {path} belongs to another training ({error}): "
                "remove it, name another file or pass resume=False"
            ) from error
        self.best, self.judged = state["best"], state["judged"]
        self.history = History.from_dict(state["history"])
        logger.info("resumed from %s after %d epochs", path, len(self.history.records))

    def _summary(self, train: dict[str, float]) -> str:
        best = f", best {self.history.monitor} {self.history.best:.4g}" if self.history.best_epoch is not None else ""
        return f"loss {train['loss']:.4g}{best}"


def _resume_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, saved: dict[str, Any]) -> None:
    """Put a schedule at the step of a saved one; if it is longer or shorter than that, it keeps its own length."""
    own = scheduler.state_dict()
    if own.get("total_steps") == saved.get("total_steps"):
        scheduler.load_state_dict(saved)
        return
    length = {key: own[key] for key in ("total_steps", "_schedule_phases")}
    # a step from the one before, which sets the optimiser's rates by the schedule's own length
    scheduler.load_state_dict({**saved, **length, "last_epoch": min(saved["last_epoch"], own["total_steps"]) - 1})
    scheduler.step()


def check_context(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse the checkpoint of a run that depended on something else.

    Raises:
        ValueError: they differ; the message names the first difference.
    """
    difference = _difference(found, wanted)
    if difference:
        raise ValueError(
            f"the checkpoint {path} belongs to another training ({difference}): remove it or name another file"
        )


def _difference(found: Any, wanted: Any, name: str = "") -> str:  # noqa: ANN401 - JSON of any kind
    """The first place where two JSON values differ, in words; empty if they do not."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        both = [key for key in wanted if key in found]
        parts = [_difference(found[key], wanted[key], f"{name}.{key}".lstrip(".")) for key in both]
        odd = sorted(found.keys() ^ wanted.keys())
        parts += [f"{name}.{odd[0]} is known to one of them alone".lstrip(".")] if odd else []
        return next((part for part in parts if part), "")
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True), start=1)
        return next((p for p in (_difference(a, b, f"{name} {place}") for place, (a, b) in pairs) if p), "")
    if found == wanted:
        return ""
    short = all(len(str(value)) < 40 for value in (found, wanted))
    return f"{name} is {found} there and {wanted} here" if short else f"{name} is another"


def _number(value: Tensor | float) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _means(columns: dict[str, list[float]]) -> dict[str, float]:
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}


def _check_positive(integers: dict[str, int | None], numbers: dict[str, float | None]) -> None:
    for name, value in {**integers, **numbers}.items():
        if value is not None and (not value > 0 or (name in integers and value != int(value))):
            raise ValueError(f"{name} must be a positive {'integer' if name in integers else 'number'}, got {value}")
