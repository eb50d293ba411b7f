"""``ase-ldos distill``: a model file with a potential, told by ``info``; bad arguments in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk

from ase_ldos.cli.main import main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model


@pytest.fixture
def arguments(be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("ase_ldos.training.distill.EQUILIBRATION", 5.0)
    monkeypatch.setattr("ase_ldos.training.distill.INTERVAL", 5.0)
    bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1)).write(tmp_path / "be.xyz")
    save_model(be_model, tmp_path / "small.safetensors")
    return ["distill", str(tmp_path / "small.safetensors"), str(tmp_path / "be.xyz")]


def test_a_potential_is_kept_in_the_file(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "with.safetensors"
    settings = ["--number", "10", "--rounds", "1", "--temperature", "100", "--seed", "1"]
    assert main([*arguments, *settings, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"wrote {out}" in printed
    potential = load_model(out).distilled
    assert potential is not None
    assert potential.error_words in printed
    assert f"{potential.errors['forces']:.1f} meV/Å (of {potential.errors['typical_forces']:.0f})" in printed
    assert potential.provenance == {
        "teacher": "small",
        "temperature": 100.0,
        "structures": ["Be4"],
        "rounds": 1,
        "seed": 1,
    }
    assert load_model(arguments[1]).distilled is None
    assert main(["info", str(out)]) == 0
    assert "Be4 at 100 K, off the model by" in capsys.readouterr().out


def test_bad_arguments(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (
        (["--number", "3"], "at least 10 structures are needed"),
        (["--temperature", "0"], "temperature is 0.0 K"),
        (["--out", str(tmp_path / "no" / "file")], "there is no folder"),
        (["--index", "7"], "has no structure 7"),
    ):
        assert main([*arguments, *options]) == 2
        assert words in capsys.readouterr().err
