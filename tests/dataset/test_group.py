"""The group of a snapshot: named by its name unless it is said, and kept by every kind of file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ase_ldos.dataset.folder import write_dataset
from ase_ldos.dataset.npz import Snapshot, load_snapshot, load_snapshots, pack_snapshots, save_snapshot


def snapshot(name: str, group: str = "") -> Snapshot:
    return Snapshot(name, np.array([4]), 2 * np.eye(3), np.zeros((1, 3)), free_energy=1.0, group=group)


def test_the_default_is_the_name_up_to_its_number() -> None:
    assert snapshot("hcp16_03").group == "hcp16"
    assert snapshot("al_t300_02").group == "al_t300"
    assert snapshot("hcp").group == "hcp"


def test_files_keep_the_group(tmp_path: Path) -> None:
    items = [snapshot("a_1", "mesh 4x4x3"), snapshot("b_1")]
    for item in items:
        save_snapshot(tmp_path / f"{item.name}.npz", item)
    pack_snapshots(tmp_path / "packed.npz", items)
    write_dataset(tmp_path / "set", items)
    for source in ([tmp_path / "a_1.npz", tmp_path / "b_1.npz"], tmp_path / "packed.npz", tmp_path / "set"):
        assert [item.group for item in load_snapshots(source)] == ["mesh 4x4x3", "b"]


def test_files_without_a_group_are_grouped_by_name(tmp_path: Path) -> None:
    item = snapshot("fcc4_07")
    arrays = {"numbers": item.numbers, "cell": item.cell, "positions": item.positions}
    np.savez(tmp_path / "fcc4_07.npz", **arrays)
    assert load_snapshot(tmp_path / "fcc4_07.npz").group == "fcc4"


def test_a_group_is_a_text(tmp_path: Path) -> None:
    item = replace(snapshot("a_1"), group="x")
    np.savez(tmp_path / "a_1.npz", numbers=item.numbers, cell=item.cell, positions=item.positions, group=np.array(3))
    with pytest.raises(ValueError, match=r"key 'group' has shape .* a text of shape"):
        load_snapshot(tmp_path / "a_1.npz")
