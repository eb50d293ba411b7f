"""The training loop: what it minimises, keeps, stops at, writes and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ase_ldos.checkpoint import read_checkpoint, write_checkpoint
from ase_ldos.networks.mlp import MLP
from ase_ldos.training.loop import History, fit


class Task:
    """A small regression with shuffled batches, noise from the generator, one-cycle AdamW."""

    def __init__(self, seed: int = 1, hidden: int = 8) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(60, 2, generator=self.generator)
        self.y = torch.sin(self.x[:, :1]) * self.x[:, 1:]
        self.model = MLP(2, 1, hidden=(hidden, hidden), generator=self.generator)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 1e-2, total_steps=90)

    def batches(self, _epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(60, generator=self.generator).split(20):
            yield self.x[chosen], self.y[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        x, y = batch
        x = x + 0.01 * torch.randn(x.shape, generator=self.generator)
        value = (model(x) - y).square().mean()
        return value, {"rmse": float(value.detach()) ** 0.5}

    def validate(self, model: nn.Module) -> dict[str, Any]:
        return {"error": (model(self.x) - self.y).abs().max()}

    def fit(self, epochs: int, **kwargs: Any) -> History:  # noqa: ANN401
        settings = {"scheduler": self.scheduler, "generator": self.generator, "progress": False, **kwargs}
        return fit(self.model, self.batches, self.loss, self.optimizer, epochs=epochs, **settings)


def numbers(history: History) -> list[Any]:
    return [(record.epoch, record.train, record.validation, record.learning_rate) for record in history.records]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_one_sgd_step_is_the_formula() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 3.0)
    history = fit(
        model,
        [torch.tensor([[2.0]], dtype=torch.float64)],
        lambda model, x: model(x).square().sum(),
        torch.optim.SGD(model.parameters(), lr=0.01),
        epochs=2,
        progress=False,
    )
    # d(w x)²/dw = 2 w x²: w → w (1 − 0.08); the loss of an epoch is that before its step
    assert history.column("loss") == pytest.approx([36.0, 36.0 * 0.92**2], rel=1e-14)
    assert history.column("gradient_norm") == pytest.approx([24.0, 24.0 * 0.92], rel=1e-14)
    assert history.stopped == "epochs"


def test_clipping_scales_the_gradient() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 3.0)
    batch = [torch.tensor([[2.0]], dtype=torch.float64)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    history = fit(
        model,
        batch,
        lambda model, x: model(x).square().sum(),
        optimizer,
        epochs=1,
        max_gradient_norm=6.0,
        progress=False,
    )
    assert history.column("gradient_norm") == pytest.approx([24.0])
    assert model.weight.item() == pytest.approx(3.0 - 0.06, abs=1e-6)


def test_learns_and_reports_means_over_batches() -> None:
    task = Task()
    history = task.fit(30, validate=task.validate, monitor="error")
    loss = history.column("loss")
    assert loss[-1] < 0.1 * loss[0]
    assert len(history.records) == 30
    assert history.best == min(history.column("error", validation=True))
    assert history.records[history.best_epoch or 0].validation["error"] == history.best
    assert float(task.validate(task.model)["error"].detach()) == history.best
    # metrics that only some batches report are averaged over those batches
    history = fit(
        task.model,
        [1.0, 2.0, 6.0],
        lambda model, b: (model(task.x).mean() * 0 + b, {"odd": b} if b != 2 else {}),
        task.optimizer,
        epochs=1,
        progress=False,
    )
    assert history.column("loss") == [3.0]
    assert history.column("odd") == [3.5]


def test_keeps_the_best_weights_not_the_last() -> None:
    task = Task()
    seen: list[float] = []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(float(model.head.bias.detach()[0]))  # type: ignore[union-attr, operator]
        return {"loss": abs(len(seen) - 4.0)}

    history = task.fit(9, validate=validate)
    assert history.best_epoch == 3
    assert float(task.model.head.bias.detach()[0]) == seen[3] != seen[-1]


def test_patience_and_validate_every() -> None:
    task = Task()
    values = iter([5.0, 4.0, 4.5, 4.5, 1.0])
    history = task.fit(30, validate=lambda _: {"loss": next(values)}, validate_every=2, patience=4)
    assert history.stopped == "patience"
    assert [bool(record.validation) for record in history.records] == [False, True] * 4
    assert (history.best_epoch, history.best) == (3, 4.0)


def test_time_limit_and_callback_stop() -> None:
    task = Task()
    history = task.fit(30, callbacks=[lambda *_: time.sleep(0.01)], time_limit=0.1)
    assert history.stopped == "time limit"
    assert 1 <= len(history.records) <= 10
    history = Task().fit(30, callbacks=[lambda _, history: len(history.records) == 3])
    assert history.stopped == "callback"
    assert len(history.records) == 3


def test_average_is_what_is_validated_and_kept() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 1.0)
    seen: list[float] = []
    latest: list[float] = []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(model.weight.item())  # type: ignore[operator, union-attr]
        return {"loss": -len(seen)}

    fit(
        model,
        [torch.ones(1, 1, dtype=torch.float64)],
        lambda model, x: model(x).sum(),
        torch.optim.SGD(model.parameters(), lr=1.0),
        epochs=3,
        validate=validate,
        ema_decay=0.2,
        callbacks=[lambda model, _: latest.append(model.weight.item())],
        progress=False,
    )
    assert latest == [0.0, -1.0, -2.0]
    averages, average = [], 1.0
    for step, weight in enumerate(latest, start=1):
        decay = min(0.2, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        averages.append(average)
    assert seen == pytest.approx(averages, rel=1e-14)
    assert model.weight.item() == pytest.approx(averages[-1], rel=1e-14)


@pytest.mark.parametrize("average", [None, 0.9])
def test_resumed_run_has_the_numbers_of_an_uninterrupted_one(tmp_path: Path, average: float | None) -> None:
    settings: dict[str, Any] = {"monitor": "error", "ema_decay": average, "max_gradient_norm": 1.0, "validate_every": 2}
    whole = Task()
    expected = whole.fit(20, validate=whole.validate, **settings)
    path = tmp_path / "run" / "state.safetensors"
    halted = Task()

    def crash(model: nn.Module, history: History) -> None:
        if len(history.records) == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halted.fit(20, validate=halted.validate, checkpoint=path, callbacks=[crash], **settings)
    resumed = Task(seed=5)
    resumed.x, resumed.y = whole.x, whole.y
    history = resumed.fit(20, validate=resumed.validate, checkpoint=path, **settings)
    assert numbers(history) == numbers(expected)
    assert (history.best, history.best_epoch) == (expected.best, expected.best_epoch)
    assert same_weights(resumed.model, whole.model)
    again = Task(seed=6)
    assert numbers(again.fit(20, checkpoint=path, validate=again.validate, **settings)) == numbers(expected)
    assert same_weights(again.model, whole.model)
    assert not list(path.parent.glob(".*"))


SCRIPT = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {folder!r})
    from test_loop import Task
    task = Task()
    slow = [lambda model, history: time.sleep(0.02)]
    task.fit(30, validate=task.validate, monitor="error", checkpoint=Path(sys.argv[1]), callbacks=slow)
"""


