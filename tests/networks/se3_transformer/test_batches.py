"""Many blocks at once against one after the other: values, and derivatives in atoms, points and the atoms' states."""

from __future__ import annotations

import pytest
import torch
from batch_checks import check_batches
from torch import Tensor
from torch.autograd import gradcheck

from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.image_table import ImageGroup
from ase_ldos.networks.se3_transformer.network import SE3Transformer

#: Fields alone, and with all that a readout may have.
OPTIONS = {"fields": {"moments": 0, "spectrum_radial": 3}, "all": {"moments": 2, "point_heads": 2}}


def network(species: tuple[int, ...], **options: int) -> SE3Transformer:
    return SE3Transformer(
        species, cutoff=3.9, atom_cutoff=3.0, lmax=2, channels=4, heads=2, n_radial=3, fields=4, **options
    ).double()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("species", [(4,), (4, 12)])
def test_values_and_derivatives_of_blocks(options: str, species: tuple[int, ...]) -> None:
    check_batches(network(species, **OPTIONS[options]), tolerance=1e-11)


def test_narrow_functions_leave_out_what_they_do_not_reach() -> None:
    features = network((4,), spectrum_radial=2)
    radii = features.batch_radii(torch.float64)
    assert radii[0] == features.cutoff
    assert radii[-2:] == tuple(features.readout.supports[1:])
    assert len(radii) == 2 + 2
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, 3, dtype=torch.float64, generator=generator) - 0.5
    atoms = 8 * torch.rand(2, 9, 3, dtype=torch.float64, generator=generator) - 4
    atoms = torch.stack([part[part.norm(dim=1).argsort()] for part in atoms])
    reach = float(points.norm(dim=1).max())
    counts = [int((atoms.norm(dim=2) < radius + reach).sum(dim=1).max()) for radius in radii]
    assert counts[-1] < counts[0]
    states = torch.cat((torch.zeros(2, 9, 1), torch.randn(2, 9, 120, generator=generator)), dim=2).double()
    states = states[..., : 1 + features.readout.coefficients(torch.zeros(1, 9, 4).double()).shape[1]]
    flat, owners = torch.arange(6), torch.zeros(2, 9, dtype=torch.int64)

    def of_batch(points: Tensor, atoms: Tensor, states: Tensor, counts: list[int]) -> Tensor:
        group = ImageGroup(slice(0, 9), (9, *counts[1:]))
        return features.of_batch(BlockBatch(flat, points, atoms, owners, (group,)), states)

    torch.testing.assert_close(
        of_batch(points, atoms, states, counts), of_batch(points, atoms, states, [9] * 4), rtol=0, atol=1e-12
    )
    leaves = [part.requires_grad_() for part in (points, atoms, states)]
    assert gradcheck(lambda *parts: of_batch(*parts, counts), leaves, atol=1e-6, fast_mode=True)
