"""What ``pip install`` takes along: without its files the package cannot do what the README says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import ase_ldos
from ase_ldos import list_models
from ase_ldos.model.model_file import find_model

PACKAGE = Path(ase_ldos.__file__).parent
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def test_the_wheel_holds_the_bundled_models() -> None:
    patterns = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["ase_ldos"]
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert list_models()
    assert {find_model(name) for name in list_models()} <= packed
    assert PACKAGE / "py.typed" in packed
