"""Features of points by atom-centred expansions: matrix products against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ase_ldos.descriptors.solid_harmonics import degree_slices, solid_harmonics
from ase_ldos.networks.se3_transformer.attention import bounded
from ase_ldos.networks.se3_transformer.readout import AtomCentredReadout

CUTOFF = 4.0


def make_readout(lmax: int, heads: int = 0, moments: int = 1) -> AtomCentredReadout:
    return AtomCentredReadout(
        lmax,
        3,
        cutoff=CUTOFF,
        n_radial=3,
        fields=4,
        moments=moments,
        heads=heads,
        generator=torch.Generator().manual_seed(0),
    ).double()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def surroundings(readout: AtomCentredReadout, n_points: int = 6, n_atoms: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Points, atoms and their coefficients; some atoms are beyond every cutoff."""
    points, atoms = random(n_points, 3), 2.5 * random(n_atoms, 3, seed=2)
    features = random(n_atoms, readout.size, 3, seed=3)
    return points, atoms, readout.coefficients(features).detach()


@pytest.mark.parametrize("heads", [0, 2])
@pytest.mark.parametrize("lmax", range(5))
def test_features_are_the_formulas(lmax: int, heads: int) -> None:
    readout = make_readout(lmax, heads)
    points, atoms, coefficients = surroundings(readout)
    turning = coefficients[:, : readout.size * 3 * (4 + heads)].reshape(len(atoms), readout.size, 3, 4 + heads)
    weights = coefficients[:, -3:]
    norms = readout._scales(points)[0]
    vectors = points[:, None] - atoms
    radial = torch.stack([torch.relu(1 - vectors.square().sum(-1) / support**2) ** 4 for support in readout.supports])
    angular = torch.stack([solid_harmonics(vectors / support, lmax) for support in readout.supports])
    share = (3 * readout.size) ** -0.5
    terms = torch.einsum("n,npi,npij,ijnk->pik", norms * share, radial, angular, turning)
    expected = [terms[..., :4].sum(dim=1)]
    if heads:
        assert readout.null is not None
        weighted = radial[0][..., None] * torch.exp(bounded(terms[..., 4:]))
        alpha = weighted / (torch.exp(bounded(readout.null)) + weighted.sum(dim=1, keepdim=True))
        expected.append((terms[..., :4] * alpha.repeat_interleave(2, dim=-1)).sum(dim=1))
    signs = torch.cat([torch.full((2 * l + 1,), (-1.0) ** l) for l in range(lmax + 1)]).double()  # noqa: E741
    moments = torch.einsum("n,npi,npij,in->pnj", norms, radial, angular * signs, weights)
    first, second = torch.triu_indices(3, 3)
    expected += [
        (moments[:, first][..., rows] * moments[:, second][..., rows]).sum(dim=-1) for rows in degree_slices(lmax)
    ]
    found = readout(points, atoms, coefficients)
    assert found.shape[1] == readout.n_features
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("heads", [0, 2])
def test_the_common_centre_and_other_points_do_not_matter(heads: int) -> None:
    readout = make_readout(3, heads, moments=2)
    points, atoms, coefficients = surroundings(readout)
    expected = readout(points, atoms, coefficients)
    shift = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
    torch.testing.assert_close(readout(points + shift, atoms + shift, coefficients), expected, rtol=0, atol=1e-11)
    torch.testing.assert_close(readout(points[2:3], atoms, coefficients), expected[2:3], rtol=0, atol=1e-12)


def test_nothing_near_gives_zero_with_zero_slope() -> None:
    readout = make_readout(2, heads=1)
    points, atoms, coefficients = surroundings(readout)
    for far in (atoms + 100, atoms[:0]):
        points = points.detach().requires_grad_()
        found = readout(points, far, coefficients[: len(far)])
        assert torch.equal(found, torch.zeros_like(found))
        assert torch.equal(torch.autograd.grad(found.sum(), points)[0], torch.zeros_like(points))


@pytest.mark.parametrize("heads", [0, 1])
@pytest.mark.parametrize("lmax", [0, 2, 4])
def test_first_and_second_derivatives_also_on_a_nucleus(lmax: int, heads: int) -> None:
    readout = make_readout(lmax, heads)
    points, atoms, coefficients = (x.requires_grad_() for x in surroundings(readout, n_points=1, n_atoms=3))
    points = atoms.detach()[:1].clone().requires_grad_()
    weights = random(readout.n_features, seed=4)
    outputs = lambda *arrays: readout(*arrays) @ weights  # noqa: E731
    # fast mode: a random direction instead of every column of the Jacobian
    assert torch.autograd.gradcheck(outputs, (points, atoms, coefficients), fast_mode=True)
    assert torch.autograd.gradgradcheck(outputs, (points, atoms, coefficients), fast_mode=True)


def test_float32_keeps_its_digits() -> None:
    readout = make_readout(4)
    points, atoms, coefficients = surroundings(readout)
    expected = readout(points, atoms, coefficients)
    found = readout(points.float(), atoms.float(), coefficients.float()).double()
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
