"""Conversions there and back, and the command."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import mala_files
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from ase_ldos.cli.convert import add_arguments, run
from ase_ldos.dataset.folder import load_dataset
from ase_ldos.dataset.npz import Snapshot, load_snapshots, pack_snapshots, save_snapshot
from ase_ldos.dataset.provenance import describe_source, read_record, write_record
from ase_ldos.formats.convert import ONE_FILE, WRITERS, convert, read_any, round_significand, snapshot_from_atoms
from ase_ldos.model.model_file import load_model


def make(name: str) -> Snapshot:
    rng = np.random.default_rng(len(name))
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    return Snapshot(
        name=name,
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        positions=atoms.positions,
        energies=np.array([-1.0, 0.0, 1.0]),
        ldos=rng.random((4, 4, 6, 3)).astype(np.float32),
        ldos_scale=1.0,
        density=rng.random((4, 4, 6)),
        free_energy=-61.5,
        forces=rng.random((2, 3)),
        stress=np.array([[1.0, 0.1, 0.2], [0.1, 2.0, 0.3], [0.2, 0.3, 3.0]]),
        valence=2.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "bb"):
        save_snapshot(tmp_path / f"{name}.npz", make(name))
    return tmp_path


@pytest.mark.parametrize(
    ("to", "out", "again", "keys"),
    [
        ("npz", "out", ["out"], ("ldos", "density", "forces", "stress")),
        ("dataset", "out", ["out"], ("ldos", "density", "forces", "stress")),
        ("compact", "out", ["out"], ("forces", "stress")),
        ("packed", "out.npz", ["out.npz"], ("density", "forces", "stress")),
        ("mala", "out", ["out/a.info.json", "out/bb.info.json"], ("ldos", "forces")),
        ("extxyz", "out.xyz", ["out.xyz"], ("forces", "stress")),
    ],
)
def test_there_and_back(folder: Path, to: str, out: str, again: list[str], keys: tuple[str, ...]) -> None:
    convert([folder / "a.npz", folder / "bb.npz"], folder / out, to)
    snapshots = read_any([folder / part for part in again], np.array([-1.0, 0.0, 1.0]))
    assert [s.name for s in snapshots] == ["a", "bb"]
    for snapshot in snapshots:
        original = make(snapshot.name)
        assert snapshot.free_energy == pytest.approx(-61.5)
        np.testing.assert_allclose(snapshot.positions, original.positions, atol=1e-7)
        for key in keys:
            np.testing.assert_allclose(getattr(snapshot, key), getattr(original, key), rtol=5e-4, atol=1e-6)


def test_record_of_the_setup_goes_along(folder: Path) -> None:
    record = {"programs": ["PWSCF 6.7MaX"], "pseudopotentials": {"Be": {"sha256": "0"}}}
    write_record(folder, record)
    convert([folder], folder / "set", "dataset")
    assert read_record(folder / "set") == record
    assert describe_source(folder / "set")["labels"] == record
    other = folder / "other"
    other.mkdir()
    save_snapshot(other / "c.npz", make("c"))
    write_record(other, {"programs": ["PWSCF 7.2"]})
    convert([folder / "set", other], folder / "mixed", "npz")
    assert read_record(folder / "mixed") == {}


def test_cubes_there_and_back(folder: Path) -> None:
    convert([folder / "a.npz"], folder / "cubes", "ldos-cube")
    (snapshot,) = read_any(sorted((folder / "cubes/a").glob("*.cube")), np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(snapshot.ldos_values(), make("a").ldos_values(), rtol=1e-5)
    convert([folder / "a.npz"], folder / "densities", "density-cube")
    assert (folder / "densities/a.cube").exists()


def test_ase_labels_are_taken_over(tmp_path: Path) -> None:
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    write(tmp_path / "al.xyz", atoms)
    (snapshot,) = read_any([tmp_path / "al.xyz"])
    assert snapshot.name == "al_0000"
    assert snapshot.free_energy == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(snapshot.forces, forces, atol=1e-6)
    np.testing.assert_allclose(snapshot.stress, stress, atol=1e-6)
    with pytest.raises(ValueError, match="structure x carries no energy"):
        snapshot_from_atoms(bulk("Al"), "x")


def test_extxyz_is_readable_by_ase(folder: Path) -> None:
    convert([folder], folder / "all.xyz", "extxyz")
    frames = read(folder / "all.xyz", ":")
    assert frames[0].get_potential_energy() == pytest.approx(-61.5)
    np.testing.assert_allclose(frames[1].get_stress(), [1, 2, 3, 0.3, 0.2, 0.1], atol=1e-8)


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(arguments)))


def test_command_converts_data_and_models(folder: Path) -> None:
    out = folder / "set"
    assert command(str(folder), "--to", "dataset", "--out", str(out)) == 0
    assert [s.name for s in load_dataset(out)] == ["a", "bb"]
    info = str(mala_files.write_snapshot(folder))
    command(info, "--to", "npz", "--out", str(folder / "mala"), "--energies", "-5", "2.5", "11")
    (snapshot,) = load_snapshots(folder / "mala")
    assert snapshot.shape == mala_files.SHAPE
    command(str(mala_files.write_model(folder)), "--to", "model", "--out", str(folder / "be.safetensors"))
    assert load_model(folder / "be.safetensors").metadata.valence == {"Be": 2.0}


def test_bad_input_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="no file or folder"):
        convert([folder / "none"], folder / "out", "npz")
    with pytest.raises(ValueError, match="the format 'hdf' is unknown"):
        convert([folder], folder / "out", "hdf")
    with pytest.raises(ValueError, match="do not say their energies"):
        convert([mala_files.write_snapshot(folder)], folder / "out", "npz")
    (folder / "bad.xyz").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"bad\.xyz is not a file of structures"):
        convert([folder / "bad.xyz"], folder / "out", "npz")
    with pytest.raises(ValueError, match="2 are given"):
        command("a.zip", "b.zip", "--to", "model", "--out", "x")


@pytest.mark.parametrize("bits", range(1, 11))
def test_rounding_is_within_half_of_the_last_bit(bits: int) -> None:
    values = np.arange(1, 65504, 7).astype(np.float16)
    values = np.concatenate((values, -values, values * np.float16(2**-10), [np.float16(0)]))
    rounded = round_significand(values, bits)
    assert rounded.dtype == np.float16
    finite = np.isfinite(rounded)  # the very largest may become infinite
    assert finite.mean() > 0.9
    exact, found = (v[finite].astype(float) for v in (values, rounded))
    normal = abs(exact) > 2.0**-14
    assert (abs(found - exact)[normal] <= 2.0 ** -(bits + 1) * abs(exact)[normal]).all()
    assert (
        len(np.unique(round_significand(np.linspace(1, 2, 5000, endpoint=False, dtype=np.float16), bits)))
        <= 2**bits + 1
    )
    assert np.array_equal(round_significand(rounded, bits), rounded)


def test_bad_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="11 bits of the significand are asked for; float16 has 1 to 10"):
        round_significand(np.zeros(3, dtype=np.float16), 11)
    with pytest.raises(ValueError, match="the numbers are float32; only float16"):
        round_significand(np.zeros(3, dtype=np.float32), 7)


def test_the_command_rounds_the_ldos(folder: Path) -> None:
    plain = make("c")
    assert plain.ldos is not None
    save_snapshot(folder / "c.npz", replace(plain, ldos=plain.ldos.astype(np.float16)))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    source, out = str(folder / "c.npz"), str(folder / "small")
    assert run(parser.parse_args([source, "--to", "npz", "--out", out, "--ldos-bits", "5"])) == 0
    (found,) = load_snapshots(folder / "small")
    assert found.ldos is not None
    np.testing.assert_allclose(found.ldos, plain.ldos, rtol=2**-6 + 2**-10)
    assert abs(found.ldos - plain.ldos.astype(np.float16)).max() > 0


@pytest.mark.parametrize("to", [to for to in WRITERS if to not in ONE_FILE])
@pytest.mark.parametrize("name", ["../escaped", "be/hcp", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, to: str, name: str) -> None:
    """Names in a packed file come from whoever wrote it."""
    pack_snapshots(tmp_path / "labels.npz", [make("good"), make(name)])
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ValueError, match="cannot be that of a file"):
        convert([tmp_path / "labels.npz"], tmp_path / "out", to)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("to", [to for to in WRITERS if to not in ONE_FILE])
def test_equal_names_do_not_replace_each_other(tmp_path: Path, to: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_snapshot(tmp_path / folder / "be.npz", make("be"))
    with pytest.raises(ValueError, match="the name 'be' stands twice"):
        convert([tmp_path / "a", tmp_path / "b"], tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_told_before_reading(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file"):
        convert([tmp_path / "none.npz"], tmp_path / "file" / "out", "npz")
    with pytest.raises(OSError, match="there is no folder"):
        convert([tmp_path / "none.npz"], tmp_path / "none" / "out.xyz", "extxyz")
