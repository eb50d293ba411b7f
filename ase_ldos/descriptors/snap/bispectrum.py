"""The bispectrum as a function that autograd can differentiate any number of times."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ase_ldos.descriptors.snap.triple_integrals import TripleIntegrals


def bispectrum_triples(twojmax: int) -> list[tuple[int, int, int]]:
    """(j1, j2, j), each twice the angular momentum, in the order of LAMMPS' columns: j2 ≤ j1 ≤ j ≤ j1 + j2."""
    return [
        (j1, j2, j)
        for j1 in range(twojmax + 1)
        for j2 in range(j1 + 1)
        for j in range(j1 - j2, min(twojmax, j1 + j2) + 1, 2)
        if j >= j1
    ]


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
        return torch.cat([integrals.bispectrum(part, space) for part, space in integrals.chunks(coefficients)])

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
        results, done = [], 0
        for part, space in integrals.chunks(coefficients):
            results.append(integrals.gradient(part, cotangent[done : done + len(part)], space))
            done += len(part)
        return torch.cat(results)

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
        length = coefficients.detach().norm(dim=1, keepdim=True)
        size = direction.detach().norm(dim=1, keepdim=True)
        scale = torch.where((length > 0) & (size > 0), length / size, 1)
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
