"""The SE(3)-equivariant network: its symmetries to 1e-10, its smoothness, its derivatives, bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.se3_transformer.network import SE3Transformer

#: One for the fast lane, all for the slow one.
LMAXES = [2, *(pytest.param(lmax, marks=pytest.mark.slow) for lmax in (0, 1, 3, 4))]
SMALL: dict[str, Any] = {
    "cutoff": 3.2,
    "atom_cutoff": 3.4,
    "channels": 4,
    "heads": 2,
    "n_radial": 3,
    "n_radial_atoms": 4,
    "fields": 4,
}


def network(lmax: int, **options: int) -> SE3Transformer:
    return SE3Transformer((4, 12), **{**SMALL, "lmax": lmax, **options}).double()


def alloy() -> Structure:
    """Two kinds of atoms in a sheared cell that is smaller than every cutoff."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.numbers[1] = 12
    atoms.set_cell(atoms.cell[:] @ [[1.02, 0.1, -0.07], [0.05, 0.98, 0.12], [0.2, -0.11, 1.01]], scale_atoms=True)
    atoms.rattle(0.1, seed=3)
    return Structure.from_atoms(atoms)


def features(
    net: SE3Transformer, structure: Structure, shape: tuple[int, int, int] = (3, 2, 4), block: int = 7
) -> Tensor:
    """Features of all grid points, ``[grid, feature]``."""
    grid, coefficients = Grid(structure.cell, shape), net.encode_atoms(structure)
    found = torch.zeros(grid.n_points, net.n_features, dtype=coefficients.dtype)
    for part in iterate_blocks(structure, grid, net.cutoff, max_points=block, dtype=coefficients.dtype):
        found = found.index_copy(0, part.flat, net(part.points, part.atoms, coefficients[part.owners]))
    return found


def at_points(net: SE3Transformer, structure: Structure, points: Tensor) -> Tensor:
    """Features of any points, of the atoms of one cell without images."""
    return net(points, structure.positions, net.encode_atoms(structure))


