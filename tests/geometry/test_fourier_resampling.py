"""Fourier resampling against functions with known waves."""

from __future__ import annotations

import numpy as np
import pytest

from ase_ldos.geometry.fourier_resampling import resample


def wave(shape: tuple[int, int, int]) -> np.ndarray:
    """A field with waves up to the third."""
    x, y, z = np.meshgrid(*[2 * np.pi * np.arange(n) / n for n in shape], indexing="ij")
    return 1.5 + np.cos(x - 2 * y) + 0.3 * np.sin(3 * z + y) + 0.2 * np.cos(2 * x)


@pytest.mark.parametrize("shape", [(8, 8, 8), (7, 9, 8), (12, 6, 15), (20, 18, 30)])
@pytest.mark.parametrize("start", [(10, 9, 8), (9, 10, 12)])
def test_smooth_field_is_reproduced(start: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(resample(wave(start), shape), wave(shape), atol=1e-12)


def test_down_and_up_again_of_random_fields() -> None:
    field = np.random.default_rng(1).random((2, 6, 6, 5))
    up = resample(field, (8, 12, 10))
    np.testing.assert_allclose(up[:, ::1].mean(axis=(1, 2, 3)), field.mean(axis=(1, 2, 3)), atol=1e-12)
    np.testing.assert_allclose(resample(field, (12, 12, 10))[:, ::2, ::2, ::2], field, atol=1e-12)
    assert resample(field, (6, 6, 5)).dtype == np.float64


def test_dropped_waves_leave_the_mean() -> None:
    field = np.random.default_rng(2).random((10, 10, 12))
    small = resample(field, (4, 6, 6))
    assert small.mean() == pytest.approx(field.mean(), abs=1e-14)
    assert small.std() < field.std()
