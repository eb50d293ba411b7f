"""Clebsch-Gordan tables: orthogonality, equivariance, an independent source."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sympy.physics.wigner import clebsch_gordan
from torch import Tensor

from ase_ldos.descriptors.solid_harmonics import degree_slices
from ase_ldos.networks.se3_transformer.clebsch_gordan import coupling, coupling_table, paths

ALL = paths(4, 4)


def test_paths_are_all_triangles_of_even_sum() -> None:
    assert paths(0, 2) == [(0, 0, 0), (0, 1, 1), (0, 2, 2)]
    assert len(paths(2, 2)) == 11
    assert len(ALL) == len(set(ALL)) == 42


@pytest.mark.parametrize("degrees", ALL)
def test_orthogonality(degrees: tuple[int, int, int]) -> None:
    tensor = coupling(*degrees)
    size = tensor.shape[2]
    gram = torch.einsum("abc,abd->cd", tensor, tensor)
    torch.testing.assert_close(gram, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)


def test_coupled_features_turn_as_their_degree_says(representation: Callable[[int], list[Tensor]]) -> None:
    turns = representation(4)
    for l1, l2, l3 in ALL:
        tensor = coupling(l1, l2, l3)
        turned_inputs = torch.einsum("abc,ad,be->dec", tensor, turns[l1], turns[l2])
        turned_output = torch.einsum("dec,fc->def", tensor, turns[l3])
        torch.testing.assert_close(turned_inputs, turned_output, rtol=0, atol=1e-12)


@pytest.mark.parametrize("degrees", [(1, 1, 2), (2, 2, 4), (1, 2, 3), (3, 3, 4), (2, 2, 2)])
def test_sympy_has_the_same_coefficient(degrees: tuple[int, int, int]) -> None:
    """m = 0 is the same in the real and the complex basis, up to one sign for the whole path."""
    l1, l2, l3 = degrees
    expected = abs(float(clebsch_gordan(l1, l2, l3, 0, 0, 0)))
    assert abs(float(coupling(*degrees)[l1, l2, l3])) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(("lmax_in", "lmax"), [(0, 0), (0, 3), (2, 2), (4, 4)])
def test_table_sums_all_paths(lmax_in: int, lmax: int) -> None:
    table = coupling_table(lmax_in, lmax, torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    features = torch.randn((lmax_in + 1) ** 2, dtype=torch.float64, generator=generator)
    harmonics = torch.randn((lmax + 1) ** 2, dtype=torch.float64, generator=generator)
    weights = torch.randn(table.n_paths, dtype=torch.float64, generator=generator)
    products = (harmonics @ table.tensor).reshape(len(table.path), -1) @ features
    found = table.gather @ (products * weights[table.path])
    slices, expected = degree_slices(4), torch.zeros_like(harmonics)
    for weight, (l1, l2, l3) in zip(weights, paths(lmax_in, lmax)):
        part = torch.einsum("abc,a,b->c", coupling(l1, l2, l3), features[slices[l1]], harmonics[slices[l2]])
        share = sum(path[2] == l3 for path in paths(lmax_in, lmax))
        expected[slices[l3]] += weight * part * ((2 * l2 + 1) / share) ** 0.5
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degrees", [(1, 1, 1), (1, 1, 3)])
def test_degrees_that_do_not_couple(degrees: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="do not couple"):
        coupling(*degrees)


def test_degree_out_of_range() -> None:
    with pytest.raises(ValueError, match="between 0 and 4"):
        coupling(5, 1, 4)
