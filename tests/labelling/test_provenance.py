"""Hashes of data: equal for equal content, whatever the kind of the source."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from ase_ldos.dataset.folder import dataset_hash, write_dataset
from ase_ldos.dataset.npz import Snapshot, save_snapshot
from ase_ldos.dataset.provenance import content_hash, describe_source, read_record, write_record


def make(name: str, energy: float = -1.0) -> Snapshot:
    return Snapshot(name, np.array([4]), 3 * np.eye(3), np.zeros((1, 3)), free_energy=energy)


def test_every_kind_of_source_has_a_hash(tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    for name in ("b", "a"):
        save_snapshot(folder / f"{name}.npz", make(name))
    write_dataset(tmp_path / "set", [make("a"), make("b")])
    assert content_hash(tmp_path / "set") == dataset_hash(tmp_path / "set")
    assert content_hash(folder / "a.npz") == hashlib.sha256((folder / "a.npz").read_bytes()).hexdigest()
    before = content_hash(folder)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/failures.json").write_text("{}")
    assert content_hash(tmp_path / "copy") == before
    save_snapshot(folder / "a.npz", make("a", -2.0))
    changed = content_hash(folder)
    (folder / "b.npz").rename(folder / "c.npz")
    assert len({before, changed, content_hash(folder)}) == 3
    with pytest.raises(ValueError, match=r"neither a file nor a folder of \.npz files"):
        content_hash(tmp_path)


def test_source_tells_its_setup(tmp_path: Path) -> None:
    save_snapshot(tmp_path / "a.npz", make("a"))
    assert describe_source(tmp_path).keys() == {"name", "sha256"}
    write_record(tmp_path, {"programs": ["PWSCF 6.7MaX"]})
    assert describe_source(tmp_path)["labels"] == {"programs": ["PWSCF 6.7MaX"]}
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(ValueError, match=r"provenance\.json cannot be read"):
        read_record(tmp_path)
