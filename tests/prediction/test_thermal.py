"""Models that have learned how their free energy changes with the electronic temperature."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from thermal_models import heated

from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.last_layer import set_posterior
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import Prediction, predict
from ase_ldos.prediction.quantities import evaluate_quantity
from ase_ldos.prediction.request import Thresholds

T = 9000.0


@pytest.fixture
def be_model(either_model: LDOSModel) -> LDOSModel:
    """Every test here runs with a fixed descriptor and with the graph network."""
    return heated(either_model)


def at(model: LDOSModel, atoms: Atoms | Structure, temperature: float, **options: object) -> Prediction:
    return predict(model, atoms, electronic_temperature=temperature, **options)  # type: ignore[arg-type]


def test_the_models_own_temperature_is_what_it_was(be_atoms: Atoms, be_model: LDOSModel) -> None:
    """Bit by bit, but for the entropy, which knows what follows; at another the density and the DOS are."""
    wanted = {"forces": True, "stress": True}
    changing, hot = predict(be_model, be_atoms, **wanted), at(be_model, be_atoms, T)
    be_model.thermal_correction = None
    plain, plain_hot = predict(be_model, be_atoms, **wanted), at(be_model, be_atoms, T)
    assert changing.free_energy == plain.free_energy
    for name in ("forces", "stress", "dos", "density"):
        assert torch.equal(getattr(changing, name), getattr(plain, name)), name
    assert changing.entropy != plain.entropy
    assert abs(hot.free_energy - plain_hot.free_energy) > 1e-2
    assert torch.equal(hot.density, plain_hot.density)
    assert (hot.fermi_level, plain_hot.learned_heat_capacity) == (plain_hot.fermi_level, 0.0)


def test_the_change_is_the_sum_over_the_grid(be_atoms: Atoms, be_model: LDOSModel) -> None:
    """Of hidden features with their scaler, which predictions fuse."""
    structure = Structure.from_atoms(be_atoms)
    hot, thermal = at(be_model, structure, T), be_model.thermal_correction
    be_model.thermal_correction = None
    plain = at(be_model, structure, T)
    assert thermal is not None
    states, total = be_model.encode_atoms(structure), torch.zeros(thermal.weights.shape[1], dtype=torch.float64)
    for block in iterate_blocks(structure, hot.grid, be_model.descriptor.cutoff):
        hidden = be_model.hidden(block, states[block.owners])
        total += torch.cat((hidden, hidden.new_ones(len(hidden), 1)), dim=1).sum(dim=0)
    change = float(thermal.at(T)[0] @ total * hot.grid.voxel_volume)
    assert hot.free_energy - plain.free_energy == pytest.approx(change, abs=1e-9)


def test_forces_and_stress_are_central_differences(be_atoms: Atoms, be_model: LDOSModel) -> None:
    structure, shape, h = Structure.from_atoms(be_atoms), (6, 6, 9), 1e-3
    found = at(be_model, structure, T, forces=True, stress=True, grid_shape=shape, chunk_size=90)
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(len(structure), 3, dtype=torch.float64, generator=generator)
    strain = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    strain = (strain + strain.T) / 4
    assert found.forces is not None
    assert found.stress is not None

    def slope(moved: list[Structure]) -> float:
        a, b, c, d = (at(be_model, item, T, grid_shape=shape).free_energy for item in moved)
        return (a - 8 * b + 8 * c - d) / (12 * h)

    places = (-2 * h, -h, h, 2 * h)
    by_step = slope([replace(structure, positions=structure.positions + k * step) for k in places])
    by_strain = slope([structure.strained(k * strain) for k in places])
    assert by_step == pytest.approx(-float((found.forces * step).sum()), rel=1e-6, abs=1e-6)
    assert by_strain == pytest.approx(float((found.stress * strain).sum() * structure.volume), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("temperature", [3000.0, T])
def test_entropy_and_heat_capacity_are_slopes(be_atoms: Atoms, be_model: LDOSModel, temperature: float) -> None:
    """S = −∂A/∂T and C = T ∂S/∂T; without what is learned they would be others."""
    h = 5.0
    low, middle, high = (at(be_model, be_atoms, temperature + k * h) for k in (-1, 0, 1))
    slope = -(high.free_energy - low.free_energy) / (2 * h)
    assert middle.entropy == pytest.approx(slope, rel=1e-5)
    assert evaluate_quantity("electronic_entropy", be_model, middle) == middle.entropy
    assert abs(-float(middle.energies.entropy_term) / temperature - slope) > 1e-2 * abs(slope)
    capacity = temperature * (high.entropy - low.entropy) / (2 * h)
    assert evaluate_quantity("electronic_heat_capacity", be_model, middle) == pytest.approx(capacity, rel=1e-5)
    assert abs(middle.learned_heat_capacity) > 1e-2 * abs(capacity)


def test_chunks_and_features_that_are_not_kept_change_nothing(be_atoms: Atoms, be_model: LDOSModel) -> None:
    wanted = {"forces": True, "stress": True}
    whole = at(be_model, be_atoms, T, **wanted)
    again = at(be_model, be_atoms, T, **wanted, chunk_size=70, thresholds=Thresholds(keep_bytes=0))
    assert again.free_energy == pytest.approx(whole.free_energy, abs=1e-7)
    assert again.entropy == pytest.approx(whole.entropy, rel=1e-7)
    torch.testing.assert_close(again.forces, whole.forces, rtol=0, atol=1e-6)
    torch.testing.assert_close(again.stress, whole.stress, rtol=0, atol=1e-7)


def test_temperatures_beyond_those_learned_are_refused(be_atoms: Atoms, be_model: LDOSModel) -> None:
    assert at(be_model, be_atoms, 500.0).free_energy < 0
    with pytest.raises(ValueError, match=r"is 15001 K; the model's free energy was learned up to 15000 K"):
        at(be_model, be_atoms, 15001.0)


@pytest.mark.parametrize("keep_bytes", [0, 2**30])
def test_standard_deviations_of_the_density_use_its_own_response(
    be_atoms: Atoms, be_model: LDOSModel, keep_bytes: int
) -> None:
    """At another temperature as of a model of that temperature: of the density the double counting is no part."""
    n = (be_model.network.hidden[-1] if be_model.network.hidden else be_model.network.n_features) + 1
    set_posterior(be_model, torch.eye(n).double(), 1e-6 * torch.eye(len(be_model.energies)).double())
    names = ("free_energy", "fermi_level", "dos", "density")
    be_model.thermal_correction = None
    be_model.metadata = replace(be_model.metadata, uncertainty=dict.fromkeys(names, 1.0))
    options = {"uncertainty": True, "thresholds": Thresholds(keep_bytes=keep_bytes)}
    found = at(be_model, be_atoms, T, **options).uncertainty
    be_model.metadata = replace(be_model.metadata, electronic_temperature=T)
    expected = at(be_model, be_atoms, T, **options).uncertainty
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.density, expected.density, rtol=1e-6, atol=1e-9)
