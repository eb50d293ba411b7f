"""One way of writing a file (it appears complete under its name, or not at all) and of saying that one is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PathLike = str | os.PathLike[str]


@contextmanager
def atomic_write(path: PathLike) -> Iterator[Path]:
    """Give a path in the same folder to write to; at the end it becomes ``path``, or vanishes where an error is raised.

    The draft's name holds the number of the process, so that two writers of one file do not share a draft, and keeps
    the suffix, from which many writers tell the format. Its content is on the disk before the name changes: a machine
    that loses its power leaves the old file or the new one.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the folder does not exist or cannot be written to, or the disk is full.
    """
    path = Path(path)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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


def write_json(path: PathLike, content: dict[str, Any]) -> None:
    """Write a JSON file with sorted keys; it appears complete or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


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
