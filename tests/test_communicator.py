"""Many ranks by torchrun: the numbers of one process, a script on rank 0 alone, and the end when a rank dies."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write
from ase.md.verlet import VelocityVerlet

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.communicator import RANK_TIMEOUT, Communicator, _Watch
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model
from ase_ldos.prediction.predict import predict
from ase_ldos.prediction.request import Thresholds

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed package")

#: Every rank predicts, keeping hidden features and not; then rank 0 drives dynamics and writes what came out.
SCRIPT = """
import json, sys
import numpy as np
from ase import units
from ase.calculators.calculator import InputError
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase_ldos import Communicator, LDOSCalculator, Structure, lead, load_model, predict
from ase_ldos.prediction.request import Thresholds

communicator, atoms, found = Communicator.from_torchrun(), read("atoms.traj"), {}
model = load_model("model.safetensors").requires_grad_(False)
for name, limit in (("kept", 2**29), ("interpolated", 0)):
    options = {"chunk_size": 60, "thresholds": Thresholds(keep_bytes=limit), "communicator": communicator}
    result = predict(model, Structure.from_atoms(atoms), forces=True, stress=True, **options)
    found[name] = [result.free_energy, result.forces.tolist(), result.stress.tolist(), result.density.tolist()]
with open(f"rank{communicator.rank}.json", "w") as file:
    json.dump(found, file)

def dynamics(calculator):
    atoms.calc = calculator
    VelocityVerlet(atoms, timestep=1 * units.fs).run(2)
    magnesium = atoms.copy()
    magnesium.symbols[0] = "Mg"
    magnesium.calc = calculator
    try:
        magnesium.get_potential_energy()
    except InputError as error:
        refusal = str(error)
    calculator.set(electronic_temperature=1e5)
    try:
        atoms.get_potential_energy()
    except InputError:
        calculator.set(electronic_temperature=3000.0)
    numbers = [atoms.get_potential_energy(), atoms.get_forces().tolist(), atoms.get_stress().tolist(), refusal]
    with open("driven.json", "w") as file:
        json.dump(numbers, file)

lead(dynamics, LDOSCalculator(model, device="cpu", chunk_size=60))
"""

#: Calculates until it is killed.
ENDLESS = """
import os
from ase.io import read
from ase_ldos import LDOSCalculator, lead

def endless(calculator):
    atoms = read("atoms.traj")
    atoms.calc = calculator
    while True:
        atoms.positions[0, 0] += 1e-4
        atoms.get_forces()
        open("begun", "w").close()

open(f"pid{os.environ['RANK']}", "w").write(str(os.getpid()))
lead(endless, LDOSCalculator("model.safetensors", device="cpu"))
"""


def start(
    script: str, ranks: int, folder: Path, model: LDOSModel, variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """torchrun of a script in a folder with a structure and a model."""
    save_model(model, folder / "model.safetensors")
    (folder / "script.py").write_text(script, encoding="utf-8")
    write(folder / "atoms.traj", beryllium())
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        **(variables or {}),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "script.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_ranks_give_the_numbers_of_one(ranks: int, be_model: LDOSModel, tmp_path: Path) -> None:
    with start(SCRIPT, ranks, tmp_path, be_model) as run:
        output = run.communicate(timeout=500)[0]
    assert run.returncode == 0, output
    atoms = read(tmp_path / "atoms.traj")
    assert isinstance(atoms, Atoms)
    for name, limit in (("kept", 2**29), ("interpolated", 0)):
        thresholds = Thresholds(keep_bytes=limit)
        one = predict(be_model, atoms, forces=True, stress=True, chunk_size=60, thresholds=thresholds)
        assert one.forces is not None
        assert one.stress is not None
        for rank in range(ranks):
            found = json.loads((tmp_path / f"rank{rank}.json").read_text())[name]
            for value, expected in zip(found, (one.free_energy, one.forces, one.stress, one.density)):
                expected = np.asarray(expected)
                assert np.abs(np.array(value) - expected).max() <= 1e-10 * np.abs(expected).max()
    atoms.calc = LDOSCalculator(be_model, device="cpu", chunk_size=60)
    VelocityVerlet(atoms, timestep=1 * units.fs).run(2)
    *numbers, refusal = json.loads((tmp_path / "driven.json").read_text())
    assert "knows Be" in refusal
    for value, expected in zip(numbers, (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())):
        assert np.abs(np.array(value) - expected).max() <= 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_dies_ends_the_run(victim: int, be_model: LDOSModel, tmp_path: Path) -> None:
    """Within seconds, with a message, whichever rank it is."""
    with start(ENDLESS, 2, tmp_path, be_model) as run:
        deadline = time.monotonic() + 200
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            assert run.poll() is None, run.communicate()[0]
            time.sleep(0.2)
        os.kill(int((tmp_path / f"pid{victim}").read_text()), signal.SIGKILL)
        killed = time.monotonic()
        output = run.communicate(timeout=120)[0]
        took = time.monotonic() - killed
    assert run.returncode != 0
    assert "SIGKILL" in output or "this run cannot go on" in output
    assert took < 60


def wait_for_start(run: subprocess.Popen[str], folder: Path) -> None:
    """Until the endless calculation has begun."""
    deadline = time.monotonic() + 200
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)


@pytest.mark.slow
def test_a_rank_that_is_stopped_ends_the_run_when_the_user_wants(be_model: LDOSModel, tmp_path: Path) -> None:
    with start(ENDLESS, 2, tmp_path, be_model, {RANK_TIMEOUT: "4"}) as run:
        wait_for_start(run, tmp_path)
        os.kill(int((tmp_path / "pid1").read_text()), signal.SIGSTOP)
        # torchrun gives the stopped one half a minute to end, and then kills it
        output = run.communicate(timeout=120)[0]
    assert run.returncode != 0
    assert "another rank has not answered for 4 s: this run ends" in output


@pytest.mark.slow
def test_ranks_end_with_their_torchrun(be_model: LDOSModel, tmp_path: Path) -> None:
    with start(ENDLESS, 2, tmp_path, be_model) as run:
        wait_for_start(run, tmp_path)
        pids = [int((tmp_path / f"pid{rank}").read_text()) for rank in range(2)]
        run.kill()
        output = run.communicate(timeout=60)[0]  # until the ranks have closed it, too
    assert "ends because its torchrun has ended" in output
    for pid in pids:
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_long_wait_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = _Watch(3, 40.0, tell_after=0.05, interval=0.01)
    try:
        with caplog.at_level(logging.WARNING), watch.waiting():
            time.sleep(0.3)
        with caplog.at_level(logging.WARNING), watch.waiting():
            pass
    finally:
        watch.close()
    (record,) = caplog.records
    assert "rank 3 has waited for the others for 0 s" in record.getMessage()
    assert record.getMessage().endswith("the run ends after 40 s")


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_is_a_number_of_seconds(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(RANK_TIMEOUT, value)
    with pytest.raises(ValueError, match="it must be a positive number of seconds"):
        Communicator.from_torchrun()


def test_shares_cover_everything() -> None:
    items = list(range(17))
    for size in (1, 2, 3, 20):
        parts = [Communicator(rank, size).partition(items) for rank in range(size)]
        assert [item for part in parts for item in part] == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    communicator = Communicator.from_torchrun()
    assert (communicator.rank, communicator.size, communicator.is_root) == (0, 1, True)
    ones = torch.ones(3)
    assert communicator.all_reduce(ones) is ones
    assert communicator.broadcast(ones) is ones
