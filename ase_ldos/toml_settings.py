"""Dataclasses from the tables of a TOML file; every recipe is read by these."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

Table = TypeVar("Table")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not TOML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error


def build(kind: type[Table], table: Mapping[str, Any], source: str) -> Table:
    """Make a dataclass of a table; lists become tuples.

    Args:
        kind: the dataclass.
        table: its fields.
        source: the file and table for messages.

    Raises:
        ValueError: a key is unknown or missing.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{source}: key {unknown[0]!r} is unknown; known are {', '.join(known)}")
    required = [item.name for item in known.values() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in required if name not in table]
    if missing:
        raise ValueError(f"{source}: key {missing[0]!r} is missing")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})
