"""Rotations, reflections and how solid harmonics turn under them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ase_ldos.descriptors.solid_harmonics import degree_slices, solid_harmonics


def random_orthogonal(determinant: int) -> Tensor:
    """A rotation (1) or a rotation with a reflection (−1), ``[3, 3]``."""
    random = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = torch.linalg.qr(random)[0]
    return matrix * torch.det(matrix) * determinant


@pytest.fixture(params=[1, -1], ids=["proper", "improper"])
def orthogonal(request: pytest.FixtureRequest) -> Tensor:
    """A random orthogonal matrix."""
    return random_orthogonal(request.param)


@pytest.fixture
def representation(orthogonal: Tensor) -> Callable[[int], list[Tensor]]:
    """Matrices D_l with S_l(R r) = D_l S_l(r) for l up to the argument, solved for from points."""

    def turn(lmax: int) -> list[Tensor]:
        points = torch.randn(90, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        before, after = solid_harmonics(points, lmax), solid_harmonics(points @ orthogonal.T, lmax)
        return [torch.linalg.lstsq(before[:, rows], after[:, rows]).solution.T for rows in degree_slices(lmax)]

    return turn
