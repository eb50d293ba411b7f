"""One way of writing a file (it appears complete under its name, or not at all) and of saying that one is damaged."""

from __future__ import annotations

import errno
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]

#: Tells drafts of one process apart.
_NUMBERS = itertools.count()
#: Longest name that is taken from data, in bytes: file systems allow 255, and suffixes follow.
LONGEST_NAME = 200
#: A disk with less than this left is full: programs fail there with messages of every kind, bytes.
_FULL = 2**20


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Give a path in the same folder to write to; at the end it becomes ``path``, or vanishes where an error is raised.

    The draft's name holds the machine and the number of the process, so that two writers of one file do not share a
    draft, and keeps the suffix, from which many writers tell the format. Its content is on the disk before the name
    changes: a machine that loses its power leaves the old file or the new one. What a process of this machine that was
    killed left half-written of the same file is removed.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the folder does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    _remove_leftovers(path)
    draft = path.with_name(f"{_draft_stem(path)}{os.getpid()}-{next(_NUMBERS)}.part{path.suffix}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draft_stem(path: Path) -> str:
    """What the names of all drafts of a file by processes of this machine begin with."""
    return f".{path.stem[:40]}.{platform.node()[:40]}-"


def _remove_leftovers(path: Path) -> None:
    """Remove drafts of a file whose process has ended without removing them."""
    pattern = re.compile(re.escape(_draft_stem(path)) + r"(\d+)-\d+\.part" + re.escape(path.suffix))
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            match = pattern.fullmatch(entry.name)
            if match is not None and not _is_running(int(match[1])):
                with suppress(OSError):
                    Path(entry.path).unlink()


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # there a signal of number 0 would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_output(path: PathLike, n_bytes: int = 2**16) -> None:
    """Find out before hours of work whether a file can be written: its folder, its name, the rights, the disk's space.

    Args:
        path: the file.
        n_bytes: its size, about.

    Raises:
        OSError: it cannot; one sentence says why.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        return  # a device, such as /dev/null
    probe = path.with_name(f"{_draft_stem(path)}{os.getpid()}-{next(_NUMBERS)}.part{path.suffix}")
    try:
        reserve(probe, n_bytes)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            probe.unlink()


def check_output_folder(folder: PathLike, n_bytes: int = 2**16) -> None:
    """Find out whether files can be written into a folder, or into one that is made where it shall be.

    Raises:
        OSError: they cannot; one sentence says why.
    """
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"cannot write into the folder {folder}: {place} is a file")
    try:
        check_output(place / "output", n_bytes)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"cannot write into the folder {folder}: {reason}") from error


def reserve(path: PathLike, n_bytes: int) -> None:
    """Make a file of some size, zeros, whose space on the disk is taken: writing into it later cannot find it full.

    Raises:
        OSError: there is no space, or the file cannot be made.
    """
    with Path(path).open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except (AttributeError, OSError) as error:
            # not every system and file system can; others take zeros
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            block = bytes(2**20)
            for start in range(0, n_bytes, len(block)):
                file.write(block[: n_bytes - start])


def disk_is_full(folder: PathLike) -> bool:
    """Whether nothing more can be written into a folder because its disk has no space left."""
    try:
        return shutil.disk_usage(folder).free < _FULL
    except OSError:
        return False


def check_file_names(names: Iterable[str]) -> None:
    """Refuse names from data that shall become names of files, before any of them is written.

    Raises:
        ValueError: a name is empty, hidden, too long, leads into another folder, has control characters, or stands
            twice, so that one file would replace another.
    """
    seen: set[str] = set()
    for name in names:
        odd = any(letter in "/\\" or not letter.isprintable() for letter in name)
        if odd or not name.strip() or name.startswith(".") or len(name.encode(errors="replace")) > LONGEST_NAME:
            raise ValueError(
                f"the name {name[:LONGEST_NAME]!r} cannot be that of a file: it must be printable, without slashes, "
                f"not begin with a dot and have at most {LONGEST_NAME} bytes"
            )
        if name in seen:
            raise ValueError(f"the name {name!r} stands twice; one file would replace the other")
        seen.add(name)


@contextmanager
def locked(path: PathLike, what: str) -> Iterator[None]:
    """Hold a file for this process alone; the system frees it when the process ends, however it ends.

    On systems without such locks (Windows) nothing is held.

    Args:
        path: of the lock, made if need be; it stays.
        what: the message where another process holds it.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with Path(path).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(what) from error
        yield


@contextmanager
def reading(path: PathLike, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one sentence with its name.

    Files come from anywhere, and their readers raise errors of every type: of decompression, of parsers, of keys and
    types that are not there. Errors of the machine (a file that is missing or may not be read) stay what they are.

    Args:
        path: the file.
        what: what it should be, with its article: ``"a model of ase-ldos"``.

    Raises:
        ValueError: the file is not what it should be.
        OSError: the machine's error.
    """
    try:
        yield
    except OSError as error:
        # without a number it is a parser's word, not the machine's
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is not {what}, or is damaged: {_in_one_line(error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is; is it damaged?") from error
    except Exception as error:
        text = _in_one_line(error)
        if isinstance(error, ValueError) and str(path) in text:
            raise ValueError(text) from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        raise ValueError(f"{path} is not {what}, or is damaged: {kind}{text}") from error


def _in_one_line(error: BaseException, longest: int = 300) -> str:
    text = " ".join(str(error).replace("\0", " ").split())
    return text if len(text) <= longest else f"{text[:longest]} …"


def write_text(path: PathLike, text: str) -> None:
    """Write a file of text in UTF-8; it appears complete or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: PathLike, content: dict[str, Any]) -> None:
    """Write a JSON file with sorted keys; it appears complete or not at all."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))


def read_json(path: PathLike) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {_in_one_line(error)}") from error
