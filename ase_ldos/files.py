"""One way of writing a file: it appears complete under its name, or not at all."""

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
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
