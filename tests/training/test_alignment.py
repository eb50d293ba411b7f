"""Constants of the energy zero, and labels and losses on aligned energies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk

from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict
from ase_ldos.training.alignment import fit_level_constants
from ase_ldos.training.learned_features import fixed_scaler
from ase_ldos.training.losses import ModelWithOffsets, _squared_errors, evaluate_snapshot
from ase_ldos.training.precompute import TrainingSnapshot, prepare_snapshot


def snapshot(n_be: int, n_mg: int, volume: float, **labels: object) -> Snapshot:
    numbers = np.array([4] * n_be + [12] * n_mg)
    edge = volume ** (1 / 3)
    return Snapshot(f"x{n_be}{n_mg}_{volume}", numbers, edge * np.eye(3), np.zeros((len(numbers), 3)), **labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["band_energy", "fermi_level"])
def test_constants_are_found(level: str) -> None:
    snapshots = []
    for n_be, n_mg, volume in ((1, 0, 7.0), (1, 0, 9.0), (0, 2, 40.0), (0, 2, 50.0), (1, 1, 30.0), (3, 1, 45.0)):
        value = (40.0 * n_be + 90.0 * n_mg) / volume + (1.5 * n_be - 2.0 * n_mg) / (n_be + n_mg)
        labels = {"fermi_level": value, "band_energy": value * 2.0 * (n_be + n_mg), "valence": 2.0}
        snapshots.append(snapshot(n_be, n_mg, volume, **labels))
    found = fit_level_constants(snapshots, (4, 12), level)
    assert found == pytest.approx({"Be": 40.0, "Mg": 90.0}, rel=1e-2)


def test_nothing_to_align() -> None:
    assert fit_level_constants([], (4,), "none") == {}
    with pytest.raises(ValueError, match="one of none, band_energy, fermi_level"):
        fit_level_constants([], (4,), "vacuum")
    with pytest.raises(ValueError, match="no snapshot is labelled with band_energy"):
        fit_level_constants([snapshot(1, 0, 8.0)], (4,), "band_energy")


def test_window_may_begin_where_nothing_is_yet() -> None:
    energies = np.linspace(-4, 6, 101)
    dos = np.exp(-0.5 * ((energies - 2.0) / 0.7) ** 2)
    labelled = snapshot(1, 0, 8.0, energies=energies, dos=dos, ldos_sigma=0.2)
    values, known = on_model_energies(labelled, dos, np.arange(-6.0, 6.0, 0.1), 0.3)
    assert known == 120
    np.testing.assert_allclose(values[:15], 0.0, atol=1e-9)
    assert float(values.sum() * 0.1) == pytest.approx(float(dos.sum() * 0.1), rel=1e-6)
    # the rounding of a compact LDOS, which is spread over all energies, is no band
    noise = 5e-3 * np.random.default_rng(0).normal(size=(4, 101))
    of_points, _ = on_model_energies(labelled, dos / 4 + noise, np.arange(-6.0, 6.0, 0.1), 0.3)
    np.testing.assert_allclose(of_points[:, :8], 0.0, atol=1e-8)
    begun = snapshot(1, 0, 8.0, energies=energies, dos=dos + 0.1, ldos_sigma=0.2)
    with pytest.raises(ValueError, match="the data reach from"):
        on_model_energies(begun, dos + 0.1, np.arange(-6.0, 6.0, 0.1), 0.3)


def test_training_sees_what_predict_says(make_model: Callable[..., LDOSModel]) -> None:
    """Free energy, μ, forces and stress of a step are those of a prediction, and labels lie on the shifted energies."""
    model = make_model()
    model.metadata = replace(model.metadata, level_constants={"Be": 9.0})
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    energies = np.linspace(-9, 16, 251)
    item = Snapshot(
        *("x_0", atoms.numbers, atoms.cell.array, atoms.positions),
        energies=energies,
        dos=np.exp(-0.5 * ((energies - 4.0) / 1.5) ** 2),
        ldos_sigma=0.2,
        electronic_temperature=3000.0,
    )
    prepared = prepare_snapshot(
        *(item, model.descriptor.fixed, fixed_scaler(model), {4: 2.0}),
        energies=model.energies.numpy(),
        broadening=0.5,
        level_constants=model.metadata.level_constants,
        spacing=model.metadata.grid_spacing,
        jacobian=torch.float64,
    )
    found = evaluate_snapshot(model, prepared)
    expected = predict(model, item.structure, forces=True, stress=True)
    assert float(found.free_energy.detach()) == pytest.approx(expected.free_energy, abs=1e-5)
    assert float(found.fermi_level.detach()) == pytest.approx(expected.fermi_level, abs=1e-5)
    assert found.stress is not None
    assert expected.stress is not None
    assert expected.forces is not None
    torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.stress, expected.stress.flatten()[[0, 4, 8, 5, 2, 1]], rtol=0, atol=1e-6)
    shift = 9.0 * 2 / float(item.structure.volume)
    assert prepared.labels.dos is not None
    top = float(model.energies[int(prepared.labels.dos.nan_to_num().argmax())])
    assert top + shift == pytest.approx(4.0, abs=0.3)


#: Of the DOS of ``prepared_beryllium``, eV.
ENERGIES = np.linspace(-9, 16, 251)


def prepared_beryllium(model: LDOSModel, dos: np.ndarray, level: float) -> TrainingSnapshot:
    """A crystal with a DOS and a Fermi level (eV) as labels."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    item = Snapshot(
        *("x_0", atoms.numbers, atoms.cell.array, atoms.positions),
        energies=ENERGIES,
        dos=dos,
        ldos_sigma=0.2,
        fermi_level=level,
        electronic_temperature=1000.0,
    )
    return prepare_snapshot(
        *(item, model.descriptor.fixed, fixed_scaler(model), {4: 2.0}),
        energies=model.energies.numpy(),
        broadening=0.3,
        spacing=model.metadata.grid_spacing,
        jacobian=None,
    )


