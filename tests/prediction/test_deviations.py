"""Standard deviations against finite differences of whole predictions, and by each way over the grid."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import InputError

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.last_layer import n_uncertain, sample_models, set_posterior
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.prediction.committee import committee_deviations, sampled_force_deviations
from ase_ldos.prediction.deviations import Uncertainty
from ase_ldos.prediction.predict import Prediction, predict
from ase_ldos.prediction.request import PredictionRequest, Thresholds, check_structure

FACTORS = {"free_energy": 1.0, "fermi_level": 2.0, "dos": 3.0, "density": 0.5, "forces": 1.0}
SHAPE = (5, 5, 8)


def with_posterior(model: LDOSModel) -> LDOSModel:
    """A posterior of few directions, so that all of them can be tried."""
    generator = torch.Generator().manual_seed(3)
    size = n_uncertain(model) + 1
    energies = torch.exp(-((model.energies[:, None] - torch.tensor([0.0, 3.0])) ** 2) / 8)
    root = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    model.uncertainty_hidden, model.uncertainty_energies = root.to(model.dtype), 1e-4 * energies.to(model.dtype)
    model.metadata = replace(model.metadata, uncertainty=FACTORS)
    return model


def moved_heads(model: LDOSModel, step: float) -> Iterator[tuple[LDOSModel, LDOSModel]]:
    """The model with its last layer moved both ways along each direction of the posterior."""
    assert model.uncertainty_hidden is not None
    assert model.uncertainty_energies is not None
    for energies in model.uncertainty_energies.T:
        for root in model.uncertainty_hidden.T:
            change = torch.outer(energies, root) * step / model.ldos_scale
            pair = []
            for sign in (1, -1):
                moved = copy.deepcopy(model)
                moved.network.head.weight[:, : len(root) - 1].add_(sign * change[:, :-1])
                moved.network.head.bias.add_(sign * change[:, -1])
                pair.append(moved)
            yield pair[0], pair[1]


@pytest.mark.parametrize("network", ["hidden", "skip", "linear"])
def test_deviations_are_those_of_a_moved_last_layer(be_atoms: Atoms, be_model: LDOSModel, network: str) -> None:
    """Σ over directions of (∂x/∂t)² by finite differences through all of the physics."""
    if network != "hidden":
        old = be_model.network.head.bias
        be_model.network = MLP(10, 60, hidden=() if network == "linear" else (16,), skip=True).double()
        be_model.network.head.weight.data.mul_(0.002)
        be_model.network.head.bias.data.copy_(old)
        be_model.requires_grad_(False)
    model = with_posterior(be_model)
    found = predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True).uncertainty
    assert found is not None
    step, squares = 0.05, {"free_energy": 0.0, "fermi_level": 0.0, "dos": 0.0, "density": 0.0}
    for pair in moved_heads(model, step):
        plus, minus = (predict(moved, be_atoms, grid_shape=SHAPE) for moved in pair)
        for name in squares:
            squares[name] = squares[name] + ((getattr(plus, name) - getattr(minus, name)) / (2 * step)) ** 2
    for name, value in squares.items():
        expected = torch.as_tensor(value).sqrt().numpy() * FACTORS[name]
        assert np.asarray(getattr(found, name)) == pytest.approx(expected, rel=2e-3, abs=1e-9), name


def same(found: Prediction, expected: Uncertainty) -> None:
    deviation = found.uncertainty
    assert deviation is not None
    for name in ("free_energy", "fermi_level", "dos", "density"):
        value, other = (np.asarray(getattr(item, name)) for item in (deviation, expected))
        assert value == pytest.approx(other, rel=2e-5), name  # one way interpolates the density in μ


def test_every_way_over_the_grid_gives_the_same(be_atoms: Atoms, either_model: LDOSModel, tmp_path: Path) -> None:
    model = with_posterior(either_model)
    expected = predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True).uncertainty
    assert expected is not None
    same(predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True, chunk_size=37), expected)
    with_forces = predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True, forces=True, stress=True, chunk_size=60)
    same(with_forces, expected)
    plain = predict(model, be_atoms, grid_shape=SHAPE, forces=True, stress=True, chunk_size=60)
    assert torch.equal(with_forces.forces, plain.forces)
    assert torch.equal(with_forces.stress, plain.stress)
    same(predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True, thresholds=Thresholds(keep_bytes=0)), expected)
    for _ in range(2):  # the second time from the checkpoint
        found = predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True, forces=True, checkpoint=tmp_path / "c")
        same(found, expected)


def test_samples_spread_as_the_sums_tell(be_atoms: Atoms, be_model: LDOSModel) -> None:
    model = with_posterior(be_model)
    model.metadata = replace(model.metadata, uncertainty=dict.fromkeys(FACTORS, 1.0))
    found = predict(model, be_atoms, grid_shape=SHAPE, uncertainty=True).uncertainty
    samples = [predict(m, be_atoms, grid_shape=SHAPE) for m in sample_models(model, 60, scale=0.3)]
    spread = committee_deviations(samples)
    assert found is not None
    assert spread.free_energy / 0.3 == pytest.approx(found.free_energy, rel=0.35)
    assert spread.fermi_level / 0.3 == pytest.approx(found.fermi_level, rel=0.35)
    assert float(spread.density.mean()) / 0.3 == pytest.approx(2 * float(found.density.mean()) / 2, rel=0.35)
    assert spread.forces is None
    with pytest.raises(ValueError, match="committee of 1"):
        committee_deviations(samples[:1])


def test_forces_of_samples(be_atoms: Atoms, be_model: LDOSModel) -> None:
    model = with_posterior(be_model)
    request = PredictionRequest.for_model(model, check_structure(model, be_atoms), grid_shape=SHAPE)
    spread = sampled_force_deviations(model, request, 4, seed=1)
    assert spread.shape == (len(be_atoms), 3)
    assert bool((spread >= 0).all())
    assert torch.equal(spread, sampled_force_deviations(model, request, 4, seed=1))
    model.metadata = replace(model.metadata, uncertainty=FACTORS | {"forces": 2.0})
    assert torch.allclose(sampled_force_deviations(model, request, 4, seed=1), 2 * spread)
    with pytest.raises(ValueError, match="1 samples have no standard deviation"):
        sampled_force_deviations(model, request, 1)


def test_posterior_is_normalised_and_kept(be_model: LDOSModel, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    features = torch.as_tensor(np.hstack([random.normal(size=(500, 16)) * np.arange(1, 17), np.ones((500, 1))]))
    factor = torch.as_tensor(random.normal(size=(60, 5)))
    set_posterior(be_model, features.T @ features / 500, factor @ factor.T)
    root, energies = be_model.uncertainty_hidden, be_model.uncertainty_energies
    assert root is not None
    assert energies is not None
    assert float((features @ root).square().sum(dim=1).mean()) == pytest.approx(1)
    assert torch.allclose(energies @ energies.T, factor @ factor.T, atol=1e-9)
    be_model.metadata = replace(be_model.metadata, uncertainty=FACTORS)
    save_model(be_model, tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert torch.equal(loaded.uncertainty_hidden, root)
    assert torch.equal(loaded.uncertainty_energies, energies)
    assert loaded.metadata.uncertainty == FACTORS


def test_calculator(be_atoms: Atoms, be_model: LDOSModel) -> None:
    calculator = LDOSCalculator(be_model, device="cpu")
    be_atoms.calc = calculator
    be_atoms.get_forces()
    with pytest.raises(InputError, match="does not know how sure it is"):
        calculator.get_uncertainty()
    calculator = LDOSCalculator(with_posterior(be_model), device="cpu")
    be_atoms.calc = calculator
    energy = be_atoms.get_potential_energy()
    assert calculator.prediction.uncertainty is None
    found = calculator.get_uncertainty()
    assert calculator.prediction.uncertainty is found
    assert found.density.shape == calculator.get_density().shape
    assert found.forces is None  # never calibrated with forces
    assert calculator.get_uncertainty(force_samples=2).forces.shape == (len(be_atoms), 3)
    assert calculator.results["energy"] == energy
    at_once = LDOSCalculator(be_model, device="cpu")
    at_once.uncertainty = True
    at_once.calculate(be_atoms, ["forces"])
    assert at_once.prediction.uncertainty.free_energy == pytest.approx(found.free_energy, rel=1e-6)
