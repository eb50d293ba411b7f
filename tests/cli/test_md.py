"""``ase-ldos md``: every ensemble, resumed to the same numbers, files, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read
from ase.io.trajectory import Trajectory

from ase_ldos.cli.main import main
from ase_ldos.cli.md import DRIVERS
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model


@pytest.fixture
def files(be_model: LDOSModel, tmp_path: Path) -> list[str]:
    """Arguments that name a structure and a model."""
    # any potential will do in the inner steps: here atoms that do not see each other
    descriptor = PowerSpectrum((4,), cutoff=4.2, n_radial=2, lmax=1)
    size = descriptor.n_features
    zeros = [torch.zeros(shape, dtype=torch.float64) for shape in ((size,), (size, 2), (1,), (1, 2), (1, 0))]
    be_model.distilled = DistilledPotential(descriptor, *zeros)
    save_model(be_model, tmp_path / "small.safetensors")
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    atoms.write(tmp_path / "be.extxyz")
    common = ["--timestep", "0.5", "--interval", "2", "--device", "cpu", "--temperature", "500"]
    return [str(tmp_path / "be.extxyz"), "--model", str(tmp_path / "small.safetensors"), *common]


@pytest.mark.parametrize(
    "ensemble", [pytest.param(name, marks=[] if name in ("respa", "2t") else pytest.mark.slow) for name in DRIVERS]
)
def test_an_interrupted_run_resumes_to_the_same_numbers(ensemble: str, files: list[str], tmp_path: Path) -> None:
    hot = ["--laser", "0.2", "2", "1", "--coupling", "1e18"] if ensemble == "2t" else []
    command = ["md", *files, "--ensemble", ensemble, *hot]
    assert main([*command, "--steps", "6", "--out", str(tmp_path / "whole")]) == 0
    for steps in ("4", "6"):
        assert main([*command, "--steps", steps, "--out", str(tmp_path / "parts")]) == 0
    whole, parts = (tmp_path / name / "table.txt" for name in ("whole", "parts"))
    assert whole.read_text() == parts.read_text()
    frames = [read(tmp_path / name / "trajectory.traj", ":") for name in ("whole", "parts")]
    assert len(frames[0]) == len(frames[1]) == 4
    np.testing.assert_array_equal(frames[0][-1].positions, frames[1][-1].positions)
    for name in ("run.png", "dos.png", "dos-in-time.png", "run.npz", "settings.json"):
        assert (tmp_path / "parts" / name).stat().st_size > 100


def test_frames_beyond_the_saved_state_are_dropped(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after frames were written whose state was not saved yet."""
    folder = tmp_path / "run"
    assert main(["md", *files, "--steps", "2", "--out", str(folder)]) == 0
    with Trajectory(str(folder / "trajectory.traj"), "a") as file:
        for _ in range(2):
            file.write(bulk("Be", "hcp", a=2.0, c=3.0))
    assert main(["md", *files, "--steps", "4", "--out", str(folder)]) == 0
    volumes = [atoms.get_volume() for atoms in read(folder / "trajectory.traj", ":")]
    assert len(volumes) == 3
    assert np.ptp(volumes) < 1e-9


def test_fields_pressure_and_states_above_the_window(files: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ["--fields", "both", "--fields-every", "2", "--electron-pressure", "1000", "--record-pressure"]
    hot = ["--states-to", "20", "--electronic-temperature", "9000"]
    assert main(["md", *files, *more, *hot, "--steps", "2", "--out", str(folder)]) == 0
    frames = load_snapshots(folder / "fields")
    assert [frame.name for frame in frames] == ["step_0000000", "step_0000002"]
    assert all(frame.density is not None and frame.ldos is not None for frame in frames)
    head = (folder / "table.txt").read_text().splitlines()[0]
    assert "p el." in head
    assert "gamma el." in head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--timestep", "1"], "with --timestep 0.5, not 1.0"),
        (["--ensemble", "nvt"], "with --ensemble nve, not nvt"),
        (["--steps", "0"], "must be positive"),
        (["--repeat", "0", "1", "1"], "must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(
    change: list[str], message: str, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["md", *files, "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, *change]) == 2
    assert message in capsys.readouterr().err
