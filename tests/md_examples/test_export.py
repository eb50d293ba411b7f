"""The export example: the files say what the calculator found, at the right places and in the right units."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from ase.io.cube import read_cube_data

from ase_ldos.units import BOHR

SCRIPT = Path(__file__).resolve().parents[2] / "md_examples" / "export.py"


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--steps", "2"])
    names = runpy.run_path(str(SCRIPT))
    atoms, prediction = names["atoms"], names["calculator"].prediction
    assert names["worst"][0] < 1e-9  # eV
    assert max(names["worst"]) < 1e-7

    density, read_atoms = read_cube_data("density.cube")
    assert read_atoms.positions == pytest.approx(atoms.positions, abs=1e-5)
    assert read_atoms.cell.array == pytest.approx(atoms.cell.array, abs=1e-4)
    assert density / BOHR**3 == pytest.approx(prediction.density.numpy(), abs=1e-6)
    assert density.mean() / BOHR**3 * atoms.get_volume() == pytest.approx(2 * len(atoms), rel=1e-6)

    change, _ = read_cube_data("change.cube")
    assert change.mean() == pytest.approx(0, abs=1e-7)
    assert np.abs(change).max() > 1e-3
    at_level, _ = read_cube_data("fermi.cube")
    expected = np.interp(prediction.fermi_level, prediction.energy_grid, prediction.dos)
    assert at_level.mean() / BOHR**3 * atoms.get_volume() == pytest.approx(expected, rel=1e-5)

    # the XSF grid is periodic: its far faces repeat the near ones
    with Path("density.xsf").open() as file:
        lines = file.read().split("BEGIN_DATAGRID_3D")[1].splitlines()
    shape = tuple(int(n) for n in lines[1].split())
    span = np.array([line.split() for line in lines[3:6]], dtype=float)
    assert shape == tuple(n + 1 for n in prediction.grid.shape)
    assert span == pytest.approx(atoms.cell.array, abs=1e-5)
    values = np.array(" ".join(lines[6:]).split("END")[0].split(), dtype=float).reshape(shape, order="F")
    assert values[:-1, :-1, :-1] == pytest.approx(prediction.density.numpy(), abs=1e-6)
    for axis in range(3):
        assert np.take(values, -1, axis) == pytest.approx(np.take(values, 0, axis), abs=1e-12)

    last = read("trajectory.extxyz")
    assert last.calc.results["energy"] == pytest.approx(names["frames"][-1][0], abs=1e-9)
    assert last.get_momenta().shape == (len(atoms), 3)
