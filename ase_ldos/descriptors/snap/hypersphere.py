"""Harmonics and exact integrals on the unit sphere in four dimensions, which is also the group SU(2).

A point is a pair of complex numbers (a, b), |a|² + |b|² = 1, and ±(a, b) stand for the same rotation: a direction and
a turn ψ about it, a = cos(θ/2) exp(i (φ + ψ)/2), b = sin(θ/2) exp(i (φ − ψ)/2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import lebedev_rule
from torch import Tensor

from ase_ldos.descriptors.snap.sphere_polynomials import phase_polynomials, polynomial_factors

#: Degrees of Lebedev's rules with positive weights up to the highest that scipy knows.
LEBEDEV_DEGREES = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))


@dataclass(frozen=True)
class RotationQuadrature:
    """Nodes and weights that average even polynomials over the sphere.

    Attributes:
        nodes: Re a, Im a, Re b, Im b, float64 ``[turn, direction, 4]``.
        turns: angles ψ, ``[turn]``; all turns weigh the same.
        weights: of the directions, sum 1, ``[direction]``.
    """

    nodes: Tensor
    turns: Tensor
    weights: Tensor

    def average(self, values: Tensor) -> Tensor:
        """Average of a function given at the nodes, ``[..., turn, direction]``."""
        return (values.mean(dim=-2) * self.weights).sum(dim=-1)


def rotation_quadrature(degree: int) -> RotationQuadrature:
    """Make the quadrature that is exact for **even** polynomials up to ``degree``.

    Directions are integrated by Lebedev's rule (V. I. Lebedev, D. N. Laikov, Dokl. Math. 59, 477 (1999)), turns by
    equal steps; each has to be exact only to half the degree.

    Raises:
        ValueError: no rule is known for so high a degree.
    """
    half = degree // 2
    order = next((known for known in LEBEDEV_DEGREES if known >= half), None)
    if order is None:
        highest = 2 * LEBEDEV_DEGREES[-1] + 1
        raise ValueError(f"no quadrature is known for degree {degree}; at most {highest} is possible")
    directions, weights = lebedev_rule(order)
    polar = np.arccos(np.clip(directions[2], -1.0, 1.0)) / 2
    azimuth = np.arctan2(directions[1], directions[0])
    turns = 2 * np.pi * np.arange(half + 1) / (half + 1)
    a = np.cos(polar) * np.exp(0.5j * (azimuth + turns[:, None]))
    b = np.sin(polar) * np.exp(0.5j * (azimuth - turns[:, None]))
    nodes = np.stack((a.real, a.imag, b.real, b.imag), axis=-1)
    return RotationQuadrature(torch.from_numpy(nodes), torch.from_numpy(turns), torch.from_numpy(weights / (4 * np.pi)))


@dataclass(frozen=True)
class HarmonicBasis:
    """Orthonormal harmonics on the sphere in four dimensions, as combinations of products of powers.

    The harmonics of degree j are the (j + 1)² polynomials of degree j that are orthogonal to all of lower degree,
    the average over the sphere being the inner product. Any orthonormal choice h obeys the addition theorem
    Σ h(u) h(u') = (j + 1) P_j(u·u'), P_j the Chebyshev polynomials of the second kind. Here each one depends on the
    turn as a combination of cos(t ψ / 2) and sin(t ψ / 2); those of a degree are sorted by t = j mod 2, … j - 2, j:
    j + 1 of them have t = 0, 2 (j + 1) any other t.

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
        """Sums of the harmonics ``[grid, harmonic]`` from sums of the products, ``[grid, k m · n]`` flattened."""
        return torch.cat(
            [moments.index_select(1, columns) @ matrix for columns, matrix in zip(self.columns, self.transforms)], dim=1
        )


def harmonic_basis(degree: int, quadrature: RotationQuadrature) -> tuple[HarmonicBasis, tuple[Tensor, ...]]:
    """Make the harmonics up to ``degree`` by a QR decomposition of the polynomials on the nodes, sorted by degree.

    Even and odd ones are orthogonal on the whole sphere anyway and are treated apart. The quadrature must be exact up
    to 2 ``degree``.

    Returns:
        The basis, and for each degree j the values at the nodes, ``[(j + 1)², turn, direction]``.
    """
    n_turns, n_directions = quadrature.nodes.shape[:2]
    root = (quadrature.weights / n_turns).sqrt().repeat(n_turns)
    columns, transforms, pole = [], [], []
    values: dict[int, Tensor] = {}
    slices: dict[int, slice] = {}
    start = 0
    for parity in (0, 1):
        used, mixing = _products(degree, parity)
        orthonormal, triangle = torch.linalg.qr(root[:, None] * (_evaluate(quadrature.nodes, degree)[:, used] @ mixing))
        columns.append(used)
        transforms.append(mixing @ torch.linalg.inv(triangle))
        north = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        pole.append((_evaluate(north, degree)[:, used] @ transforms[-1])[0])
        first = 0
        for j in range(parity, degree + 1, 2):
            last = first + (j + 1) ** 2
            values[j] = (orthonormal[:, first:last] / root[:, None]).T.reshape(-1, n_turns, n_directions)
            slices[j] = slice(start + first, start + last)
            first = last
        start += first
    basis = HarmonicBasis(
        (columns[0], columns[1]),
        (transforms[0], transforms[1]),
        torch.cat(pole),
        tuple(slices[j] for j in range(degree + 1)),
    )
    return basis, tuple(values[j] for j in range(degree + 1))


def _evaluate(nodes: Tensor, degree: int) -> Tensor:
    """All products at the nodes, ``[node, k m · n]`` flattened."""
    x = nodes.reshape(-1, 4).unbind(dim=1)
    first, second = polynomial_factors((x[0], x[1]), (x[2], x[3]), torch.ones_like(x[0]), degree)
    return (first[:, None] * second[None]).flatten(0, 1).T


def _products(degree: int, parity: int) -> tuple[Tensor, Tensor]:
    """Which products the phase polynomials of one parity use, int64, and the matrix from those to these."""
    polynomials = [polynomial for polynomial in phase_polynomials(degree) if polynomial.degree % 2 == parity]
    used = sorted({place for polynomial in polynomials for place, _ in polynomial.terms})
    row = {place: index for index, place in enumerate(used)}
    mixing = torch.zeros(len(used), len(polynomials), dtype=torch.float64)
    for column, polynomial in enumerate(polynomials):
        for place, factor in polynomial.terms:
            mixing[row[place], column] = factor
    return torch.tensor(used, dtype=torch.int64), mixing
