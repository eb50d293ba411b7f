"""Polynomials and exact integrals on the unit sphere in four dimensions, which is also the group SU(2).

A point is a pair of complex numbers (a, b), |a|² + |b|² = 1. The polynomials of degree ≤ d on
the sphere are spanned by

    T_k(|a|² − |b|²) · {1, Re a^m, Im a^m} · {1, Re b^n, Im b^n},     2k + m + n ≤ d,

T the Chebyshev polynomials. In this form sums over many points are one matrix product: [k m × point][point × n].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.integrate import lebedev_rule
from torch import Tensor

#: Degrees of Lebedev's rules with positive weights up to the highest that scipy knows.
LEBEDEV_DEGREES = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))


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


def rotation_quadrature(degree: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights that average every **even** polynomial up to ``degree`` over the sphere exactly.

    An even polynomial is a function of the rotation that ±u stand for. A rotation is a direction, integrated by
    Lebedev's rule (V. I. Lebedev, D. N. Laikov, Dokl. Math. 59, 477 (1999)), and a turn about it, integrated by equal
    steps; each has to be exact only to half the degree.

    Returns:
        Re a, Im a, Re b, Im b ``[node, 4]`` and weights ``[node]``, which sum to 1; float64.

    Raises:
        ValueError: no rule is known for so high a degree.
    """
    half = degree // 2
    order = next((known for known in LEBEDEV_DEGREES if known >= half), None)
    if order is None:
        raise ValueError(
            f"no quadrature is known for degree {degree}; at most {2 * LEBEDEV_DEGREES[-1] + 1} is possible"
        )
    directions, direction_weights = lebedev_rule(order)
    polar = np.arccos(np.clip(directions[2], -1.0, 1.0))[:, None] / 2
    azimuth = np.arctan2(directions[1], directions[0])[:, None]
    turn = 2 * np.pi * np.arange(half + 1) / (half + 1)
    plus, minus = (azimuth + turn) / 2, (azimuth - turn) / 2
    nodes = np.stack(
        (
            np.cos(polar) * np.cos(plus),
            np.cos(polar) * np.sin(plus),
            np.sin(polar) * np.cos(minus),
            np.sin(polar) * np.sin(minus),
        ),
        axis=-1,
    )
    weights = np.repeat(direction_weights / (4 * np.pi * (half + 1)), half + 1)
    return torch.from_numpy(nodes.reshape(-1, 4)), torch.from_numpy(weights)


@dataclass(frozen=True)
class HarmonicBasis:
    """Orthonormal harmonics on the sphere in four dimensions, as combinations of the module's polynomials.

    The harmonics of degree j are the (j + 1)² polynomials of degree j that are orthogonal to all of lower degree,
    the average over the sphere being the inner product. Any orthonormal choice h obeys the addition theorem
    Σ h(u) h(u') = (j + 1) U_j(u·u'), U_j the Chebyshev polynomials of the second kind.

    Attributes:
        columns: for even and odd degrees: which elements of the flattened matrix [k m, n] are used, int64.
        transforms: for even and odd degrees: from those elements to the harmonics.
        pole: the harmonics at (a, b) = (1, 0), ``[harmonic]``; the even degrees come first.
        slices: where the harmonics of degree j stand.
    """

    columns: tuple[Tensor, Tensor]
    transforms: tuple[Tensor, Tensor]
    pole: Tensor
    slices: tuple[slice, ...]

    def to(self, like: Tensor) -> HarmonicBasis:
        """The same in the dtype and on the device of ``like``."""
        even, odd = self.columns
        return HarmonicBasis(
            (even.to(like.device), odd.to(like.device)),
            (self.transforms[0].to(like), self.transforms[1].to(like)),
            self.pole.to(like),
            self.slices,
        )

    def coefficients(self, moments: Tensor) -> Tensor:
        """Sums of the harmonics ``[grid, harmonic]`` from sums of the polynomials, ``[grid, k m · n]`` flattened."""
        return torch.cat(
            [moments.index_select(1, columns) @ matrix for columns, matrix in zip(self.columns, self.transforms)], dim=1
        )


def harmonic_basis(degree: int, nodes: Tensor, weights: Tensor) -> tuple[HarmonicBasis, tuple[Tensor, ...]]:
    """Make the harmonics up to ``degree``.

    A QR decomposition of the polynomials on the nodes of a quadrature, sorted by degree, orthogonalises them; even and
    odd ones are orthogonal on the whole sphere anyway and are treated apart.

    Args:
        degree: highest degree.
        nodes: Re a, Im a, Re b, Im b, float64 ``[node, 4]``.
        weights: ``[node]``; exact for even polynomials up to 2 ``degree``.

    Returns:
        The basis, and for each degree j the values at the nodes, ``[(j + 1)², node]``.
    """
    root = weights.sqrt()
    with_pole = torch.cat((nodes, nodes.new_tensor([[1.0, 0.0, 0.0, 0.0]])))
    x = with_pole.unbind(dim=1)
    first, second = polynomial_factors((x[0], x[1]), (x[2], x[3]), torch.ones_like(x[0]), degree)
    polynomials = (first[:, None] * second[None]).flatten(0, 1)
    degrees = _polynomial_degrees(degree)
    columns, transforms, pole = [], [], []
    values: dict[int, Tensor] = {}
    slices: dict[int, slice] = {}
    start = 0
    for parity in (0, 1):
        chosen = torch.nonzero((degrees <= degree) & (degrees % 2 == parity)).flatten()
        chosen = chosen[torch.argsort(degrees[chosen], stable=True)]
        orthonormal, triangle = torch.linalg.qr(polynomials[chosen, :-1].T * root[:, None])
        columns.append(chosen)
        transforms.append(torch.linalg.inv(triangle))
        pole.append(polynomials[chosen, -1] @ transforms[-1])
        used = 0
        for j in range(parity, degree + 1, 2):
            size = (j + 1) ** 2
            values[j] = (orthonormal[:, used : used + size] / root[:, None]).T.contiguous()
            slices[j] = slice(start + used, start + used + size)
            used += size
        start += used
    basis = HarmonicBasis(
        (columns[0], columns[1]),
        (transforms[0], transforms[1]),
        torch.cat(pole),
        tuple(slices[j] for j in range(degree + 1)),
    )
    return basis, tuple(values[j] for j in range(degree + 1))


def _polynomial_degrees(degree: int) -> Tensor:
    """Degree 2k + m + n of each element of the flattened matrix [k m, n], int64."""
    first = [2 * k + m for k in range(degree // 2 + 1) for m in _power_degrees(degree - 2 * k)]
    return (torch.tensor(first)[:, None] + torch.tensor(_power_degrees(degree))[None]).flatten()


def _power_degrees(degree: int) -> list[int]:
    """Degrees of what ``complex_powers`` lists."""
    return [0, *(m for m in range(1, degree + 1) for _ in range(2))]