@pytest.mark.parametrize("options", [{}, {"point_heads": 2}, {"spectrum_radial": 2}], ids=str)
@pytest.mark.parametrize("lmax", LMAXES)
def test_rotations_and_reflections(lmax: int, options: dict[str, int], orthogonal: Tensor) -> None:
    net, structure = network(lmax, **options), alloy()
    turned = replace(structure, positions=structure.positions @ orthogonal.T, cell=structure.cell @ orthogonal.T)
    expected = features(net, structure)
    assert float(expected.std(dim=0).min().detach()) > 1e-4
    torch.testing.assert_close(features(net, turned), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lmax", LMAXES)
def test_translation_wrapping_and_permutation(lmax: int) -> None:
    net, structure = network(lmax), alloy()
    expected = features(net, structure)
    steps = torch.tensor([2, -1, 3], dtype=torch.float64) / torch.tensor([3, 2, 4], dtype=torch.float64)
    moved = replace(structure, positions=structure.positions + steps @ structure.cell)
    grid = torch.arange(24).reshape(3, 2, 4)
    torch.testing.assert_close(
        features(net, moved), expected[torch.roll(grid, (2, -1, 3), dims=(0, 1, 2)).flatten()], rtol=1e-10, atol=1e-10
    )
    shifts = torch.tensor([[1.0, 0, -2], [0, 3, 0]], dtype=torch.float64)
    wrapped = replace(structure, positions=structure.positions + shifts @ structure.cell)
    torch.testing.assert_close(features(net, wrapped), expected, rtol=1e-10, atol=1e-10)
    swapped = replace(structure, numbers=structure.numbers.flip(0), positions=structure.positions.flip(0))
    torch.testing.assert_close(features(net, swapped), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lmax", LMAXES)
def test_supercell(lmax: int) -> None:
    net, structure = network(lmax), alloy()
    doubled = Structure(
        structure.numbers.repeat(2),
        torch.cat((structure.positions, structure.positions + structure.cell[0])),
        structure.cell * torch.tensor([[2.0], [1.0], [1.0]], dtype=torch.float64),
    )
    once, twice = features(net, structure), features(net, doubled, (6, 2, 4)).reshape(2, 24, -1)
    torch.testing.assert_close(twice, torch.stack((once, once)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"point_heads": 2}, {"spectrum_radial": 2}], ids=str)
def test_blocks_do_not_matter(options: dict[str, int]) -> None:
    net, structure = network(2, **options), alloy()
    expected = features(net, structure, block=24)
    for block in (1, 5):
        torch.testing.assert_close(features(net, structure, block=block), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("lmax", LMAXES)
def test_what_lies_beyond_all_layers_does_not_matter(lmax: int) -> None:
    """Two layers of 3.4 Å and a readout of 3.2 Å reach 10 Å, and no farther."""
    net = network(lmax)
    places = [[0, 0, 0], [2.2, 0, 0], [5.3, 0.2, 0], [8.4, 0, 0.1], [11.3, 0, 0], [14.2, 0, 0]]
    chain = Structure.from_atoms(Atoms("Be6", np.array(places) + 10, cell=[60, 60, 60], pbc=True))
    point = chain.positions[:1] + torch.tensor([[-0.7, 0.5, 0.2]], dtype=torch.float64)
    point = point.requires_grad_()
    leaf = replace(chain, positions=chain.positions.clone().requires_grad_())
    (slope,) = torch.autograd.grad(at_points(net, leaf, point).sum(), leaf.positions)
    assert torch.equal(slope[4:], torch.zeros(2, 3, dtype=torch.float64))
    assert (slope[:3].abs().amax(dim=1) > 1e-6).all()


@pytest.mark.parametrize("lmax", LMAXES)
@pytest.mark.parametrize("radius", [3.4, 3.2], ids=["atom_cutoff", "cutoff"])
def test_crossing_a_cutoff_is_smooth(lmax: int, radius: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, slope and curvature along the way of an atom across the cutoff of an atom and of a point."""
    # the kernel of predictions has no second derivatives; these are the same features
    monkeypatch.setattr(PowerSpectrum, "__call__", PowerSpectrum.reference)
    net = network(lmax, moments=1, point_heads=2, spectrum_radial=2)
    direction = torch.nn.functional.normalize(torch.tensor([1.0, -0.6, 0.3], dtype=torch.float64), dim=0)
    fixed = Structure.from_atoms(Atoms("BeMg", [[10, 10, 10], [10, 12.1, 10.4]], cell=[40, 40, 40], pbc=True))
    weights = torch.randn(net.n_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def derivatives(distance: float) -> list[Tensor]:
        d = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        visitor = fixed.positions[:1] + (direction * d)[None]
        structure = replace(fixed, numbers=torch.tensor([4, 12, 4]), positions=torch.cat((fixed.positions, visitor)))
        value = at_points(net, structure, fixed.positions[:1]) @ weights
        (slope,) = torch.autograd.grad(value, d, create_graph=True)
        (bend,) = torch.autograd.grad(slope, d)
        return [x.detach().squeeze() for x in (value, slope, bend)]

    inside, outside = derivatives(radius - 1e-6), derivatives(radius + 1e-6)
    scale = max(float(abs(x)) for x in derivatives(radius - 0.8))
    assert scale > 1e-3
    # a jump would stay when the step shrinks; of a smooth curve only the third derivative is left
    for jump, bound in zip((abs(a - b) for a, b in zip(inside, outside)), (1e-5, 1e-4, 1e-2)):
        assert float(jump) < bound * scale


def test_isolated_atoms_and_vacuum() -> None:
    net = network(2, point_heads=2)
    lone = Structure.from_atoms(Atoms("Be", [[1.0, 2, 3]], cell=[20, 20, 20], pbc=True))
    far, near = lone.positions + 9.0, lone.positions + 0.3
    points = torch.cat((far, near)).requires_grad_()
    found = at_points(net, lone, points)
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert found[1].abs().max() > 1e-3
    (slope,) = torch.autograd.grad(found.sum(), points)
    assert torch.equal(slope[0], torch.zeros_like(slope[0]))
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("lmax", LMAXES)
def test_slopes_in_atoms_and_strain(lmax: int) -> None:
    """The gradient against central differences, with periodic images of the moved atom everywhere."""
    net, structure = network(lmax, point_heads=2, spectrum_radial=2), alloy()
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(24, net.n_features, dtype=torch.float64, generator=generator)
    step = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    stretch = torch.randn(3, 3, dtype=torch.float64, generator=generator)

    def total(t: Tensor) -> Tensor:
        moved = replace(structure, positions=structure.positions + t[0] * step).strained(t[1] * stretch)
        return (features(net, moved, block=12) * weights).sum()

    start = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(start), start)
    h = 1e-4
    for axis, unit in enumerate(torch.eye(2, dtype=torch.float64)):
        with torch.no_grad():
            a, b, c, d = (float(total(k * h * unit)) for k in (-2, -1, 1, 2))
        numeric = (a - 8 * b + 8 * c - d) / (12 * h)
        assert float(slope[axis]) == pytest.approx(numeric, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("lmax", LMAXES)
def test_slopes_of_slopes(lmax: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss on forces: its gradient in the weights of every part of the network against central differences."""
    monkeypatch.setattr(PowerSpectrum, "__call__", PowerSpectrum.reference)
    net, structure = network(lmax, channels=2, heads=1, point_heads=1, spectrum_radial=2, spectrum_lmax=1), alloy()
    generator = torch.Generator().manual_seed(3)
    directions = [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in net.parameters()]
    start = [p.detach().clone() for p in net.parameters()]

    def loss() -> Tensor:
        leaf = replace(structure, positions=structure.positions.clone().requires_grad_())
        energy = torch.sin(0.1 * features(net, leaf, (2, 2, 2), block=8)).sum()
        return torch.autograd.grad(energy, leaf.positions, create_graph=True)[0].square().sum()

    found = torch.autograd.grad(loss(), list(net.parameters()), allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, directions) if g is not None)
    values, h = [], 3e-5
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            for parameter, begin, direction in zip(net.parameters(), start, directions):
                parameter.copy_(begin + k * h * direction)
        values.append(float(loss().detach()))
    a, b, c, d = values
    assert slope == pytest.approx((a - 8 * b + 8 * c - d) / (12 * h), rel=1e-6)


def test_float32_by_default_and_close_to_float64() -> None:
    net, structure = SE3Transformer((4, 12), **SMALL), alloy()
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    found, expected = features(net, structure), features(net.double(), structure)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        SE3Transformer((4,), **SMALL, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (5, 5, 6)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding"], other["embedding"])


def test_settings_build_the_same_network() -> None:
    net = network(1, moments=0, point_heads=2, layers=1)
    settings = json.loads(json.dumps(net.settings()))
    assert settings.pop("kind") == "se3_transformer"
    twin = SE3Transformer(tuple(settings.pop("species")), **settings).double()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(features(twin, alloy()), features(net, alloy()))


def test_without_layers_only_the_kind_of_an_atom_counts() -> None:
    net = network(2, layers=0)
    coefficients = net.encode_atoms(alloy())
    alone = net.encode_atoms(Structure.from_atoms(Atoms("Be", cell=[9, 9, 9], pbc=True)))
    torch.testing.assert_close(coefficients[:1], alone, rtol=0, atol=0)
    assert not torch.equal(coefficients[0], coefficients[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lmax": 5}, "lmax is 5; degrees from 0 to 4"),
        ({"spectrum_lmax": 5}, "spectrum_lmax is 5; degrees from 0 to 4"),
        ({"spectrum_radial": -1}, "spectrum_radial is -1; it must be an integer of at least 0"),
        ({"cutoff": 0.0}, "both must be positive"),
        ({"atom_cutoff": -inf}, "both must be positive"),
        ({"layers": -1}, "layers is -1; it must be an integer of at least 0"),
        ({"channels": 2.5}, "channels is 2.5; it must be an integer of at least 1"),
        ({"fields": 0}, "fields is 0; it must be an integer of at least 1"),
        ({"heads": 3}, "4 channels cannot be shared by 3 heads"),
        ({"point_heads": 3}, "4 fields cannot be shared by 3 point_heads"),
    ],
)
def test_settings_that_make_no_network(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SE3Transformer((4,), **{**SMALL, **options})


def test_the_fixed_features_are_those_of_the_power_spectrum() -> None:
    net, structure = network(1, spectrum_radial=3, spectrum_lmax=2), alloy()
    alone = PowerSpectrum((4, 12), cutoff=SMALL["cutoff"], n_radial=3, lmax=2)
    (block,) = iterate_blocks(structure, Grid(structure.cell, (3, 2, 4)), alone.cutoff, max_points=24)
    found = net(block.points, block.atoms, net.encode_atoms(structure)[block.owners])
    assert net.n_features - net.n_learned == alone.n_features
    assert torch.equal(
        found[:, : alone.n_features], alone(block.points, block.atoms, alone.encode_atoms(structure)[block.owners])
    )
    assert torch.equal(found[:, alone.n_features :], features(network(1), structure, block=24)[block.flat])


def test_foreign_elements_and_no_species() -> None:
    with pytest.raises(ValueError, match="the model knows Be, Mg; the atoms contain Al"):
        network(0).encode_atoms(Structure.from_atoms(bulk("Al")))
    with pytest.raises(ValueError, match="at least one"):
        SE3Transformer((), **SMALL)
