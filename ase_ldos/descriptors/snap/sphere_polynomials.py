"""Polynomials on the unit sphere in four dimensions.

A point is a pair of complex numbers (a, b), |a|² + |b|² = 1. The polynomials of degree ≤ d on the sphere are spanned by

    T_k(|a|² − |b|²) · {1, Re a^m, Im a^m} · {1, Re b^n, Im b^n},     2k + m + n ≤ d,

T the Chebyshev polynomials. In this form sums over many points are one matrix product: [k m × point][point × n].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def polynomial_factors(
    a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], weight: Tensor, degree: int
) -> tuple[Tensor, Tensor]:
    """The two factors of the polynomials of the module's docstring at points of the sphere.

    Args:
        a: real and imaginary part, each ``[...]``.
        b: real and imaginary part, each ``[...]``.
        weight: multiplies the first factor, ``[...]``.
        degree: highest degree d.

    Returns:
        weight · T_k · (powers of a), 2k + m ≤ d, k the slow index, ``[(d + 1)(d + 2) / 2, ...]``, and the powers
        of b, ``[2 d + 1, ...]``.
    """
    height = 2 * (a[0] * a[0] + a[1] * a[1]) - 1
    chebyshev = [weight, weight * height]
    for _ in range(degree // 2 - 1):
        chebyshev.append(2 * height * chebyshev[-1] - chebyshev[-2])
    first = _GradedProduct.apply(torch.stack(chebyshev[: degree // 2 + 1]), _ComplexPowers.apply(*a, degree))
    return first, _ComplexPowers.apply(*b, degree)


class _Context(Protocol):
    """What autograd hands from the forward to the backward pass."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _ComplexPowers(torch.autograd.Function):
    """1, Re z, Im z, …, Re z^d, Im z^d, ``[2 d + 1, ...]``; the derivative is m z^(m-1), not the recursion's."""

    @staticmethod
    def forward(real: Tensor, imaginary: Tensor, degree: int) -> Tensor:
        powers = real.new_empty(2 * degree + 1, *real.shape)
        powers[0] = 1
        for m in range(1, degree + 1):
            x, y = powers[2 * m - 1], powers[2 * m]
            if m == 1:
                x.copy_(real)
                y.copy_(imaginary)
            else:
                torch.mul(powers[2 * m - 3], real, out=x).addcmul_(powers[2 * m - 2], imaginary, value=-1)
                torch.mul(powers[2 * m - 3], imaginary, out=y).addcmul_(powers[2 * m - 2], real)
        return powers

    @staticmethod
    def setup_context(ctx: _Context, _inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: _Context, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        (powers,) = ctx.saved_tensors
        degree = len(powers) // 2
        if degree == 0:
            return torch.zeros_like(powers[0]), torch.zeros_like(powers[0]), None
        by_real, by_imaginary = cotangent[1].clone(), cotangent[2].clone()
        for m in range(2, degree + 1):
            x, y = powers[2 * m - 3], powers[2 * m - 2]
            by_x, by_y = cotangent[2 * m - 1], cotangent[2 * m]
            by_real = by_real.addcmul_(by_x, x, value=m).addcmul_(by_y, y, value=m)
            by_imaginary = by_imaginary.addcmul_(by_y, x, value=m).addcmul_(by_x, y, value=-m)
        return by_real, by_imaginary, None


class _GradedProduct(torch.autograd.Function):
    """Products of T_k and the powers of a up to degree d - 2k, k the slow index."""

    @staticmethod
    def forward(chebyshev: Tensor, powers: Tensor) -> Tensor:
        sizes = range(len(powers), 0, -4)
        products = powers.new_empty(sum(sizes), *powers.shape[1:])
        for part, factor, size in zip(products.split(list(sizes)), chebyshev, sizes):
            torch.mul(powers[:size], factor, out=part)
        return products

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: _Context, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        chebyshev, powers = ctx.saved_tensors
        sizes = range(len(powers), 0, -4)
        parts = cotangent.split(list(sizes))
        by_chebyshev = torch.stack([(part * powers[: len(part)]).sum(dim=0) for part in parts])
        by_powers = parts[0] * chebyshev[0]
        for part, factor in zip(parts[1:], chebyshev[1:]):
            by_powers[: len(part)].addcmul_(part, factor)
        return by_chebyshev, by_powers


@dataclass(frozen=True)
class PhasePolynomial:
    """Real or imaginary part of T_k a^m b^n or of T_k a^m conj(b)^n, as a sum of the module's products.

    Attributes:
        degree: 2k + m + n.
        turn: t ≥ 0 such that the polynomial is a combination of cos(t ψ / 2) and sin(t ψ / 2) when the phase of a
            grows by ψ / 2 and that of b falls by it.
        terms: element of the flattened matrix [k m, n] and its factor.
    """

    degree: int
    turn: int
    terms: tuple[tuple[int, float], ...]


def phase_polynomials(degree: int) -> list[PhasePolynomial]:
    """All phase polynomials up to ``degree``: a basis, sorted by degree and turn."""
    width = 2 * degree + 1
    found = []
    offset = 0
    for k in range(degree // 2 + 1):
        for m in range(degree - 2 * k + 1):
            for n in range(degree - 2 * k - m + 1):
                for sign in (1, -1) if m and n else (1,):
                    turn = abs(m - sign * n)
                    # where Re a^m and Im a^m stand in a row of products, likewise for b
                    real_a, real_b = offset + max(0, 2 * m - 1), max(0, 2 * n - 1)
                    products = {(0, 0): real_a * width + real_b}
                    if m:
                        products[1, 0] = (real_a + 1) * width + real_b
                    if n:
                        products[0, 1] = real_a * width + real_b + 1
                    if m and n:
                        products[1, 1] = (real_a + 1) * width + real_b + 1
                    factors = {(0, 0): 1.0, (1, 1): -float(sign), (1, 0): 1.0, (0, 1): float(sign)}
                    for kinds in ((0, 0), (1, 1)), ((1, 0), (0, 1)):
                        terms = tuple((products[kind], factors[kind]) for kind in kinds if kind in products)
                        if terms:
                            found.append(PhasePolynomial(2 * k + m + n, turn, terms))
        offset += 2 * (degree - 2 * k) + 1
    return sorted(found, key=lambda polynomial: (polynomial.degree, polynomial.turn))
