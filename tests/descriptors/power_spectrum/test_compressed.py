"""The power spectrum of pseudo-species: against the one of elements, its own slow form, and finite differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.registry import make_point_features

CHANNELS = {"Be": [1.0, -0.6, 0.2], "Mg": [1.0, 0.8, -0.4], "Si": [1.0, 0.1, 1.1]}
OPTIONS = {"cutoff": 3.2, "n_radial": 3, "lmax": 2}


def descriptor(n: int = 3) -> CompressedPowerSpectrum:
    return CompressedPowerSpectrum((4, 12, 14), channels={s: row[:n] for s, row in CHANNELS.items()}, **OPTIONS)


@pytest.fixture
def structure() -> Structure:
    atoms = Atoms(
        "BeMgSi", cell=[3.1, 3.3, 3.6], scaled_positions=[(0, 0, 0), (0.5, 0.4, 0.5), (0.1, 0.6, 0.9)], pbc=True
    )
    atoms.rattle(0.1, seed=1)
    return Structure.from_atoms(atoms)


def only_block(structure: Structure) -> Block:
    (block,) = iterate_blocks(structure, Grid(structure.cell, (2, 3, 2)), 3.2, max_points=12)
    return block


def test_one_channel_is_the_power_spectrum_of_one_element() -> None:
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.27, c=3.57))
    block = only_block(structure)
    one = CompressedPowerSpectrum((4,), channels={"Be": [1.0]}, **OPTIONS)
    plain = PowerSpectrum((4,), **OPTIONS)
    state = plain.encode_atoms(structure)[block.owners]
    expected = plain(block.points, block.atoms, state)
    torch.testing.assert_close(one(block.points, block.atoms, state), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.jacobian(block, state, 2), plain.jacobian(block, state, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3])
def test_kernel_and_its_adjoint(structure: Structure, n: int) -> None:
    compressed, block = descriptor(n) if n == 3 else descriptor(2), only_block(structure)
    state = compressed.encode_atoms(structure)[block.owners]
    results = []
    for evaluate in (compressed, compressed.reference):
        points, atoms = (t.clone().requires_grad_() for t in (block.points, block.atoms))
        features = evaluate(points, atoms, state)
        weights = torch.linspace(-1, 1, features.numel(), dtype=torch.float64).reshape(features.shape)
        results.append((features.detach(), *torch.autograd.grad((weights * features).sum(), (points, atoms))))
    assert results[0][0].shape == (12, compressed.n_features)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_features_of_the_weighted_sum_of_densities(structure: Structure) -> None:
    """Amplitudes are Σ_Z w_c(Z) of those of the elements."""
    compressed, block = descriptor(), only_block(structure)
    state = compressed.encode_atoms(structure)[block.owners]
    elements = PowerSpectrum((4, 12, 14), **OPTIONS).amplitudes(block.points, block.atoms, state)
    by_element = elements.unflatten(1, (3, OPTIONS["n_radial"]))
    expected = torch.einsum("sc,gsni->gcni", compressed.weights, by_element).flatten(1, 2)
    torch.testing.assert_close(compressed.amplitudes(block.points, block.atoms, state), expected)


def test_jacobian_against_finite_differences(structure: Structure) -> None:
    compressed, step = descriptor(), 1e-4

    def features(positions: Tensor, strain: Tensor) -> Tensor:
        moved = replace(structure, positions=positions).strained(strain)
        block = only_block(moved)
        return compressed(block.points, block.atoms, compressed.encode_atoms(moved)[block.owners])

    block = only_block(structure)
    found = compressed.jacobian(block, compressed.encode_atoms(structure)[block.owners], 3)
    none = torch.zeros(3, 3, dtype=torch.float64)
    for row in range(9):
        shift = torch.zeros(9, dtype=torch.float64)
        shift[row] = step
        ends = [features(structure.positions + sign * shift.reshape(3, 3), none) for sign in (1, -1)]
        torch.testing.assert_close(found[:, row], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)
    for place, (x, y) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        strain = none.clone()
        strain[x, y] += step / 2
        strain[y, x] += step / 2
        ends = [features(structure.positions, sign * strain) for sign in (1, -1)]
        torch.testing.assert_close(found[:, 9 + place], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_mean_features(structure: Structure) -> None:
    compressed = descriptor()
    grid = Grid(structure.cell, (20, 20, 24))
    total = torch.zeros(compressed.n_features, dtype=torch.float64)
    for block in iterate_blocks(structure, grid, compressed.cutoff):
        total += compressed(block.points, block.atoms, compressed.encode_atoms(structure)[block.owners]).sum(dim=0)
    means = compressed.mean_features(structure.numbers, structure.volume)
    assert means.shape == (9,)
    torch.testing.assert_close(total[:9] / grid.n_points, means, rtol=2e-3, atol=2e-3)


def test_settings_build_it_again() -> None:
    compressed = descriptor()
    again = make_point_features(compressed.settings())
    assert again.settings() == compressed.settings()
    assert again.n_features == compressed.n_features == 9 + 3 * (3 * 6 + 3 * 3)


@pytest.mark.parametrize(
    ("species", "channels", "message"),
    [
        ((4, 13), CHANNELS, "channels have no weights of Al; they have Be, Mg, Si"),
        ((4, 12), {"Be": [1.0], "Mg": [1.0, 2.0]}, "every element needs the same number"),
        ((4, 12), {"Be": [1.0], "Mg": [1.0]}, "give Be and Mg the same weights"),
        ((4, 12), {"Be": [1.0], "Mg": [float("nan")]}, "finite numbers"),
        ((4,), {"Be": [1.0], "Xx": [2.0]}, "names? 'Xx'"),
    ],
)
def test_bad_channels(species: tuple[int, ...], channels: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressedPowerSpectrum(species, channels=channels, **OPTIONS)
