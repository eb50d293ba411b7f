"""What ``ase-ldos learn`` says in the end, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

from ase_ldos.active_learning import learn as learning
from ase_ldos.active_learning.learn import Round, State
from ase_ldos.cli.main import main

GOOD, BAD = ({"energy": 1.0, "forces": value, "density": 0.5} for value in (40.0, 90.0))


@pytest.mark.parametrize(
    ("test", "dynamics", "code", "text"),
    [
        (GOOD, {"passed": True}, 0, "goals on the test set met, last dynamics passed"),
        (GOOD, {"needed_cpu_hours": 2.0}, 0, "goals on the test set met, last dynamics not run"),
        (GOOD, {"passed": False}, 1, "goals on the test set met, last dynamics stopped by an alarm"),
        (BAD, {"passed": True}, 1, "goals on the test set not met, last dynamics passed"),
    ],
)
def test_a_model_that_fails_its_dynamics_has_not_met_its_goals(
    test: dict[str, float],
    dynamics: dict[str, Any],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "si"
    out.mkdir()
    for name in ("dft.toml", "training.toml"):
        (out / name).touch()
    write(tmp_path / "Si.cif", bulk("Si"))
    state = State({}, rounds=[Round(finished=True, test=test)], dynamics=dynamics)
    monkeypatch.setattr(learning, "learn", lambda *_, **__: state)
    assert main(["learn", str(tmp_path / "Si.cif"), "--out", str(out)]) == code
    assert f"{text}; look at {out / 'report.html'}" in capsys.readouterr().out
