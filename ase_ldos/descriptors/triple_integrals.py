"""Bispectrum from integrals of triple products over the sphere in four dimensions, with derivatives of every order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ase_ldos.descriptors.hypersphere import HarmonicBasis

#: Grid points treated at once: on a CPU the working set should stay in the cache, a GPU needs long loops.
CHUNK = {"cpu": 32, "cuda": 1024}


def bispectrum_triples(twojmax: int) -> list[tuple[int, int, int]]:
    """(j1, j2, j), each twice the angular momentum, in the order of LAMMPS' columns: j2 ≤ j1 ≤ j ≤ j1 + j2."""
    return [
        (j1, j2, j)
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
        if j >= j1
    ]


def covering_pairs(triples: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Few pairs of equal parity such that each triple is one of them and an even third, by greedy choice."""
    open_triples = set(triples)
    pairs: list[tuple[int, int]] = []
    while open_triples:
        counts = Counter(pair for triple in open_triples for pair in _splits(triple))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        pairs.append(best)
        open_triples = {triple for triple in open_triples if best not in _splits(triple)}
    return sorted(pairs)


def _splits(triple: tuple[int, int, int]) -> dict[tuple[int, int], int]:
    """Ways to write a triple as a pair of equal parity and an even third: third by pair."""
    small, middle, large = sorted(triple)
    splits = {(small, middle): large, (small, large): middle, (middle, large): small}
    return {pair: third for pair, third in splits.items() if third % 2 == 0}


@dataclass(frozen=True)
class TripleIntegrals:
    """What is needed to integrate products of three functions on the sphere exactly, in one dtype on one device.

    Attributes:
        values: harmonics of degree j at the nodes, times weight^(1/3) / (j + 1), ``[(j + 1)², node]``.
        slices: where the coefficients of degree j stand.
        pairs: products of two that are formed.
        places: element of the flattened matrix [pair, even third] that holds each triple, ``[feature]``.
        factors: j + 1 of each triple, ``[feature]``.
    """

    values: tuple[Tensor, ...]
    slices: tuple[slice, ...]
    pairs: tuple[tuple[int, int], ...]
    places: Tensor
    factors: Tensor

    @classmethod
    def of(
        cls, triples: list[tuple[int, int, int]], basis: HarmonicBasis, values: tuple[Tensor, ...], weights: Tensor
    ) -> TripleIntegrals:
        """Prepare the integrals of ``triples`` from the harmonics' values at nodes with these weights."""
        pairs = covering_pairs(triples)
        thirds = (len(values) + 1) // 2
        places = []
        for triple in triples:
            pair, third = next((pair, third) for pair, third in _splits(triple).items() if pair in pairs)
            places.append(pairs.index(pair) * thirds + third // 2)
        # each of the three functions of a product carries a third of the node's weight
        root = weights ** (1 / 3)
        return cls(
            values=tuple(value * root / (j + 1) for j, value in enumerate(values)),
            slices=basis.slices,
            pairs=tuple(pairs),
            places=torch.tensor(places),
            factors=torch.tensor([triple[2] + 1.0 for triple in triples], dtype=torch.float64),
        )

    def to(self, like: Tensor) -> TripleIntegrals:
        """The same in the dtype and on the device of ``like``."""
        return TripleIntegrals(
            tuple(value.to(like) for value in self.values),
            self.slices,
            self.pairs,
            self.places.to(like.device),
            self.factors.to(like),
        )

    @cached_property
    def n_nodes(self) -> int:
        """Number of quadrature nodes."""
        return int(self.values[0].shape[1])

    def functions(self, coefficients: Tensor) -> Tensor:
        """f_j at the nodes, ``[j, grid, node]``."""
        result = coefficients.new_empty(len(self.values), len(coefficients), self.n_nodes)
        for j, value in enumerate(self.values):
            torch.mm(coefficients[:, self.slices[j]], value, out=result[j])
        return result

    def products(self, functions: Tensor) -> Tensor:
        """f_a f_b at the nodes for all pairs (a, b), ``[pair, grid, node]``."""
        result = functions.new_empty(len(self.pairs), *functions.shape[1:])
        for index, (a, b) in enumerate(self.pairs):
            torch.mul(functions[a], functions[b], out=result[index])
        return result

    def forward_chunk(self, coefficients: Tensor) -> Tensor:
        """Bispectrum ``[grid, feature]`` of a few points."""
        functions = self.functions(coefficients)
        products = self.products(functions)
        table = torch.bmm(products.transpose(0, 1), functions[::2].permute(1, 2, 0))
        return table.flatten(1).index_select(1, self.places) * self.factors

    def backward_chunk(self, coefficients: Tensor, cotangent: Tensor) -> Tensor:
        """Derivative of Σ cotangent · bispectrum by the coefficients of a few points."""
        functions = self.functions(coefficients)
        products = self.products(functions)
        even = functions[::2]
        table = coefficients.new_zeros(len(coefficients), len(self.pairs) * len(even))
        table[:, self.places] = cotangent * self.factors
        table = table.view(len(coefficients), len(self.pairs), len(even))
        slopes = torch.zeros_like(functions)
        slopes[::2] = torch.bmm(table.transpose(1, 2), products.transpose(0, 1)).transpose(0, 1)
        torch.bmm(table, even.transpose(0, 1), out=products.transpose(0, 1))
        for index, (a, b) in enumerate(self.pairs):
            slopes[a].addcmul_(products[index], functions[b], value=2 if a == b else 1)
            if a != b:
                slopes[b].addcmul_(products[index], functions[a])
        result = torch.empty_like(coefficients)
        for j, value in enumerate(self.values):
            result[:, self.slices[j]] = slopes[j] @ value.T
        return result


class _Context(Protocol):
    """What autograd hands from the forward to the backward pass."""

    integrals: TripleIntegrals
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class Bispectrum(torch.autograd.Function):
    """B = T(c, c, c), T trilinear and symmetric: features ``[grid, feature]`` of coefficients ``[grid, harmonic]``.

    Only the coefficients are kept for the backward pass; functions at the nodes exist for a few points at a time.
    """

    @staticmethod
    def forward(coefficients: Tensor, integrals: TripleIntegrals) -> Tensor:
        """Evaluate B in chunks."""
        chunk = CHUNK.get(coefficients.device.type, CHUNK["cuda"])
        return torch.cat([integrals.forward_chunk(part) for part in coefficients.split(chunk)])

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, TripleIntegrals], _output: Tensor) -> None:
        """Keep the coefficients."""
        ctx.save_for_backward(inputs[0])
        ctx.integrals = inputs[1]

    @staticmethod
    def backward(ctx: _Context, cotangent: Tensor) -> tuple[Tensor, None]:
        """Derivative by the coefficients."""
        (coefficients,) = ctx.saved_tensors
        return BispectrumGradient.apply(coefficients, cotangent, ctx.integrals), None


