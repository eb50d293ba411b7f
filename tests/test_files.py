"""Files appear complete or not at all."""

from __future__ import annotations

import os
import platform
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ase_ldos.files import (
    atomic_write,
    check_file_names,
    check_output,
    check_output_folder,
    disk_is_full,
    locked,
    read_json,
    write_json,
)


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


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """By the next writer of that file; drafts of living processes, of other machines and of other files stay."""
    target = tmp_path / "a.txt"
    code = (
        "import os, signal, sys; from ase_ldos.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as draft: draft.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    for name in ("a.txt", "b.txt"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], env=environment, check=False)
    ours = tmp_path / f".a.{platform.node()[:40]}-{os.getpid()}-9999.part.txt"
    elsewhere = tmp_path / ".a.another-machine-999999-0.part.txt"
    for path in (ours, elsewhere):
        path.write_text("half")
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 4
    with atomic_write(target) as draft:
        draft.write_text("whole")
    gone = left - {path.name for path in tmp_path.iterdir()}
    assert len(gone) == 1
    assert next(iter(gone)).startswith(f".a.{platform.node()[:40]}-")
    assert ours.exists()
    assert elsewhere.exists()
    assert target.read_text() == "whole"


def test_two_writers_in_one_process_have_drafts_of_their_own(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as first, atomic_write(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"


@pytest.mark.parametrize("name", ["x" * 240 + ".txt", "µ" * 100 + ".txt"])
def test_long_names_have_drafts(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as draft:
        draft.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_outputs_are_tried_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "a.txt")
    check_output("/dev/null")
    check_output_folder(tmp_path / "new" / "folder")
    with pytest.raises(OSError, match=r"cannot write .*a\.txt: File too large"):
        check_output(tmp_path / "a.txt", 200_000)
    with pytest.raises(OSError, match=r"cannot write into the folder .*new: .*File too large"):
        check_output_folder(tmp_path / "new", 200_000)
    with pytest.raises(OSError, match="it is a folder"):
        check_output(tmp_path)
    with pytest.raises(OSError, match="there is no folder"):
        check_output(tmp_path / "none" / "a.txt")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file is a file"):
        check_output_folder(tmp_path / "file" / "folder")
    assert not disk_is_full(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_folders_without_rights_are_named() -> None:
    with pytest.raises(OSError, match=r"cannot write /proc/self/a\.txt: "):
        check_output("/proc/self/a.txt")


@pytest.mark.parametrize(
    "name", ["", " ", ".hidden", "..", "../escaped", "be/hcp", "be\\hcp", "a\nb", "a\0b", "x" * 201, "µ" * 101]
)
def test_names_that_suit_no_file_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be that of a file"):
        check_file_names(["good", name])


def test_equal_names_are_refused() -> None:
    check_file_names(["be_01", "Be 1.5 Å", "x" * 200])
    with pytest.raises(ValueError, match="the name 'be_01' stands twice"):
        check_file_names(["be_01", "be_02", "be_01"])


def test_a_lock_holds_until_its_end(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock", "it is busy"),
        pytest.raises(ValueError, match="it is busy"),
        locked(tmp_path / "lock", "it is busy"),
    ):
        pass
    with locked(tmp_path / "lock", "it is busy"):
        pass
