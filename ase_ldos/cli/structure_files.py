"""Structures from the files that a user names, with one sentence for whatever can be wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms


def read_structures(path: Path, index: str = ":") -> list[Atoms]:
    """Read the structures of a file.

    Args:
        path: in any format that ASE reads.
        index: which ones, as ASE counts; default: all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read it, or it has no such structure.
    """
    from ase import Atoms
    from ase.io import read

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        found = read(path, index=index)
    except (IndexError, StopIteration) as error:
        raise ValueError(f"{path} has no structure {index}") from error
    except Exception as error:  # the readers of some seventy formats raise anything
        raise ValueError(f"ASE cannot read structure {index} of {path}: {type(error).__name__} {error}") from error
    return [found] if isinstance(found, Atoms) else list(found)


def read_structure(path: Path, index: str = "-1") -> Atoms:
    """Read one structure of a file, by default the last.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ASE cannot read it, or the index means none or several.
    """
    found = read_structures(path, index)
    if len(found) != 1:
        raise ValueError(f"index {index} of {path} gives {len(found)} structures; choose one")
    return found[0]
