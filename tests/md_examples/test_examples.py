"""Every script in md_examples runs and writes what it says.

A new script needs one line in ``EXAMPLES``.
"""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

import ase_ldos
from ase_ldos import load_model

FOLDER = Path(__file__).resolve().parents[2] / "md_examples"


@dataclass(frozen=True)
class Example:
    """A script, the files that it writes into its folder, and a part of what it prints.

    ``needs`` is an optional package; a ``calibrated`` example needs a model that knows its training range; ``check``
    judges the numbers, given what the script has left in its names.
    """

    script: str
    files: tuple[str, ...]
    prints: str
    arguments: tuple[str, ...] = ()
    slow: bool = False
    needs: str = ""
    calibrated: bool = False
    check: Callable[[dict[str, Any]], None] | None = None


def check_conservation(names: dict[str, Any]) -> None:
    """Two steps; the energy is that of the driver's own conservation law (Langevin's has none)."""
    assert names["time"].tolist() == [0, 1, 2]
    assert abs(names["total"]).max() < (5 if names["name"] == "nvt" else 0.1)  # meV/atom
    assert (np.ptp(names["volume"]) > 0) == (names["name"] == "npt")


def check_electrons(names: dict[str, Any]) -> None:
    """What needs no training: the solver."""
    assert names["found"] == pytest.approx(float(names["lines"].energies[0]), abs=2e-3)
    assert names["drift"][0] < 1e-12
    assert names["drift"][1] < 1e-6


def check_lattice(names: dict[str, Any]) -> None:
    """Measured: a and c/a to 4e-3, B, C11, C33, C66 3 %, C44 8 %."""
    found, dft = np.array(names["model"]), names["answers"]
    assert found[:2] == pytest.approx(dft[:2], rel=6e-3)
    assert found[[2, 3, 6, 7, 8]] == pytest.approx(dft[[2, 3, 6, 7, 8]], rel=0.2)
    # a hexagonal crystal: C66 = (C11 - C12) / 2, for both
    for values in (found, dft):
        assert values[8] == pytest.approx((values[3] - values[4]) / 2, rel=0.02)


def check_fault(names: dict[str, Any]) -> None:
    """Measured: I2 to 4 %, fcc 7 meV/atom; relaxation lowers the energy of the fault."""
    _, model, dft, _, relaxed = names["row"]
    assert model == pytest.approx(dft, rel=0.2)
    assert 0.5 * model < relaxed < model
    assert 1000 * (names["found"][0] - names["found"][1]) == pytest.approx(
        1000 * (names["found"][2] - names["found"][3]), abs=20
    )


def check_image(names: dict[str, Any]) -> None:
    """By symmetry both images are least in the channels, or most, in a model that knows nothing; their period is A."""
    for image in (abs(names["current"]), names["height"]):
        assert np.allclose(image[:24, :24], image[24:48, 24:48])
        assert np.all(np.isfinite(image))
    assert 0 <= names["height"].min() <= names["height"].max() <= names["middle"] + 0.1


def check_curve(names: dict[str, Any]) -> None:
    _, model, dft, relaxed, at_labels, dft_relaxed = names["rows"][-1]
    assert model == pytest.approx(dft, rel=0.2)
    assert relaxed <= at_labels < model
    assert dft_relaxed < dft
    # the density moved next to the fault, and hardly four layers away from it
    change = abs(names["after"] - names["moved"]).mean(axis=(0, 1))
    assert change[:4].max() < 0.2 * change.max()


def check_fault_electrons(names: dict[str, Any]) -> None:
    """All electrons are in the layers, which lie as the density shows; the fault moves states in the middle alone."""
    atoms, prediction = names["atoms"], names["calculator"].prediction
    total = prediction.dos.numpy()
    np.testing.assert_allclose(names["by_layer"].mean(axis=0) * len(atoms), total, rtol=1e-3, atol=1e-3)
    assert names["density"].mean() * atoms.get_volume() == pytest.approx(2 * len(atoms), rel=1e-5)
    # the valence density is lowest at the nuclei: in the plane that is drawn, all of them are dark spots
    lowest = names["plane"] < 0.5 * names["plane"].mean()
    assert lowest.any(axis=0).sum() > 10
    change = np.abs(names["by_layer"] - names["crystal"]).sum(axis=1)
    assert abs(names["height"][change.argmax()] - names["center"]) < names["C"] / 2
    assert names["at_level"][1] > names["at_level"][0] > 0


