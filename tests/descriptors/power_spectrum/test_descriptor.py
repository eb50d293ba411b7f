"""Power spectrum: the formula summed naively, derivatives, symmetries, several species."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.power_spectrum.kernel import bell_height, image_counts
from ase_ldos.descriptors.solid_harmonics import degree_slices, solid_harmonics
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure


def spectrum(species: tuple[int, ...] = (4,), cutoff: float = 3.5) -> PowerSpectrum:
    return PowerSpectrum(species, cutoff=cutoff, n_radial=3, lmax=3)


def surroundings(n_points: int = 4, n_atoms: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Points, atoms and species indices (0, 1) about the origin."""
    generator = torch.Generator().manual_seed(5)
    points = torch.rand(n_points, 3, dtype=torch.float64, generator=generator) - 0.5
    atoms = 6 * torch.rand(n_atoms, 3, dtype=torch.float64, generator=generator) - 3
    return points, atoms, torch.arange(n_atoms) % 2


def naive(descriptor: PowerSpectrum, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
    """The module's formula, atom by atom."""
    widths = [descriptor.cutoff / np.sqrt(6 * 2**n) for n in range(descriptor.n_radial)]
    degrees = np.repeat(np.arange(descriptor.lmax + 1), 2 * np.arange(descriptor.lmax + 1) + 1)
    rows = []
    for point in points:
        amplitudes = np.zeros((len(descriptor.species), descriptor.n_radial, (descriptor.lmax + 1) ** 2))
        for atom, kind in zip(atoms, species):
            v = atom - point
            bell = 1 - float(v @ v) / descriptor.cutoff**2
            if bell <= 0:
                continue
            harmonics = solid_harmonics(v, descriptor.lmax).numpy()
            for n in range(descriptor.n_radial):
                amplitudes[int(kind), n] += bell ** (3 * 2**n) * harmonics * widths[n] ** (-degrees - 1.5)
        channels = amplitudes.reshape(-1, amplitudes.shape[-1])
        row = list(channels[:, 0])
        for part in degree_slices(descriptor.lmax):
            pairs = itertools.combinations_with_replacement(range(len(channels)), 2)
            row += [channels[a, part] @ channels[b, part] for a, b in pairs]
        rows.append(row)
    return torch.tensor(np.array(rows))


def on_grid(descriptor: PowerSpectrum, atoms: Atoms, shape: tuple[int, int, int], max_points: int = 64) -> Tensor:
    """Features of all points of the grid of a periodic structure, ``[grid, feature]``."""
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, shape)
    features = torch.empty(grid.n_points, descriptor.n_features, dtype=torch.float64)
    for block in iterate_blocks(structure, grid, descriptor.cutoff, max_points=max_points):
        features[block.flat] = descriptor(block.points, block.atoms, descriptor.encode_atoms(structure)[block.owners])
    return features


def rattled(repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.1, seed=1)
    return atoms.repeat(repeat)


@pytest.mark.parametrize("species", [(4,), (4, 12)])
def test_formula(species: tuple[int, ...]) -> None:
    descriptor = spectrum(species)
    points, atoms, kinds = surroundings()
    kinds = kinds % len(species)
    found = descriptor(points, atoms, kinds)
    assert found.shape == (4, descriptor.n_features)
    torch.testing.assert_close(found, naive(descriptor, points, atoms, kinds), rtol=1e-10, atol=1e-10)


def test_formula_over_periodic_images() -> None:
    """The blocks bring every image: compared with the sum over a large box of them."""
    descriptor, atoms, shape = spectrum(), rattled(), (2, 2, 3)
    cell = atoms.cell[:]
    steps = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    images = torch.as_tensor((atoms.positions[None] + (steps @ cell)[:, None]).reshape(-1, 3))
    points = Grid(torch.as_tensor(cell), shape).points()
    expected = naive(descriptor, points, images, torch.zeros(len(images), dtype=torch.int64))
    torch.testing.assert_close(on_grid(descriptor, atoms, shape), expected, rtol=1e-9, atol=1e-9)


