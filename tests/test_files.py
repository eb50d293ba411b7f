"""Files appear complete or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ase_ldos.files import atomic_write, read_json, write_json


def test_the_file_is_there_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as draft:
        assert (draft.parent, draft.suffix) == (tmp_path, ".txt")
        assert draft != target
        draft.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), atomic_write(target) as draft:  # noqa: PT012 - the error comes half-way
        draft.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(target):
        pass
    assert target.read_text() == "old"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "none" / "a.txt") as draft:
        draft.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_have_drafts_of_their_own(tmp_path: Path) -> None:
    """While this one writes, another writes the same file and ends first; the draft of a third that died stays."""
    target = tmp_path / "a.txt"
    code = (
        "import sys; from ase_ldos.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as draft: draft.write_text('theirs'); print(draft.name)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    with atomic_write(target) as draft:
        draft.write_text("ours")
        done = subprocess.run(
            [sys.executable, "-c", code, str(target)], env=environment, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() != draft.name
        assert target.read_text() == "theirs"
        assert draft.read_text() == "ours"
    assert target.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [target]


def test_content_is_on_the_disk_before_the_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_ino, target.exists())))
    with atomic_write(target) as draft:
        draft.write_text("new")
    assert synced[0] == (target.stat().st_ino, False)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.txt") as draft:
            draft.write_text("new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


def test_json_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, None], "a": "µ"})
    assert read_json(path) == {"a": "µ", "b": [1, 2.5, None]}
    assert path.read_text(encoding="utf-8").index('"a"') < path.read_text(encoding="utf-8").index('"b"')
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path)["a"] == "µ"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", ["", "{", "3", "[[1]]"])
def test_what_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json")
