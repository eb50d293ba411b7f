"""Values from a request, checked: every wrong one is answered with a sentence that names it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any


def take_number(
    source: Mapping[str, Any], name: str, default: float | None, low: float, high: float, *, unit: str = ""
) -> float:
    """A finite number between two ends.

    Args:
        source: an object of the request.
        name: of the field.
        default: where the field is missing or null; ``None``: it must be there.
        low: smallest value.
        high: largest value.
        unit: for the sentence.

    Raises:
        ValueError: something else.
    """
    value = source.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ValueError(f"{name} must be a number")
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low:g} and {high:g}{unit}")
    return float(value)


def take_integer(source: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    """A whole number between two ends; see ``take_number``.

    Raises:
        ValueError: something else.
    """
    value = take_number(source, name, default, low, high)
    if value != int(value):
        raise ValueError(f"{name} must be a whole number")
    return int(value)


def take_choice(source: Mapping[str, Any], name: str, default: str | None, choices: Collection[str]) -> str:
    """One of some words.

    Raises:
        ValueError: something else.
    """
    value = source.get(name)
    value = default if value is None else value
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(sorted(choices))}")
    return value


def take_text(source: Mapping[str, Any], name: str, default: str | None, longest: int) -> str:
    """A text of at most so many characters, without control characters.

    Raises:
        ValueError: something else.
    """
    value = source.get(name)
    value = default if value is None else value
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{name} must be a text of at most {longest} characters")
    return "".join(character for character in value if character.isprintable())


def take_object(source: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object within the request.

    Raises:
        ValueError: something else.
    """
    value = source.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object")
    return value
