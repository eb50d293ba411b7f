"""The fuzzer's short lane: some hundred damaged files of each kind; ``fuzz.py`` runs as many as wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the fuzzer's memory limit needs Linux")
@pytest.mark.parametrize("cases", [15, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_files_end_in_one_sentence(cases: int) -> None:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)), OMP_NUM_THREADS="1")
    command = [sys.executable, str(SCRIPT), "--cases", str(cases), "--seed", "7", "--seconds", "1000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "packed refused" in done.stdout
