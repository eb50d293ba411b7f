"""Solid harmonics: norm, orthogonality, Laplace's equation, addition theorem, derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from ase_ldos.descriptors.solid_harmonics import (
    _closed_forms,
    degree_slices,
    gradient_tensor,
    solid_harmonics,
    translation_tensor,
)


def vectors(n: int, seed: int = 0) -> Tensor:
    return 3 * torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1.5


@pytest.mark.parametrize("degree", range(5))
def test_racah_norm(degree: int) -> None:
    r = vectors(20)
    part = solid_harmonics(r, 4)[:, degree_slices(4)[degree]]
    torch.testing.assert_close((part**2).sum(-1), (r**2).sum(-1) ** degree, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not hasattr(scipy.special, "sph_harm_y"), reason="scipy is older than 1.15")
def test_scipy_has_the_same_functions() -> None:
    """S_lm = r^l √(4π/(2l+1)) Y_lm, with the real Y_lm of the usual sign (no Condon-Shortley phase)."""
    r = vectors(10)
    x, y, z = r.numpy().T
    length = np.linalg.norm(r, axis=1)
    polar, azimuth = np.arccos(z / length), np.arctan2(y, x)
    expected = []
    for degree in range(5):
        factor = length**degree * np.sqrt(4 * np.pi / (2 * degree + 1))
        for m in range(-degree, degree + 1):
            value = scipy.special.sph_harm_y(degree, abs(m), polar, azimuth) * factor
            real = value.real if m == 0 else (-1) ** m * np.sqrt(2) * (value.imag if m < 0 else value.real)
            expected.append(real)
    np.testing.assert_allclose(solid_harmonics(r, 4), np.array(expected).T, atol=1e-12)


@pytest.mark.parametrize("lmax", range(5))
def test_products_of_matrices_are_the_closed_forms(lmax: int) -> None:
    r = 3 * vectors(50)
    torch.testing.assert_close(solid_harmonics(r, lmax), _closed_forms(r, lmax), rtol=0, atol=1e-15 * 5.0**lmax)


def test_laplace() -> None:
    (r,) = vectors(1)
    for weights in torch.eye(25, dtype=torch.float64):
        hessian = torch.autograd.functional.hessian(lambda v, w=weights: solid_harmonics(v, 4) @ w, r)
        assert float(hessian.trace()) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("lmax", range(5))
def test_addition_theorem(lmax: int) -> None:
    a, b = vectors(15, 1), vectors(15, 2)
    expected = solid_harmonics(a + b, lmax)
    found = torch.einsum("pk,kij,pj->pi", solid_harmonics(a, lmax), translation_tensor(lmax), solid_harmonics(b, lmax))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_gradient_is_a_combination_of_harmonics() -> None:
    (r,) = vectors(1)
    jacobian = torch.autograd.functional.jacobian(lambda v: solid_harmonics(v, 4), r)
    found = torch.einsum("xij,j->ix", gradient_tensor(4), solid_harmonics(r, 4))
    torch.testing.assert_close(found, jacobian, rtol=1e-10, atol=1e-10)


def test_origin_has_finite_derivatives() -> None:
    jacobian = torch.autograd.functional.jacobian(lambda v: solid_harmonics(v, 4), torch.zeros(3, dtype=torch.float64))
    assert torch.isfinite(jacobian).all()


@pytest.mark.parametrize("lmax", [-1, 5])
def test_degree_out_of_range(lmax: int) -> None:
    with pytest.raises(ValueError, match=f"lmax is {lmax}; solid harmonics are available for 0 to 4"):
        solid_harmonics(vectors(1), lmax)
