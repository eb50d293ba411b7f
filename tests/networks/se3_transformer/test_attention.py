"""Attention between atoms: the formula, and what happens at the cutoff."""

from __future__ import annotations

from dataclasses import replace
from math import comb, pi

import pytest
import torch
from torch import Tensor

from ase_ldos.geometry.neighbours import Pairs
from ase_ldos.networks.se3_transformer.attention import (
    BOUND,
    TYPICAL_DENSITY,
    AtomLayer,
    Edges,
    EquivariantAttention,
    bounded,
    typical_square,
)
from ase_ldos.networks.se3_transformer.clebsch_gordan import coupling_table

CUTOFF = 3.0


def make_edges(vectors: Tensor, lmax: int) -> Edges:
    """Every row is the vector from atom 0 to atoms 1, 2, ..."""
    n = len(vectors)
    pairs = Pairs(torch.zeros(n, dtype=torch.int64), torch.arange(1, n + 1), vectors)
    return Edges.from_pairs(pairs, CUTOFF, lmax, 4, torch.float64)


def make_attention(lmax: int) -> EquivariantAttention:
    return EquivariantAttention(lmax, lmax, 4, 2, 4, CUTOFF, torch.Generator().manual_seed(0)).double()


def make_features(n_atoms: int, lmax: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n_atoms, (lmax + 1) ** 2, 4, dtype=torch.float64, generator=generator)


def test_output_is_the_formula() -> None:
    vectors = torch.tensor([[1.0, 0.3, 0.2], [-0.4, 1.9, 0.1], [0.3, -0.7, -2.2]], dtype=torch.float64)
    attention, x, edges = make_attention(1), make_features(4, 1), make_edges(vectors, 1)
    with torch.no_grad():
        attention.null.copy_(torch.tensor([0.4, -0.3]))
        found = attention(x, edges)[0]
        keys, values = attention._keys_and_values(
            attention.source(x), edges, coupling_table(1, 1, torch.float64, x.device)
        )
        f = (1 - vectors.square().sum(dim=1) / CUTOFF**2) ** 3
        query, parts = attention.query(x)[0], []
        for head in (slice(0, 2), slice(2, 4)):
            a = bounded((query[:, head] * keys[:, :, head]).sum(dim=(1, 2)) / 8**0.5)
            null = bounded(attention.null[0 if head.start == 0 else 1])
            alpha = f * a.exp() / (null.exp() + (f * a.exp()).sum())
            assert 0.05 < float(alpha.sum()) < 0.95
            parts.append(torch.einsum("j,jmc->mc", alpha * f, values[:, :, head]))
        plain = torch.einsum("j,jmc->mc", f, values) * typical_square(CUTOFF) ** -0.5
        expected = attention.mix(torch.cat((torch.cat(parts, dim=1), plain), dim=1)[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_radial_functions_and_envelope() -> None:
    r = torch.tensor([0.7, 2.9], dtype=torch.float64)
    edges = make_edges(torch.stack((torch.zeros(2), r, torch.zeros(2)), dim=1).double(), 2)
    expected = torch.stack([torch.sin(n * pi * r / 3) * 3 / r for n in range(1, 5)], dim=1)
    torch.testing.assert_close(edges.radial, expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(edges.envelope, (1 - (r / 3) ** 2) ** 3, rtol=1e-13, atol=1e-15)
    assert make_edges(torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64), 2).envelope.item() == 0


def test_typical_square() -> None:
    integral = sum(comb(6, k) * (-1) ** k / (2 * k + 3) for k in range(7))
    assert typical_square(5.0) == pytest.approx(4 * pi * TYPICAL_DENSITY * 125 * integral, rel=2e-3)


@pytest.mark.parametrize("lmax", range(5))
def test_an_atom_comes_in_smoothly(lmax: int) -> None:
    """At the cutoff the newcomer's contribution and its first two derivatives in the distance are zero."""
    attention = make_attention(lmax)
    x = make_features(3, lmax)
    fixed = torch.tensor([[0.9, 1.2, -0.4]], dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64), dim=0)

    def sums(distance: Tensor) -> Tensor:
        edges = make_edges(torch.cat((fixed, (direction * distance)[None])), lmax)
        weights = torch.linspace(-1, 1, 4 * (lmax + 1) ** 2, dtype=torch.float64)
        return attention(x, edges)[0].flatten() @ weights

    alone = attention(x, make_edges(fixed, lmax))[0].flatten().detach()
    distance = torch.tensor(CUTOFF - 1e-4, dtype=torch.float64, requires_grad=True)
    value = sums(distance)
    (slope,) = torch.autograd.grad(value, distance, create_graph=True)
    (bend,) = torch.autograd.grad(slope, distance)
    expected = alone @ torch.linspace(-1, 1, len(alone), dtype=torch.float64)
    # a contribution (2 · 1e-4 / 3)³ K with K up to 100
    assert abs(float((value - expected).detach())) < 1e-10
    assert abs(float(slope.detach())) < 1e-5
    assert abs(float(bend)) < 0.1
    far = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert abs(float(torch.autograd.grad(sums(far), far)[0])) > 1e-3


@pytest.mark.parametrize("lmax", [0, 1, 2])
def test_first_and_second_derivatives(lmax: int) -> None:
    layer = AtomLayer(lmax, lmax, 2, 1, 2, CUTOFF, torch.Generator().manual_seed(2)).double()
    x = make_features(3, lmax)[:, :, :2].requires_grad_()
    vectors = torch.tensor([[1.0, 0.3, 0.2], [-0.4, 1.9, 0.1]], dtype=torch.float64, requires_grad=True)

    def outputs(features: Tensor, rows: Tensor) -> Tensor:
        pairs = Pairs(torch.zeros(2, dtype=torch.int64), torch.arange(1, 3), rows)
        return layer(features, Edges.from_pairs(pairs, CUTOFF, lmax, 2, torch.float64))[0]

    assert torch.autograd.gradcheck(outputs, (x, vectors), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, (x, vectors), fast_mode=True)


def test_an_atom_without_neighbours_gets_a_constant() -> None:
    attention = make_attention(1)
    empty = make_edges(torch.zeros(0, 3, dtype=torch.float64), 1)
    found = attention(make_features(2, 1), empty)
    assert torch.equal(found[0], found[1])
    assert torch.isfinite(found).all()


def test_large_logits_are_bounded() -> None:
    values = torch.tensor([-1e6, 0.0, 1e-3, 1e6])
    torch.testing.assert_close(bounded(values), torch.tensor([-BOUND, 0.0, 1e-3, BOUND]))
    attention = make_attention(1)
    vectors = torch.tensor([[1.0, 0.3, 0.2]], dtype=torch.float64)
    edges = make_edges(vectors, 1)
    assert torch.isfinite(attention(1e8 * make_features(2, 1), edges)).all()
    loud = replace(edges, radial=1e8 * edges.radial)
    assert torch.isfinite(attention(make_features(2, 1), loud)).all()