def check_aluminium(names: dict[str, Any]) -> None:
    """Measured: a 0.2 %, B 12 %, hcp 1.5 meV/atom, the intrinsic fault 0.4 %, the extrinsic one 25 %."""
    (a, modulus, hcp, *faults), answers = names["columns"]
    assert a == pytest.approx(answers[0], rel=3e-3)
    assert modulus == pytest.approx(answers[1], rel=0.2)
    assert hcp == pytest.approx(answers[2], abs=10)
    assert faults == pytest.approx(answers[3:], rel=0.35)


def check_multiple_time_steps(names: dict[str, Any]) -> None:
    """Both follow the same path, on energies that change little, at other prices."""
    plain, respa, alone = names["runs"].values()
    assert names["apart"] < 5
    assert max(np.ptp(run["E"]) for run in (plain, respa, alone)) < 1.0
    assert plain["cpu"] > 2 * respa["cpu"] > 2 * alone["cpu"]


def check_two_temperatures(names: dict[str, Any]) -> None:
    """The energies balance, and phonons lie near those of DFT, which are there. Measured: 4 % at 933 K."""
    assert np.abs(names["columns"]["error"]).max() < 1.0
    assert names["frozen_phonon"]((0, 0, 1), 933.0) == pytest.approx(float(names["labelled"]("L", 933.0)), rel=0.08)


def check_liquid(names: dict[str, Any]) -> None:
    """Few steps from DFT's first frame: the same shells, and the counting of pairs itself."""
    assert len(names["atoms"]) == 16
    r, g = names["pair_distribution"](names["dft"])
    assert g[r < 2.0].max() == 0
    assert 2.5 < r[g.argmax()] < 3.0
    r, g = names["pair_distribution"]([names["dft"][0].repeat(2)])
    # far away every pair is there: the mean of g over all distances to 6 Å is near 1
    assert np.average(g, weights=r**2) == pytest.approx(1, abs=0.1)


# slow: seconds of CPU time, or a quick test of the same script stands in a file of its own
EXAMPLES = [
    Example("aluminium.py", ("aluminium.png",), "intrinsic fault (mJ/m²)", slow=True, check=check_aluminium),
    Example("fault_electrons.py", ("fault_electrons.png",), "8 layers", ("--layers", "8"), check=check_fault_electrons),
    Example("tunnelling_image.py", ("tunnelling_image.png",), "constant current: the tip sinks by", check=check_image),
    Example("liquid.py", ("liquid.png",), "neighbours", ("--steps", "6"), slow=True, check=check_liquid),
    Example("cost_vs_qe.py", ("cost_vs_qe.png",), "only the model is measured", ("--atoms", "2", "--steps", "2")),
    Example(
        "learning_primitives.py",
        ("perceptron.png", "colors.png", "confusion.png", "color_regression.png"),
        "held-out colours 0.",
        slow=True,
    ),
    Example(
        "electron_dynamics.py",
        ("electron_dynamics.png", "electron_pinn.png", "electron_film.gif"),
        "by linear response 0.4265",
        ("--pinn-epochs", "1", "--propagator-epochs", "1", "--trajectories", "8"),
        slow=True,
        check=check_electrons,
    ),
    Example(
        "electron_temperature.py",
        ("electron_temperature.png",),
        "of dE_b/dT = T dS/dT",
        ("--frames", "1", "--interval", "1"),
        slow=True,
    ),
    Example(
        "export.py",
        ("trajectory.extxyz", "density.cube", "density.xsf", "change.cube", "fermi.cube", "export.png"),
        "trajectory.extxyz: 1 frames",
        ("--steps", "1"),
        slow=True,
    ),
    *(
        Example(
            "molecular_dynamics.py",
            tuple(ensemble + end for end in (".npz", "_energy.png", "_dos.png", "_density.png")),
            "means of the second half",
            ("--ensemble", ensemble, "--steps", "2", "--interval", "1"),
            slow=ensemble != "nve",
            check=check_conservation,
        )
        for ensemble in ("nve", "nvt", "npt")
    ),
    Example(
        "socket_client.py", ("socket_client.png",), "received and directly calculated", ("--steps", "1"), slow=True
    ),
    Example("extrapolation.py", ("extrapolation.png",), "Warned at V/V0", calibrated=True),
    Example(
        "multiple_time_steps.py",
        ("multiple_time_steps.png",),
        "distilled potential alone",
        ("--picoseconds", "0.048", "--verlet", "0.016", "--structures", "10"),
        slow=True,
        check=check_multiple_time_steps,
    ),
    Example(
        "two_temperature.py",
        ("two_temperature.npz", "two_temperature.png"),
        "phonons of fcc Al at X",
        ("--steps", "10", "--repeat", "1"),
        slow=True,
        check=check_two_temperatures,
    ),
    Example(
        "beryllium.py",
        ("relaxation.png",),
        "C66 (GPa)",
        ("--only", "relaxation"),
        slow=True,
        check=lambda names: check_lattice(names["results"]["relaxation"]),
    ),
    Example("relaxation.py", ("relaxation.png",), "C44 (GPa)", slow=True, check=check_lattice),
    Example(
        "fault_energies.py", ("fault_energies.png",), "I2 of hcp", ("--faults", "I2"), slow=True, check=check_fault
    ),
    Example(
        "fault_energy_curve.py",
        ("fault_energy_curve.png", "fault_density.png"),
        "electrons moved by the fault: 0.",
        ("--slides", "1.0"),
        slow=True,
        check=check_curve,
    ),
    Example(
        "stacking_fault.py",
        ("fault_across.png", "fault_within.png", "density.h5"),
        "32 atoms",
        ("--size", "2", "2", "8", "--hdf5"),
        needs="openpmd_api",
    ),
    Example(
        "torchrun_dynamics.py",
        ("torchrun_dynamics.png",),
        "processes: 1, 2 atoms",
        ("--repeat", "1", "1", "1", "--steps", "2"),
    ),
    Example(
        "phonons.py", ("phonons.png",), "no imaginary modes", ("--supercell", "2", "2", "1"), slow=True, needs="phonopy"
    ),
]


