"""The README does what it says: its code runs, its files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

import ase_ldos
from ase_ldos.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_python_blocks_run(bundled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["density"].min() > -0.1
    assert names["ldos"].ndim == 4


@pytest.mark.slow
def test_bash_blocks_run(bundled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines but those that install."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    atoms.rattle(0.03, seed=0)
    write("be.xyz", atoms)
    lines = [line for block in blocks("bash") for line in block.splitlines() if "pip install" not in line]
    assert len(lines) >= 4
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "ase-ldos"
        assert main(arguments) == 0
    assert {path.name for path in tmp_path.iterdir()} >= {"dos.png", "density.png", "density.cube", "ase-ldos-demo"}


def test_first_screen_has_exactly_two_commands() -> None:
    first = blocks("bash")[0].splitlines()
    assert len(first) == 2
    assert first[0].endswith("&& ase-ldos demo")
    assert first[1].endswith("&& pytest")
    assert README.index(first[1]) < 900


def test_ci_runs_the_same_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    install, test = (part.strip() for part in blocks("bash")[0].splitlines()[1].split("&&"))
    assert install in script
    assert test in script.splitlines()


def test_named_files_exist() -> None:
    table = README[README.index("| formula | file") : README.index("No pseudopotential integral")]
    files = re.findall(r"`([\w/.]+)`", table.split("|---|---|")[1])
    assert len(files) > 8
    for name in files:
        assert (Path(ase_ldos.__file__).parent / name).exists(), name


def test_every_command_is_named() -> None:
    assert all(f"ase-ldos {name}" in README for name in COMMANDS)


def test_version_is_the_same_everywhere() -> None:
    for name, pattern in (("pyproject.toml", 'version = "{}"'), ("CITATION.cff", "version: {}")):
        assert pattern.format(ase_ldos.__version__) in (ROOT / name).read_text(encoding="utf-8")