class BispectrumGradient(torch.autograd.Function):
    """3 g · T(c, c, ·): derivative of g · B by the coefficients.

    Its own derivatives in a direction v, 3 T(c, c, v) by g and 6 g · T(c, v, ·) by c, follow exactly from values of B
    and of this function at c ± v, because B is a cubic polynomial (polarisation).
    """

    @staticmethod
    def forward(coefficients: Tensor, cotangent: Tensor, integrals: TripleIntegrals) -> Tensor:
        """Evaluate the derivative in chunks."""
        chunk = CHUNK.get(coefficients.device.type, CHUNK["cuda"])
        parts = zip(coefficients.split(chunk), cotangent.split(chunk), strict=True)
        return torch.cat([integrals.backward_chunk(part, slope) for part, slope in parts])

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, Tensor, TripleIntegrals], _output: Tensor) -> None:
        """Keep coefficients and cotangent."""
        ctx.save_for_backward(inputs[0], inputs[1])
        ctx.integrals = inputs[2]

    @staticmethod
    def backward(ctx: _Context, direction: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Derivatives by coefficients and cotangent."""
        coefficients, cotangent = ctx.saved_tensors
        integrals = ctx.integrals
        # any scale gives the same result; a step as long as c itself loses the fewest digits
        size = direction.detach().norm(dim=1, keepdim=True)
        scale = coefficients.detach().norm(dim=1, keepdim=True) / torch.where(size > 0, size, 1)
        step = scale * direction
        upper, lower = coefficients + step, coefficients - step
        by_coefficients = by_cotangent = None
        if ctx.needs_input_grad[0]:
            above = BispectrumGradient.apply(upper, cotangent, integrals)
            below = BispectrumGradient.apply(lower, cotangent, integrals)
            by_coefficients = (above - below) / (2 * scale)
        if ctx.needs_input_grad[1]:
            difference = Bispectrum.apply(upper, integrals) - Bispectrum.apply(lower, integrals)
            by_cotangent = (difference / 2 - Bispectrum.apply(step, integrals)) / scale
        return by_coefficients, by_cotangent, None
