"""Real solid harmonics up to l = 4 and their translation.

S_lm(r) = r^l Y_lm with Racah's normalisation, Σ_m S_lm² = r^2l. Solid harmonics, not spherical ones: grid points fall
on nuclei, where the gradient of Y_lm diverges and that of the polynomial S_lm does not.
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
import torch
from torch import Tensor

MAXIMUM_DEGREE = 4


def degree_slices(lmax: int) -> list[slice]:
    """Where each degree l = 0 … lmax stands on the axis of length (lmax + 1)²."""
    return [slice(degree * degree, (degree + 1) ** 2) for degree in range(lmax + 1)]


def solid_harmonics(vectors: Tensor, lmax: int) -> Tensor:
    """Evaluate S_lm for l = 0 … lmax, m = −l … l.

    Args:
        vectors: Å, ``[..., 3]``.
        lmax: highest degree, 0 to 4.

    Returns:
        ``[..., (lmax + 1)²]`` in Å^l.

    Raises:
        ValueError: lmax is outside 0 … 4.
    """
    if not 0 <= lmax <= MAXIMUM_DEGREE:
        raise ValueError(f"lmax is {lmax}; solid harmonics are available for 0 to {MAXIMUM_DEGREE}")
    first, second, left, right, coefficients = _tables(lmax, vectors.dtype, vectors.device)
    linear = torch.cat((torch.ones_like(vectors[..., :1]), vectors), dim=-1)
    quadratic = (linear @ first) * (linear @ second)
    return ((quadratic @ left) * (quadratic @ right)) @ coefficients


@cache
def _tables(lmax: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """What turns 1, x, y, z into S_lm: zeros and ones that pick factors of monomials, and coefficients of these.

    Five products of small matrices take a tenth of the time of the hundred small operations of the closed forms.
    """
    halves = [_exponents(1), _exponents(2)]
    monomials = _exponents(lmax)
    picks = [*_factors(halves[1], halves[0]), *_factors(monomials, halves[1])]
    # polynomials of degree 4 are fixed by their values on 5³ points; what rounding leaves over is solved for again
    points = torch.cartesian_prod(*[torch.arange(-2, 3, dtype=torch.float64) / 2] * 3)
    values = torch.stack([points.pow(torch.tensor(powers)).prod(dim=1) for powers in monomials], dim=1)
    coefficients = torch.zeros(len(monomials), (lmax + 1) ** 2, dtype=torch.float64)
    for _ in range(2):
        left_over = _closed_forms(points, lmax) - values @ coefficients
        coefficients += torch.linalg.lstsq(values, left_over, driver="gelsd").solution
    coefficients[coefficients.abs() < 1e-11] = 0
    return tuple(table.to(device=device, dtype=dtype) for table in (*picks, coefficients))


def _exponents(degree: int) -> list[tuple[int, ...]]:
    """Exponents of all monomials up to a degree, in the order 1, x, y, z and so on."""
    found = [powers for powers in np.ndindex(*(degree + 1,) * 3) if sum(powers) <= degree]
    return sorted(found, key=lambda powers: (sum(powers), powers[::-1]))


def _factors(products: list[tuple[int, ...]], factors: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Matrices of zeros and ones that pick two factors of each monomial."""
    first, second = (torch.zeros(len(factors), len(products), dtype=torch.float64) for _ in range(2))
    for column, powers in enumerate(products):
        pairs = [(one, tuple(p - q for p, q in zip(powers, one))) for one in factors]
        left, right = next(pair for pair in pairs if pair[1] in factors)
        first[factors.index(left), column] = second[factors.index(right), column] = 1
    return first, second


def _closed_forms(vectors: Tensor, lmax: int) -> Tensor:
    x, y, z = vectors.unbind(-1)
    columns = [torch.ones_like(x)]
    if lmax >= 1:
        columns += [y, z, x]
    if lmax >= 2:
        xx, yy, zz = x * x, y * y, z * z
        rr = xx + yy + zz
        columns += _second_degree(x, y, z, xx - yy, zz, rr)
    if lmax >= 3:
        columns += _third_degree(x, y, z, xx, yy, zz, rr)
    if lmax >= 4:
        columns += _fourth_degree(x, y, z, xx, yy, zz, rr)
    return torch.stack(columns, dim=-1)


