"""Labelling: resuming, failing, being killed, and the command."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from processes import is_alive

from ase_ldos.cli.label import add_arguments, run
from ase_ldos.cli.main import main
from ase_ldos.dataset.compact import is_compact, save_compact
from ase_ldos.dataset.npz import Snapshot, load_snapshot, load_snapshots
from ase_ldos.dataset.provenance import RECORD, read_record
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.dft_settings import Recipe, load_recipe
from ase_ldos.labelling.pw import calculate
from ase_ldos.labelling.run import FAILURES, label_structures
from ase_ldos.labelling.subprocesses import CalculationError, stalled_cycle

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")

RECIPE = """
pseudopotentials = { Be = "Be.pbe-gth-q2.gth" }
cutoff = 10
electronic_temperature = 2000
kspacing = 1.2
bands_per_atom = 3
"""


def structures(n: int = 3) -> list[Atoms]:
    frames = []
    for i in range(n):
        atoms = bulk("Be", "hcp", a=2.25 + 0.02 * i, c=3.54)
        atoms.info["name"] = f"be{i}"
        frames.append(atoms)
    return frames


@pytest.fixture
def recipe(dft_folder: Path, tmp_path: Path) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return load_recipe(tmp_path / "recipe.toml", pseudo_dir=dft_folder)


@pytest.fixture
def broken_pw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pw.x that stops with an error message of Quantum ESPRESSO's form and counts its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    line = "%" * 78
    message = f"printf '%s\\n' '{line}' ' Error in routine x (1):' '{line}'"
    script = f"#!/bin/sh\necho called >> {folder}/calls\n{message}\nexit 1\n"
    (folder / "pw.x").write_text(script)
    (folder / "pw.x").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "calls"


@pytest.fixture
def fake_pw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script in place of pw.x and counts its calls in the file that is returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write_script(lines: str) -> Path:
        (folder / "pw.x").write_text(f"#!/bin/sh\necho called >> {folder}/calls\n{lines}\n")
        (folder / "pw.x").chmod(0o755)
        return folder / "calls"

    return write_script


@pytest.mark.qe
@needs_pw
def test_two_workers_label_and_resume(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "set"
    seen: list[tuple[str, str | None]] = []
    report = label_structures(structures(), recipe, out, workers=2, progress=lambda *what: seen.append(what))
    assert sorted(report.finished) == ["be0", "be1", "be2"]
    assert not report.failed
    assert sorted(seen) == [("be0", None), ("be1", None), ("be2", None)]
    assert sorted(path.name for path in out.iterdir()) == ["be0.npz", "be1.npz", "be2.npz", RECORD]
    assert read_record(out)["programs"][0].startswith("PWSCF ")
    for snapshot, atoms in zip(load_snapshots(out), structures(), strict=True):
        np.testing.assert_array_equal(snapshot.positions, atoms.positions)
        assert snapshot.forces is not None
    again = label_structures(structures(4), recipe, out)
    assert again.found == ("be0", "be1", "be2")
    assert again.finished == ("be3",)
    # a run that was killed after it had written a label, before it tidied up
    (out / ".work" / "be0" / "tmp").mkdir(parents=True)
    assert len(label_structures(structures(4), recipe, out).found) == 4
    assert not (out / ".work").exists()


@pytest.mark.qe
@needs_pw
def test_a_killed_run_goes_on_where_it_was(recipe: Recipe, dft_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    write(tmp_path / "all.extxyz", structures(4))
    code = (
        "import sys; from ase.io import read; from ase_ldos.labelling.run import label_structures; "
        "from ase_ldos.labelling.dft_settings import load_recipe; "
        "label_structures(read(sys.argv[1], ':'), load_recipe(sys.argv[2], pseudo_dir=sys.argv[3]), sys.argv[4])"
    )
    arguments = [str(tmp_path / "all.extxyz"), str(tmp_path / "recipe.toml"), str(dft_folder), str(out)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)
    until = time.time() + 300  # on a busy machine; a second on a quiet one
    while not (out / "be1.npz").exists() and time.time() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert {"be0.npz", "be1.npz"} <= before.keys()
    report = label_structures(structures(4), recipe, out)
    assert {f"{name}.npz" for name in report.found} == before.keys()
    assert len(report.found) + len(report.finished) == 4
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert len(load_snapshots(out)) == 4
    assert not (out / ".work").exists()


@pytest.mark.qe
@pytest.mark.slow
@needs_pw
def test_reference_label_is_reproduced(be_files: list[Path], dft_folder: Path, tmp_path: Path) -> None:
    reference = load_snapshot(be_files[0])
    setup = load_recipe(be_files[0].with_name("recipe.toml"), pseudo_dir=dft_folder)
    snapshot = calculate("again", reference.to_atoms(), setup, tmp_path)
    assert snapshot.free_energy == pytest.approx(reference.free_energy, abs=1e-4 * len(reference))
    np.testing.assert_allclose(snapshot.forces, reference.forces, atol=1e-3)
    # of the potential in this layout, pw.x 6.7 computes the stress wrong, but for its trace
    assert snapshot.stress is None
    assert snapshot.pressure is not None
    for key in ("fermi_level", "fermi_level_dense", "band_energy", "hartree", "xc", "ewald", "one_electron"):
        assert getattr(snapshot, key) == pytest.approx(getattr(reference, key), abs=1e-3)
    np.testing.assert_array_equal(snapshot.kpoints_dense, reference.kpoints_dense)
    for key in ("density", "dos"):
        ours, theirs = getattr(snapshot, key), getattr(reference, key)
        assert ours.shape == theirs.shape
        assert abs(ours - theirs).sum() < 0.01 * abs(theirs).sum()
    error = abs(snapshot.ldos_values() - reference.ldos_values()).sum(dtype=float)
    assert error < 0.01 * abs(reference.ldos_values()).sum(dtype=float)


def test_failures_are_recorded_and_the_rest_goes_on(recipe: Recipe, tmp_path: Path, broken_pw: Path) -> None:
    out = tmp_path / "set"
    report = label_structures(structures(), recipe, out)
    assert sorted(report.failed) == ["be0", "be1", "be2"]
    assert "exit code 1" in report.failed["be0"]
    assert "Error in routine x" in report.failed["be0"]
    assert json.loads((out / FAILURES).read_text()) == report.failed
    assert broken_pw.read_text().count("called") == 3
    again = label_structures(structures(), recipe, out)
    assert again.failed == report.failed
    assert broken_pw.read_text().count("called") == 3
    label_structures(structures(), recipe, out, retry_failed=True)
    assert broken_pw.read_text().count("called") == 6


def test_calculations_that_outlived_a_killed_run_are_ended(recipe: Recipe, tmp_path: Path, broken_pw: Path) -> None:
    work = tmp_path / "set/.work/be0/x"
    work.mkdir(parents=True)
    orphan = subprocess.Popen(["/bin/sleep", "60"], cwd=work)
    other = subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path)
    try:
        (work / "pid").write_text(str(orphan.pid))
        (work.parent / "y").mkdir()
        (work.parent / "y/pid").write_text(str(other.pid))
        label_structures(structures(1), recipe, tmp_path / "set")
        assert orphan.wait(timeout=10) == -signal.SIGTERM
        assert other.poll() is None
        assert broken_pw.exists()
    finally:
        for process in (orphan, other):
            process.kill()
            process.wait()


@pytest.mark.usefixtures("broken_pw")
def test_launcher_runs_before_pw(recipe: Recipe, tmp_path: Path) -> None:
    report = label_structures(structures(1), recipe, tmp_path / "set", launcher="echo launched")
    assert "launched pw.x -in pw.in" in report.failed["be0"]


@pytest.mark.usefixtures("broken_pw")
def test_bad_lists_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "set"
    twice = structures(2)
    twice[1].info["name"] = "be0"
    with pytest.raises(ValueError, match="structure 1 has the name 'be0'; names must be distinct"):
        label_structures(twice, recipe, out)
    with pytest.raises(ValueError, match="no structures"):
        label_structures([], recipe, out)
    with pytest.raises(ValueError, match="structure 0: periodic boundary conditions"):
        label_structures([Atoms("Be", cell=[3, 3, 3])], recipe, out)
    with pytest.raises(ValueError, match="no pseudopotential of Mg"):
        label_structures([bulk("Mg")], recipe, out)
    with pytest.raises(ValueError, match="0 workers"):
        label_structures(structures(1), recipe, out, workers=0)
    assert not out.exists()


@pytest.mark.usefixtures("broken_pw")
def test_folder_of_other_structures_is_refused(recipe: Recipe, tmp_path: Path, be_files: list[Path]) -> None:
    out = tmp_path / "set"
    out.mkdir()
    shutil.copy(be_files[-1], out / "be0.npz")
    with pytest.raises(ValueError, match="labels another structure than 'be0'"):
        label_structures(structures(1), recipe, out)


def test_compact_labels_are_written_and_found_again(
    recipe: Recipe, tmp_path: Path, broken_pw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of a fresh clone, which has the compact files and no trace of the run that made them."""

    def stub(name: str, atoms: Atoms, *_: object, **__: object) -> Snapshot:
        if name == "be2":
            raise CalculationError("no more")
        density = np.random.default_rng(0).random((3, 3, 5)).astype(np.float32)
        return Snapshot(name, atoms.numbers, atoms.cell.array, atoms.positions, density=density)

    out = tmp_path / "set"
    out.mkdir()
    first = structures()[0]
    save_compact(out / "be0.npz", stub("be0", first))
    monkeypatch.setattr("ase_ldos.labelling.run.calculate", stub)
    monkeypatch.setattr("ase_ldos.labelling.run.read_creator", lambda _: "stub 1.0")
    report = label_structures(structures(), recipe, out, compact=True)
    assert (report.found, report.finished, report.failed) == (("be0",), ("be1",), {"be2": "no more"})
    assert is_compact(out / "be1.npz")
    assert [snapshot.name for snapshot in load_snapshots(out)] == ["be0", "be1"]
    with pytest.raises(ValueError, match=r"be0\.npz labels another structure than 'be0'"):
        label_structures([_renamed(structures()[1], "be0")], recipe, out, compact=True)
    assert not broken_pw.exists()


