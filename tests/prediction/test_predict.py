"""predict: the streamed path against the plain one, block by block against all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.physics.density_functionals import density_energies
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.ldos import density_of_states, electron_density
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.prediction.checkpointing import PredictionCheckpoint
from ase_ldos.prediction.grid_pass import GridEvaluator, InterpolatedDensity, _regression, choose_strategy
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.prediction.quantities import evaluate_quantity
from ase_ldos.prediction.request import PredictionRequest, Thresholds
from ase_ldos.units import BOLTZMANN


@pytest.fixture
def be_model(either_model: LDOSModel) -> LDOSModel:
    """Every test here runs with a fixed descriptor and with the graph network."""
    return either_model


def plain_free_energy(model: LDOSModel, structure: Structure, shape: tuple[int, int, int], kT: float) -> Tensor:
    """A, the whole LDOS one array and one graph: the definition; its double counting is of the model's own density."""
    grid = Grid(structure.cell, shape)
    (block,) = iterate_blocks(structure, grid, model.descriptor.cutoff, max_points=grid.n_points)
    ldos = model.network(model.inputs(block, model.encode_atoms(structure)[block.owners])) * model.ldos_scale
    ldos = torch.zeros_like(ldos).index_copy(0, block.flat, ldos).reshape(*shape, -1)
    dos = density_of_states(ldos, grid)
    charges = model.charges(structure.numbers)
    mu = fermi_level(dos, model.energies, float(charges.sum()), kT)
    weights = occupation_weights(model.energies, mu, kT)
    own_kT = BOLTZMANN * model.metadata.electronic_temperature
    own = occupation_weights(model.energies, fermi_level(dos, model.energies, float(charges.sum()), own_kT), own_kT)
    density = density_energies(electron_density(ldos, own), grid, model.metadata.functional)
    return Energies.collect(dos, weights, density, ewald_energy(structure, charges)).free_energy


