"""Many processes on one folder: threads, executors, separate programs, kills, and Slurm's array (a stub sbatch)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import fake_pw
import pytest
from ase.io import write

from ase_ldos.cli.main import main
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.dataset.provenance import RECORD, read_record
from ase_ldos.labelling.dft_settings import Recipe, load_recipe
from ase_ldos.labelling.run import LabelReport, label_structures, read_failures
from ase_ldos.labelling.slurm import array_script, submit_array

# the functional of an override is not the potential's, so that the made-up energies are not compared with their parts
RECIPE = """
pseudopotentials = { Be = "Be.pbe-gth-q2.gth" }
cutoff = 10
electronic_temperature = 2000
kspacing = 1.2
bands_per_atom = 1.5
grid_spacing = 0.5
options = { system = { input_dft = "PBE" } }
"""


@pytest.fixture
def recipe(dft_folder: Path, tmp_path: Path) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return load_recipe(tmp_path / "recipe.toml", pseudo_dir=dft_folder)


def use_fake_pw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: str = "") -> Path:
    calls = fake_pw.install(tmp_path / "bin", before=before)
    monkeypatch.setenv("PATH", fake_pw.search_path(tmp_path / "bin"))
    return calls


def labelled_names(calls: Path) -> Counter[str]:
    """How often each structure was calculated, by the folders in which pw.x was called."""
    return Counter(Path(line).parent.name for line in calls.read_text().splitlines())


def test_runs_side_by_side_share_a_list(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_fake_pw(tmp_path, monkeypatch, before="sleep 0.1")
    out, reports = tmp_path / "set", list[LabelReport]()
    frames = fake_pw.structures(8)
    runs = [threading.Thread(target=lambda: reports.append(label_structures(frames, recipe, out))) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert labelled_names(calls) == Counter({f"be{i}": 1 for i in range(8)})
    assert sum(len(report.finished) for report in reports) == 8
    for report in reports:  # each run ends when all are there, whoever labelled them
        assert len(report.finished) + len(report.found) == 8
        assert not report.failed
    assert sorted(path.name for path in out.iterdir()) == [f"be{i}.npz" for i in range(8)] + [RECORD]
    assert read_record(out)["programs"] == ["PWSCF 9.9"]
    assert [s.name for s in load_snapshots(out)] == [f"be{i}" for i in range(8)]


def test_failures_of_several_runs_are_all_kept(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_fake_pw(tmp_path, monkeypatch, before="case $PWD in */be[0-3]/*) exit 1;; esac")
    out, frames = tmp_path / "set", fake_pw.structures(6)
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda _: label_structures(frames, recipe, out), range(3)))
    assert sorted(read_failures(out)) == ["be0", "be1", "be2", "be3"]
    assert all(sorted(report.failed) == ["be0", "be1", "be2", "be3"] for report in reports)
    assert set(labelled_names(calls).values()) == {1}
    again = label_structures(frames[:1], recipe, out, retry_failed=True)
    assert list(again.failed) == ["be0"]
    assert sorted(read_failures(out)) == ["be0", "be1", "be2", "be3"]


class CountingExecutor(Executor):
    """Runs what it is given at once, and counts it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def,override] # noqa: ANN001,ANN002,ANN003,ANN201
        self.names.append(args[0])
        future: Future[object] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_any_executor_does_the_calculations(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_fake_pw(tmp_path, monkeypatch, before="case $PWD in */be1/*) exit 1;; esac")
    executor = CountingExecutor()
    report = label_structures(fake_pw.structures(3), recipe, tmp_path / "set", executor=executor)
    assert executor.names == ["be0", "be1", "be2"]
    assert (sorted(report.finished), list(report.failed)) == (["be0", "be2"], ["be1"])
    assert labelled_names(calls) == Counter({"be0": 1, "be1": 1, "be2": 1})


@pytest.mark.slow
def test_an_executor_of_processes(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = use_fake_pw(tmp_path, monkeypatch)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        report = label_structures(fake_pw.structures(4), recipe, tmp_path / "set", executor=pool)
    assert sorted(report.finished) == ["be0", "be1", "be2", "be3"]
    assert set(labelled_names(calls).values()) == {1}


def label_command(tmp_path: Path, dft_folder: Path, n: int) -> list[str]:
    write(tmp_path / "all.extxyz", fake_pw.structures(n))
    return [
        *(sys.executable, "-m", "ase_ldos", "label", str(tmp_path / "all.extxyz"), "--no-check"),
        *("--recipe", str(tmp_path / "recipe.toml"), "--pseudo-dir", str(dft_folder), "--out", str(tmp_path / "set")),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("recipe")
def test_processes_are_killed_and_others_take_over(
    tmp_path: Path, dft_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four programs on twelve structures; two are killed in the middle of one, and all labels are made all the same."""
    calls = use_fake_pw(tmp_path, monkeypatch, before="sleep 0.5")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    command = label_command(tmp_path, dft_folder, 12)
    programs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(4)
    ]
    try:
        leases, victims = tmp_path / "set/.leases", []
        until = time.monotonic() + 120
        while len(victims) < 2 and time.monotonic() < until:
            for program in programs:
                held = [path for path in leases.glob("be*.lease") if f'"pid": {program.pid},' in _text(path)]
                if held and program not in victims and len(victims) < 2:
                    program.send_signal(signal.SIGKILL)
                    victims.append(program)
            time.sleep(0.02)
        assert len(victims) == 2
        assert [program.wait(timeout=120) for program in programs if program not in victims] == [0, 0]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert [s.name for s in load_snapshots(tmp_path / "set")] == sorted(f"be{i}" for i in range(12))
    assert 12 <= labelled_names(calls).total() <= 14
    assert not leases.exists()
    assert not (tmp_path / "set/.work").exists()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


SBATCH = """#!/bin/sh
# runs the jobs of the array one after the other, as Slurm would on a busy cluster
[ "$1" = --parsable ] || exit 3
jobs=$(sed -n 's/^#SBATCH --array=1-//p' "$2")
for i in $(seq $jobs); do SLURM_ARRAY_TASK_ID=$i sh "$2" >> {log} 2>&1; done
echo "4711;cluster"
"""


@pytest.mark.slow
@pytest.mark.usefixtures("recipe")
def test_slurm_runs_the_same_command_as_an_array(
    tmp_path: Path, dft_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = use_fake_pw(tmp_path, monkeypatch)
    sbatch = tmp_path / "bin/sbatch"
    sbatch.write_text(SBATCH.format(log=tmp_path / "log"))
    sbatch.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    arguments = label_command(tmp_path, dft_folder, 3)[3:]
    assert main([*arguments, "--slurm", "--time=1:00:00 -p 'two words' -n 4", "--jobs", "2"]) == 0
    assert "submitted job 4711: an array of 2" in capsys.readouterr().out
    assert labelled_names(calls) == Counter({"be0": 1, "be1": 1, "be2": 1})
    assert "3 labelled, 0 were there" in (tmp_path / "log").read_text()
    assert "0 labelled, 3 were there" in (tmp_path / "log").read_text()


def test_the_script_of_an_array(tmp_path: Path) -> None:
    script = array_script(["python", "-m", "x", "a b"], "--time=1:00 -p short --exclusive", 3, tmp_path)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "#SBATCH --array=1-3" in lines
    assert {"#SBATCH --time=1:00", "#SBATCH -p short", "#SBATCH --exclusive"} <= set(lines)
    assert lines[-1] == "exec python -m x 'a b'"
    with pytest.raises(ValueError, match="0 jobs are asked for"):
        array_script(["x"], "", 0, tmp_path)
    with pytest.raises(ValueError, match="name an array"):
        array_script(["x"], "--array=1-5", 2, tmp_path)
    with pytest.raises(ValueError, match="cannot be read: No closing quotation"):
        array_script(["x"], "--comment='a", 2, tmp_path)


def test_a_missing_or_refusing_sbatch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ValueError, match="sbatch cannot be started: No such file"):
        submit_array(["x"], "", 1, tmp_path / "set")
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    with pytest.raises(ValueError, match=r"sbatch refuses .*label\.sbatch: invalid partition"):
        submit_array(["x"], "", 1, tmp_path / "set")
