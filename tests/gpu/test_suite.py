"""Tests of the package on the fake CUDA device, which is built here: no test needs a GPU to find a wrong device."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

#: What runs there: the device's own tests, and those that take ``device="auto"``.
CHOSEN = (
    "gpu/test_device.py",
    "gpu/test_launches.py",
    "gpu/test_graphs.py",
    "calculator/test_calculator.py",
    "training/test_evaluate.py",
    "gpu/test_training.py",
)


@pytest.fixture(scope="session")
def fake_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake device, built for this torch."""
    if "fakecuda" in sys.modules or torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    if shutil.which("g++") is None:
        pytest.skip("g++ is needed to build the fake device")
    if not torch.__version__.startswith("2.13.") or torch.version.cuda is not None:
        pytest.skip(f"the fake device is for a CPU build of torch 2.13, not {torch.__version__}")
    if platform.system() != "Linux" or platform.python_implementation() != "CPython":
        pytest.skip("the fake device is for CPython on Linux")
    folder = tmp_path_factory.mktemp("fakecuda")
    built = subprocess.run(
        ["bash", str(TESTS / "fakecuda" / "build.sh"), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert built.returncode == 0, built.stderr[-2000:]
    return folder


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_suite_on_the_device(fake_device: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "fakecuda", "-n", "0", "-q", "--durations=5"]
    command += [str(TESTS / name) for name in CHOSEN]
    found = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent, env=environment(fake_device))
    print(found.stdout[-3000:])
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


def test_ranks(fake_device: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = "import fakecuda, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", script, str(Path(__file__).with_name("ranks.py")), "be"]
    ranks = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(fake_device)
            | {
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    for rank, output in zip(ranks, outputs):
        assert rank.returncode == 0, output
        assert "equal 2" in output
