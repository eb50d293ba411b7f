"""The command line: help without torch, demo, predict, info, errors in one sentence."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

import ase_ldos
from ase_ldos import LDOSCalculator
from ase_ldos.cli.main import _OWN, COMMANDS, main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import list_models, save_model
from ase_ldos.registry import Registry

PACKAGE = Path(ase_ldos.__file__).parent


@pytest.fixture
def model_file(be_model: LDOSModel, tmp_path: Path) -> str:
    path = tmp_path / "small.safetensors"
    save_model(be_model, path)
    return str(path)


@pytest.fixture
def structure_file(tmp_path: Path) -> str:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    write(tmp_path / "be.xyz", atoms)
    return str(tmp_path / "be.xyz")


def modules_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after this code."""
    code = f"import sys\n{code}\nprint('\\n'.join(['loaded:', *sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split("loaded:\n")[1].split())


def test_help_does_not_load_torch() -> None:
    for arguments in (["--help"], ["demo", "--help"], ["predict", "--help"], ["info", "--help"]):
        loaded = modules_after(
            f"from ase_ldos.cli.main import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
        )
        assert "ase_ldos.cli.main" in loaded
        assert "torch" not in loaded


def test_the_package_does_not_load_torch() -> None:
    assert "torch" not in modules_after("import ase_ldos")


def test_ase_does_not_load_torch_because_of_the_plugin() -> None:
    loaded = modules_after("import ase, ase.io, ase_ldos.ase_plugin\nfrom ase._4.plugins import plugins\nlist(plugins)")
    assert "ase_ldos.ase_plugin" in loaded
    assert "torch" not in loaded


def test_ase_plugin_leads_to_the_calculator() -> None:
    plugins = pytest.importorskip("ase._4.plugins.plugin")
    from ase_ldos.ase_plugin import __ase_plugins__

    (plugin,) = __ase_plugins__
    assert isinstance(plugin, plugins.CalculatorPlugin)
    assert plugin.implementation is LDOSCalculator


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert f"usage: ase-ldos {name}" in capsys.readouterr().out


