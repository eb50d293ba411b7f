"""A file appears complete or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from ase_ldos.files import atomic_write, read_json, write_json


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "old.txt"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_write(target) as draft:
        draft.write_text("Ångström", encoding="ascii")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    with atomic_write(target) as draft:
        assert draft.suffix == ".txt"
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "file") as draft:
        draft.write_text("x")


def test_json_survives_and_damage_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, "µ"], "a": None})
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [1, 2.5, "µ"]}
    for content in ("{", "[1]", "3"):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(ValueError, match=r"a\.json cannot be read"):
            read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")
