"""SNAP against LAMMPS and its definition by Clebsch-Gordan coefficients."""

from __future__ import annotations

from math import factorial, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ase_ldos.descriptors.snap.descriptor import SNAP


def images_around(
    positions: np.ndarray, species: np.ndarray, cell: np.ndarray, points: np.ndarray, cutoff: float
) -> tuple[Tensor, Tensor]:
    """All periodic images in a box around the points."""
    reach = np.ceil(2 * cutoff * np.linalg.norm(np.linalg.inv(cell), axis=0)).astype(int) + 1
    shifts = np.array(list(np.ndindex(*(2 * reach + 1)))) - reach
    atoms = (positions[None] + (shifts @ cell)[:, None]).reshape(-1, 3)
    near = np.all((atoms > points.min(0) - cutoff) & (atoms < points.max(0) + cutoff), axis=1)
    return torch.from_numpy(atoms[near]), torch.from_numpy(np.tile(species, len(shifts))[near])


def surroundings(seed: int = 3, n_atoms: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Five points among atoms of two species."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    atoms = 1.5 * torch.randn(n_atoms, 3, generator=generator, dtype=torch.float64)
    return points, atoms, torch.arange(n_atoms) % 2


@pytest.fixture(scope="module")
def small() -> SNAP:
    return SNAP((4, 13), twojmax=4, cutoff=3.0, weights=[1.0, 0.6])


@pytest.mark.parametrize("name", ["beryllium_4", "beryllium_6_without_switch", "beryllium_10", "alloy_8"])
def test_equals_lammps(snap_reference: Path, name: str) -> None:
    with np.load(snap_reference) as data:
        case = {key.partition(".")[2]: data[key] for key in data if key.partition(".")[0] == name}
    weights, species, columns = case["weights"].tolist(), case["species"], case["columns"]
    descriptor = SNAP(
        (4, 13)[: len(weights)],
        twojmax=int(case["twojmax"]),
        cutoff=float(case["cutoff"]),
        weights=weights,
        switch=bool(case["switch"]),
        rfac0=float(case["rfac0"]),
    )
    points = torch.from_numpy(columns[:, :3].copy())
    images = images_around(case["positions"], species, case["cell"], columns[:, :3], descriptor.cutoff)
    features = descriptor(points, *images)
    torch.testing.assert_close(features, torch.from_numpy(columns[:, 3:].copy()), rtol=1e-9, atol=0)
    single = descriptor(points.float(), images[0].float(), images[1])
    assert single.dtype == torch.float32
    scale = features.abs().amax(dim=0)
    assert float(((single - features) / scale).abs().max()) < 5e-5


def clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j: int, m: int) -> float:
    """Racah's formula (Varshalovich, 8.2.1 (3)); all arguments twice the quantum numbers."""
    if m1 + m2 != m:
        return 0.0

    def fact(twice: int) -> int:
        return factorial(twice // 2)

    front = (j + 1) * fact(j1 + j2 - j) * fact(j1 - j2 + j) * fact(-j1 + j2 + j) / fact(j1 + j2 + j + 2)
    for label, order in ((j1, m1), (j2, m2), (j, m)):
        front *= fact(label + order) * fact(label - order)
    total = 0.0
    for k in range((j1 + j2 - j) // 2 + 1):
        parts = [k, *(x // 2 - k for x in (j1 + j2 - j, j1 - m1, j2 + m2))]
        parts += [(j - j2 + m1) // 2 + k, (j - j1 - m2) // 2 + k]
        if min(parts) >= 0:
            total += (-1) ** k / np.prod([float(factorial(part)) for part in parts])
    return sqrt(front) * total


def wigner_matrix(j: int, a: complex, b: complex) -> np.ndarray:
    """How the polynomials x^(j-p) y^p / √((j-p)! p!) transform under x → a x + b y, y → -b* x + a* y."""
    first, second = np.poly1d([a, b]), np.poly1d([-np.conj(b), np.conj(a)])
    matrix = np.zeros((j + 1, j + 1), dtype=complex)
    for p in range(j + 1):
        product = (first ** (j - p) * second**p).coeffs
        product = np.concatenate((np.zeros(j + 1 - len(product)), product))
        for q in range(j + 1):
            norm = factorial(j - q) * factorial(q) / (factorial(j - p) * factorial(p))
            matrix[p, q] = product[q] * sqrt(norm)
    return matrix


def test_equals_sum_over_clebsch_gordan_coefficients() -> None:
    descriptor = SNAP((4, 13), twojmax=3, cutoff=3.0, weights=[1.0, 0.6])
    points, atoms, species = surroundings()
    matrices = [np.eye(j + 1, dtype=complex) for j in range(4)]
    for atom, index in zip(atoms.numpy(), species):
        x, y, z = atom - points[0].numpy()
        r = sqrt(x * x + y * y + z * z)
        if r >= 3.0:
            continue
        angle = 0.99363 * pi * r / 3.0
        a, b = np.cos(angle) - 1j * np.sin(angle) * z / r, np.sin(angle) * (y - 1j * x) / r
        weight = descriptor.weights[int(index)] * (np.cos(pi * r / 3.0) + 1) / 2
        for j in range(4):
            matrices[j] += weight * wigner_matrix(j, a, b)
    expected = []
    for j1, j2, j in descriptor.triples:
        # coupling[m1, m2, m] with m = j, j - 2, ... -j like the rows of the matrices
        coupling = np.array(
            [
                [[clebsch_gordan(j1, m1, j2, m2, j, m) for m in range(j, -j - 1, -2)] for m2 in range(j2, -j2 - 1, -2)]
                for m1 in range(j1, -j1 - 1, -2)
            ]
        )
        product = np.einsum("abm,cdn,ac,bd->mn", coupling, coupling, matrices[j1], matrices[j2])
        expected.append(float(np.sum(matrices[j].conj() * product).real))
    features = descriptor(points[:1], atoms, species)[0]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("twojmax", [0, 1, 3])
def test_gradients(twojmax: int) -> None:
    descriptor = SNAP((4, 13), twojmax=twojmax, cutoff=3.0, weights=[1.0, 0.6])
    points, atoms, species = surroundings(n_atoms=4)
    atoms[0] = points[0]  # an atom on a grid point
    points[1] += 50.0  # a point without neighbours
    inputs = (points[:2].requires_grad_(), atoms.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, a: descriptor(p, a, species), inputs)
    assert torch.autograd.gradgradcheck(lambda p, a: descriptor(p, a, species), inputs)


def test_hessian_of_full_size_against_finite_differences() -> None:
    descriptor = SNAP((4, 13), weights=[1.0, 0.6])
    points, atoms, species = surroundings(n_atoms=40)
    atoms = atoms * 1.5
    weights = torch.linspace(-1, 1, descriptor.n_features, dtype=torch.float64)

    def slope(at: Tensor, *, graph: bool = False) -> Tensor:
        at = at if graph else at.detach().requires_grad_()
        value = (descriptor(points, at, species) @ weights).square().sum() * 1e-6
        return torch.autograd.grad(value, at, create_graph=graph)[0]

    direction = torch.randn(atoms.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = atoms.clone().requires_grad_()
    (curvature,) = torch.autograd.grad((slope(leaf, graph=True) * direction).sum(), leaf)
    step = 1e-5
    numerical = (slope(atoms + step * direction) - slope(atoms - step * direction)) / (2 * step)
    assert float((curvature - numerical).norm() / numerical.norm()) < 1e-7


def test_derivatives_in_single_precision(small: SNAP) -> None:
    points, atoms, species = surroundings()
    results = []
    for dtype in (torch.float64, torch.float32):
        leaf = atoms.to(dtype).requires_grad_()
        (force,) = torch.autograd.grad(small(points.to(dtype), leaf, species).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(force.square().sum(), leaf)
        results.append((force.detach().double(), second.double()))
    for exact, rough in zip(*results):
        assert float((rough - exact).norm() / exact.norm()) < 1e-4


def test_no_points_are_no_features(small: SNAP) -> None:
    points, atoms, species = surroundings()
    features = small(points[:0], atoms.requires_grad_(), species)
    assert features.shape == (0, small.n_features)
    assert not torch.autograd.grad(features.sum(), atoms)[0].any()


def test_isolated_point_has_the_constants_of_the_self_term(small: SNAP) -> None:
    far = torch.full((1, 3), 100.0, dtype=torch.float64)
    constants = torch.tensor([[j + 1.0 for _, _, j in small.triples]], dtype=torch.float64)
    _, atoms, species = surroundings()
    torch.testing.assert_close(small(far, atoms, species), constants)
    torch.testing.assert_close(small(far, atoms[:0], species[:0]), constants)


def test_without_switch_atoms_are_counted() -> None:
    descriptor = SNAP((4, 13), twojmax=2, cutoff=3.0, weights=[1.0, 0.5], switch=False)
    points = torch.zeros(1, 3, dtype=torch.float64)
    atoms = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.1]], dtype=torch.float64)
    assert float(descriptor(points, atoms, torch.tensor([0, 1, 0]))[0, 0]) == pytest.approx((1 + 1.0 + 0.5) ** 3)


def test_atom_on_the_point_is_the_limit_of_an_atom_beside_it(small: SNAP) -> None:
    points, atoms, species = surroundings()
    atoms[0] = points[0]
    beside = atoms.clone()
    beside[0, 1] += 1e-7
    features = small(points, atoms, species)
    torch.testing.assert_close(small(points, beside, species), features, rtol=1e-5, atol=1e-5)
    single = SNAP((4,), twojmax=2)(points[:1], points[:1], torch.zeros(1, dtype=torch.int64))
    assert float(single[0, 0]) == pytest.approx(8.0)


def test_number_of_columns() -> None:
    assert [SNAP((4,), twojmax=twojmax).n_features for twojmax in (0, 1, 2, 4, 6, 8)] == [1, 2, 5, 14, 30, 55]
    assert SNAP((4,)).n_features == 91


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": ()}, "at least one"),
        ({"species": (4, 4)}, "once"),
        ({"cutoff": 0.0}, "cutoff is 0.0"),
        ({"cutoff": float("nan")}, "positive and finite"),
        ({"twojmax": -1}, "twojmax is -1"),
        ({"twojmax": 2.5}, "whole number"),
        ({"twojmax": 100}, "no quadrature is known for degree 300"),
        ({"rfac0": 0.0}, "rfac0 is 0.0"),
        ({"rfac0": 1.5}, "not above 1"),
        ({"species": (4, 13), "weights": [1.0]}, "one finite weight for each"),
        ({"weights": [float("inf")]}, "one finite weight for each"),
    ],
)
def test_bad_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SNAP(**{"species": (4,), "twojmax": 1} | options)


@pytest.mark.parametrize("index", [-1, 2])
def test_unknown_species_index_is_refused(small: SNAP, index: int) -> None:
    points, atoms, species = surroundings()
    species[3] = index
    with pytest.raises(ValueError, match=r"they must lie in 0 … 1"):
        small(points, atoms, species)


def test_wrong_shapes_are_refused(small: SNAP) -> None:
    points, atoms, species = surroundings()
    with pytest.raises(ValueError, match=r"must be \[grid, 3\]"):
        small(points[0], atoms, species)
    with pytest.raises(ValueError, match=r"must be \[image\]"):
        small(points, atoms, species[:-1])
