"""An interrupted prediction resumes to the very same numbers; a checkpoint of another one is refused."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model
from ase_ldos.prediction.checkpointing import PredictionCheckpoint
from ase_ldos.prediction.predict import Prediction, predict

#: Ends itself at the n-th checkpoint of a stage.
SCRIPT = """
import os, signal, sys
import numpy as np
from ase.io import read
from pathlib import Path
from ase_ldos import load_model, predict
from ase_ldos.prediction.checkpointing import PredictionCheckpoint

stage, count = sys.argv[1], int(sys.argv[2])
write, seen = PredictionCheckpoint.write, []

def deadly(self, name, state, **options):
    write(self, name, state, **options)
    seen.append(name)
    if seen.count(stage) == count:
        os.kill(os.getpid(), signal.SIGKILL)

PredictionCheckpoint.write, PredictionCheckpoint.is_due = deadly, lambda self: True
model = load_model("model.safetensors").requires_grad_(False)
found = predict(model, read("atoms.traj"), forces=True, chunk_size=40, checkpoint=Path("part"))
print("blocks of this run:", len(seen))
np.savez("found.npz", forces=found.forces, density=found.density, energy=found.free_energy, dos=found.dos)
"""


def run(folder: Path, stage: str, count: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "script.py", stage, str(count)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_interrupted_twice_and_resumed(be_model: LDOSModel, tmp_path: Path) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.08, seed=3)
    results = {}
    for name in ("interrupted", "whole"):
        folder = tmp_path / name
        folder.mkdir()
        save_model(be_model, folder / "model.safetensors")
        write(folder / "atoms.traj", atoms)
        (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
        if name == "interrupted":
            assert run(folder, "sums", 4).returncode == -signal.SIGKILL
            assert run(folder, "forces", 3).returncode == -signal.SIGKILL
        last = run(folder, "nothing", 1)
        assert last.returncode == 0, last.stderr
        with np.load(folder / "found.npz") as found:
            results[name] = {**found, "blocks": int(last.stdout.split()[-1])}
    for name in ("forces", "density", "dos", "energy"):
        assert np.array_equal(results["interrupted"][name], results["whole"][name]), name
    # the sums and three blocks of the forces were done: what is left is less than half
    assert results["interrupted"]["blocks"] < results["whole"]["blocks"] / 2
    # without a checkpoint the density is not interpolated: the same but for that
    plain = predict(be_model, Structure.from_atoms(atoms), forces=True, chunk_size=40)
    assert plain.forces is not None
    assert np.abs(results["whole"]["forces"] - plain.forces.numpy()).max() < 1e-6


def test_another_calculation_is_refused(be_model: LDOSModel, tmp_path: Path) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    predict(be_model, Structure.from_atoms(atoms), checkpoint=tmp_path)
    atoms.rattle(0.01)
    with pytest.raises(ValueError, match="holds another calculation"):
        predict(be_model, Structure.from_atoms(atoms), checkpoint=tmp_path)


def test_nothing_is_written_without_a_folder() -> None:
    checkpoint = PredictionCheckpoint(None, "x", interval=-1.0)
    checkpoint.write("sums", {"done": 1}, always=True)
    assert checkpoint.stage("sums") == {}


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.08, seed=3)
    return atoms


class _InterruptionError(Exception):
    """In place of a kill."""


def interrupt(model: LDOSModel, folder: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Predict with a checkpoint at every block, and stop after so many of them."""
    write, seen = PredictionCheckpoint.write, []

    def deadly(self: PredictionCheckpoint, name: str, state: dict[str, object], *, always: bool = False) -> None:
        write(self, name, state, always=always)
        seen.append(name)
        if len(seen) == writes:
            raise _InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(PredictionCheckpoint, "write", deadly)
        patch.setattr(PredictionCheckpoint, "is_due", lambda _: True)
        with pytest.raises(_InterruptionError):
            predict(model, beryllium(), forces=True, chunk_size=40, checkpoint=folder)