def test_another_package_adds_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By entry points alone: listed without being loaded, run by its name, one sentence where it cannot be loaded."""

    class Measure:
        @staticmethod
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("length", type=float)

        @staticmethod
        def run(args: argparse.Namespace) -> int:
            if args.length < 0:
                raise ValueError("a length is not\nnegative")
            print(f"{args.length} Å")
            return 0

    points = [
        EntryPoint("measure", "someone.measure", COMMANDS.group or ""),
        EntryPoint("broken", "no_such_package", COMMANDS.group or ""),
    ]
    monkeypatch.setattr("ase_ldos.registry.entry_points", lambda group: points if group == COMMANDS.group else [])
    monkeypatch.setattr("ase_ldos.cli.main.COMMANDS", Registry("command", COMMANDS.group, dict(_OWN)))
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "  measure    added by another package" in capsys.readouterr().out
    assert "command 'broken' of no_such_package cannot be loaded" in refuse(["broken"], capsys)
    monkeypatch.setitem(sys.modules, "someone.measure", Measure)  # what is installed, as Python sees it
    assert main(["measure", "2.5"]) == 0
    assert capsys.readouterr().out == "2.5 Å\n"
    assert "a length is not negative" in refuse(["measure", "-1"], capsys)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["levitate"])
    assert exit_.value.code == 2
    assert "levitate" in capsys.readouterr().err


def test_info(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model_file]) == 0
    text = capsys.readouterr().out
    for part in ("Be with 2 valence", "PBE", "3000 K", "-5 to 12 eV, 60 nodes", "power_spectrum", "10 - 16 - 16 - 60"):
        assert part in text
    assert "errors" not in text


def test_info_fits_one_screen(be_model: LDOSModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also with every error and hundreds of structures, which only --provenance names."""
    names = [f"structure{i}" for i in range(300)]
    errors = {"energy": 1.234, "energy_bias": -0.5, "energy_spread": 1.1, "energy_ldos": 2.0, "energy_ldos_bias": 1.0}
    errors |= {"energy_ldos_spread": 1.7, "forces": 30.0, "stress": 0.5, "density": 0.6, "dos": 5.0, "ldos": 7.0}
    errors |= {"ldos_occupied": 3.0, "fermi_level": 0.44, "energy_within_family": 0.9}
    be_model.metadata = replace(
        be_model.metadata,
        errors=errors,
        extrapolation={"threshold": 2.0, "median": 1.0, "structures": 47.0},
        provenance={"recipe": "be.toml", "training": names, "held back": names[:47]},
    )
    path = str(tmp_path / "full.safetensors")
    save_model(be_model, path)
    assert main(["info", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines if "structure7" in line]
    (energy,) = (line for line in lines if line.startswith("  free energy"))
    assert energy.split()[2:] == ["meV/atom", "1.23", "-0.50", "1.10"]
    (level,) = (line for line in lines if line.startswith("  Fermi level"))
    assert level.split()[2:] == ["eV", "0.44"]
    assert "contains that of the labels" in lines[-2]
    assert main(["info", path, "--provenance"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in names)


@pytest.mark.parametrize("name", list_models())
def test_info_of_the_bundled_models_fits_one_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_predict_prints_what_the_calculator_finds(
    model_file: str, structure_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", structure_file, "--model", model_file, "--device", "cpu", "--forces", "--stress"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    atoms = read(structure_file)
    atoms.calc = LDOSCalculator(model_file, device="cpu")
    np.testing.assert_allclose(found["stress"], atoms.get_stress(), atol=1e-12)
    np.testing.assert_allclose(found["forces"], atoms.get_forces(), atol=1e-10)
    assert found["free_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert found["fermi_level"] == pytest.approx(atoms.calc.get_fermi_level(), abs=1e-9)
    assert f"{found['free_energy']:.6f}" in table
    assert f"{found['forces'][1][2]:.6f}" in table
    assert "electrons          4.000000" in table


def test_predict_writes_files(model_file: str, structure_file: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("dos.png", "slice.png", "n.cube")]
    options = [
        text for option, path in zip(("--dos-plot", "--density-plot", "--cube"), paths) for text in (option, str(path))
    ]
    assert main(["predict", structure_file, "--model", model_file, "--temperature", "5000", *options]) == 0
    assert all(path.stat().st_size > 1000 for path in paths)


def test_demo(model_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["demo", "--model", model_file, "--steps", "3", "--device", "cpu", "--output", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "trajectory.traj",
        "dos.png",
        "dos-in-time.png",
        "density-slice.png",
        "density.cube",
        "energies.txt",
        "report.html",
    }
    frames = read(folder / "trajectory.traj", index=":")
    assert [len(frame) for frame in frames] == [16] * 4
    totals = [frame.get_total_energy() for frame in frames]
    assert np.ptp(totals) < 0.1 * np.ptp([frame.get_potential_energy() for frame in frames])
    assert frames[0].get_temperature() == pytest.approx(600)
    output = capsys.readouterr().out
    assert "s of CPU" in output
    assert all(str(folder / name) in output for name in names)
    table = (folder / "energies.txt").read_text().splitlines()
    assert len(table) == 2 + 4
    assert all(line in output for line in table)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".ase-ldos")]


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail: exit code 2, one line on stderr, nothing on stdout."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"ase-ldos {arguments[0]}: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_errors_are_one_sentence(
    model_file: str, structure_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", model_file]
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.xyz").write_text("two\natoms\n")
    write(tmp_path / "mg.xyz", bulk("Mg"))
    write(tmp_path / "two.xyz", [bulk("Be")] * 2)
    before = {path.name for path in tmp_path.iterdir()}
    output = ["--cube", str(tmp_path / "n.cube"), "--dos-plot", str(tmp_path / "dos.png")]
    cases = {
        "no file": ["predict", str(tmp_path / "none.xyz"), *model],
        "cannot read structure": ["predict", str(tmp_path / "broken.xyz"), *model],
        "gives 2 structures; choose one": ["predict", str(tmp_path / "two.xyz"), "--index", ":", *model],
        "atoms contain Mg": ["predict", str(tmp_path / "mg.xyz"), *model, *output],
        "no model file": ["predict", structure_file, "--model", "no-such-model", *output],
        "is damaged": ["predict", structure_file, "--model", str(tmp_path / "broken.safetensors"), *output],
        "must be a positive number of K": ["predict", structure_file, *model, "--temperature", "-1", *output],
        "no folder": ["predict", structure_file, *model, "--cube", str(tmp_path / "none" / "n.cube")],
        "must end in one of": ["predict", structure_file, *model, "--density-plot", str(tmp_path / "density.doc")],
        "has no structure 7": ["predict", structure_file, *model, "--index", "7"],
        "cannot be used": ["predict", structure_file, *model, "--device", "abacus"],
        "must be positive": ["demo", *model, "--steps", "0", "--output", str(tmp_path / "demo")],
        "no bundled model": ["demo", "--model", "no-such-model", "--output", str(tmp_path / "demo")],
        "not a folder": ["demo", *model, "--output", structure_file],
    }
    for sentence, arguments in cases.items():
        assert sentence in refuse(arguments, capsys)
    assert "no bundled model" in refuse(["info", "no-such-model"], capsys)
    recipe, out = ["--recipe", str(next(PACKAGE.rglob("*dft.toml")))], ["--out", str(tmp_path / "labels")]
    assert "no file" in refuse(["label", str(tmp_path / "none.xyz"), *recipe, *out], capsys)
    assert "cannot read structure" in refuse(["label", str(tmp_path / "broken.xyz"), *recipe, *out], capsys)
    assert "no file or folder" in refuse(["convert", str(tmp_path / "none.xyz"), "--to", "npz", *out], capsys)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ase_ldos.cli.main", "info", str(tmp_path / "none")]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert run.returncode == 2
    assert "Traceback" not in run.stderr


def run_command(
    arguments: list[str], *, cwd: Path | None = None, encoding: str = "utf-8", stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """The command as a process, with another encoding of its outputs."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ase_ldos", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, stdout=stdout, stderr=subprocess.PIPE, check=False)


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "cp437"])
def test_no_character_ends_a_calculation(encoding: str, model_file: str, structure_file: str) -> None:
    """Å and ³ are not in every encoding; the numbers are those of any other."""
    arguments = ["predict", structure_file, "--model", model_file, "--forces"]
    usual, done = run_command(arguments), run_command(arguments, encoding=encoding)
    assert done.returncode == 0, done.stderr
    expected = usual.stdout.decode().encode(encoding, "backslashreplace")
    assert done.stdout == expected
    assert b"forces (eV/" in done.stdout


def test_a_reader_that_has_had_enough_loses_nothing(model_file: str, structure_file: str, tmp_path: Path) -> None:
    """As ``| head -0`` does: the pipe breaks before the first line, and the files are written all the same."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["predict", structure_file, "--model", model_file, "--cube", str(tmp_path / "n.cube")]
    try:
        done = run_command(arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "n.cube").stat().st_size > 1000


def test_without_any_output_the_work_is_done(model_file: str, structure_file: str, tmp_path: Path) -> None:
    code = f'exec "$0" -m ase_ldos predict {structure_file} --model {model_file} --cube n.cube >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["/bin/sh", "-c", code, sys.executable], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "n.cube").stat().st_size > 1000


def test_outputs_are_tried_before_the_work(
    model_file: str, structure_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in place of a file, and folders that do not exist: told before any model or structure is read."""
    none, folder = str(tmp_path / "none.xyz"), str(tmp_path)
    for arguments in (
        ["report", structure_file, "--out", folder],
        ["convert", none, "--to", "extxyz", "--out", folder],
        ["calibrate", model_file, none, "--out", folder],
        ["predict", structure_file, "--model", "none", "--cube", folder],
    ):
        assert "it is a folder" in refuse(arguments, capsys)
    file = str(tmp_path / "small.safetensors")
    for arguments in (
        ["convert", none, "--to", "npz", "--out", f"{file}/labels"],
        ["demo", "--model", model_file, "--output", f"{file}/demo"],
    ):
        assert f"{file} is a file" in refuse(arguments, capsys)


def test_wrong_commands_are_one_sentence(
    model_file: str, tmp_path: Path, be_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Once tracebacks, each of them."""
    data = [str(path) for path in be_files]
    magnesium = bulk("Mg")
    magnesium.calc = SinglePointCalculator(magnesium, energy=-1.0)
    write(tmp_path / "mg.xyz", magnesium)
    assert main(["convert", str(tmp_path / "mg.xyz"), "--to", "packed", "--out", str(tmp_path / "mg.npz")]) == 0
    capsys.readouterr()
    foreign, out = [str(tmp_path / "mg.npz")], ["--out", str(tmp_path / "new.safetensors")]
    (tmp_path / "some.thing").write_text("hello")
    every = ["--every", "2", "--offset", "99"]
    grid = ["convert", data[0], "--to", "npz", "--out", str(tmp_path / "o"), "--energies"]
    cases = [
        (["evaluate", model_file, *data, *every], "--every 2 with --offset 99 holds back none of these 2 snapshots"),
        (["calibrate", model_file, *data, *every, *out], "holds back none of these 2 snapshots"),
        (["calibrate", model_file, *data, "--every", "1", "--offset", "0", *out], "every structure is held back"),
        (["evaluate", model_file, *foreign], "mg_0000: the model knows Be; the atoms contain Mg"),
        (
            ["calibrate", model_file, str(be_files[0].parent), *foreign, "--every", "2", *out],
            "mg_0000: the model knows Be; the atoms contain Mg",
        ),
        (["evaluate", model_file, str(tmp_path / "some.thing")], "some.thing is not a file of snapshots"),
        ([*grid, "0", "1", "inf"], "--energies 0 1 inf is no energy grid"),
        ([*grid, "0", "1", "nan"], "is no energy grid"),
        ([*grid, "0", "1", "1e12"], "is no energy grid"),
        ([*grid, "0", "0", "3"], "is no energy grid"),
        ([*grid, "nan", "1", "3"], "is no energy grid"),
        (["serve", "--port", "99999999"], "the port is 99999999; it must be 1 to 65535"),
        (["serve", "--max-upload", "nan"], "max-upload is nan; it must be a positive number"),
        (["serve", "--folder", str(tmp_path / "some.thing")], "some.thing is a file"),
        (["pseudo", "Be", "--out", str(tmp_path / "some.thing")], "some.thing is a file"),
    ]
    for arguments, sentence in cases:
        assert sentence in refuse(arguments, capsys)
    assert not (tmp_path / "new.safetensors").exists()
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE 3000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "1000"}, "None 1000"),
        ({"KMP_BLOCKTIME": "5"}, "None None"),
    ],
)
def test_threads_sleep_after_a_moment_of_waiting(given: dict[str, str], expected: str) -> None:
    """In a process of its own, unless the user has chosen."""
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
    environment = {name: value for name, value in os.environ.items() if name not in chosen} | given
    code = (
        "import os\nfrom ase_ldos.cli.main import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n"
        "    print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.splitlines()[-1] == expected


def test_the_library_leaves_the_environment_alone() -> None:
    before = dict(os.environ)
    main(["info", "be"])
    assert dict(os.environ) == before
