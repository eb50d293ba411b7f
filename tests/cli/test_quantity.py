"""``ase-ldos predict --quantity``: derived quantities in print and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import bulk

from ase_ldos.cli.main import main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model


@pytest.fixture
def arguments(be_model: LDOSModel, tmp_path: Path) -> list[str]:
    bulk("Be", "hcp", a=2.27, c=3.57).write(tmp_path / "be.xyz")
    save_model(be_model, tmp_path / "small.safetensors")
    return ["predict", str(tmp_path / "be.xyz"), "--model", str(tmp_path / "small.safetensors"), "--device", "cpu"]


def test_printed_with_units(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--quantity", "electronic_heat_capacity", "--quantity", "number_of_electrons"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("electronic_heat_capacity"))
    assert lines[heading].endswith(", eV/K")
    assert float(lines[heading + 1]) > 0
    assert float(lines[-1]) == pytest.approx(4.0, abs=1e-8)


def test_in_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json", "--quantity", "electronic_entropy"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quantities"]["electronic_entropy"] == pytest.approx(
        -found["energies"]["entropy_term"] / 3000, rel=1e-9
    )


def test_a_wrong_name_is_told_before_the_calculation(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--quantity", "mass"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: unknown quantity 'mass'; known: dos_at_fermi_level, electronic_entropy" in printed.err
