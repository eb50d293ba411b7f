"""``ase-ldos bench`` prints what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ase_ldos.cli.bench import example
from ase_ldos.cli.main import main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model


@pytest.fixture
def file(either_model: LDOSModel, tmp_path: Path) -> str:
    save_model(either_model, tmp_path / "small.safetensors")
    return str(tmp_path / "small.safetensors")


def test_table_and_json(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "--model", file, "--atoms", "2", "--rounds", "1", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["sizes"]
    assert row["atoms"] == 2
    # one round of a tiny cell says nothing of their order
    assert row["energy_s"] > 0
    assert row["forces_s"] > 0
    if row["energy_least_s"] is not None:
        assert 0 < row["energy_least_s"] < row["energy_s"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "GFLOP/s" in table
    assert "OMP_NUM_THREADS" in table


def test_sizes(be_model: LDOSModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert [len(example(be_model, n)) for n in (1, 2, 3, 16)] == [2, 2, 4, 16]
    assert main(["bench", "--atoms", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
