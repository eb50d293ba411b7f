"""Fourier resampling of periodic fields from one regular grid to another."""

from __future__ import annotations

import numpy as np
from scipy import fft


def resample(field: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Evaluate the trigonometric interpolation of a real periodic field on another grid.

    Going down, waves that the new grid cannot carry are dropped, so the mean is kept and nothing is aliased.

    Args:
        field: real, ``[..., nx, ny, nz]``.
        shape: the new (nx, ny, nz).

    Returns:
        ``[..., *shape]``, float64.
    """
    if field.shape[-3:] == tuple(shape):
        return np.asarray(field, dtype=float)
    waves = fft.fftn(np.asarray(field, dtype=float), axes=(-3, -2, -1))
    factor = np.prod(shape) / np.prod(field.shape[-3:])
    return np.asarray(fft.ifftn(resize_waves(waves, shape), axes=(-3, -2, -1)).real * factor)


def resize_waves(waves: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Drop or add waves of a full Fourier transform ``[..., nx, ny, nz]`` so that it has another shape."""
    for axis, size in zip((-3, -2, -1), shape):
        waves = _resize_axis(waves, size, axis)
    return waves


def _resize_axis(waves: np.ndarray, size: int, axis: int) -> np.ndarray:
    """One axis; the wave at the end of an even number of points stands for both signs and is halved or joined."""
    old = waves.shape[axis]
    if size == old:
        return waves
    waves = np.moveaxis(waves, axis, -1)
    small = min(old, size)
    half = (small - 1) // 2
    new = np.zeros((*waves.shape[:-1], size), dtype=waves.dtype)
    new[..., : half + 1] = waves[..., : half + 1]
    if half:
        new[..., -half:] = waves[..., -half:]
    if small % 2 == 0:
        if size < old:
            new[..., small // 2] = 0.5 * (waves[..., small // 2] + waves[..., -(small // 2)])
        else:
            new[..., small // 2] = 0.5 * waves[..., small // 2]
            new[..., -(small // 2)] += 0.5 * waves[..., small // 2]
    return np.moveaxis(new, -1, axis)