def _renamed(atoms: Atoms, name: str) -> Atoms:
    atoms.info["name"] = name
    return atoms


def test_a_cycle_that_gains_no_accuracy_is_ended_and_recorded(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pw.x that stalls at 1e-3 Ry and would go on for ever, beside one that needs as many iterations and finishes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    line = "     estimated scf accuracy    <       %s Ry\\n"
    stall = "".join(f"printf '{line}' {number}\n" for number in ["0.00100000"] + ["0.00200000", "0.00100000"] * 8)
    fall = "".join(f"printf '{line}' {number}\n" for number in ["1.0E-07"] * 15 + ["0.9E-07"])
    (folder / "pw.x").write_text(
        f"#!/bin/sh\nif pwd | grep -q be0; then\n{stall}exec sleep 100\nelse\n{fall}sleep 1.5\nfi\necho odd end\n"
    )
    (folder / "pw.x").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    began = time.monotonic()
    report = label_structures(structures(2), recipe, tmp_path / "set")
    assert time.monotonic() - began < 60
    assert report.failed["be0"] == (
        "pw.x was ended after 17 iterations: the estimated accuracy of the self-consistent cycle, at best 1.0e-03 Ry, "
        "has not fallen in the last 15; lower mixing_beta in the recipe's options"
    )
    assert "odd end" in report.failed["be1"]
    assert json.loads((tmp_path / "set" / FAILURES).read_text()) == report.failed


@pytest.mark.parametrize(
    ("accuracies", "stalled"),
    [
        ([], False),
        ([1.0] * 15, False),
        ([1.0] * 16, True),
        ([1.0, *[2.0] * 14], False),
        ([1.0, *[2.0] * 15], True),
        ([1.0, *[2.0] * 14, 0.9], False),
        ([0.1, 1e-3, *[2.0] * 20, 1e-4, *[1e-3] * 14], False),
        ([10.0**-n for n in range(40)], False),
    ],
)
def test_stalls_are_told_from_slow_cycles(accuracies: list[float], stalled: bool) -> None:
    output = "".join(f"     estimated scf accuracy    <  {accuracy:14.1E} Ry\n" for accuracy in accuracies)
    assert bool(stalled_cycle(output)) is stalled


@pytest.mark.usefixtures("broken_pw", "recipe")
def test_command_reports_failures(tmp_path: Path, dft_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "all.extxyz", structures(2))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = [
        str(tmp_path / "all.extxyz"),
        "--no-check",
        "--compact",
        "--recipe",
        str(tmp_path / "recipe.toml"),
        "--out",
        str(tmp_path / "set"),
    ]
    chosen = parser.parse_args([*arguments, "--pseudo-dir", str(dft_folder), "--no-ldos"])
    assert run(chosen) == 1
    printed = capsys.readouterr()
    assert "be1 failed: pw.x stopped" in printed.out
    assert "0 labelled, 0 were there, 2 failed" in printed.out
    assert re.search(r"2/2 \[.*structure", printed.err)
    # what failed before is not tried again, and the bar does not wait for it
    assert run(chosen) == 1
    assert "0/2" not in capsys.readouterr().err


@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="needs two cores")
def test_workers_are_pinned_to_cores_of_their_own(recipe: Recipe, tmp_path: Path, broken_pw: Path) -> None:
    # each waits until both run
    script = broken_pw.with_name("pw.x")
    seen = tmp_path / "seen"
    seen.mkdir()
    script.write_text(
        f"#!/bin/sh\ngrep Cpus_allowed_list /proc/self/status > {seen}/$$\n"
        f"for i in $(seq 100); do [ $(ls {seen} | wc -l) -ge 2 ] && break; sleep 0.1; done\nexit 1\n"
    )
    label_structures(structures(2), recipe, tmp_path / "set", workers=2)
    cores = [file.read_text().split()[-1] for file in seen.iterdir()]
    assert len(cores) == len(set(cores)) == 2
    assert all(core.isdigit() for core in cores)
    shutil.rmtree(tmp_path / "set")
    for file in seen.iterdir():
        file.unlink()
    label_structures(structures(2), recipe, tmp_path / "set", workers=2, launcher="env")
    everywhere = {file.read_text().split()[-1] for file in seen.iterdir()}
    assert len(everywhere) == 1
    assert not everywhere & set(cores)
    # several runs with one worker each must not meet on the first core
    for file in seen.iterdir():
        file.unlink()
    label_structures(structures(1), recipe, tmp_path / "alone")
    assert {file.read_text().split()[-1] for file in seen.iterdir()} == everywhere


