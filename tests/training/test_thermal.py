"""Learning the change of the free energy with the electronic temperature from labels whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from predicted_labels import predicted_snapshot, rattled_beryllium
from thermal_models import heated

from ase_ldos.cli.main import main
from ase_ldos.dataset.npz import save_snapshot
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.prediction.predict import predict
from ase_ldos.training import thermal
from ase_ldos.training.thermal import ThermalData

OWN, HOT = 3000.0, (7000.0, 12000.0)


def labels_of(model: LDOSModel, name: str, seed: int) -> list[Snapshot]:
    """Labels at all temperatures whose energies are all wrong by the same: that is not to be learned."""
    found, atoms = [], rattled_beryllium(seed)
    for temperature in (OWN, *HOT):
        item = predicted_snapshot(f"{name}_{temperature:.0f}K", atoms, model, with_ldos=False)
        hot = predict(model, Structure.from_atoms(atoms), forces=True, stress=True, electronic_temperature=temperature)
        assert hot.forces is not None
        assert hot.stress is not None
        forces, stress = hot.forces.numpy(), hot.stress.numpy()
        energy = hot.free_energy + 0.5
        item = replace(item, free_energy=energy, forces=forces, stress=stress, electronic_temperature=temperature)
        found.append(item)
    return found


@pytest.fixture
def labels(be_model: LDOSModel) -> list[Snapshot]:
    """Of six structures, by a model with a known correction, which it then forgets."""
    truth = heated(be_model, 0.003)
    found = [label for seed, name in enumerate("abcdef") for label in labels_of(truth, name, seed)]
    be_model.thermal_correction = None
    return found


def test_a_known_change_is_found_again(be_model: LDOSModel, labels: list[Snapshot]) -> None:
    """By the fit of all, and on each structure by that of the others."""
    data = ThermalData(be_model, labels, progress=False)
    be_model.thermal_correction = data.fit(ridge=1e-6)
    assert be_model.thermal_correction.highest == HOT[-1]
    for label in labels:
        structure = Structure.from_arrays(label.numbers, label.positions, label.cell)
        temperature = label.electronic_temperature
        found = predict(be_model, structure, forces=True, stress=True, electronic_temperature=temperature)
        assert label.free_energy is not None
        assert found.forces is not None
        assert found.stress is not None
        assert found.free_energy == pytest.approx(label.free_energy - 0.5, abs=2e-4)
        torch.testing.assert_close(found.forces, torch.as_tensor(label.forces), rtol=0, atol=5e-3)
        torch.testing.assert_close(found.stress, torch.as_tensor(label.stress), rtol=0, atol=2e-4)
    errors = data.errors(ridge=1e-6)
    assert set(errors) == {"7000", "12000"}
    for found_errors in errors.values():
        for name in ("energy", "forces", "pressure"):
            assert found_errors[name] < 0.3 * found_errors[f"plain_{name}"], name


def test_a_structure_that_is_left_out_is_not_learned_from(be_model: LDOSModel, labels: list[Snapshot]) -> None:
    changed = [replace(x, free_energy=float(x.free_energy or 0) + 3) if x.name == "b_12000K" else x for x in labels]
    first, second = (ThermalData(be_model, items, progress=False) for items in (labels, changed))
    for name in ("b_7000K", "b_12000K"):
        assert torch.equal(first.fit(without=name).weights, second.fit(without=name).weights)
    assert not torch.equal(first.fit().weights, second.fit().weights)
    strong, weak = (first.fit(ridge=ridge).weights.norm() for ridge in (1e18, 1.0))
    assert strong < 1e-3 * weak


def test_the_ridge_is_the_one_that_serves_structures_left_out(be_model: LDOSModel, labels: list[Snapshot]) -> None:
    data = ThermalData(be_model, labels, progress=False)
    chosen = data.learn()
    used = chosen.provenance["ridge"]
    assert used < math.inf
    torch.testing.assert_close(chosen.weights, data.fit(ridge=used).weights, rtol=0, atol=0)

    def total(ridge: float) -> float:
        errors = data.errors(ridge=ridge).values()
        return sum((item[name] / item[f"plain_{name}"]) ** 2 for item in errors for name in ("energy", "forces"))

    assert total(used) < 0.5 * total(1e9)
    # the errors that are told know nothing of the structure, not even by the ridge
    fits = [data.fit(without=f"{name}_7000K") for name in "abcdef"]
    changed = [replace(x, free_energy=float(x.free_energy or 0) + 9) if x.name == "c_12000K" else x for x in labels]
    other = ThermalData(be_model, changed, progress=False)
    assert torch.equal(other.fit(without="c_7000K").weights, fits[2].weights)


def test_nothing_is_learned_where_it_does_not_carry_over(be_model: LDOSModel) -> None:
    """What the model lacks is noise."""
    generator, noisy = torch.Generator().manual_seed(3), []
    for label in (label for seed, name in enumerate("abcdef") for label in labels_of(be_model, name, seed)):
        noise = 0.1 * torch.randn(len(label) + 3, 3, generator=generator, dtype=torch.float64).numpy()
        assert label.free_energy is not None
        assert label.forces is not None
        assert label.stress is not None
        changed = replace(
            label,
            free_energy=label.free_energy + noise[0, 0],
            forces=label.forces + noise[3:],
            stress=label.stress + 0.05 * (noise[:3] + noise[:3].T),
        )
        noisy.append(label if "_3000K" in label.name else changed)
    data = ThermalData(be_model, noisy, progress=False)
    with pytest.raises(ValueError, match="structures that are left out are met best without"):
        data.learn()
    assert float(data.fit().weights.abs().max()) == 0
    assert data.learn(ridge=1.0).errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[1:], "a_7000K has no label of the same atoms at 3000 K"),
        (lambda items: items[:1], "no labels at other temperatures"),
        (lambda items: [items[0], replace(items[1], stress=None)], "a_7000K lacks energy, forces or stress"),
    ],
)
def test_labels_that_do_not_do_are_refused(
    be_model: LDOSModel,
    labels: list[Snapshot],
    change: Callable[[list[Snapshot]], list[Snapshot]],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        ThermalData(be_model, change(labels[:3]), progress=False)


def test_what_cannot_be_fitted_is_refused(make_model: Callable[..., LDOSModel], labels: list[Snapshot]) -> None:
    with pytest.raises(ValueError, match="fixed features only"):
        ThermalData(make_model(kind="se3_transformer"), labels, progress=False)
    few = ThermalData(make_model(), labels[:3], progress=False)
    with pytest.raises(ValueError, match="there is only one structure"):
        few.fit(without="a_7000K", ridge=1.0)
    with pytest.raises(ValueError, match="no ridge can be chosen"):
        few.fit()


def test_the_command_writes_a_model_and_tells_its_errors(
    be_model: LDOSModel,
    labels: list[Snapshot],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "labels").mkdir()
    for label in labels[:9]:
        save_snapshot(tmp_path / "labels" / f"{label.name}.npz", label)
    save_model(be_model, tmp_path / "cold.safetensors")
    arguments = ["heat", str(tmp_path / "cold.safetensors"), str(tmp_path / "labels")]
    assert main([*arguments, "--out", str(tmp_path / "hot.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "A (meV/atom)" in printed
    assert printed.splitlines()[3].split()[0] == "12000"
    found = load_model(tmp_path / "hot.safetensors").thermal_correction
    assert found is not None
    assert set(found.provenance["labels"]) == {x.name for x in labels[:9] if "_3000K" not in x.name}
    assert found.provenance["ridge"] in thermal.RIDGES
    assert printed.splitlines()[-2] == f"ridge {found.provenance['ridge']:g}"
    assert set(found.errors) == {"7000", "12000"}
    assert load_model(arguments[1]).thermal_correction is None
    assert main([*arguments, "--ridge", "-1"]) != 0