def same(found: Prediction, expected: Prediction) -> bool:
    assert found.forces is not None
    assert expected.forces is not None
    pairs = ((found.forces, expected.forces), (found.density, expected.density), (found.dos, expected.dos))
    return found.free_energy == expected.free_energy and all(torch.equal(left, right) for left, right in pairs)


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("writes", [4, 20])
@pytest.mark.parametrize("damage", [Path.unlink, _truncate, _zero, _flip])
def test_damaged_fields_are_calculated_again(
    damage: Callable[[Path], None],
    writes: int,
    be_model: LDOSModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Interrupted in the walk over the grid, and in the forces, which need the fields of all blocks."""
    expected = predict(be_model, beryllium(), forces=True, chunk_size=40, checkpoint=tmp_path / "whole")
    folder = tmp_path / "part"
    interrupt(be_model, folder, monkeypatch, writes)
    damage(folder / "rank0of1.fields")
    with caplog.at_level(logging.WARNING):
        found = predict(be_model, beryllium(), forces=True, chunk_size=40, checkpoint=folder)
    assert same(found, expected)
    assert "rank0of1.fields is missing or damaged" in caplog.text


@pytest.mark.parametrize("damage", [_truncate, _zero])
def test_a_damaged_state_is_refused_in_words(
    damage: Callable[[Path], None], be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(be_model, tmp_path, monkeypatch, 4)
    damage(tmp_path / "rank0of1.safetensors")
    with pytest.raises(ValueError, match=r"rank0of1\.safetensors is not a checkpoint.*remove the folder"):
        predict(be_model, beryllium(), forces=True, chunk_size=40, checkpoint=tmp_path)


def test_without_a_state_everything_starts_again(
    be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(be_model, beryllium(), forces=True, chunk_size=40, checkpoint=tmp_path / "whole")
    folder = tmp_path / "part"
    interrupt(be_model, folder, monkeypatch, 20)
    (folder / "rank0of1.safetensors").unlink()
    assert same(predict(be_model, beryllium(), forces=True, chunk_size=40, checkpoint=folder), expected)


def test_one_folder_serves_one_prediction_at_a_time(
    be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two is refused; the first ends with its own numbers, and then another is told whose they are."""
    alone = predict(be_model, beryllium(), chunk_size=40, checkpoint=tmp_path / "alone")
    other, write = bulk("Be", "hcp", a=2.3, c=3.6), PredictionCheckpoint.write
    refusals = []

    def intruding(self: PredictionCheckpoint, *arguments: object, **options: object) -> None:
        write(self, *arguments, **options)  # type: ignore[arg-type]
        if not refusals:
            with pytest.raises(ValueError, match="another process calculates in") as found:
                predict(be_model, other, chunk_size=40, checkpoint=tmp_path / "shared")
            refusals.append(str(found.value))

    with monkeypatch.context() as patch:
        patch.setattr(PredictionCheckpoint, "write", intruding)
        found = predict(be_model, beryllium(), chunk_size=40, checkpoint=tmp_path / "shared")
    assert refusals
    assert found.free_energy == alone.free_energy
    assert torch.equal(found.density, alone.density)
    with pytest.raises(ValueError, match="holds another calculation"):
        predict(be_model, other, chunk_size=40, checkpoint=tmp_path / "shared")


def test_the_fingerprint_is_there_from_the_start(tmp_path: Path) -> None:
    with PredictionCheckpoint(tmp_path, "one"):
        pass
    with pytest.raises(ValueError, match="holds another calculation"):
        PredictionCheckpoint(tmp_path, "other")
    with PredictionCheckpoint(tmp_path, "one"):  # a refusal has let go of the folder
        pass


def test_fields_on_other_devices_are_not_kept(tmp_path: Path) -> None:
    with PredictionCheckpoint(tmp_path, "x") as checkpoint:
        field, holds = checkpoint.field(
            "fields", (2, 3), torch.float32, torch.device("meta"), counts=[3], checksums=[1]
        )
        assert (field.device.type, tuple(field.shape), holds) == ("meta", (2, 3), False)


def test_fields_are_on_the_disk_before_the_state_that_tells_of_them(
    be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    flush, write_state = np.memmap.flush, PredictionCheckpoint._write_state
    monkeypatch.setattr(np.memmap, "flush", lambda self: (order.append("fields"), flush(self))[1])
    monkeypatch.setattr(
        PredictionCheckpoint, "_write_state", lambda self: (order.append("state"), write_state(self))[1]
    )
    predict(be_model, beryllium(), chunk_size=40, checkpoint=tmp_path)
    assert order == ["state", "fields", "state", "fields", "state"]


@pytest.mark.skipif(os.name != "posix", reason="limits of file sizes are POSIX'")
def test_a_full_disk_is_found_out_before_the_walk(be_model: LDOSModel, tmp_path: Path) -> None:
    """Not by a bus error in the middle of it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            predict(be_model, beryllium().repeat(3), chunk_size=400, checkpoint=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
