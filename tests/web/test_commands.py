"""The commands of the page: help without torch, wrong options in one sentence."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys

import pytest

from ase_ldos.cli import serve
from ase_ldos.cli.main import main


@pytest.mark.parametrize("command", ["serve", "report"])
def test_help_loads_neither_torch_nor_the_server(command: str) -> None:
    code = (
        f"from ase_ldos.cli.main import main\nimport sys\ntry:\n    main([{command!r}, '--help'])\n"
        "except SystemExit:\n    print('loaded:', *sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split("loaded:")[1].split())
    assert "ase_ldos.cli.main" in loaded
    assert not loaded & {"torch", "starlette", "uvicorn", "ase"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "0"], "workers and threads"),
        (["--threads", "0"], "workers and threads"),
        (["--max-memory", "0.1"], "max-memory"),
        (["--max-atoms", "0"], "limit of atoms"),
        (["--max-minutes", "nan"], "max-minutes is nan"),
        (["--model", "no-such-file.safetensors"], "no-such-file"),
        (["--model", "be"], "two models of the name"),
        (["--token-file", "no-such-token"], "no-such-token"),
        (["--token-file", "/dev/null"], "must hold the token"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette")
    assert main(["serve", "--port", "0", *options]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_a_port_that_is_taken_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("starlette")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    with pytest.raises(ValueError, match=r"pip install 'ase-ldos\[web\]'"):
        serve.run(parser.parse_args([]))
