"""Models trained side by side are those trained one after the other, and none outlives who asked for it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from processes import children_of, is_alive
from recipes import recipe_head, recipe_with_labels

from ase_ldos.active_learning import committee, side_by_side
from ase_ldos.active_learning.committee import MemberTraining, available_memory, train_committee, training_bytes
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.training.settings import TrainingSettings

RECIPE = (
    recipe_head("member")
    + """
[[stages]]
name = "everything"
epochs = 4
learning_rate = 3e-3
weights = { ldos_points = 200 }
"""
)


@pytest.fixture
def settings(be_model: LDOSModel, tmp_path: Path) -> TrainingSettings:
    return recipe_with_labels(be_model, tmp_path, "member", RECIPE, 4)


def trainings(settings: TrainingSettings, folder: Path) -> list[MemberTraining]:
    folder.mkdir()
    return [
        MemberTraining(replace(settings, seed=seed), folder / f"{seed}.safetensors", folder / f"{seed}.ck")
        for seed in (0, 1)
    ]


def test_models_are_the_same_side_by_side(settings: TrainingSettings, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    serial, parallel = trainings(settings, tmp_path / "serial"), trainings(settings, tmp_path / "parallel")
    assert train_committee(serial) == ["", ""]
    assert train_committee(parallel, workers=2) == ["", ""]
    models = []
    for one, other in zip(serial, parallel, strict=True):
        first, second = load_model(one.out).state_dict(), load_model(other.out).state_dict()
        assert first.keys() == second.keys()
        for name, values in first.items():
            # sums over points depend on the number of threads in their last digits
            torch.testing.assert_close(values, second[name], rtol=1e-5, atol=1e-6)
        models.append(first)
    assert any(not torch.equal(values, models[1][name]) for name, values in models[0].items())
    assert torch.get_num_threads() == threads
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_is_wrong_with_one_ends_all(settings: TrainingSettings, tmp_path: Path) -> None:
    endless = replace(settings, stages=tuple(replace(stage, epochs=10**6) for stage in settings.stages))
    jobs = trainings(endless, tmp_path / "models")
    jobs.append(replace(jobs[0], settings=replace(settings, data=("nowhere",)), out=tmp_path / "models/2.safetensors"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train_committee(jobs[::-1], workers=3)
    assert multiprocessing.active_children() == []


def test_trainings_wait_where_memory_has_no_room_for_all(
    settings: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In this process then, which no pool is made for."""
    monkeypatch.setattr(side_by_side, "ProcessPoolExecutor", None)
    monkeypatch.setattr(committee, "available_memory", lambda: 5e9)
    with caplog.at_level("INFO", logger=committee.__name__):
        assert train_committee(trainings(settings, tmp_path / "models"), workers=2, bytes_each=3e9) == ["", ""]
    assert "1 of 2 trainings at a time, of 3.0 GB each and 0.0 GB that they share: 5.0 GB are free" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger=committee.__name__):
        train_committee(trainings(settings, tmp_path / "sharing"), workers=2, bytes_each=1e9, bytes_shared=3.5e9)
    assert "1 of 2 trainings" in caplog.text
    with pytest.raises(TypeError):  # the pool that there is not
        train_committee(trainings(settings, tmp_path / "others"), workers=2, bytes_each=2e9)


def test_memory_is_estimated_by_what_is_kept() -> None:
    silicon = bulk("Si", a=5.47, cubic=True)
    # 101 cells of silicon of 2 to 8 atoms took 8.1 GB
    cells = [silicon] * 60 + [bulk("Si", a=5.47)] * 41
    assert 5e9 < sum(training_bytes(cells, 0.22, 64, 123)) < 10e9
    points = 1.6 * silicon.get_volume() / 0.22**3
    assert training_bytes([silicon], 0.22, 64, 123) == pytest.approx(
        (points * 123 * 4, points * (30 * 64 * 2 + 64 * 4))
    )
    found = available_memory()
    assert found is None or 1e8 < found < 1e14


ENDLESS = """
import signal, sys
from dataclasses import replace
from pathlib import Path
from ase_ldos.active_learning import committee
from ase_ldos.active_learning.committee import MemberTraining, available_memory, train_committee, training_bytes
from ase_ldos.training.settings import load_settings

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which tests in the background begin without
    settings, folder = load_settings(sys.argv[1]), Path(sys.argv[2])
    settings = replace(settings, stages=tuple(replace(stage, epochs=10**6) for stage in settings.stages))
    print("ready", flush=True)
    train_committee([MemberTraining(settings, folder / f"{i}.safetensors", folder / f"{i}.ck") for i in (0, 1)], 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_trainings_end_with_their_parent(settings: TrainingSettings, tmp_path: Path, how: signal.Signals) -> None:
    del settings  # its files are what is trained on
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "member.toml"), str(tmp_path)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not all((tmp_path / f"{i}.ck").exists() for i in (0, 1)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = children_of(process.pid)
        assert len(children) >= 2
        process.send_signal(how)
        process.wait(30)
        deadline = time.monotonic() + 30
        while any(map(is_alive, children)):
            assert time.monotonic() < deadline, "a training goes on without its parent"
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