def _second_degree(x: Tensor, y: Tensor, z: Tensor, difference: Tensor, zz: Tensor, rr: Tensor) -> list[Tensor]:
    root = sqrt(3)
    return [root * x * y, root * y * z, 1.5 * zz - 0.5 * rr, root * x * z, 0.5 * root * difference]


def _third_degree(x: Tensor, y: Tensor, z: Tensor, xx: Tensor, yy: Tensor, zz: Tensor, rr: Tensor) -> list[Tensor]:
    return [
        sqrt(5 / 8) * y * (3 * xx - yy),
        sqrt(15) * x * y * z,
        sqrt(3 / 8) * y * (5 * zz - rr),
        0.5 * z * (5 * zz - 3 * rr),
        sqrt(3 / 8) * x * (5 * zz - rr),
        0.5 * sqrt(15) * z * (xx - yy),
        sqrt(5 / 8) * x * (xx - 3 * yy),
    ]


def _fourth_degree(x: Tensor, y: Tensor, z: Tensor, xx: Tensor, yy: Tensor, zz: Tensor, rr: Tensor) -> list[Tensor]:
    return [
        0.5 * sqrt(35) * x * y * (xx - yy),
        sqrt(35 / 8) * y * z * (3 * xx - yy),
        0.5 * sqrt(5) * x * y * (7 * zz - rr),
        sqrt(5 / 8) * y * z * (7 * zz - 3 * rr),
        (35 * zz * zz - 30 * zz * rr + 3 * rr * rr) / 8,
        sqrt(5 / 8) * x * z * (7 * zz - 3 * rr),
        0.25 * sqrt(5) * (xx - yy) * (7 * zz - rr),
        sqrt(35 / 8) * x * z * (xx - 3 * yy),
        sqrt(35) / 8 * (xx * xx - 6 * xx * yy + yy * yy),
    ]


@cache
def translation_tensor(lmax: int) -> Tensor:
    """Tensor K of the addition theorem S_i(a + b) = Σ_jk K_kij S_j(a) S_k(b), float64 ``[k, i, j]``.

    The theorem holds exactly with l_i = l_j + l_k; the numbers are solved for once from points, which spares the
    tables of Clebsch-Gordan coefficients (Steinborn and Ruedenberg, Adv. Quantum Chem. 7, 1 (1973), eq. 4.2).
    """
    random = np.random.default_rng(0)
    points = torch.as_tensor(random.uniform(-1, 1, (2, 600, 3)))
    whole, left, right = (solid_harmonics(v, lmax).numpy() for v in (points.sum(0), points[0], points[1]))
    slices = degree_slices(lmax)
    size = (lmax + 1) ** 2
    tensor = np.zeros((size, size, size))
    for degree, rows in enumerate(slices):
        places = [
            (j, k)
            for low in range(degree + 1)
            for j in range(slices[low].start, slices[low].stop)
            for k in range(slices[degree - low].start, slices[degree - low].stop)
        ]
        products = np.stack([left[:, j] * right[:, k] for j, k in places], axis=1)
        solution = np.linalg.lstsq(products, whole[:, rows], rcond=None)[0]
        solution[np.abs(solution) < 1e-11] = 0
        for row, (j, k) in enumerate(places):
            tensor[k, rows, j] = solution[row]
    return torch.as_tensor(tensor)


@cache
def translation_matrix(lmax: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The same tensor as a matrix ``[k, i · j]`` in this type on this device."""
    return translation_tensor(lmax).flatten(1).to(device, dtype)


def gradient_tensor(lmax: int) -> Tensor:
    """Tensor G of ∂S_i/∂r_x = Σ_j G_xij S_j, float64 ``[3, i, j]``: the part of the translation linear in b."""
    if lmax == 0:
        return torch.zeros(3, 1, 1, dtype=torch.float64)
    # S_1m stands in the order y, z, x
    return translation_tensor(lmax)[[3, 1, 2]]
