"""Compact snapshots: errors of the fields, sizes, and files that are damaged or not what they say."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ase_ldos.dataset.compact import ERRORS, in_half_precision, is_compact, load_compact, save_compact
from ase_ldos.dataset.npz import Snapshot, load_snapshot, load_snapshots, save_snapshot, snapshot_to_arrays
from ase_ldos.dataset.schema import SHAPES, TEXTS


def gaussians(shape: tuple[int, int, int] = (8, 9, 10), n_energies: int = 41) -> Snapshot:
    """States that are plane waves' squares, widened over the energies, as an LDOS is made."""
    rng = np.random.default_rng(1)
    axes = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
    energies = np.linspace(-2.0, 2.0, n_energies)
    ldos = np.zeros((*shape, n_energies))
    for level in rng.uniform(-2.5, 2.5, 40):
        waves, phase = rng.integers(-2, 3, 3), rng.uniform(0, 6)
        state = 0.1 + 0.05 * np.cos(2 * np.pi * sum(k * x for k, x in zip(waves, axes)) + phase)
        ldos += state[..., None] * np.exp(-0.5 * ((energies - level) / 0.2) ** 2)
    return Snapshot(
        name="be",
        numbers=np.array([4, 4]),
        cell=np.diag([2.0, 2.25, 2.5]),
        positions=rng.random((2, 3)),
        energies=energies,
        **in_half_precision(ldos),  # type: ignore[arg-type]
        ldos_sigma=0.2,
        dos=ldos.mean(axis=(0, 1, 2)) * 11.25,
        density=ldos[..., :20].sum(axis=3).astype(np.float32),
        free_energy=-61.123456789012345,
        forces=rng.random((2, 3)),
        stress=np.eye(3) / 7,
        kpoints=np.array([3, 3, 2]),
        k_weights=np.array([0.5, 1.5]),
        eigenvalues=np.array([[-1.0, 1.5], [-0.5, 1.25]]),
        valence=2.0,
    )


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("shape", [(8, 9, 10), (1, 2, 15), (6, 6, 6)])
def test_fields_come_back_within_their_errors_and_all_else_as_it_was(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    snapshot = gaussians(shape)
    save_compact(tmp_path / "be.npz", snapshot)
    (again,) = load_snapshots(tmp_path)
    assert load_snapshot(tmp_path / "be.npz").name == again.name == "be"
    assert again.ldos is not None
    assert again.ldos.dtype == np.float16
    # the step is the coarsest that keeps the error; float16 adds a little
    assert 0.7 * ERRORS["ldos"] < error(again.ldos_values(), snapshot.ldos_values()) < 1.1 * ERRORS["ldos"]
    assert snapshot.density is not None
    assert again.density is not None
    assert error(again.density, snapshot.density) < 1.01 * ERRORS["density"]
    assert again.dos is not None
    np.testing.assert_allclose(again.dos, np.asarray(snapshot.dos), rtol=1e-6)
    # the integral of the LDOS is one coefficient of each energy, so it is better than a point
    total = again.ldos_values().mean(axis=(0, 1, 2), dtype=float) * 11.25
    assert error(total, np.asarray(snapshot.dos)) < 1e-3
    changed = {"ldos", "ldos_scale", "density", "dos", "eigenvalues", "k_weights", "known_below"}
    before, after = snapshot_to_arrays(snapshot), snapshot_to_arrays(again)
    assert before.keys() - after.keys() == {"eigenvalues", "k_weights"}
    for key in before.keys() - changed:
        np.testing.assert_array_equal(after[key], before[key])
        assert after[key].shape == before[key].shape


def test_the_states_of_a_dense_mesh_leave_their_bound(tmp_path: Path) -> None:
    dense = {"eigenvalues_dense": np.array([[-1.0, 1.5], [-0.5, 1.25]]), "k_weights_dense": np.array([0.5, 1.5])}
    save_compact(tmp_path / "be.npz", replace(gaussians(), **dense))
    again = load_compact(tmp_path / "be.npz")
    assert again.eigenvalues_dense is None
    assert again.complete_below == 1.25


def test_labels_without_fields_are_kept(tmp_path: Path) -> None:
    bare = Snapshot("x", np.array([4]), np.eye(3) * 3, np.zeros((1, 3)), free_energy=-1.5)
    save_compact(tmp_path / "x.npz", bare)
    again = load_snapshot(tmp_path / "x.npz")
    assert (again.free_energy, again.density, again.ldos) == (-1.5, None, None)
    empty = replace(bare, density=np.zeros((3, 4, 5), np.float32))
    save_compact(tmp_path / "x.npz", empty)
    np.testing.assert_array_equal(np.asarray(load_snapshot(tmp_path / "x.npz").density), 0)


def test_a_file_is_small_and_its_bytes_are_those_of_its_content(tmp_path: Path) -> None:
    snapshot = gaussians()
    save_snapshot(tmp_path / "whole.npz", snapshot)
    for name in ("a", "b"):
        save_compact(tmp_path / f"{name}.npz", snapshot)
    one, other = (tmp_path / "a.npz").read_bytes(), (tmp_path / "b.npz").read_bytes()
    assert one == other
    assert len(one) < (tmp_path / "whole.npz").stat().st_size / 8
    assert is_compact(tmp_path / "a.npz")
    assert not is_compact(tmp_path / "whole.npz")
    assert not is_compact(tmp_path / "nothing.npz")
    with pytest.raises(ValueError, match=r"written as \.npz; the name given is 'a\.zip'"):
        save_compact(tmp_path / "a.zip", snapshot)
    with pytest.raises(OSError, match="No such file"):
        save_compact(tmp_path / "no" / "a.npz", snapshot)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_compact(tmp_path / "be.npz", gaussians())
    whole = (tmp_path / "be.npz").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.npz"
    for length in rng.integers(0, len(whole), 20):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged\.npz is not a (readable|snapshot)"):
            load_snapshot(path)
    refused = 0
    for place in rng.integers(0, len(whole), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            snapshot = load_snapshot(path)
        except ValueError as reason:
            assert "damaged.npz" in str(reason)  # noqa: PT017 (some bytes, as a date's, do no harm)
            refused += 1
        else:
            assert snapshot.free_energy == gaussians().free_energy
    assert refused > 40


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> None:
    """The archive again, after a change of its JSON file or its arrays."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    entry = json.loads(members.pop("snapshot.json"))
    change(entry, members)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", json.dumps(entry))
        for name, content in members.items():
            archive.writestr(name, content)


def header(shape: tuple[int, ...], dtype: str = "<i2") -> bytes:
    """What NumPy writes before the numbers of an array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


def saved(content: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry, _: entry.update(version=2), "version 2; this release reads 'ase-ldos compact' of 1"),
        (lambda entry, _: entry.pop("fields"), "'fields'"),
        (lambda entry, _: entry["labels"].update(colour=1.0), "the key 'colour' is unknown"),
        (lambda entry, _: entry["fields"].update(forces={}), "the key 'forces' is unknown"),
        (lambda _, arrays: arrays.update({"forces.npy": arrays["dos.npy"]}), "the key 'forces' is unknown"),
        (lambda entry, _: entry["labels"].update(forces=[[1, 2, 3], [4, 5]]), "inhomogeneous"),
        (lambda entry, _: entry["labels"].update(forces="many"), "key 'forces' has shape"),
        (lambda entry, _: entry["labels"].update(free_energy=float("nan")), "key 'free_energy' contains NaN"),
        (lambda entry, _: entry["labels"].pop("cell"), "key 'cell' is missing"),
        (lambda entry, _: entry["fields"]["ldos"].update(step="x"), "could not convert string to float"),
        (lambda entry, _: entry["fields"]["ldos"].update(step=float("inf")), "a positive finite step is expected"),
        (lambda entry, _: entry["fields"]["ldos"].update(step=1e30), "a positive finite step is expected"),
        (lambda entry, _: entry["fields"]["ldos"].update(shape=[8, 9, 10]), r"ldos.npy holds int16 \(8, 9, 10, \d+\)"),
        (lambda entry, _: entry["fields"]["ldos"].update(shape=[8, 9, -1, 41]), "at least 1 along each axis"),
        (lambda entry, _: entry["fields"]["ldos"].update(shape=[8, 9, 10, 5]), "numbers for the shape"),
        (lambda entry, _: entry["fields"]["density"].update(shape=[8, 9, 10.0]), "at least 1 along each axis"),
        (lambda _, arrays: arrays.update({"dos.npy": saved(np.ones((3, 3)))}), "dos.npy holds float64"),
        (lambda _, arrays: arrays.update({"dos.npy": saved(np.ones(3, int))}), "dos.npy holds int64"),
        (lambda _, arrays: arrays.update({"dos.npy": b"\x93NUMPY\x03\x00" + bytes(90)}), "version than 1.0"),
        (lambda _, arrays: arrays.update({"dos.npy": b"hello"}), "magic string"),
        (lambda _, arrays: arrays.pop("energies.npy"), "key 'energies' is missing"),
    ],
)
def test_content_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None], message: str
) -> None:
    save_compact(tmp_path / "be.npz", gaussians())
    rewrite(tmp_path / "be.npz", change)
    with pytest.raises(ValueError, match=message) as reason:
        load_snapshot(tmp_path / "be.npz")
    assert str(tmp_path / "be.npz") in str(reason.value)