def snapshot(name: str, atoms: Atoms) -> Snapshot:
    return Snapshot(name, atoms.numbers, atoms.cell.array, atoms.positions, free_energy=-60.0)


@pytest.mark.usefixtures("broken_pw")
def test_a_full_disk_stops_the_run_and_loses_nothing(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, room = tmp_path / "set", [1]
    monkeypatch.setattr("ase_ldos.labelling.run.calculate", lambda name, atoms, *_, **__: snapshot(name, atoms))
    monkeypatch.setattr("ase_ldos.labelling.run.read_creator", lambda _: "PWSCF 9.9")
    save = np.savez_compressed

    def full(file: Path, **arrays: np.ndarray) -> None:
        if not room:
            raise OSError(28, "No space left on device")
        room.pop()
        save(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"be1\.npz could not be written: .*No space left on device"):
        label_structures(structures(), recipe, out)
    assert [s.name for s in load_snapshots(out)] == ["be0"]
    room += [1] * 9
    report = label_structures(structures(), recipe, out)
    assert (report.found, sorted(report.finished), report.failed) == (("be0",), ["be1", "be2"], {})


@pytest.mark.parametrize("words", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_under_pw_is_no_failure_of_a_structure(
    words: str, recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path]
) -> None:
    """The run ends, and the next one takes the same structures again."""
    calls = fake_pw(f"echo 'Fortran runtime error: {words}'\nexit 2")
    seen = 0
    for _ in range(2):
        with pytest.raises(OSError, match=r"pw\.x failed because the disk of .* is full"):
            label_structures(structures(), recipe, tmp_path / "set")
        assert not (tmp_path / "set" / FAILURES).exists()
        called = calls.read_text().count("called")
        assert called > seen
        seen = called


def test_files_cut_off_by_a_full_disk_are_no_failure_either(
    recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pw("echo JOB DONE")
    monkeypatch.setattr("ase_ldos.labelling.subprocesses.disk_is_full", lambda _: True)
    with pytest.raises(OSError, match="is full"):
        label_structures(structures(), recipe, tmp_path / "set")
    assert not (tmp_path / "set" / FAILURES).exists()


@pytest.mark.parametrize("how", ["kill -KILL $$", "exit 137"])
def test_a_killed_program_is_taken_again(
    how: str, recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Somebody, a queueing system or the want of memory ended it: that says nothing about the structure."""
    calls = fake_pw(how)
    report = label_structures(structures(2), recipe, tmp_path / "set")
    assert report.failed == {}
    assert sorted(report.interrupted) == ["be0", "be1"]
    assert "pw.x was ended by SIGKILL" in report.interrupted["be0"]
    assert not (tmp_path / "set" / FAILURES).exists()
    assert calls.read_text().count("called") == 2
    frames = tmp_path / "be.xyz"
    write(frames, structures(2))
    arguments = ["label", str(frames), "--recipe", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "set")]
    assert main([*arguments, "--no-check", "--pseudo-dir", str(recipe.pseudo_dir)]) == 1
    assert "0 labelled, 0 were there, 2 were interrupted (the same command takes them" in capsys.readouterr().out
    assert calls.read_text().count("called") == 4


def test_a_crash_is_a_failure(recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path]) -> None:
    fake_pw("kill -SEGV $$")
    report = label_structures(structures(1), recipe, tmp_path / "set")
    assert "exit code -11" in report.failed["be0"]


def test_a_program_that_does_not_start_ends_the_run(
    recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path]
) -> None:
    fake_pw("exit 1")
    with pytest.raises(OSError, match="no-such-launcher could not be started"):
        label_structures(structures(), recipe, tmp_path / "set", launcher="no-such-launcher -n 4")
    assert not (tmp_path / "set" / FAILURES).exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_end_of_a_run_ends_its_programs(
    number: signal.Signals, recipe: Recipe, tmp_path: Path, fake_pw: Callable[[str], Path]
) -> None:
    """And what these have started, as a launcher does; nothing is written down as a failure."""
    fake_pw(f"sleep 600 &\necho $! >> {tmp_path}/sleeping\nwait")
    write(tmp_path / "be.xyz", structures(3))
    arguments = ["label", "be.xyz", "--recipe", "recipe.toml", "--out", "set", "--workers", "2", "--no-check"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ase_ldos", *arguments, "--pseudo-dir", str(recipe.pseudo_dir)]
    sleeping = tmp_path / "sleeping"
    # a background job of a shell ignores Ctrl-C, and so would what it starts
    handler = signal.signal(number, signal.SIG_DFL)
    try:
        started = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(number, handler)
    with started as run:
        try:
            deadline = time.monotonic() + 120
            while not sleeping.exists() or len(sleeping.read_text().split()) < 2:
                assert time.monotonic() < deadline
                assert run.poll() is None, run.communicate()[1]
                time.sleep(0.05)
            run.send_signal(number)
            errors = run.communicate(timeout=60)[1]
        finally:
            run.kill()
    assert run.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors
    for pid in sleeping.read_text().split():
        assert not is_alive(int(pid))
    assert not (tmp_path / "set" / FAILURES).exists()


@pytest.mark.usefixtures("broken_pw")
def test_labels_of_another_setup_are_not_mixed_in(
    recipe: Recipe, dft_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    monkeypatch.setattr("ase_ldos.labelling.run.calculate", lambda name, atoms, *_, **__: snapshot(name, atoms))
    monkeypatch.setattr("ase_ldos.labelling.run.read_creator", lambda _: "PWSCF 9.9")
    label_structures(structures(1), recipe, out)
    # what only helps the calculation to converge may change
    label_structures(structures(2), replace(recipe, options={"electrons": {"mixing_beta": 0.2}}), out)
    record = read_record(out)
    assert record["programs"] == ["PWSCF 9.9"]
    assert [r["options"] for r in record["recipes"]] == [{}, {"electrons": {"mixing_beta": 0.2}}]
    file = dft_folder / "Be.pbe-gth-q2.gth"
    assert record["pseudopotentials"]["Be"] == {
        "file": file.name,
        "sha256": read_pseudopotential(file).sha256,
        "kind": "NC",
        "functional": "pbe",
        "valence": 2.0,
        "core_charge": False,
    }
    with pytest.raises(ValueError, match=r"have cutoff 10, not 12; choose another folder"):
        label_structures(structures(3), replace(recipe, cutoff=12), out)
    text = file.read_text()
    (number, *_) = re.findall(r"-?\d\.\d{4,}", text)
    (tmp_path / file.name).write_text(text.replace(number, f"{1.001 * float(number):.8f}"))
    with pytest.raises(ValueError, match=r"whose content is not that of Be\.pbe-gth-q2\.gth"):
        label_structures(structures(3), replace(recipe, pseudo_dir=tmp_path), out)
    assert len(load_snapshots(out)) == 2
