"""Ways in which files come to harm, and values that nobody expects."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

#: In place of a number in a text.
NUMBERS = ("0", "-1", "1e999", "nan", "inf", "-inf", "1e-300", "9" * 25, "1.5", "0x10", "", "1e12", "true", "1,5")
#: In place of a value in JSON or TOML.
VALUES: tuple[Any, ...] = (None, True, "", "text", [], {}, -1, 0, 1e308, float("nan"), 10**30, [[1]], "../up", "a\0b")


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three random mutations of a file's bytes."""
    for _ in range(int(rng.integers(1, 4))):
        data = _BYTES[int(rng.integers(len(_BYTES)))](data, rng)
    return data


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    if not data:
        return data
    place = int(rng.integers(len(data)))
    return data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + data[start + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data) + 1))
    part = data[start : start + int(rng.integers(1, 200))]
    return data[:start] + part * int(rng.integers(2, 5)) + data[start:]


def _zero(data: bytes, rng: np.random.Generator) -> bytes:
    start, size = int(rng.integers(len(data) + 1)), int(rng.integers(1, 300))
    return data[:start] + b"\0" * len(data[start : start + size]) + data[start + size :]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(data) + 1))
    return data[:start] + rng.bytes(int(rng.integers(1, 40))) + data[start:]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    """Another number in place of one of a text."""
    found = list(re.finditer(rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?", data[:20000]))
    if not found:
        return _flip(data, rng)
    match = found[int(rng.integers(len(found)))]
    return data[: match.start()] + str(rng.choice(NUMBERS)).encode() + data[match.end() :]


def _line(data: bytes, rng: np.random.Generator) -> bytes:
    """A line lost, doubled or moved."""
    lines = data.split(b"\n")
    place, kind = int(rng.integers(len(lines))), int(rng.integers(3))
    line = lines.pop(place)
    if kind:
        lines.insert(int(rng.integers(len(lines) + 1)), line)
    if kind == 2:
        lines.insert(place, line)
    return b"\n".join(lines)


_BYTES = (_flip, _flip, _cut, _remove, _repeat, _zero, _insert, _number, _number, _line)


def mutate_arrays(arrays: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One to three changes of the arrays of a file: values, shape, type, name, or one lost."""
    arrays = dict(arrays)
    for _ in range(int(rng.integers(1, 4))):
        key = str(rng.choice(sorted(arrays)))
        arrays |= _changed(key, arrays.pop(key), rng)
        if not arrays:
            break
    return arrays


def _changed(key: str, array: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    kind = int(rng.integers(9))
    if kind == 0:
        return {}
    if kind == 1:
        return {key: array.astype(str)}
    if kind == 2:
        return {key: array.ravel()[: int(rng.integers(array.size + 1))]}
    if kind == 3:
        return {key: np.zeros((2,) * int(rng.integers(0, 5)), dtype=array.dtype)}
    if kind == 4:
        return {f"{key}x": array}
    if kind == 5 and array.dtype.kind in "fiu" and array.size:
        changed = array.astype(float)
        changed.ravel()[int(rng.integers(array.size))] = rng.choice([np.nan, np.inf, -1e30, 0.0, 1e300])
        return {key: changed}
    if kind == 6 and array.dtype.kind in "fiu":
        return {key: array * rng.choice([-1, 0, 1000])}
    if kind == 7 and array.dtype.kind in "iu" and array.size:
        changed = array.copy()
        changed.ravel()[int(rng.integers(array.size))] = rng.choice([-1, 0, 200, 2**31 - 1])
        return {key: changed}
    return {
        key: array[..., None] if rng.random() < 0.5 else array.astype(complex) if array.dtype.kind != "U" else array
    }


def mutate_json(value: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401 (JSON of any kind)
    """One to three changes somewhere in nested dicts and lists."""
    for _ in range(int(rng.integers(1, 4))):
        value = _change_somewhere(value, rng)
    return value


def _change_somewhere(value: Any, rng: np.random.Generator) -> Any:  # noqa: ANN401
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(sorted(map(str, value))))
        if key not in value:
            return value
        changed = dict(value)
        kind = rng.random()
        if kind < 0.15:
            del changed[key]
        elif kind < 0.25:
            changed[f"{key}_"] = changed.pop(key)
        else:
            changed[key] = _change_somewhere(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = int(rng.integers(len(value)))
        return [*value[:place], _change_somewhere(value[place], rng), *value[place + 1 :]]
    return VALUES[int(rng.integers(len(VALUES)))]
