"""Arrays for a page: few bytes a number, compressed, as text in JSON; ``assets/arrays.js`` reads them.

An encoded array is ``{"shape", "type": "u1" | "u2" | "f4", "scale", "offset", "data"}`` with data in base64 of zlib; a
number is offset + scale × code, with one scale and offset for the whole array or for each item of the first axis.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np

from ase_ldos.geometry.grid import grid_shape


def encode_floats(values: np.ndarray) -> dict[str, Any]:
    """An array as float32."""
    return _encoded(np.asarray(values, dtype="<f4"), "f4", 1.0, 0.0)


def encode_field(values: np.ndarray, bits: int = 16) -> dict[str, Any]:
    """A field as integers of 8 or 16 bits between its smallest and largest value.

    The error is at most half a step: (largest − smallest) / 2 / (2^bits − 1).
    """
    low, high = float(np.min(values)), float(np.max(values))
    codes, scale = _codes(np.asarray(values, dtype=float), low, high, bits)
    return _encoded(codes, f"u{bits // 8}", scale, low)


def encode_fields(values: np.ndarray, bits: int = 8) -> dict[str, Any]:
    """Several fields ``[field, ...]``, each between its own smallest and largest value."""
    parts, scales, offsets = [], [], []
    for field in np.asarray(values, dtype=float):
        low, high = float(field.min()), float(field.max())
        codes, scale = _codes(field, low, high, bits)
        parts.append(codes)
        scales.append(scale)
        offsets.append(low)
    return _encoded(np.stack(parts), f"u{bits // 8}", scales, offsets)


def decode(array: dict[str, Any]) -> np.ndarray:
    """The numbers of an encoded array, float64."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(array["data"])), dtype=f"<{array['type']}")
    codes = codes.reshape(array["shape"]).astype(float)
    extra = (1,) * (codes.ndim - 1)
    scale, offset = (
        np.reshape(value, (-1, *extra)) if isinstance(value, list) else value
        for value in (array["scale"], array["offset"])
    )
    return np.asarray(offset + scale * codes)


def drawn_shape(cell: np.ndarray, spacing: float, points: int) -> tuple[int, int, int]:
    """Numbers of points of the grid on which a field is drawn.

    Args:
        cell: rows are the lattice vectors, Å, ``[3, 3]``.
        spacing: distance of points that is wanted, Å; larger where there would be too many points.
        points: at most.
    """
    spacing = max(spacing, 0.9 * (abs(float(np.linalg.det(cell))) / points) ** (1 / 3))
    while math.prod(shape := grid_shape(cell, spacing)) > points and shape != (2, 2, 2):
        spacing *= 1.05
    return shape


def _codes(values: np.ndarray, low: float, high: float, bits: int) -> tuple[np.ndarray, float]:
    scale = (high - low) / (2**bits - 1)
    codes = np.rint((values - low) / scale) if scale > 0 else np.zeros_like(values)
    return codes.astype(f"<u{bits // 8}"), scale


def _encoded(codes: np.ndarray, kind: str, scale: float | list[float], offset: float | list[float]) -> dict[str, Any]:
    data = base64.b64encode(zlib.compress(np.ascontiguousarray(codes).tobytes(), 6)).decode("ascii")
    return {"shape": list(codes.shape), "type": kind, "scale": scale, "offset": offset, "data": data}
