"""Harmonics and quadrature on the sphere in four dimensions."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.descriptors.hypersphere import harmonic_basis, polynomial_factors, rotation_quadrature
from ase_ldos.descriptors.triple_integrals import bispectrum_triples, covering_pairs


@pytest.mark.parametrize("degree", [0, 3, 12, 30, 31])
def test_quadrature_averages_even_powers_exactly(degree: int) -> None:
    nodes, weights = rotation_quadrature(degree)
    torch.testing.assert_close((nodes * nodes).sum(dim=1), torch.ones_like(weights))
    direction = torch.tensor([0.1, -0.7, 0.5, 0.5], dtype=torch.float64)
    exact = 1.0
    for power in range(0, degree + 1, 2):
        # average of (n·u)^(2k) over the sphere: |n|^(2k) times the Catalan number of k over 4^k
        average = float((weights * (nodes @ direction) ** power).sum())
        assert average == pytest.approx(exact, rel=1e-12)
        half = power // 2
        exact *= (2 * half + 1) / (2 * half + 4)


@pytest.mark.parametrize("degree", [0, 1, 5, 10])
def test_addition_theorem(degree: int) -> None:
    nodes, weights = rotation_quadrature(3 * degree)
    _, values = harmonic_basis(degree, nodes, weights)
    cosines = nodes @ nodes[:9].T
    for j, value in enumerate(values):
        expected = (j + 1) * torch.special.chebyshev_polynomial_u(cosines, j)
        torch.testing.assert_close(value.T @ value[:, :9], expected, rtol=0, atol=1e-11)


def test_coefficients_of_single_points_are_the_harmonics() -> None:
    nodes, weights = rotation_quadrature(12)
    basis, values = harmonic_basis(4, nodes, weights)
    x = nodes.unbind(dim=1)
    first, second = polynomial_factors((x[0], x[1]), (x[2], x[3]), torch.ones_like(weights), 4)
    coefficients = basis.coefficients((first[:, None] * second[None]).flatten(0, 1).T)
    for j, value in enumerate(values):
        torch.testing.assert_close(coefficients[:, basis.slices[j]], value.T)
    pole = torch.cat([(j + 1) ** 2 * torch.ones(1, dtype=torch.float64) for j in range(5)])
    squares = torch.stack([basis.pole[part].square().sum() for part in basis.slices])
    torch.testing.assert_close(squares, pole)


@pytest.mark.parametrize("twojmax", [0, 1, 4, 7, 10])
def test_pairs_cover_all_triples(twojmax: int) -> None:
    triples = bispectrum_triples(twojmax)
    pairs = covering_pairs(triples)
    assert all((a + b) % 2 == 0 for a, b in pairs)
    for triple in triples:
        rest = [sorted(triple) for _ in range(3)]
        thirds = [numbers.pop(place) for place, numbers in enumerate(rest)]
        assert any(tuple(pair) in pairs and third % 2 == 0 for pair, third in zip(rest, thirds))
