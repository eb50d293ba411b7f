"""What every descriptor and every network must hold to: run over all that are registered, whoever wrote them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor, nn

from ase_ldos.descriptors.protocol import VOIGT, PointFeatures
from ase_ldos.descriptors.registry import DESCRIPTORS
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.registry import NETWORKS, make_point_features

SPECIES = [4, 13]
#: Small settings; a kind that is not here is made with its own defaults.
SMALL: dict[str, list[dict[str, Any]]] = {
    "power_spectrum": [{"cutoff": 3.0, "n_radial": 2, "lmax": 2}],
    "compressed_power_spectrum": [
        {"cutoff": 3.0, "n_radial": 2, "lmax": 2, "channels": {"Be": [1.0, -0.5], "Al": [1.0, 0.7]}}
    ],
    "snap": [{"cutoff": 3.0, "twojmax": 3, "weights": [1.0, 0.6]}],
    "se3_transformer": [
        {"cutoff": 3.0, "atom_cutoff": 3.4, "lmax": 2, "channels": 4, "heads": 2, "layers": 1, "fields": 4},
        {"cutoff": 3.0, "atom_cutoff": 3.4, "lmax": 1, "channels": 2, "heads": 1, "layers": 1, "fields": 2}
        | {"point_heads": 1, "spectrum_radial": 2, "spectrum_lmax": 1},
    ],
}
CASES = [
    {"kind": kind, "species": SPECIES, **options}
    for kind in (*DESCRIPTORS, *NETWORKS)
    for options in SMALL.get(kind, [{}])
]


@pytest.fixture(scope="module", params=CASES, ids=[f"{case['kind']}{len(case)}" for case in CASES])
def features(request: pytest.FixtureRequest) -> PointFeatures:
    """One of each kind, float64."""
    made = make_point_features(request.param)
    return made.double() if isinstance(made, nn.Module) else made


@pytest.fixture(scope="module")
def crystal() -> Structure:
    """One atom of each species, far from every symmetry."""
    atoms = bulk("BeAl", "cesiumchloride", a=3.1)
    shear = np.array([[1.0, 0.05, 0.0], [0.0, 0.97, 0.1], [-0.04, 0.0, 1.02]])
    atoms.set_cell(atoms.cell[:] @ shear, scale_atoms=True)
    atoms.rattle(0.15, seed=2)
    return Structure.from_atoms(atoms)


POINTS = torch.tensor([[0.3, 0.2, 0.1], [1.4, 1.1, 0.6], [0.9, 2.2, 1.7]], dtype=torch.float64)


def images(structure: Structure, reach: int = 3) -> tuple[Tensor, Tensor]:
    """Positions of periodic images about the cell, and the atoms that own them."""
    steps = torch.cartesian_prod(*[torch.arange(-reach, reach + 1, dtype=torch.float64)] * 3) @ structure.cell
    atoms = (structure.positions[None] + steps[:, None]).reshape(-1, 3)
    return atoms, torch.arange(len(structure)).repeat(len(steps))


def evaluate(features: PointFeatures, structure: Structure, points: Tensor = POINTS) -> Tensor:
    """Features of points in a structure, ``[grid, feature]``."""
    atoms, owners = images(structure)
    return features(points, atoms, features.encode_atoms(structure)[owners])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal, up to a tolerance in units of each feature's largest value."""
    scale = expected.detach().abs().amax(dim=0).clamp(min=1e-3)
    assert float(((found - expected).detach().abs() / scale).max()) < tolerance


# --- shapes and settings


def test_parts_and_their_sizes(features: PointFeatures, crystal: Structure) -> None:
    atoms, owners = images(crystal)
    state = features.encode_atoms(crystal)
    assert len(state) == len(crystal)
    whole, learned = features(POINTS, atoms, state[owners]), features.learned(POINTS, atoms, state[owners])
    assert whole.shape == (len(POINTS), features.n_features)
    assert learned.shape == (len(POINTS), features.n_learned)
    assert torch.equal(whole[:, features.n_features - features.n_learned :], learned)
    fixed = features.fixed
    assert features.n_features == features.n_learned + (0 if fixed is None else fixed.n_features)
    if fixed is not None:
        assert torch.equal(whole[:, : fixed.n_features], fixed(POINTS, atoms, fixed.encode_atoms(crystal)[owners]))
    assert bool(torch.isfinite(whole).all())
    assert float(whole.detach().std(dim=0).max()) > 0


