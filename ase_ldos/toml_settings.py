"""Settings as dataclasses, read from the tables of a TOML file and checked against their annotations.

An annotation says the type of a value, and with ``Annotated`` and a ``Limit`` also which values make sense:

    cutoff: PositiveFloat
    hidden: tuple[PositiveInt, ...] = (128, 128)
    ema_decay: Annotated[float, Limit(lambda x: 0 < x < 1, "between 0 and 1")] = 0.99

Whatever does not fit is refused in one sentence with file, key, value and what would be right. Tables may be nested: a
field whose annotation is a dataclass is built of a table in the same way.
"""

from __future__ import annotations

import inspect
import math
import os
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Limit:
    """Which values make sense beyond their type.

    Attributes:
        accepts: whether a value does.
        expected: what would be right, to follow "it must be".
    """

    accepts: Callable[[Any], bool]
    expected: str


PositiveFloat = Annotated[float, Limit(lambda x: x > 0, "a positive number")]
NonNegativeFloat = Annotated[float, Limit(lambda x: x >= 0, "zero or a positive number")]
#: Between 0 and 1, without both.
Fraction = Annotated[float, Limit(lambda x: 0 < x < 1, "a number between 0 and 1")]
PositiveInt = Annotated[int, Limit(lambda x: x > 0, "a positive whole number")]
NonNegativeInt = Annotated[int, Limit(lambda x: x >= 0, "zero or a positive whole number")]

_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a text in quotes", Path: "a path"}


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


def build(kind: type[Settings], table: Mapping[str, Any], source: str) -> Settings:
    """Make a dataclass of a table; lists become tuples, nested tables dataclasses.

    Args:
        kind: the dataclass.
        table: its fields; values that are built already are taken as they are.
        source: the file and table for messages.

    Raises:
        ValueError: a key is unknown or missing, or a value is of another type or out of range.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    required = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    values = _check_keys(table, typing.get_type_hints(kind, include_extras=True), list(known), required, source)
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_arguments(call: Callable[..., object], table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Check a table against the keyword-only parameters of a class or function; returned with lists as tuples.

    Args:
        call: what the table's values will be given to.
        table: arguments by name.
        source: the file and table for messages.

    Raises:
        ValueError: a key is unknown or missing, or a value is of another type.
    """
    parameters = {
        name: item for name, item in inspect.signature(call).parameters.items() if item.kind is item.KEYWORD_ONLY
    }
    try:
        hints = typing.get_type_hints(call.__init__ if inspect.isclass(call) else call, include_extras=True)
    except NameError:  # names that another package imports for type checkers alone
        hints = {}
    required = {name for name, item in parameters.items() if item.default is item.empty}
    return _check_keys(table, hints, list(parameters), required, source)


def _check_keys(
    table: Mapping[str, Any], hints: Mapping[str, Any], known: Sequence[str], required: set[str], source: str
) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise ValueError(f"{source} is {table!r}; it must be a table")
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{source}: key {unknown[0]!r} is unknown; known are {', '.join(known)}")
    missing = [key for key in known if key in required and key not in table]
    if missing:
        raise ValueError(f"{source}: key {missing[0]!r} is missing")
    return {key: _convert(value, hints.get(key, Any), f"{source}: key {key!r}") for key, value in table.items()}


def _convert(value: Any, hint: Any, where: str) -> Any:  # noqa: ANN401 - values of TOML and annotations
    """The value as its annotation wants it.

    Raises:
        ValueError: it does not fit.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _convert(value, parts[0], where)
        for limit in parts[1:]:
            if not limit.accepts(value):
                raise ValueError(f"{where} is {value!r}; it must be {limit.expected}")
        return value
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, parts, where)
    if origin is Literal:
        return _expect(value in parts, value, f"one of {', '.join(map(repr, parts))}", where)
    if origin in (tuple, list, Sequence):
        return _convert_sequence(value, parts, where)
    if origin in (dict, Mapping):
        _expect(isinstance(value, Mapping), value, "a table", where)
        return {key: _convert(item, parts[1], f"{where}, {key!r},") for key, item in value.items()}
    if inspect.isclass(hint) and is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, where.rstrip(",").replace(": key ", ", table "))
    return _convert_scalar(value, hint, where)


def _convert_union(value: Any, parts: tuple[Any, ...], where: str) -> Any:  # noqa: ANN401
    if value is None and type(None) in parts:
        return None
    members = [part for part in parts if part is not type(None)]
    for member in members[:-1]:
        try:
            return _convert(value, member, where)
        except ValueError:
            continue
    return _convert(value, members[-1], where)


def _convert_sequence(value: Any, parts: tuple[Any, ...], where: str) -> tuple[Any, ...]:  # noqa: ANN401
    _expect(isinstance(value, list | tuple), value, "a list", where)
    if len(parts) != 2 or parts[1] is not Ellipsis:
        members = parts * len(value) if len(parts) == 1 else parts
        _expect(len(value) == len(members), value, f"a list of {len(members)} values", where)
    else:
        members = (parts[0],) * len(value)
    pairs = enumerate(zip(value, members, strict=True), start=1)
    return tuple(_convert(item, member, f"{where}, value {place},") for place, (item, member) in pairs)


def _convert_scalar(value: Any, hint: Any, where: str) -> Any:  # noqa: ANN401
    expected = _NAMES.get(hint, f"a {getattr(hint, '__name__', hint)}")
    if hint is float:
        # a whole number stands for itself, true and false do not stand for 1 and 0
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return _expect(fits, value, expected, where)
    if hint is int:
        return _expect(isinstance(value, int) and not isinstance(value, bool), value, expected, where)
    if hint is Path:
        return Path(_expect(isinstance(value, str | os.PathLike), value, expected, where))
    return _expect(isinstance(value, hint), value, expected, where)


def _expect(fits: bool, value: Any, expected: str, where: str) -> Any:  # noqa: ANN401
    if not fits:
        raise ValueError(f"{where} is {value!r}; it must be {expected}")
    return value