def test_electrons_below_the_level(make_model: Callable[..., LDOSModel]) -> None:
    """N at DFT's level: of DFT's own DOS it is the label, of the model's it has the gradient of the weights."""
    model = make_model()
    # four electrons below a gap about 2 eV, and bands above it
    bands = [(-1.0, 4.0), (5.0, 12.0)]
    dos = sum(n / (0.5 * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((ENERGIES - e) / 0.5) ** 2) for e, n in bands)
    prepared = prepared_beryllium(model, dos, 3.1)
    labels = prepared.labels
    assert labels.electrons == pytest.approx(4.0, abs=1e-3)
    assert labels.level_weights is not None
    half = float(np.interp(0.5, labels.level_weights.flip(0) / float(labels.level_weights[0]), model.energies.flip(0)))
    assert half == pytest.approx(2.0, abs=0.5)  # the middle of the gap, not the level at 3.1 eV
    trained = ModelWithOffsets(model, ["x"])
    found = evaluate_snapshot(model, prepared, forces=False)
    square = _squared_errors(trained, prepared, found)["electrons"]
    counted = float(labels.level_weights @ found.dos.detach())
    assert float(square.detach()) == pytest.approx(((counted - labels.electrons) / 4.0) ** 2, rel=1e-10)


def test_metals_keep_their_fermi_level(make_model: Callable[..., LDOSModel]) -> None:
    model = make_model()
    dos = np.where(ENERGIES > -4.0, 0.5, 0.0)
    prepared = prepared_beryllium(model, dos, 4.2)
    assert prepared.labels.electrons == pytest.approx(0.5 * 8.2, abs=0.06)


def test_data_of_the_models_width_on_other_energies() -> None:
    energies = np.linspace(-4, 6, 101)
    dos = np.exp(-0.5 * ((energies - 2.0) / 0.3) ** 2)
    labelled = snapshot(1, 0, 8.0, energies=energies, dos=dos, ldos_sigma=0.3)
    target = np.arange(-3.96, 5.9, 0.1)
    values, _ = on_model_energies(labelled, dos, target, 0.3)
    np.testing.assert_allclose(values, np.exp(-0.5 * ((target - 2.0) / 0.3) ** 2), atol=2e-4)