def test_settings_build_it_again(features: PointFeatures, crystal: Structure) -> None:
    settings = json.loads(json.dumps(features.settings()))
    assert settings["species"] == SPECIES
    again = make_point_features(settings)
    assert (again.settings(), again.n_features, again.cutoff) == (settings, features.n_features, features.cutoff)
    if isinstance(again, nn.Module):
        assert isinstance(features, nn.Module)
        again.double().load_state_dict(features.state_dict())
    assert torch.equal(evaluate(again, crystal), evaluate(features, crystal))


def test_foreign_elements_are_refused(features: PointFeatures, crystal: Structure) -> None:
    with pytest.raises(ValueError, match="Mg"):
        features.encode_atoms(replace(crystal, numbers=torch.tensor([4, 12])))


def test_single_precision_keeps_its_digits(features: PointFeatures, crystal: Structure) -> None:
    single = copy.deepcopy(features).float() if isinstance(features, nn.Module) else features
    atoms, owners = images(crystal)
    state = single.encode_atoms(crystal)
    found = single(POINTS.float(), atoms.float(), (state.float() if state.is_floating_point() else state)[owners])
    assert found.dtype == torch.float32
    close(found.double(), evaluate(features, crystal), 1e-4)


# --- symmetries


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_turning_everything_changes_nothing(features: PointFeatures, crystal: Structure, determinant: int) -> None:
    matrix = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    matrix = matrix * torch.det(matrix) * determinant
    turned = replace(crystal, positions=crystal.positions @ matrix.T, cell=crystal.cell @ matrix.T)
    close(evaluate(features, turned, POINTS @ matrix.T), evaluate(features, crystal))


def test_moving_everything_changes_nothing(features: PointFeatures, crystal: Structure) -> None:
    shift = torch.tensor([0.31, -0.22, 0.13], dtype=torch.float64)
    expected = evaluate(features, crystal)
    close(evaluate(features, replace(crystal, positions=crystal.positions + shift), POINTS + shift), expected)
    # another image of one atom is the same crystal
    wrapped = crystal.positions.clone()
    wrapped[1] += crystal.cell[0] - crystal.cell[2]
    close(evaluate(features, replace(crystal, positions=wrapped)), expected)


def test_order_of_atoms_does_not_matter(features: PointFeatures, crystal: Structure) -> None:
    expected = evaluate(features, crystal)
    swapped = Structure(crystal.numbers.flip(0), crystal.positions.flip(0), crystal.cell)
    close(evaluate(features, swapped), expected)
    atoms, owners = images(crystal)
    order = torch.randperm(len(atoms), generator=torch.Generator().manual_seed(3))
    close(features(POINTS, atoms[order], features.encode_atoms(crystal)[owners[order]]), expected)
    # but their kinds do
    other = evaluate(features, replace(crystal, numbers=crystal.numbers.flip(0)))
    assert float((other - expected).detach().abs().max()) > 1e-3 * float(expected.detach().abs().max())


def test_points_do_not_see_one_another(features: PointFeatures, crystal: Structure) -> None:
    alone = torch.cat([evaluate(features, crystal, point[None]) for point in POINTS])
    close(evaluate(features, crystal), alone)


# --- where atoms come and go


def lone_atom() -> Structure:
    return Structure(torch.tensor([13]), torch.zeros(1, 3).double(), 60 * torch.eye(3).double())


def test_without_atoms_all_points_are_alike(features: PointFeatures, crystal: Structure) -> None:
    atoms, owners = images(crystal)
    state = features.encode_atoms(crystal)
    nobody = features(POINTS, atoms[:0], state[owners[:0]])
    assert nobody.shape == (len(POINTS), features.n_features)
    assert bool(torch.isfinite(nobody).all())
    close(nobody, nobody[:1].expand_as(nobody))
    close(features(POINTS + 1000, atoms, state[owners]), nobody)


def test_an_atom_comes_in_smoothly(features: PointFeatures) -> None:
    """Value and first derivative vanish at the cutoff."""
    structure = lone_atom()
    state = features.encode_atoms(structure)

    def seen(distance: float) -> tuple[Tensor, Tensor]:
        x = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        points = x * torch.tensor([[0.48, 0.6, 0.64]], dtype=torch.float64)
        values = features(points, structure.positions, state)[0]
        slopes = torch.stack([torch.autograd.grad(v, x, retain_graph=True)[0] for v in values])
        return values.detach(), slopes

    cutoff = features.cutoff
    outside, still = seen(cutoff + 1e-4)
    assert not still.any()
    values, slopes = seen(0.5 * cutoff)
    scale = float((values - outside).abs().max())
    assert scale > 0
    values, slopes = seen(cutoff * (1 - 1e-4))
    assert float((values - outside).abs().max()) < 1e-5 * scale
    assert float(slopes.abs().max()) * cutoff < 2e-2 * scale