def test_first_and_second_derivatives() -> None:
    """The kernel knows the first; ``reference`` both."""
    descriptor = spectrum((4, 12))
    points, atoms, kinds = surroundings(2, 6)
    weights = torch.linspace(-1, 1, descriptor.n_features, dtype=torch.float64)

    def kernel(p: Tensor, a: Tensor) -> Tensor:
        return torch.tanh(descriptor(p, a, kinds)) @ weights

    def reference(p: Tensor, a: Tensor) -> Tensor:
        return torch.tanh(descriptor.reference(p, a, kinds)) @ weights

    inputs = (points.requires_grad_(), atoms.requires_grad_())
    assert torch.autograd.gradcheck(kernel, inputs, eps=1e-5, atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(reference, inputs, eps=1e-5, atol=1e-6, rtol=1e-5)


def test_a_second_derivative_of_the_kernel_is_refused() -> None:
    """Not silently taken for zero."""
    points, atoms, kinds = surroundings()
    features = spectrum((4, 12))(points, atoms.requires_grad_(), kinds)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(features.sum(), atoms, create_graph=True)


@pytest.mark.parametrize("species", [(4,), (4, 12), (4, 12, 13)])
@pytest.mark.parametrize("moving", ["atoms", "points", "both"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_kernel_against_reference(species: tuple[int, ...], moving: str, dtype: torch.dtype, tolerance: float) -> None:
    """Features and gradients, also where a species is absent (the third)."""
    descriptor = spectrum(species)
    points, atoms, kinds = surroundings(40, 30)
    kinds = kinds % len(species)
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(len(points), descriptor.n_features, generator=generator, dtype=torch.float64)

    def evaluate(function: Callable[..., Tensor], number_type: torch.dtype) -> list[Tensor]:
        p, a = (t.to(number_type, copy=True) for t in (points, atoms))
        leaves = {"atoms": [a], "points": [p], "both": [p, a]}[moving]
        for leaf in leaves:
            leaf.requires_grad_()
        features = function(p, a, kinds)
        return [features.detach(), *torch.autograd.grad(features, leaves, slope.to(number_type))]

    found, expected = evaluate(descriptor, dtype), evaluate(descriptor.reference, torch.float64)
    for one, other in zip(found, expected):
        assert one.dtype == dtype
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_images_beyond_a_narrow_function_do_not_count(dtype: torch.dtype, tolerance: float) -> None:
    """The kernel leaves them out; in whatever order they come, features and gradients stay those of the formula."""
    descriptor = PowerSpectrum((4,), cutoff=5.0, n_radial=6, lmax=4)
    points = 0.5 * surroundings(40)[0]
    generator = torch.Generator().manual_seed(2)
    atoms = 12 * torch.rand(150, 3, dtype=torch.float64, generator=generator) - 6
    atoms = atoms[atoms.norm(dim=1).argsort()]
    kinds = torch.zeros(len(atoms), dtype=torch.int64)
    counts = image_counts(bell_height(points, atoms, 5.0).to(dtype), 6, 25)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 0.4 * counts[0]
    slope = torch.randn(len(points), descriptor.n_features, generator=generator, dtype=torch.float64)

    def evaluate(function: Callable[..., Tensor], order: Tensor, number_type: torch.dtype) -> tuple[Tensor, Tensor]:
        leaf = atoms[order].to(number_type).requires_grad_()
        features = function(points.to(number_type), leaf, kinds)
        (gradient,) = torch.autograd.grad(features, leaf, slope.to(number_type))
        return features.detach().double(), gradient[order.argsort()].double()

    expected = evaluate(descriptor.reference, torch.arange(150), torch.float64)
    for order in (torch.arange(150), torch.randperm(150, generator=generator)):
        for one, other in zip(evaluate(descriptor, order, dtype), expected):
            assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_points_that_change_in_place_are_seen() -> None:
    """What is kept for the latest points is kept for these very numbers."""
    descriptor = spectrum()
    points, atoms, kinds = surroundings()
    first = descriptor(points, atoms, 0 * kinds)
    points += 0.1
    expected = descriptor.reference(points, atoms, 0 * kinds)
    assert (first - expected).abs().max() > 1e-3
    torch.testing.assert_close(descriptor(points, atoms, 0 * kinds), expected, rtol=1e-12, atol=1e-12)


def test_a_used_descriptor_can_be_copied() -> None:
    descriptor = spectrum()
    points, atoms, kinds = surroundings()
    expected = descriptor(points, atoms, 0 * kinds)
    assert torch.equal(copy.deepcopy(descriptor)(points, atoms, 0 * kinds), expected)


def test_supercell_repeats_the_features() -> None:
    descriptor = spectrum()
    one = on_grid(descriptor, rattled(), (4, 4, 6)).reshape(4, 4, 6, -1)
    two = on_grid(descriptor, rattled((2, 1, 1)), (8, 4, 6)).reshape(8, 4, 6, -1)
    torch.testing.assert_close(two, one.repeat(2, 1, 1, 1), rtol=1e-9, atol=1e-9)


def test_blocks_change_nothing() -> None:
    descriptor = spectrum()
    small, large = (on_grid(descriptor, rattled(), (6, 5, 8), size) for size in (7, 10**6))
    torch.testing.assert_close(small, large, rtol=1e-10, atol=1e-10)


def test_species_are_told_apart() -> None:
    descriptor = spectrum((4, 12))
    points, atoms, kinds = surroundings()
    assert (descriptor(points, atoms, kinds) - descriptor(points, atoms, 1 - kinds)).abs().max() > 1e-2
    # with the channels exchanged, the amplitudes are exchanged
    first, second = (descriptor(points, atoms, index)[:, :6] for index in (kinds, 1 - kinds))
    torch.testing.assert_close(first[:, :3], second[:, 3:])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_smooth_at_the_cutoff(order: int) -> None:
    """An atom that crosses the cutoff switches on with two continuous derivatives."""
    descriptor = spectrum(cutoff=3.0)
    origin = torch.zeros(1, 3, dtype=torch.float64)

    def amplitude(distance: Tensor) -> Tensor:
        atom = torch.stack((distance, torch.zeros_like(distance), torch.zeros_like(distance)))[None]
        return descriptor.reference(origin, atom, torch.zeros(1, dtype=torch.int64))[0, 0]

    def derivative(distance: float) -> Tensor:
        x = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        value = amplitude(x)
        for _ in range(order):
            (value,) = torch.autograd.grad(value, x, create_graph=True)
        return value.detach()

    assert float(derivative(3.0 + 1e-4)) == 0.0
    # (1 − d²/r_c²)³ vanishes as the third power of the distance from the cutoff
    close, closer = (abs(float(derivative(3.0 - gap))) for gap in (2e-3, 1e-3))
    assert closer < 1.01 * close / 2 ** (3 - order)
    assert close > 0


@pytest.mark.parametrize(
    ("species", "options", "sentence"),
    [
        ((), {}, "give each atomic number once"),
        ((4, 4), {}, "give each atomic number once"),
        ((4,), {"cutoff": 0.0}, "cutoff is 0.0 Å; it must be positive"),
        ((4,), {"n_radial": 0}, "n_radial is 0; it must be a whole number from 1 to 16"),
        ((4,), {"lmax": 5}, "lmax is 5"),
        ((4,), {"lmax": -1}, "lmax is -1"),
    ],
)
def test_bad_settings(species: tuple[int, ...], options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PowerSpectrum(species, **options)  # type: ignore[arg-type]
