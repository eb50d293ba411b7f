"""Cube files: units, order and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.formats.cube import read_cube, read_ldos_cubes, write_cube, write_ldos_cubes
from ase_ldos.units import BOHR, RYDBERG


def snapshot() -> Snapshot:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    return Snapshot(
        name="be",
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        positions=atoms.positions,
        energies=np.arange(12.0),
        ldos=np.random.default_rng(0).random((4, 6, 8, 12)).astype(np.float32),
        ldos_scale=0.5,
    )


def test_density_survives_and_is_stored_in_atomic_units(tmp_path: Path) -> None:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    field = np.random.default_rng(1).random((4, 5, 6))
    write_cube(tmp_path / "n.cube", atoms, field, comment="density")
    again, values = read_cube(tmp_path / "n.cube")
    np.testing.assert_allclose(values, field, rtol=1e-5)
    np.testing.assert_allclose(again.cell.array, atoms.cell.array, atol=1e-4)
    np.testing.assert_allclose(again.positions, atoms.positions, atol=1e-4)
    assert again.pbc.all()
    lines = (tmp_path / "n.cube").read_text().splitlines()
    assert lines[0] == "density"
    assert float(lines[8].split()[0]) == pytest.approx(field[0, 0, 0] * BOHR**3, rel=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["n.cube"]


def test_cube_in_the_layout_of_espresso(tmp_path: Path) -> None:
    """As pp.x writes the LDOS: bohr, 1/(Ry bohr³), six values a line, the third axis fastest."""
    values = (np.arange(1, 29) / 64).reshape(2, 2, 7)
    rows = [
        " ".join(f"{value:12.5E}" for value in row) for half in values.reshape(4, 7) for row in (half[:6], half[6:])
    ]
    header = [
        " Cubefile created from PWScf calculation",
        "  Energy =  -5.0000 eV, broadening =   5.0000 eV",
        "    1    0.000000    0.000000    0.000000",
        "    2    2.000000    0.000000    0.000000",
        "    2   -1.000000    1.750000    0.000000",
        "    7    0.000000    0.000000    1.000000",
        "    4    4.000000    3.000000    0.500000    5.000000",
    ]
    (tmp_path / "tmp.pp01.cube").write_text("\n".join([*header, *rows, ""]))
    series = read_ldos_cubes([tmp_path / "tmp.pp01.cube"], np.array([-5.0]))
    np.testing.assert_allclose(series.ldos_values()[..., 0], values / (RYDBERG * BOHR**3), rtol=1e-6)
    np.testing.assert_allclose(series.cell / BOHR, [[4, 0, 0], [-2, 3.5, 0], [0, 0, 7]], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(series.positions / BOHR, [[3, 0.5, 5]], rtol=1e-6)


def test_numbers_in_any_unit(tmp_path: Path) -> None:
    """A potential is not a density: its numbers stay as they are."""
    field = np.random.default_rng(2).normal(size=(3, 4, 5))
    write_cube(tmp_path / "v.cube", bulk("Be"), field, unit=1.0, comment="eV")
    first = (tmp_path / "v.cube").read_text().splitlines()[8].split()[0]  # after 2 + 1 + 3 lines and 2 atoms
    assert float(first) == pytest.approx(field[0, 0, 0], rel=1e-4)
    np.testing.assert_allclose(read_cube(tmp_path / "v.cube", unit=1.0)[1], field, rtol=1e-4)
    np.testing.assert_allclose(read_cube(tmp_path / "v.cube")[1] * BOHR**3, field, rtol=1e-4)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_cube(tmp_path / "n.cube", bulk("Be"), np.ones((3, 4, 5)))
    before = (tmp_path / "n.cube").read_bytes()
    with pytest.raises(UnicodeEncodeError):  # stands for a full disk
        write_cube(tmp_path / "n.cube", bulk("Be"), np.ones((3, 4, 5)), comment="\ud800")
    with pytest.raises(FileNotFoundError):
        write_cube(tmp_path / "none" / "n.cube", bulk("Be"), np.ones((3, 4, 5)))
    assert (tmp_path / "n.cube").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["n.cube"]


def test_series_survives_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    paths = write_ldos_cubes(tmp_path / "cubes", snapshot())
    assert len(paths) == 12
    again = read_ldos_cubes(paths[::-1], np.arange(12.0), sigma=0.2)
    np.testing.assert_allclose(again.ldos_values(), snapshot().ldos_values(), rtol=1e-5, atol=1e-7)
    volume = abs(np.linalg.det(again.cell))
    assert again.dos is not None
    np.testing.assert_allclose(again.dos, snapshot().ldos_values().mean(axis=(0, 1, 2)) * volume, rtol=1e-4)
    with pytest.raises(ValueError, match="11 cube files and 12 energies"):
        read_ldos_cubes(paths[:-1], np.arange(12.0))


def test_bad_cubes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no cube file"):
        read_cube(tmp_path / "none.cube")
    with pytest.raises(ValueError, match="three axes"):
        write_cube(tmp_path / "n.cube", bulk("Be"), np.zeros((2, 2)))
    paths = write_ldos_cubes(tmp_path, snapshot())
    text = paths[3].read_text()
    paths[3].write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"be_004\.cube is not a whole cube file"):
        read_cube(paths[3])
    write_cube(paths[3], bulk("Be"), np.zeros((4, 6, 9)))
    with pytest.raises(ValueError, match="another grid or structure"):
        read_ldos_cubes(paths, np.arange(12.0))
