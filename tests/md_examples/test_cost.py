"""The comparison of costs: Quantum ESPRESSO's steps are found in its output and share out its CPU time."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "md_examples" / "cost_vs_qe.py"


@pytest.mark.qe
@pytest.mark.slow
@pytest.mark.usefixtures("bundled")
def test_both_are_measured(
    pseudo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--atoms", "2", "--steps", "3", "--pseudo-dir", str(pseudo_folder)]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *arguments])
    names = runpy.run_path(str(SCRIPT))
    (n_atoms, model, first, later), *others = names["rows"]
    assert not others
    assert n_atoms == 2
    assert model > 0
    # the first step has to find the density, the later ones start close to it
    assert first > 1.2 * later > 0
    assert f"{later / model:8.0f}" in capsys.readouterr().out