@pytest.mark.parametrize("temperature", [3000.0, 9000.0])
def test_streamed_energy_forces_and_stress_are_those_of_the_plain_graph(
    be_atoms: Atoms, be_model: LDOSModel, temperature: float
) -> None:
    """At the model's own electronic temperature and at another."""
    structure = Structure.from_atoms(be_atoms)
    found = predict(be_model, structure, forces=True, stress=True, chunk_size=100, electronic_temperature=temperature)
    leaf = replace(structure, positions=structure.positions.clone().requires_grad_())
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    energy = plain_free_energy(be_model, leaf.strained(strain), found.grid.shape, BOLTZMANN * temperature)
    by_positions, by_strain = torch.autograd.grad(energy, (leaf.positions, strain))
    assert found.free_energy == pytest.approx(float(energy.detach()), abs=1e-10)
    assert found.forces is not None
    assert found.stress is not None
    torch.testing.assert_close(found.forces, -by_positions, rtol=0, atol=1e-9)
    symmetric = (by_strain + by_strain.T) / 2
    torch.testing.assert_close(found.stress, symmetric / structure.volume, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lmax", range(5))
@pytest.mark.parametrize("kind", ["power_spectrum", "se3_transformer"])
def test_forces_are_central_differences_at_every_lmax(
    make_model: Callable[..., LDOSModel], kind: str, lmax: int
) -> None:
    model, cell = make_model(kind=kind, lmax=lmax), bulk("Be", "hcp", a=2.27, c=3.57)
    cell.rattle(0.08, seed=3)
    structure = Structure.from_atoms(cell)
    shape = (4, 5, 6)
    step = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = predict(model, structure, forces=True, grid_shape=shape).forces
    assert found is not None
    h = 1e-3
    a, b, c, d = (
        predict(model, replace(structure, positions=structure.positions + k * h * step), grid_shape=shape).free_energy
        for k in (-2, -1, 1, 2)
    )
    assert float((found * step).sum()) == pytest.approx(-(a - 8 * b + 8 * c - d) / (12 * h), rel=1e-6, abs=1e-7)


def test_ldos_density_and_dos_agree(be_atoms: Atoms, be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    found = predict(be_model, structure)
    ldos = predict_ldos(be_model, structure, found.grid.shape, chunk_size=70)
    kT = BOLTZMANN * be_model.metadata.electronic_temperature
    weights = occupation_weights(be_model.energies, torch.tensor(found.fermi_level, dtype=torch.float64), kT)
    torch.testing.assert_close(density_of_states(ldos, found.grid), found.dos, rtol=0, atol=1e-11)
    torch.testing.assert_close(electron_density(ldos, weights), found.density, rtol=0, atol=1e-11)
    electrons = 2.0 * len(structure)
    assert float(found.grid.integrate(found.density)) == pytest.approx(electrons, abs=1e-9)


@pytest.mark.parametrize("temperature", [3000.0, 9000.0])
def test_hidden_features_that_are_not_kept_change_nothing(
    be_atoms: Atoms, be_model: LDOSModel, temperature: float
) -> None:
    """The density interpolated in μ, from a guess by a sample, a good one, a bad one and one far outside."""
    structure = Structure.from_atoms(be_atoms)
    wanted = {"forces": True, "chunk_size": 90, "electronic_temperature": temperature}
    kept = predict(be_model, structure, **wanted)
    large = Thresholds(keep_bytes=0)
    for guess in (None, kept.fermi_level + 1e-3, kept.fermi_level - 0.2, 1e3):
        again = predict(be_model, structure, fermi_guess=guess, thresholds=large, **wanted)
        assert again.fermi_level == pytest.approx(kept.fermi_level, abs=1e-10)
        assert again.free_energy == pytest.approx(kept.free_energy, abs=1e-7)
        torch.testing.assert_close(again.forces, kept.forces, rtol=0, atol=1e-6)
        torch.testing.assert_close(again.density, kept.density, rtol=0, atol=1e-9)


def test_entropy_and_heat_capacity_are_slopes_of_the_energies(be_atoms: Atoms, be_model: LDOSModel) -> None:
    """−∂A/∂T = S and ∂E/∂T = T ∂S/∂T = C, because double counting is of a density that stays."""
    T, h = 9000.0, 10.0
    low, middle, high = (predict(be_model, be_atoms, electronic_temperature=t) for t in (T - h, T, T + h))
    entropy = evaluate_quantity("electronic_entropy", be_model, middle)
    assert -(high.free_energy - low.free_energy) / (2 * h) == pytest.approx(entropy, rel=1e-6)
    slope = float(high.energies.internal_energy - low.energies.internal_energy) / (2 * h)
    assert slope == pytest.approx(evaluate_quantity("electronic_heat_capacity", be_model, middle), rel=1e-6)
    # the density is that of the hot electrons all the same
    weights = occupation_weights(
        middle.energy_grid, torch.tensor(middle.fermi_level, dtype=torch.float64), BOLTZMANN * T
    )
    ldos = predict_ldos(be_model, Structure.from_atoms(be_atoms))
    torch.testing.assert_close(electron_density(ldos, weights), middle.density, rtol=0, atol=1e-9)


def sampled_fermi_level(model: LDOSModel, structure: Structure, chunk_size: int, limits: Thresholds) -> float:
    request = PredictionRequest.for_model(model, structure, chunk_size=chunk_size, thresholds=limits)
    nothing = PredictionCheckpoint(None, "")
    evaluator = GridEvaluator(model.with_fused_scaler(), request, communicator=Communicator(), checkpoint=nothing)
    strategy = choose_strategy(evaluator)
    assert isinstance(strategy, InterpolatedDensity)
    with torch.no_grad():
        return evaluator.find_fermi_levels(strategy._sample())[-1]


def test_a_sample_of_the_blocks_is_a_good_guess(be_model: LDOSModel) -> None:
    """Of one block in three, also where the network does not show the descriptor's features to its head."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=2)
    kept = predict(be_model, atoms, chunk_size=12)
    limits = Thresholds(keep_bytes=0, sample_step=3, sample_minimum=8)
    guess = sampled_fermi_level(be_model, Structure.from_atoms(atoms), 12, limits)
    assert abs(guess - kept.fermi_level) < 0.25 * BOLTZMANN * 3000
    sampled = predict(be_model, atoms, chunk_size=12, thresholds=limits)
    assert sampled.free_energy == pytest.approx(kept.free_energy, abs=1e-7)


def test_features_of_known_mean_correct_the_sample(bundled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=2)
    model, structure = load_model(bundled).requires_grad_(False), Structure.from_atoms(atoms)
    limits, exact = Thresholds(keep_bytes=0, sample_step=5, sample_minimum=8), predict(model, structure).fermi_level
    corrected = sampled_fermi_level(model, structure, 50, limits)
    monkeypatch.setattr(model.descriptor, "mean_features", lambda *_: None)
    plain = sampled_fermi_level(model, structure, 50, limits)
    assert abs(corrected - exact) < 0.5 * BOLTZMANN * 300
    assert abs(corrected - exact) < 0.3 * abs(plain - exact)


def test_thresholds_of_large_systems_keep_energies_and_forces(be_model: LDOSModel) -> None:
    """Ewald's waves on a mesh, the density in float32 and in blocks of one row: as for the largest systems."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=2)
    plain = predict(be_model, atoms, forces=True, stress=True)
    limits = Thresholds(keep_bytes=0, density_block=1, single_from=1, mesh_from=1)
    large = predict(be_model, atoms, forces=True, stress=True, thresholds=limits)
    assert large.free_energy != plain.free_energy
    assert large.free_energy == pytest.approx(plain.free_energy, abs=1e-6 * len(atoms))
    torch.testing.assert_close(large.forces, plain.forces, rtol=0, atol=1e-4)
    torch.testing.assert_close(large.stress, plain.stress, rtol=0, atol=1e-6)


@pytest.mark.parametrize("repeat", [1, 2])
def test_float32_keeps_energies_and_forces(bundled: str, repeat: int) -> None:
    """The goal of the fast path: 0.01 meV/atom and 0.1 meV/Å from float64, kept or interpolated."""
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat(repeat)
    atoms.rattle(0.05, seed=0)
    structure = Structure.from_atoms(atoms)
    single = load_model(bundled).requires_grad_(False)
    assert single.dtype == torch.float32
    double = load_model(bundled).double().requires_grad_(False)
    found, expected = (predict(model, structure, forces=True) for model in (single, double))
    assert abs(found.free_energy - expected.free_energy) / len(atoms) < 1e-5
    assert found.forces is not None
    assert expected.forces is not None
    assert float((found.forces - expected.forces).abs().max()) < 1e-4


def test_only_what_is_wanted(be_atoms: Atoms, be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    assert predict(be_model, structure).forces is None
    only_forces, only_stress = predict(be_model, structure, forces=True), predict(be_model, structure, stress=True)
    assert only_forces.stress is None
    assert only_stress.forces is None
    both = predict(be_model, structure, forces=True, stress=True)
    torch.testing.assert_close(only_forces.forces, both.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(only_stress.stress, both.stress, rtol=0, atol=1e-12)


def test_a_bad_guess_of_the_fermi_level_does_no_harm(be_atoms: Atoms, be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    levels = [predict(be_model, structure, fermi_guess=guess).fermi_level for guess in (None, -4.9, 11.0, 1e6)]
    assert max(levels) - min(levels) < 1e-9


def test_gradients_switched_off_by_the_caller(be_atoms: Atoms, be_model: LDOSModel) -> None:
    structure = Structure.from_atoms(be_atoms)
    expected = predict(be_model, structure, forces=True).forces
    with torch.no_grad():
        found = predict(be_model, structure, forces=True).forces
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_results_carry_no_graph(be_atoms: Atoms, be_model: LDOSModel) -> None:
    found = predict(be_model.requires_grad_(True), Structure.from_atoms(be_atoms), forces=True, stress=True)
    tensors = [found.dos, found.density, found.forces, found.stress, found.energies.free_energy]
    assert not any(tensor.requires_grad for tensor in tensors if tensor is not None)


@pytest.mark.gpu
def test_gpu_agrees_with_cpu(be_atoms: Atoms, be_model: LDOSModel) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = predict(be_model, Structure.from_atoms(be_atoms), forces=True, stress=True)
    on_gpu = predict(be_model.cuda(), Structure.from_atoms(be_atoms, device="cuda"), forces=True, stress=True)
    assert on_gpu.free_energy == pytest.approx(on_cpu.free_energy, abs=1e-9)
    assert on_cpu.forces is not None
    assert on_gpu.forces is not None
    torch.testing.assert_close(on_gpu.forces.cpu(), on_cpu.forces, rtol=0, atol=1e-8)


def test_regression_of_equal_blocks_is_none() -> None:
    """What blocks of a crystal differ by may be rounding alone, in which there is nothing to learn."""
    generator = torch.Generator().manual_seed(0)
    known = 30 + 1e-7 * torch.randn(40, 3, dtype=torch.float64, generator=generator)
    values = torch.randn(40, 5, dtype=torch.float64, generator=generator)
    assert float(_regression(known, values, torch.float32).abs().max()) == 0
    known += torch.randn(40, 3, dtype=torch.float64, generator=generator)
    expected = torch.linalg.lstsq(known - known.mean(dim=0), values - values.mean(dim=0)).solution
    torch.testing.assert_close(_regression(known, values, torch.float32), expected)


def test_the_fused_model_follows_its_weights(be_model: LDOSModel) -> None:
    fused = be_model.with_fused_scaler()
    assert be_model.with_fused_scaler() is fused
    with torch.no_grad():
        be_model.network.head.bias.add_(1.0)
    changed = be_model.with_fused_scaler()
    assert changed is not fused
    torch.testing.assert_close(changed.network.head.bias, fused.network.head.bias + 1.0)
    be_model.metadata = replace(be_model.metadata, fermi_level=1.0)
    assert be_model.with_fused_scaler().metadata.fermi_level == 1.0
    assert be_model.float().with_fused_scaler().dtype == torch.float32
