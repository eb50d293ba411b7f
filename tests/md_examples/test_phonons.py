"""The phonon example: its frozen-phonon formula, the agreement of its two ways to the optical modes, and no phonopy."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

SCRIPT = Path(__file__).resolve().parents[2] / "md_examples" / "phonons.py"


@pytest.fixture
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--supercell", "2", "2", "1"])


@pytest.mark.usefixtures("_in_folder", "bundled")
def test_phonons() -> None:
    pytest.importorskip("phonopy")
    names = runpy.run_path(str(SCRIPT))
    bands = names["bands"]
    assert names["lowest"] > -0.01  # THz
    assert bands[0, :3] == pytest.approx(0, abs=0.01)
    assert bands[0, 3] == pytest.approx(bands[0, 4], rel=1e-3)  # E2g
    # the frozen mode, here the last one, B1g, needs no supercell; higher orders differ
    assert names["model"] == pytest.approx(bands[0, 5], rel=0.03)

    # two atoms on a spring K: ω = sqrt(2 K / m)
    pair = [bulk("Be", "hcp", a=2.2, c=3.5) for _ in range(2)]
    for atoms, sign in zip(pair, (1, -1)):
        atoms.positions[0] += 0.1 * sign
    forces = [3.0 * 0.1 * sign * np.array([[-1, -1, -1], [1, 1, 1]]) for sign in (1, -1)]
    expected = np.sqrt(2 * 3.0 * 1.602176634e-19 / 1e-20 / (9.0121831 * 1.66053907e-27)) / (2 * np.pi) / 1e12
    assert names["frozen_frequency"](pair, forces) == pytest.approx(expected, rel=1e-6)
    assert names["frozen_frequency"](pair, [-f for f in forces]) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.usefixtures("_in_folder")
def test_missing_phonopy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(SystemExit, match="pip install phonopy"):
        runpy.run_path(str(SCRIPT))
