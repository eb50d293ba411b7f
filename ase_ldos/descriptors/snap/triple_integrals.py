"""Averages of products of three functions over the sphere in four dimensions, and their derivatives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ldos.descriptors.snap.hypersphere import HarmonicBasis, RotationQuadrature

#: Grid points treated at once: on a CPU the working set should stay in the cache; a GPU needs few calls, some 4 GB.
CHUNK = {"cpu": 32, "cuda": 2**14}


def product_and_third(triple: tuple[int, int, int]) -> tuple[tuple[int, int], int]:
    """Write a triple as the product of two of equal parity and an even third.

    Of three even ones the two that are closest are multiplied, so that few different products occur.
    """
    small, middle, large = sorted(triple)
    splits = [((small, middle), large), ((middle, large), small), ((small, large), middle)]
    return min((split for split in splits if split[1] % 2 == 0), key=lambda split: split[0][1] - split[0][0])


@dataclass(frozen=True)
class DegreeTransform:
    """From the coefficients of degree j to f_j at the nodes, in two steps: directions, then turns.

    Attributes:
        still: harmonics with t = 0 by directions, ``[j + 1, direction]``; without rows if j is odd.
        cosine: from the harmonics of each t > 0 to the factor of cos(t ψ / 2), ``[t, 2 (j + 1), direction]``.
        sine: the same for sin(t ψ / 2).
        phases: 1 if j is even, then all cos(t ψ / 2), then all sin(t ψ / 2), ``[turn, j + 1]``.
    """

    still: Tensor
    cosine: Tensor
    sine: Tensor
    phases: Tensor

    @classmethod
    def of(cls, values: Tensor, quadrature: RotationQuadrature) -> DegreeTransform:
        """Split the harmonics' values ``[(j + 1)², turn, direction]``."""
        size = math.isqrt(len(values))
        n_still = size if size % 2 else 0
        orders = torch.tensor(range(2 if n_still else 1, size, 2), dtype=values.dtype)
        angles = orders[:, None] * quadrature.turns / 2
        groups = values[n_still:].reshape(len(orders), 2 * size, *values.shape[1:])
        norm = 2 / len(quadrature.turns)
        constant = values.new_ones((min(n_still, 1), len(quadrature.turns)))
        return cls(
            still=values[:n_still].mean(dim=1),
            cosine=norm * torch.einsum("thpd,tp->thd", groups, angles.cos()),
            sine=norm * torch.einsum("thpd,tp->thd", groups, angles.sin()),
            phases=torch.cat((constant, angles.cos(), angles.sin())).T.contiguous(),
        )

    def to(self, like: Tensor) -> DegreeTransform:
        """The same in the dtype and on the device of ``like``."""
        return DegreeTransform(*(part.to(like) for part in (self.still, self.cosine, self.sine, self.phases)))

    def apply(self, coefficients: Tensor, out: Tensor) -> None:
        """Write f_j of coefficients ``[grid, (j + 1)²]`` to ``out``, ``[turn · grid, direction]``."""
        n_points, n_still, n_orders = len(coefficients), len(self.still), len(self.cosine)
        size = self.phases.shape[1]
        waves = coefficients.new_empty(size, n_points, self.still.shape[1])
        start = min(n_still, 1)
        if start:
            torch.mm(coefficients[:, :n_still], self.still, out=waves[0])
        if n_orders:
            groups = coefficients[:, n_still:].unflatten(1, (n_orders, 2 * size)).transpose(0, 1)
            torch.bmm(groups, self.cosine, out=waves[start : start + n_orders])
            torch.bmm(groups, self.sine, out=waves[start + n_orders :])
        torch.mm(self.phases, waves.flatten(1), out=out.view(len(self.phases), -1))

    def apply_transposed(self, slopes: Tensor, out: Tensor) -> None:
        """Write Σ slopes · ∂f_j/∂c of slopes ``[turn · grid, direction]`` to ``out``, ``[grid, (j + 1)²]``."""
        n_points, n_still, n_orders = len(out), len(self.still), len(self.cosine)
        waves = torch.mm(self.phases.T, slopes.view(len(self.phases), -1))
        waves = waves.view(len(waves), n_points, self.still.shape[1])
        start = min(n_still, 1)
        if start:
            out[:, :n_still] = waves[0] @ self.still.T
        if n_orders:
            groups = torch.bmm(waves[start : start + n_orders], self.cosine.mT)
            groups.baddbmm_(waves[start + n_orders :], self.sine.mT)
            out[:, n_still:] = groups.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Products:
    """A list of products f_a f_b, a ≤ b: for each a a run of b in steps of 2.

    Attributes:
        pairs: (a, b) in order.
        runs: the same as a and the slice of b.
    """

    pairs: tuple[tuple[int, int], ...]
    runs: tuple[tuple[int, slice], ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Products:
        """List products that contain ``pairs``, which are all of the same parity of a + b."""
        last: dict[int, int] = {}
        for a, b in pairs:
            last[a] = max(b, last.get(a, 0))
        runs = [(a, slice(a + (b - a) % 2, b + 1, 2)) for a, b in sorted(last.items())]
        return cls(tuple((a, b) for a, run in runs for b in range(run.start, run.stop, 2)), tuple(runs))

    def multiply(self, functions: Tensor, out: Tensor) -> Tensor:
        """Write the products of functions ``[j, ...]`` to the first rows of ``out``; those rows, ``[pair, ...]``."""
        start = 0
        for a, run in self.runs:
            others = functions[run]
            torch.mul(functions[a], others, out=out[start : start + len(others)])
            start += len(others)
        return out[:start]


@dataclass(frozen=True)
class TripleIntegrals:
    """What is needed to integrate products of three functions on the sphere exactly, in one dtype on one device.

    Functions at the nodes are kept as ``[turn · grid, direction]``.

    Attributes:
        transforms: from the coefficients of degree j to f_j · weight^(1/3) at the nodes.
        slices: where the coefficients of degree j stand.
        products: the products that the triples use.
        places: element of the flattened matrix [product, even third] that holds each triple, ``[feature]``.
        factors: j + 1 of each triple, ``[feature]``.
        all_products: for even and odd j: the products that ∂B/∂f_j is a sum of.
        slopes: for even and odd j: the factors in that sum, ``[feature, j · product]``.
    """

    transforms: tuple[DegreeTransform, ...]
    slices: tuple[slice, ...]
    products: Products
    places: Tensor
    factors: Tensor
    all_products: tuple[Products, Products]
    slopes: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        triples: list[tuple[int, int, int]],
        basis: HarmonicBasis,
        values: tuple[Tensor, ...],
        quadrature: RotationQuadrature,
    ) -> TripleIntegrals:
        """Prepare the integrals of ``triples`` from the harmonics' values at the nodes of the quadrature."""
        n_degrees = len(values)
        splits = [product_and_third(triple) for triple in triples]
        products = Products.of(pair for pair, _ in splits)
        places = [products.pairs.index(pair) * ((n_degrees + 1) // 2) + third // 2 for pair, third in splits]
        all_products, slopes = [], []
        for parity in (0, 1):
            every = Products.of((a, b) for a in range(n_degrees) for b in range(a + parity, n_degrees, 2))
            slope = torch.zeros(len(triples), len(range(parity, n_degrees, 2)), len(every.pairs), dtype=torch.float64)
            for row, triple in enumerate(triples):
                for j, a, b in ((triple[i], *sorted(triple[:i] + triple[i + 1 :])) for i in range(3)):
                    if j % 2 == parity:
                        slope[row, j // 2, every.pairs.index((a, b))] += triple[2] + 1
            all_products.append(every)
            slopes.append(slope.flatten(1))
        # each of the three functions of a product carries a third of the node's weight
        root = (quadrature.weights / len(quadrature.turns)) ** (1 / 3)
        return cls(
            transforms=tuple(DegreeTransform.of(value * root / (j + 1), quadrature) for j, value in enumerate(values)),
            slices=basis.slices,
            products=products,
            places=torch.tensor(places),
            factors=torch.tensor([triple[2] + 1.0 for triple in triples], dtype=torch.float64),
            all_products=(all_products[0], all_products[1]),
            slopes=(slopes[0], slopes[1]),
        )

    def to(self, like: Tensor) -> TripleIntegrals:
        """The same in the dtype and on the device of ``like``."""
        return replace(
            self,
            transforms=tuple(transform.to(like) for transform in self.transforms),
            places=self.places.to(like.device),
            factors=self.factors.to(like),
            slopes=(self.slopes[0].to(like), self.slopes[1].to(like)),
        )

    def chunks(self, coefficients: Tensor) -> Iterator[tuple[Tensor, Workspace]]:
        """Divide the points; the parts share one workspace, since asking the system for memory takes time."""
        workspace: Workspace | None = None
        n_turns, n_directions = len(self.transforms[0].phases), self.transforms[0].still.shape[1]
        for part in coefficients.split(CHUNK.get(coefficients.device.type, CHUNK["cuda"])):
            nodes = n_turns * len(part)
            if workspace is None or workspace.functions.shape[1] != nodes:
                workspace = Workspace(
                    functions=part.new_empty(len(self.transforms), nodes, n_directions),
                    products=part.new_empty(len(self.all_products[0].pairs), nodes, n_directions),
                )
            yield part, workspace

    def functions(self, coefficients: Tensor, space: Workspace) -> Tensor:
        """f_j at the nodes, ``[j, turn · grid, direction]``."""
        for transform, part, out in zip(self.transforms, self.slices, space.functions):
            transform.apply(coefficients[:, part], out)
        return space.functions

    def bispectrum(self, coefficients: Tensor, space: Workspace) -> Tensor:
        """Bispectrum ``[grid, feature]`` of a few points."""
        functions = self.functions(coefficients, space)
        products = self.products.multiply(functions, space.products)
        table = torch.bmm(products.transpose(0, 1), functions[::2].permute(1, 2, 0))
        table = table.view(len(self.transforms[0].phases), len(coefficients), table.shape[1] * table.shape[2]).sum(
            dim=0
        )
        return table.index_select(1, self.places) * self.factors

    def gradient(self, coefficients: Tensor, cotangent: Tensor, space: Workspace) -> Tensor:
        """Derivative of Σ cotangent · bispectrum by the coefficients of a few points."""
        functions = self.functions(coefficients, space)
        n_turns = len(self.transforms[0].phases)
        result = torch.empty_like(coefficients)
        for parity, (every, slopes) in enumerate(zip(self.all_products, self.slopes)):
            products = every.multiply(functions, space.products)
            degrees = range(parity, len(functions), 2)
            table = (cotangent @ slopes).view(len(coefficients), len(degrees), len(every.pairs)).repeat(n_turns, 1, 1)
            by_functions = torch.bmm(table, products.transpose(0, 1))
            for j, slope in zip(degrees, by_functions.unbind(dim=1)):
                self.transforms[j].apply_transposed(slope.contiguous(), result[:, self.slices[j]])
        return result


@dataclass(frozen=True)
class Workspace:
    """Memory for the functions of a few points at the nodes.

    Attributes:
        functions: f_j, ``[j, turn · grid, direction]``.
        products: f_a f_b, ``[pair, turn · grid, direction]``.
    """

    functions: Tensor
    products: Tensor