@pytest.fixture
def _quiet_plots() -> Iterator[None]:
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.mark.usefixtures("_quiet_plots")
@pytest.mark.parametrize(
    "example",
    [
        pytest.param(e, id=" ".join((e.script, *e.arguments[:2])), marks=[pytest.mark.slow] if e.slow else [])
        for e in EXAMPLES
    ],
)
def test_example_runs(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder of its own, so that nothing is written elsewhere."""
    if example.needs:
        pytest.importorskip(example.needs)
    if example.calibrated and not load_model("be").metadata.extrapolation:
        pytest.skip("the bundled model does not know its training range")
    before = {path: path.stat().st_mtime for path in FOLDER.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))  # for what a script starts
    monkeypatch.setattr(sys, "argv", [example.script, *example.arguments])
    names = runpy.run_path(str(FOLDER / example.script), run_name="__main__")
    assert example.prints in capsys.readouterr().out
    if example.check is not None:
        example.check(names)
    for name in example.files:
        assert (tmp_path / name).stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(example.files)
    assert {path: path.stat().st_mtime for path in FOLDER.iterdir()} == before


@pytest.mark.slow
def test_torchrun_moves_the_atoms_alike(tmp_path: Path) -> None:
    """One process and two print the same energy."""
    options = ["--repeat", "1", "1", "1", "--steps", "2", "--dtype", "float64"]
    arguments = [str(FOLDER / "torchrun_dynamics.py"), *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    found = []
    for command in (arguments, launcher + arguments):
        run = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        (line,) = (line for line in run.stdout.splitlines() if line.startswith("total energy"))
        found.append(float(line.split()[2]))
        assert f"processes: {len(found)}" in run.stdout
    assert found[1] == pytest.approx(found[0], rel=1e-9)


def test_every_script_is_listed() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == {example.script for example in EXAMPLES}


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_public_names_alone(script: str) -> None:
    """What the package exports is taken from its top; nothing private from anywhere."""
    tree = ast.parse((FOLDER / script).read_text(encoding="utf-8"))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("ase_ldos")]
    assert imports
    for node in imports:
        for name in (alias.name for alias in node.names):
            assert not name.startswith("_")
            assert node.module == "ase_ldos" or name not in ase_ldos.__all__, f"from ase_ldos import {name}"