@pytest.mark.slow
def test_killed_process_resumes_with_the_same_numbers(tmp_path: Path) -> None:
    whole = Task()
    expected = whole.fit(30, validate=whole.validate, monitor="error")
    path = tmp_path / "state.safetensors"
    script = textwrap.dedent(SCRIPT).format(folder=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and len(read_checkpoint(path)["history"]["records"]) >= 3:
                break
            time.sleep(0.01)
        assert process.poll() is None, "the training ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = len(read_checkpoint(path)["history"]["records"])
    assert 3 <= done < 30
    assert not [file for file in tmp_path.iterdir() if file != path and ".part" not in file.name]
    task = Task(seed=9)
    task.x, task.y = whole.x, whole.y
    history = task.fit(30, validate=task.validate, monitor="error", checkpoint=path)
    assert numbers(history) == numbers(expected)
    assert same_weights(task.model, whole.model)


def test_resume_false_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Task().fit(3, checkpoint=path)
    history = Task(seed=2).fit(3, checkpoint=path, resume=False)
    assert numbers(history) == numbers(Task(seed=2).fit(3))


def test_a_checkpoint_that_lost_some_of_its_numbers_is_refused(tmp_path: Path) -> None:
    """A file of the right length whose tensors are zeros: nothing but the checksum tells."""
    path = tmp_path / "run.ck"
    write_checkpoint(path, {"weights": torch.arange(1.0, 101.0), "epoch": 3})
    data = path.read_bytes()
    path.write_bytes(data[:-200] + bytes(200))
    with pytest.raises(ValueError, match=r"run\.ck is not a checkpoint of ase-ldos, or is damaged: its content is not"):
        read_checkpoint(path)


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX'")
def test_a_full_disk_under_a_checkpoint_leaves_the_old_one(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "run.ck"
    write_checkpoint(path, {"epoch": 3})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"run\.ck could not be written: File too large"):
            write_checkpoint(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(path) == {"epoch": 3}
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoint_keeps_nested_states(tmp_path: Path) -> None:
    state = {"a": {0: torch.arange(3), 1: (1.5, None, "x")}, "b": [True, float("inf"), torch.zeros(0)], "c": {}}
    write_checkpoint(tmp_path / "file", state)
    back = read_checkpoint(tmp_path / "file")
    assert torch.equal(back["a"][0], torch.arange(3))
    assert back["b"][2].shape == (0,)
    assert (back["a"][1], back["b"][:2], back["c"]) == ((1.5, None, "x"), [True, float("inf")], {})
    with pytest.raises(ValueError, match=r"cannot hold state\.f of type function"):
        write_checkpoint(tmp_path / "file", {"f": lambda: None})
    assert torch.equal(read_checkpoint(tmp_path / "file")["a"][0], torch.arange(3))


def test_history_survives_json() -> None:
    history = Task().fit(3)
    twin = History.from_dict(json.loads(json.dumps(history.to_dict())))
    assert twin == history
    with pytest.raises(ValueError, match="has no 'accuracy'; it has gradient_norm, loss, rmse"):
        history.column("accuracy")
    with pytest.raises(ValueError, match="no training history"):
        History.from_dict({"records": [{"epoch": 1}]})


def test_parameters_outside_the_network_are_trained() -> None:
    """A wrapping module holds a parameter of the loss, as a learned energy shift is."""

    class Wrapped(nn.Module):
        def __init__(self, network: MLP) -> None:
            super().__init__()
            self.network, self.shift = network, nn.Parameter(torch.zeros(1))

    task = Task()
    wrapped = Wrapped(task.model)
    history = fit(
        wrapped,
        task.batches,
        lambda model, batch: (model.network(batch[0]) + model.shift - 5.0).square().mean(),
        torch.optim.Adam([{"params": task.model.parameters()}, {"params": [wrapped.shift], "lr": 0.1}], lr=1e-3),
        epochs=20,
        progress=False,
    )
    assert wrapped.shift.item() > 2
    assert history.column("loss")[-1] < history.column("loss")[0] / 2


def test_grad_mode_is_left_alone() -> None:
    """Losses and validations may differentiate with respect to inputs, as forces are."""
    task = Task()

    def slope(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return gradient.square().mean()

    history = task.fit(1, validate=lambda model: {"loss": slope(model, task.x)})
    assert history.best > 0
    history = fit(
        task.model, [task.x], slope, torch.optim.Adam(task.model.parameters(), lr=1e-2), epochs=10, progress=False
    )
    assert history.column("loss")[-1] < history.column("loss")[0]
    assert torch.is_grad_enabled()


def test_progress_bar_shows_the_losses(capsys: pytest.CaptureFixture[str]) -> None:
    Task().fit(3, progress=True)
    text = capsys.readouterr().err
    assert "3/3" in text
    assert "loss" in text
    assert "best" in text
    Task().fit(3)
    assert capsys.readouterr().err == ""


def test_non_finite_loss_or_gradient_names_epoch_and_batch(tmp_path: Path) -> None:
    task = Task()
    calls: list[int] = []

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        calls.append(1)
        return task.loss(model, batch)[0] * (float("nan") if len(calls) == 5 else 1.0)

    path = tmp_path / "state"
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 1, batch 1"):
        fit(task.model, task.batches, loss, task.optimizer, epochs=4, checkpoint=path, progress=False)
    assert len(read_checkpoint(path)["history"]["records"]) == 1
    weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(FloatingPointError, match="gradient is not finite"):
        fit(
            nn.ParameterList([weight]),
            [0],
            lambda model, _: model[0].sqrt().sum(),
            torch.optim.SGD([weight], lr=1.0),
            epochs=1,
            progress=False,
        )
    assert weight.item() == 0.0


def test_bad_input(tmp_path: Path) -> None:
    task = Task()
    for name, value in [
        ("epochs", 0),
        ("epochs", 1.5),
        ("patience", 0),
        ("checkpoint_every", -1),
        ("max_gradient_norm", 0.0),
    ]:
        with pytest.raises(ValueError, match=f"{name} must be a positive"):
            task.fit(**{"epochs": 1, name: value})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"moving average, between 0 and 1; got 1\.0"):
        task.fit(1, ema_decay=1.0)
    with pytest.raises(ValueError, match="monitor 'energy' is not among the numbers error"):
        task.fit(1, validate=task.validate, monitor="energy")
    with pytest.raises(ValueError, match="no batches in epoch 0"):
        fit(task.model, [], task.loss, task.optimizer, epochs=1, progress=False)
    with pytest.raises(ValueError, match="iterated only once"):
        fit(task.model, task.batches(0), task.loss, task.optimizer, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"must be a scalar, got an array \[60, 1\] in epoch 0, batch 0"):
        fit(task.model, [task.x], lambda model, x: model(x), task.optimizer, epochs=1, progress=False)
    with pytest.raises(ValueError, match="does not depend on any trainable parameter"):
        fit(task.model, [task.x], lambda _, x: x.sum(), task.optimizer, epochs=1, progress=False)


def test_foreign_or_damaged_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Task().fit(2, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another training"):
        Task(hidden=9).fit(3, checkpoint=path)
    with pytest.raises(ValueError, match="one of the two runs averages"):
        Task().fit(3, checkpoint=path, ema_decay=0.9)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        Task().fit(3, checkpoint=path)