def test_derivatives_on_a_nucleus_are_finite(features: PointFeatures, crystal: Structure) -> None:
    atoms, owners = images(crystal)
    points = crystal.positions.clone().requires_grad_()
    atoms.requires_grad_()
    values = features(points, atoms, features.encode_atoms(crystal)[owners])
    for gradient in torch.autograd.grad(values.sum(), (points, atoms)):
        assert bool(torch.isfinite(gradient).all())


# --- derivatives


def moved(structure: Structure, atom: int, axis: int, step: float) -> Structure:
    positions = structure.positions.clone()
    positions[atom, axis] += step
    return replace(structure, positions=positions)


def strained(structure: Structure, component: int, step: float) -> Structure:
    strain = torch.zeros(3, 3, dtype=torch.float64)
    row, column = VOIGT[component]
    strain[row, column] += step / 2
    strain[column, row] += step / 2
    return structure.strained(strain)


def test_gradient_is_the_central_difference(features: PointFeatures, crystal: Structure) -> None:
    """Of all features of all points at once, through the state of the atoms where that depends on positions."""
    weights = torch.linspace(-1, 1, len(POINTS) * features.n_features, dtype=torch.float64)

    def total(structure: Structure) -> Tensor:
        return torch.tanh(evaluate(features, structure)).flatten() @ weights

    positions = crystal.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(replace(crystal, positions=positions)), positions)
    for atom, axis in ((0, 1), (1, 2)):
        ends = [float(total(moved(crystal, atom, axis, step)).detach()) for step in (1e-5, -1e-5)]
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient[atom, axis]), rel=1e-6, abs=1e-8)


def test_jacobian_of_the_fixed_part(features: PointFeatures, crystal: Structure) -> None:
    """In positions and strain, against central differences; the features of a block on its grid."""
    fixed = features.fixed
    if fixed is None:
        assert features.n_learned == features.n_features
        return

    def values(structure: Structure) -> Tensor:
        state = fixed.encode_atoms(structure)
        (block,) = iterate_blocks(structure, Grid(structure.cell, (2, 3, 2)), fixed.cutoff, max_points=12)
        return fixed(block.points, block.atoms, state[block.owners])

    (block,) = iterate_blocks(crystal, Grid(crystal.cell, (2, 3, 2)), fixed.cutoff, max_points=12)
    found = fixed.jacobian(block, fixed.encode_atoms(crystal)[block.owners], len(crystal))
    assert found.shape == (12, 3 * len(crystal) + 6, fixed.n_features)
    step = 1e-4
    rows = [(a, x) for a in range(len(crystal)) for x in range(3)]
    pairs = [tuple(moved(crystal, *row, sign * step) for sign in (1, -1)) for row in rows]
    pairs += [tuple(strained(crystal, i, sign * step) for sign in (1, -1)) for i in range(6)]
    expected = torch.stack([(values(up) - values(down)) / (2 * step) for up, down in pairs], dim=1)
    close(found.flatten(0, 1), expected.flatten(0, 1), 1e-5)


def test_learned_part_can_be_differentiated_twice(features: PointFeatures, crystal: Structure) -> None:
    atoms, owners = images(crystal)
    state = features.encode_atoms(crystal)[owners]
    if features.n_learned == 0:
        assert features.learned(POINTS, atoms, state).shape == (len(POINTS), 0)
        return

    def slope(points: Tensor, *, graph: bool = False) -> Tensor:
        total = torch.tanh(features.learned(points, atoms, state)).sum()
        return torch.autograd.grad(total, points, create_graph=graph)[0]

    points = POINTS.clone().requires_grad_()
    direction = torch.randn(POINTS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (curvature,) = torch.autograd.grad((slope(points, graph=True) * direction).sum(), points)
    ends = [slope((POINTS + sign * 1e-5 * direction).requires_grad_()).detach() for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-5, curvature, rtol=1e-5, atol=1e-7)


def test_means_are_those_over_a_grid(features: PointFeatures, crystal: Structure) -> None:
    known = features.mean_features(crystal.numbers, crystal.volume)
    if known is None:
        return
    state = features.encode_atoms(crystal)
    total = torch.zeros(features.n_features, dtype=torch.float64)
    grid = Grid(crystal.cell, (16, 16, 16))
    for block in iterate_blocks(crystal, grid, features.cutoff):
        total += features(block.points, block.atoms, state[block.owners]).sum(dim=0).detach()
    assert len(known) <= features.n_features
    torch.testing.assert_close(total[: len(known)] / grid.n_points, known, rtol=1e-3, atol=1e-10)