@pytest.mark.parametrize(
    ("member", "shape", "dtype"),
    [
        ("ldos.npy", (40000, 40000, 10, 7), "<i2"),
        ("energies.npy", (10**12,), "<f8"),
        ("density.npy", (8, 9, 10**9), "<i2"),
    ],
)
def test_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, member: str, shape: tuple[int, ...], dtype: str
) -> None:
    save_compact(tmp_path / "be.npz", gaussians())

    def enlarge(entry: dict[str, Any], arrays: dict[str, bytes]) -> None:
        key = member.removesuffix(".npy")
        if key in entry["fields"]:
            entry["fields"][key]["shape"] = list(shape)
        arrays[member] = header(shape, dtype)

    rewrite(tmp_path / "be.npz", enlarge)
    tracemalloc.start()
    with pytest.raises(ValueError, match="at least 1 along each axis and at most 268435456 values fit"):
        load_snapshot(tmp_path / "be.npz")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_every_label_of_a_snapshot_has_a_place(tmp_path: Path) -> None:
    """A key that is new in the table is written and read without a change here."""
    lengths = {"atom": 2, "energy": 5, "nx": 2, "ny": 3, "nz": 4, "k": 2, "band": 3, "k_dense": 2, "band_dense": 3}
    arrays = {key: np.ones([lengths.get(word, word) for word in words]) for key, words in SHAPES.items()}  # type: ignore[arg-type]
    arrays["energies"] = np.arange(5.0)
    arrays |= {key: np.array("text") for key in TEXTS}
    values = {
        key: value if SHAPES[key] != () else str(value) if key in TEXTS else float(value)
        for key, value in arrays.items()
    }
    save_compact(tmp_path / "x.npz", Snapshot("x", **values))  # type: ignore[arg-type]
    kept = snapshot_to_arrays(load_compact(tmp_path / "x.npz")).keys()
    assert SHAPES.keys() - kept == {"eigenvalues", "k_weights", "eigenvalues_dense", "k_weights_dense"}
