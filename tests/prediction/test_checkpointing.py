"""An interrupted prediction resumes to the very same numbers; a checkpoint of another one is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model
from ase_ldos.prediction.checkpointing import PredictionCheckpoint
from ase_ldos.prediction.predict import predict

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
    self.interval = -1.0
    write(self, name, state, **options)
    seen.append(name)
    if seen.count(stage) == count:
        os.kill(os.getpid(), signal.SIGKILL)

PredictionCheckpoint.write = deadly
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
