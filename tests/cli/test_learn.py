"""What ``ase-ldos learn`` says in the end, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

from ase_ldos.active_learning import learn as learning
from ase_ldos.active_learning import setup as setting_up
from ase_ldos.active_learning.learn import Round, State
from ase_ldos.cli.main import main
from ase_ldos.labelling.convergence import SetupMeasurement
from ase_ldos.labelling.dft_settings import Recipe, load_recipe
from ase_ldos.training.settings import load_settings

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


def test_from_a_model_the_set_up_of_its_labels_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "hot"
    write(tmp_path / "Be.cif", bulk("Be"))
    seen: dict[str, Any] = {}

    def measured(_structures: object, recipe: Recipe, _folder: object, **options: Any) -> SetupMeasurement:  # noqa: ANN401
        seen.update(options)
        return SetupMeasurement(replace(recipe, kspacing=0.25), (), None, {"Be": 2.0}, 12.5)

    def learned(_crystals: object, folder: Path, _settings: object, **options: object) -> State:
        seen.update(options, recipe=load_recipe(folder / "dft.toml"), name=load_settings(folder / "training.toml").name)
        return State({})

    monkeypatch.setattr(setting_up, "measure_mesh", measured)
    monkeypatch.setattr(learning, "learn", learned)
    arguments = ["--init-from", "be", "--name", "hot", "--dos", "7"]
    assert main(["learn", str(tmp_path / "Be.cif"), "--out", str(out), *arguments]) == 1
    assert (seen["init_from"], seen["setup_cpu_seconds"], seen["name"]) == ("be", 12.5, "hot")
    assert (seen["recipe"].kspacing, seen["targets"].dos) == (0.25, 7.0)
