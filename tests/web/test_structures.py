"""Structures of requests: files, examples, crystals with faults; and what is refused."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from ase_ldos.simulation.stacking import polytype
from ase_ldos.web.limits import Limits
from ase_ldos.web.structures import EXAMPLES, FAULTS, FORMATS, LATTICES, default_constants, make_structure

LIMITS = Limits(atoms=200)


def as_upload(path: Path, name: str) -> dict[str, Any]:
    return {"source": "file", "name": name, "content": base64.b64encode(path.read_bytes()).decode()}


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.xyz", "extxyz"),
        ("POSCAR", "vasp"),
        ("CONTCAR", "vasp"),
        ("run.vasp", "vasp"),
        ("a.cif", "cif"),
        ("a.cube", "cube"),
        ("pw.in", "espresso-in"),
        ("a.xsf", "xsf"),
        ("a.gen", "gen"),
        ("a.traj", "traj"),
        ("C:\\fakepath\\a.cif", "cif"),
        ("../../etc/a.xyz", "extxyz"),
    ],
)
def test_files_are_read_whatever_they_are_called(crystal: Atoms, tmp_path: Path, name: str, written: str) -> None:
    options = {"pseudopotentials": {"Be": "Be.upf"}} if written == "espresso-in" else {}
    write(tmp_path / "file", crystal, format=written, **options)
    atoms, remarks = make_structure(as_upload(tmp_path / "file", name), LIMITS)
    assert remarks == []
    np.testing.assert_allclose(atoms.get_all_distances(mic=True), crystal.get_all_distances(mic=True), atol=1e-4)
    assert atoms.pbc.all()
    assert atoms.calc is None


def test_the_structure_that_is_asked_for_is_taken(crystal: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [crystal, crystal.repeat((2, 1, 1))])
    upload = as_upload(tmp_path / "a.xyz", "a.xyz")
    assert [len(make_structure(upload | {"index": index}, LIMITS)[0]) for index in (0, 1, -1)] == [2, 4, 4]
    with pytest.raises(ValueError, match="cannot read"):
        make_structure(upload | {"index": 5}, LIMITS)


def test_a_molecule_gets_a_cell_and_a_remark(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", Atoms("Be2", [[0, 0, 0], [0, 0, 2.4]]))
    atoms, remarks = make_structure(as_upload(tmp_path / "a.xyz", "a.xyz"), LIMITS)
    np.testing.assert_allclose(atoms.cell.lengths(), [8, 8, 10.4])
    assert "vacuum" in remarks[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_crystals(name: str) -> None:
    atoms, _ = make_structure({"source": "example", "name": name}, LIMITS)
    assert 1.9 < min(atoms.get_all_distances(mic=True)[0][1:]) < 3.0


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "none"])
@pytest.mark.parametrize("lattice", ["hcp", "fcc"])
def test_faults_keep_the_distance_of_neighbours(lattice: str, fault: str) -> None:
    spec = {"source": "build", "element": "Al", "lattice": lattice, "a": 2.8 if lattice == "hcp" else 2.8 * 2**0.5}
    atoms, _ = make_structure(spec | {"fault": fault, "supercell": [2, 2, 1]}, LIMITS)
    distances = atoms.get_all_distances(mic=True)
    assert distances[distances > 0].min() == pytest.approx(2.8, abs=1e-6)
    assert len(atoms) == 4 * len(FAULTS[fault])
    expected = polytype("Al", 2.8, 2.8 * math.sqrt(8 / 3), FAULTS[fault], (2, 2))
    assert atoms.get_volume() == pytest.approx(expected.get_volume())


def test_strain_and_rattle_are_those_asked_for() -> None:
    spec = {"source": "build", "element": "Be", "lattice": "hcp", "supercell": [2, 2, 1]}
    plain, strained = (make_structure(spec | extra, LIMITS)[0] for extra in ({}, {"strain": 2.0}))
    np.testing.assert_allclose(strained.cell[:], 1.02 * plain.cell[:])
    rattled = [make_structure(spec | {"rattle": 0.1, "seed": seed}, LIMITS)[0] for seed in (3, 3, 4)]
    assert 0.03 < np.abs(rattled[0].positions - plain.positions).mean() < 0.2
    np.testing.assert_array_equal(rattled[0].positions, rattled[1].positions)
    assert not np.allclose(rattled[0].positions, rattled[2].positions)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"source": "shell"}, "source must be one of"),
        ({"source": "example", "name": "/etc/passwd"}, "name must be one of"),
        ({"source": "build", "element": "Xx"}, "element must be one of"),
        ({"source": "build", "element": "Be", "a": -1}, "a must be between"),
        ({"source": "build", "element": "Be", "a": 10**400}, "a must be between"),
        ({"source": "build", "element": "Be", "supercell": [10**9, 1, 1]}, "supercell must be between"),
        ({"source": "build", "element": "Be", "supercell": [64, 64, 64]}, "at most 200"),
        ({"source": "build", "element": "Be", "supercell": "2"}, "three whole numbers"),
        ({"source": "build", "element": "Be", "supercell": [1.5, 1, 1]}, "whole number"),
        ({"source": "build", "element": "Be", "lattice": "bcc", "fault": "I1"}, "close-packed"),
        ({"source": "build", "element": "Be", "rattle": float("nan")}, "rattle must be a number"),
        ({"source": "file", "name": "a.xyz", "content": "###"}, "base64"),
        ({"source": "file", "name": "a.xyz", "content": ""}, "empty"),
        ({"source": "file", "name": "a.xyz", "content": "MAo="}, "no atoms|cannot read"),
        ({"source": "file", "name": "a.exe", "content": "MAo="}, "not known"),
        ({"source": "file", "name": 7, "content": "MAo="}, "name must be a text"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_structure(spec, LIMITS)


def test_no_reader_that_runs_code_or_opens_other_files_is_used() -> None:
    from ase.io.formats import ioformats

    assert set(ioformats) >= FORMATS
    assert not FORMATS & {"py", "db", "json", "bundletrajectory", "gpw", "gaussian-in", "mysql", "netcdftrajectory"}


def test_a_flat_cell_is_refused(tmp_path: Path) -> None:
    lattice = "2 0 0 0 2 0 2 2 1e-9"
    (tmp_path / "a.xyz").write_text(f'1\nLattice="{lattice}" Properties=species:S:1:pos:R:3\nBe 0 0 0\n')
    with pytest.raises(ValueError, match="volume"):
        make_structure(as_upload(tmp_path / "a.xyz", "a.xyz"), LIMITS)


def test_lattices_of_an_element_have_the_volume_of_the_known_one() -> None:
    for element, known in (("Al", "fcc"), ("Be", "hcp"), ("Na", "bcc")):
        volumes = []
        for lattice in LATTICES:
            a, c = default_constants(element, lattice)
            made = bulk(element, lattice, a=a, **({"c": c} if lattice == "hcp" else {}))
            volumes.append(made.get_volume() / len(made))
            if lattice == known:
                expected = volumes[-1]
        np.testing.assert_allclose(volumes, expected, rtol=1e-6)
