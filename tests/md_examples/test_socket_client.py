"""The i-PI example over a port: what the client sends is what the calculator calculates."""

from __future__ import annotations

import runpy
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "md_examples" / "socket_client.py"


@pytest.mark.slow  # starts a second Python
def test_dynamics_over_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[1]))
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--steps", "2", "--port", str(port)])
    names = runpy.run_path(str(SCRIPT))
    forces, stress = names["received"]
    assert np.abs(forces).max() > 0.01  # eV/Å
    assert np.abs(stress).max() > 1e-4  # eV/Å³
    assert max(names["differences"]) < 1e-6
    assert names["client"].returncode == 0
    # the atoms have moved, and the total energy has not
    assert abs(names["potential"][-1] - names["potential"][0]) > 1
    assert names["total"] == pytest.approx(0, abs=0.1)
