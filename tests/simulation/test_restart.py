"""An interrupted run resumes with the numbers of one that was not interrupted, whatever drives it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.md.andersen import Andersen
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import MTKNPT, NoseHooverChainNVT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.restart import load_run, save_run
from ase_ldos.simulation.two_temperature import LaserPulse, TwoTemperatureMD

SCRIPT = Path(__file__).resolve().parents[2] / "md_examples" / "molecular_dynamics.py"
Driver = Callable[[Atoms], MolecularDynamics]
HEAT, PRESS = {"temperature_K": 300.0}, {"pressure_au": 0.0, "tdamp": 30 * fs, "pdamp": 300 * fs}
DRIVERS: dict[str, Driver] = {
    "VelocityVerlet": lambda atoms: VelocityVerlet(atoms, fs),
    "Langevin": lambda atoms: Langevin(atoms, fs, **HEAT, friction=0.1 / fs, fixcm=False, rng=np.random.default_rng(2)),
    "Andersen": lambda atoms: Andersen(atoms, fs, **HEAT, andersen_prob=0.5, fixcm=False, rng=np.random.default_rng(2)),
    "NoseHooverChainNVT": lambda atoms: NoseHooverChainNVT(atoms, fs, **HEAT, tdamp=10 * fs),
    "MTKNPT": lambda atoms: MTKNPT(atoms, fs, **HEAT, **PRESS),
    "TwoTemperatureMD": lambda atoms: TwoTemperatureMD(
        atoms, fs, coupling=1e18, laser=LaserPulse(0.2, 3.0, 3.0), rng=np.random.default_rng(2)
    ),
    "NPTBerendsen": lambda atoms: NPTBerendsen(atoms, fs, **HEAT, pressure_au=0.0, compressibility_au=1.0),
}


def make_atoms(model: LDOSModel) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.set_momenta(np.random.default_rng(1).normal(size=(2, 3)) * 0.3)
    atoms.calc = LDOSCalculator(model, device="cpu", grid_spacing=0.6)
    atoms.calc.fix_grid((4, 4, 6))
    return atoms


def run(model: LDOSModel, make: Driver, file: Path, steps: int) -> dict[str, list[Any]]:
    """To this step, from the file if it is there; each step is recorded and saved."""
    dynamics = make(make_atoms(model))
    record: dict[str, list[Any]] = load_run(file, dynamics) if file.exists() else {}

    def note() -> None:
        record.setdefault("energy", []).append(dynamics.atoms.get_potential_energy())
        record.setdefault("positions", []).append(dynamics.atoms.get_positions())
        save_run(file, dynamics, record)

    dynamics.attach(note)
    dynamics.run(steps - dynamics.nsteps)
    return record


@pytest.mark.parametrize("name", DRIVERS)
def test_identical_numbers(name: str, be_model: LDOSModel, tmp_path: Path) -> None:
    whole = run(be_model, DRIVERS[name], tmp_path / "whole.npz", 4)
    for steps in (0, 1, 2, 4):
        parts = run(be_model, DRIVERS[name], tmp_path / "parts.npz", steps)
    assert len(parts["energy"]) == 5
    for key in whole:
        assert np.array_equal(parts[key], whole[key])
    assert np.ptp(whole["energy"]) > 1e-5
    with np.load(tmp_path / "whole.npz") as left, np.load(tmp_path / "parts.npz") as right:
        assert {key for key in left if not np.array_equal(left[key], right[key])} == set()


def test_bad_files_are_named(be_model: LDOSModel, tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    run(be_model, DRIVERS["VelocityVerlet"], file, 1)
    with pytest.raises(ValueError, match="holds a run of VelocityVerlet with 2 atoms"):
        load_run(file, DRIVERS["MTKNPT"](make_atoms(be_model)))
    with pytest.raises(ValueError, match="time step"):
        load_run(file, VelocityVerlet(make_atoms(be_model), 2 * fs))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is damaged"):
        load_run(file, VelocityVerlet(make_atoms(be_model), fs))
    np.savez(file, x=1)
    with pytest.raises(ValueError, match="is not the file of a run"):
        load_run(file, VelocityVerlet(make_atoms(be_model), fs))
    shared = Langevin(make_atoms(be_model), fs, **HEAT, friction=0.1 / fs, fixcm=False)
    with pytest.raises(ValueError, match="give it rng="):
        save_run(file, shared, {})


@pytest.mark.slow
@pytest.mark.usefixtures("bundled")
def test_example_resumes_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL at any moment, from outside; then the numbers of the run that was left alone."""
    command = [sys.executable, str(SCRIPT), "--ensemble", "npt", "--steps", "2", "--interval", "1"]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    for folder in ("killed", "whole"):
        (tmp_path / folder).mkdir()
    process = subprocess.Popen(command, cwd=tmp_path / "killed", env=environment, stdout=-3, stderr=-3)
    file = tmp_path / "killed" / "npt.npz"
    while not file.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    with np.load(file) as archive:
        assert len(archive["record:time"]) < 3
    outputs = [
        subprocess.run(command, cwd=tmp_path / folder, env=environment, check=True, capture_output=True, text=True)
        for folder in ("killed", "whole")
    ]
    assert "starts at step 0" in outputs[1].stdout
    with np.load(file) as archive, np.load(tmp_path / "whole" / "npt.npz") as whole:
        assert len(whole["record:time"]) == 3
        assert {key for key in whole if not np.array_equal(whole[key], archive[key])} == set()
