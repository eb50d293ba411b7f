"""Harmonics, quadrature and triple products on the sphere in four dimensions."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.descriptors.snap.bispectrum import Bispectrum, bispectrum_triples
from ase_ldos.descriptors.snap.hypersphere import harmonic_basis, rotation_quadrature
from ase_ldos.descriptors.snap.sphere_polynomials import phase_polynomials, polynomial_factors
from ase_ldos.descriptors.snap.triple_integrals import DegreeTransform, TripleIntegrals, product_and_third


@pytest.mark.parametrize("degree", [0, 3, 12, 30, 31])
def test_quadrature_averages_even_powers_exactly(degree: int) -> None:
    quadrature = rotation_quadrature(degree)
    torch.testing.assert_close(quadrature.nodes.norm(dim=-1), torch.ones_like(quadrature.nodes[..., 0]))
    direction = torch.tensor([0.1, -0.7, 0.5, 0.5], dtype=torch.float64)
    exact = 1.0
    for power in range(0, degree + 1, 2):
        # average of (n·u)^(2k) for a unit vector n: the Catalan number of k over 4^k
        average = quadrature.average((quadrature.nodes @ direction) ** power)
        assert float(average) == pytest.approx(exact, rel=1e-12)
        exact *= (power + 1) / (power + 4)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 10])
def test_phase_polynomials_are_a_basis(degree: int) -> None:
    polynomials = phase_polynomials(degree)
    for j in range(degree + 1):
        turns = [polynomial.turn for polynomial in polynomials if polynomial.degree == j]
        expected = [t for t in range(j % 2, j + 1, 2) for _ in range((j + 1) * (2 if t else 1))]
        assert turns == expected


@pytest.mark.parametrize("degree", [0, 1, 5, 10])
def test_addition_theorem(degree: int) -> None:
    quadrature = rotation_quadrature(3 * degree)
    _, values = harmonic_basis(degree, quadrature)
    nodes = quadrature.nodes.reshape(-1, 4)
    cosines = nodes @ nodes[:9].T
    for j, value in enumerate(values):
        flat = value.flatten(1)
        expected = (j + 1) * torch.special.chebyshev_polynomial_u(cosines, j)
        torch.testing.assert_close(flat.T @ flat[:, :9], expected, rtol=0, atol=1e-11)


def test_coefficients_of_single_points_are_the_harmonics() -> None:
    quadrature = rotation_quadrature(12)
    basis, values = harmonic_basis(4, quadrature)
    x = quadrature.nodes.reshape(-1, 4).unbind(dim=1)
    first, second = polynomial_factors((x[0], x[1]), (x[2], x[3]), torch.ones_like(x[0]), 4)
    coefficients = basis.coefficients((first[:, None] * second[None]).flatten(0, 1).T)
    for j, value in enumerate(values):
        torch.testing.assert_close(coefficients[:, basis.slices[j]], value.flatten(1).T)
        assert float(basis.pole[basis.slices[j]].square().sum()) == pytest.approx((j + 1) ** 2)


@pytest.mark.parametrize("degree", [0, 1, 4, 7])
def test_two_steps_give_the_function_at_the_nodes(degree: int) -> None:
    quadrature = rotation_quadrature(3 * degree)
    _, values = harmonic_basis(degree, quadrature)
    generator = torch.Generator().manual_seed(0)
    transform = DegreeTransform.of(values[degree], quadrature)
    coefficients = torch.randn(3, (degree + 1) ** 2, generator=generator, dtype=torch.float64)
    n_turns, n_directions = quadrature.nodes.shape[:2]
    out = torch.empty(n_turns * 3, n_directions, dtype=torch.float64)
    transform.apply(coefficients, out)
    expected = torch.einsum("gh,htd->tgd", coefficients, values[degree])
    torch.testing.assert_close(out.view(n_turns, 3, n_directions), expected)
    slopes = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    back = torch.empty_like(coefficients)
    transform.apply_transposed(slopes, back)
    torch.testing.assert_close((back * coefficients).sum(), (slopes * out).sum())


@pytest.mark.parametrize("twojmax", [0, 1, 2, 4, 7, 10, 13])
def test_triples_split_into_a_product_and_an_even_third(twojmax: int) -> None:
    for triple in bispectrum_triples(twojmax):
        (a, b), third = product_and_third(triple)
        assert sorted((a, b, third)) == sorted(triple)
        assert third % 2 == 0
        assert (a + b) % 2 == 0
        assert a <= b


@pytest.mark.parametrize("twojmax", [0, 1])
def test_bispectrum_has_derivatives_of_third_order(twojmax: int) -> None:
    quadrature = rotation_quadrature(3 * twojmax)
    basis, values = harmonic_basis(twojmax, quadrature)
    integrals = TripleIntegrals.of(bispectrum_triples(twojmax), basis, values, quadrature)
    size = len(basis.pole)
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.randn(2, size, generator=generator, dtype=torch.float64, requires_grad=True)

    def second(c: torch.Tensor) -> torch.Tensor:
        slope = torch.autograd.grad(Bispectrum.apply(c, integrals).sum(), c, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum(), c, create_graph=True)[0]

    assert torch.autograd.gradcheck(lambda c: Bispectrum.apply(c, integrals), coefficients)
    assert torch.autograd.gradgradcheck(lambda c: Bispectrum.apply(c, integrals), coefficients)
    assert torch.autograd.gradcheck(second, coefficients)


def test_too_high_a_degree_is_refused() -> None:
    with pytest.raises(ValueError, match="no quadrature is known for degree 300"):
        rotation_quadrature(300)
