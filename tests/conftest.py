"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data {'/'.join(parts)} are not beside the project")
    return path


@pytest.fixture(scope="session")
def be_files() -> list[Path]:
    """The beryllium reference snapshots, sorted by name."""
    return sorted(_folder("data", "be").glob("*.npz"))


@pytest.fixture(scope="session")
def snap_folder() -> Path:
    """SNAP columns from LAMMPS."""
    return _folder("snap")


@pytest.fixture(scope="session")
def mala_folder() -> Path:
    """MALA's test snapshots and model."""
    return _folder("mala")


@pytest.fixture(scope="session")
def dft_folder() -> Path:
    """Pseudopotentials."""
    return _folder("dft")
