"""Clebsch-Gordan coefficients of the real solid harmonics, computed once and frozen.

C^{l1 l2 l3}_{m1 m2 m3} couples features of degree l1 with harmonics of degree l2 to features of degree l3. Only natural
parity is used, l1 + l2 + l3 even: then features of degree l have the parity (−1)^l of the harmonics, and invariance
under rotations becomes invariance under reflections as well. For these paths C is the integral of three real harmonics
over the sphere up to a factor (the Gaunt coefficient, e.g. Varshalovich et al., Quantum Theory of Angular Momentum,
eq. 5.9.4), which a quadrature rule gives exactly: no tables are copied, and the basis is that of ``solid_harmonics``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import pi

import numpy as np
import torch
from torch import Tensor

from ase_ldos.descriptors.solid_harmonics import MAXIMUM_DEGREE, degree_slices, solid_harmonics


def paths(lmax_in: int, lmax: int) -> list[tuple[int, int, int]]:
    """All (l1, l2, l3) of natural parity with l1 ≤ lmax_in, l2, l3 ≤ lmax and |l1 − l2| ≤ l3 ≤ l1 + l2."""
    return [
        (l1, l2, l3)
        for l1 in range(lmax_in + 1)
        for l2 in range(lmax + 1)
        for l3 in range(abs(l1 - l2), min(lmax, l1 + l2) + 1)
        if (l1 + l2 + l3) % 2 == 0
    ]


@cache
def coupling(l1: int, l2: int, l3: int) -> Tensor:
    """C^{l1 l2 l3} in the real basis, normalised to Σ_{m1 m2} C_{m1 m2 m3} C_{m1 m2 m3'} = δ_{m3 m3'}.

    Args:
        l1: degree of the features.
        l2: degree of the harmonics.
        l3: degree of the result.

    Returns:
        float64 ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]``.

    Raises:
        ValueError: degrees outside 0 … 4, that no triangle has, or of odd sum.
    """
    if not 0 <= min(l1, l2, l3) <= max(l1, l2, l3) <= MAXIMUM_DEGREE:
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) must lie between 0 and {MAXIMUM_DEGREE}")
    if not abs(l1 - l2) <= l3 <= l1 + l2 or (l1 + l2 + l3) % 2:
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) do not couple: l3 must lie in |l1 - l2| ... l1 + l2, sum even")
    harmonics, weights = _quadrature()
    first, second, third = (harmonics[:, degree_slices(MAXIMUM_DEGREE)[degree]] for degree in (l1, l2, l3))
    tensor = torch.einsum("p,pa,pb,pc->abc", weights, first, second, third)
    tensor = tensor / tensor[:, :, 0].norm()
    return torch.where(tensor.abs() < 1e-14, 0.0, tensor)


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    """Harmonics at the nodes, ``[node, lm]``, and weights of a rule exact for polynomials of degree 15."""
    heights, weights = np.polynomial.legendre.leggauss(8)
    angles = 2 * pi * np.arange(16) / 16
    z, phi = (array.ravel() for array in np.meshgrid(heights, angles, indexing="ij"))
    radius = np.sqrt(1 - z * z)
    nodes = torch.as_tensor(np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=-1))
    return solid_harmonics(nodes, MAXIMUM_DEGREE), torch.as_tensor(np.repeat(weights, len(angles)) * 2 * pi / 16)


@dataclass(frozen=True)
class CouplingTable:
    """All paths between two sets of degrees as one tensor; a product is one component m3 of one path.

    Scaled so that features and directions of unit variance give products, and sums of products over all paths into
    one degree, of unit variance.

    Attributes:
        tensor: ``[lm of harmonics, product · lm of features]``.
        path: the path of each product, int64 ``[product]``.
        gather: adds the products of equal (l3, m3), ``[lm, product]``.
        n_paths: number of paths.
    """

    tensor: Tensor
    path: Tensor
    gather: Tensor
    n_paths: int


@cache
def coupling_table(lmax_in: int, lmax: int, dtype: torch.dtype, device: torch.device) -> CouplingTable:
    """The table of all ``paths(lmax_in, lmax)``; built in float64, then converted."""
    found = paths(lmax_in, lmax)
    slices = degree_slices(lmax)
    n_products = sum(2 * l3 + 1 for _, _, l3 in found)
    tensor = torch.zeros((lmax + 1) ** 2, n_products, (lmax_in + 1) ** 2, dtype=torch.float64)
    gather = torch.zeros((lmax + 1) ** 2, n_products, dtype=torch.float64)
    owner, start = [], 0
    for number, (l1, l2, l3) in enumerate(found):
        rows = slice(start, start + 2 * l3 + 1)
        tensor[slices[l2], rows, slices[l1]] = coupling(l1, l2, l3).permute(1, 2, 0) * (2 * l2 + 1) ** 0.5
        share = sum(other == l3 for _, _, other in found) ** -0.5
        gather[slices[l3], rows] = share * torch.eye(2 * l3 + 1, dtype=torch.float64)
        owner += [number] * (2 * l3 + 1)
        start = rows.stop
    return CouplingTable(
        tensor.flatten(1).to(device, dtype),
        torch.tensor(owner, device=device),
        gather.to(device, dtype),
        len(found),
    )
