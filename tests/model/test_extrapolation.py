"""The distance from the training data: its formula, symmetries, calibration, and the calculator's warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError, InputError

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.cli.main import main
from ase_ldos.dataset.npz import Snapshot, load_snapshots, save_snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.extrapolation import (
    ExtrapolationWarning,
    atom_distances,
    atom_inputs,
    force_deviation,
    warning_threshold,
)
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.prediction.predict import predict
from ase_ldos.simulation.sampling import rattled
from ase_ldos.training.calibrate import VARIANCE_FLOOR, calibrate, fit_force_error


def crystal(n: int = 2, change: float = 1.0) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat((n, n, n))
    atoms.set_cell(atoms.cell * change ** (1 / 3), scale_atoms=True)
    return atoms


def snapshots(n: int, seed: int) -> list[Snapshot]:
    random = np.random.default_rng(seed)
    cells = [rattled(crystal(1, 1 + 0.03 * random.normal()).repeat((2, 1, 1)), 0.08, random) for _ in range(n)]
    return [Snapshot(f"h4_{i}", atoms.numbers, atoms.cell.array, atoms.positions) for i, atoms in enumerate(cells)]


@pytest.fixture
def calibrated(either_model: LDOSModel) -> LDOSModel:
    calibrate(either_model, snapshots(40, seed=1), snapshots(10, seed=2), progress=False)
    return either_model


def test_distance_is_mahalanobis(calibrated: LDOSModel) -> None:
    training = [item.structure for item in snapshots(40, seed=1)]
    inputs = torch.cat([atom_inputs(calibrated, structure) for structure in training]).numpy()
    variances, axes = np.linalg.eigh(np.cov(inputs.T))
    covariance = axes @ np.diag(np.maximum(variances, VARIANCE_FLOOR * variances.max())) @ axes.T
    structure = Structure.from_atoms(rattled(crystal(1), 0.1, np.random.default_rng(3)))
    shifted = atom_inputs(calibrated, structure).numpy() - inputs.mean(axis=0)
    expected = np.sqrt(np.einsum("ai,ij,aj->a", shifted, np.linalg.inv(covariance), shifted) / inputs.shape[1])
    assert atom_distances(calibrated, structure).numpy() == pytest.approx(expected, rel=1e-6)
    # of the training set itself the mean square is about one, less where the floor counts
    squares = torch.cat([atom_distances(calibrated, item).square() for item in training])
    assert 0.7 < float(squares.mean()) < 1


def test_threshold_is_the_farthest_held_back_atom(calibrated: LDOSModel) -> None:
    largest = [float(atom_distances(calibrated, item.structure).max()) for item in snapshots(10, seed=2)]
    ranges = calibrated.metadata.extrapolation
    expected = {"threshold": max(largest), "largest": max(largest), "median": np.median(largest), "structures": 10.0}
    assert ranges == pytest.approx(expected)


def test_force_error_by_distance_is_found_again() -> None:
    random = np.random.default_rng(8)
    distances = random.uniform(0.5, 4.0, 4000)
    errors = random.normal(size=(4000, 3)) * (0.02 * distances**1.7)[:, None]
    assert fit_force_error(distances, errors) == pytest.approx((0.02, 1.7), rel=0.05)
    # errors that fall with the distance, or do not depend on it, give a constant
    scale, power = fit_force_error(distances, random.normal(size=(4000, 3)) * (0.02 / distances)[:, None])
    assert power == 0
    assert 0.005 < scale < 0.04


def test_threshold_follows_the_accepted_force_error() -> None:
    ranges = {"threshold": 1.0, "largest": 3.0, "median": 1.0, "structures": 9.0}
    metadata = ModelMetadata("x", {"Be": 2.0}, extrapolation=ranges)
    assert warning_threshold(metadata) == 1.0
    with pytest.raises(ValueError, match="does not know how force errors grow"):
        warning_threshold(metadata, 0.1)
    known = ranges | {"force_error_at_1": 0.02, "force_error_power": 2.0}
    metadata = replace(metadata, extrapolation=known)
    assert warning_threshold(metadata, 0.08) == pytest.approx(2.0)
    assert warning_threshold(metadata, 10.0) == 3.0  # nothing is known beyond what was held back
    assert force_deviation(metadata, torch.tensor([1.0, 2.0])).tolist() == pytest.approx([0.02, 0.08])
    with pytest.raises(ValueError, match="must be a positive number"):
        warning_threshold(metadata, -1.0)
    flat = replace(metadata, extrapolation=known | {"force_error_power": 0.0})
    assert (warning_threshold(flat, 0.03), warning_threshold(flat, 0.01)) == (3.0, 0.0)


def test_labels_that_the_model_meets_exactly_tell_no_force_error(
    be_model: LDOSModel, caplog: pytest.LogCaptureFixture
) -> None:
    def taught(item: Snapshot) -> Snapshot:
        found = predict(be_model, item.structure, forces=True, grid_shape=(4, 4, 6), electronic_temperature=300.0)
        assert found.forces is not None
        return replace(item, forces=found.forces.numpy(), density=found.density.numpy(), electronic_temperature=300.0)

    held_back = [taught(item) for item in snapshots(3, seed=2)]
    calibrate(be_model, snapshots(40, seed=1), held_back, progress=False)
    ranges = be_model.metadata.extrapolation
    assert "force_error" not in ranges
    assert ranges["threshold"] == ranges["largest"] > 0
    assert "the forces of all 3 held-back structures are those of their labels" in caplog.text
    with pytest.raises(ValueError, match="how force errors grow cannot be told"):
        calibrate(be_model, snapshots(40, seed=1), held_back, force_error=0.1, progress=False)
    # one that it does not meet is enough
    wrong = replace(held_back[0], forces=np.asarray(held_back[0].forces) + 0.1)
    calibrate(be_model, snapshots(40, seed=1), [wrong, *held_back[1:]], progress=False)
    assert be_model.metadata.extrapolation["force_error"] > 0.1


def test_calculator_warns_at_the_force_error_that_is_accepted(be_model: LDOSModel) -> None:
    items = snapshots(10, seed=2)
    forces = np.random.default_rng(1).normal(size=(10, 4, 3)) * 0.01
    labelled = [replace(item, forces=force) for item, force in zip(items, forces)]
    calibrate(be_model, snapshots(40, seed=1), labelled, force_error=1e3, progress=False)
    ranges = be_model.metadata.extrapolation
    assert ranges["threshold"] == ranges["largest"]
    atoms = rattled(crystal(1), 0.08, np.random.default_rng(3))
    LDOSCalculator(be_model, device="cpu", grid_spacing=0.6).get_potential_energy(atoms)  # warnings are errors here
    strict = LDOSCalculator(be_model, device="cpu", grid_spacing=0.6, accepted_force_error=1e-6)
    with pytest.warns(ExtrapolationWarning, match="far from those .*forces are off by some .* meV/Å"):
        strict.get_potential_energy(atoms)
    with pytest.raises(CalculatorSetupError, match="must be a positive number"):
        LDOSCalculator(be_model, device="cpu", accepted_force_error=0.0)
    with pytest.raises(ValueError, match="no held-back structure has forces"):
        calibrate(be_model, items, items[:2], force_error=0.1, progress=False)


def test_symmetries_and_boxes(calibrated: LDOSModel) -> None:
    """Rotation, translation out of the cell, order of atoms, and a supercell that takes many boxes."""
    atoms = rattled(crystal(1), 0.1, np.random.default_rng(4))
    expected = atom_distances(calibrated, Structure.from_atoms(atoms)).numpy()
    changed = atoms.copy()
    changed.rotate(33, (1, 2, 3), rotate_cell=True)
    changed.translate((7.0, -11.0, 3.0))
    assert atom_distances(calibrated, Structure.from_atoms(changed[::-1])).numpy() == pytest.approx(expected[::-1])
    many = atoms.repeat((6, 2, 4))
    assert atom_distances(calibrated, Structure.from_atoms(many)).numpy() == pytest.approx(np.tile(expected, 48))


def test_a_large_cell_shows_no_rounding(be_model: LDOSModel) -> None:
    """A model in float32: equivalent atoms of many boxes have the distance of the primitive cell's."""
    calibrate(be_model, snapshots(40, seed=1), snapshots(10, seed=2), progress=False)
    model = be_model.to(torch.float32)
    expected = atom_distances(model, Structure.from_atoms(crystal(1))).numpy()
    many = atom_distances(model, Structure.from_atoms(crystal(1).repeat((6, 6, 4)))).numpy()
    assert many == pytest.approx(np.tile(expected, 144), rel=1e-4)


def test_elements_have_their_own_range(alloy_model: LDOSModel) -> None:
    random = np.random.default_rng(5)
    cells = [rattled(crystal(1).repeat((2, 1, 1)), 0.08, random) for _ in range(30)]
    for atoms in cells:
        atoms.symbols[[1, 2]] = "Mg"
    items = [Snapshot(f"x_{i}", a.numbers, a.cell.array, a.positions) for i, a in enumerate(cells)]
    with pytest.raises(ValueError, match="the training data have 0 atoms of Mg"):
        calibrate(alloy_model, snapshots(3, seed=6), items[25:], progress=False)
    calibrate(alloy_model, items[:25], items[25:], progress=False)
    wrong = cells[0].copy()
    wrong.symbols[:] = "Be"
    distances = [atom_distances(alloy_model, Structure.from_atoms(atoms)).min() for atoms in (cells[0], wrong)]
    assert distances[1] > alloy_model.metadata.extrapolation["threshold"] > distances[0]
    with pytest.raises(ValueError, match="no structure is held back"):
        calibrate(alloy_model, items, [], progress=False)


def test_model_file_keeps_the_range(calibrated: LDOSModel, tmp_path: Path) -> None:
    save_model(calibrated, tmp_path / "new.safetensors")
    loaded = load_model(tmp_path / "new.safetensors")
    structure = Structure.from_atoms(crystal(1))
    assert loaded.metadata.extrapolation == calibrated.metadata.extrapolation
    assert torch.equal(atom_distances(loaded, structure), atom_distances(calibrated, structure))


def test_model_without_a_range(be_model: LDOSModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(be_model, tmp_path / "old.safetensors")
    atoms = crystal(1, 0.8)
    atoms.calc = LDOSCalculator(tmp_path / "old.safetensors", device="cpu")
    atoms.get_potential_energy()  # warnings are errors here
    with pytest.raises(InputError, match="does not know its training range"):
        atoms.calc.get_extrapolation()
    assert main(["info", str(tmp_path / "old.safetensors")]) == 0
    assert "not calibrated" in capsys.readouterr().out


def test_calculator_warns_once_and_names_the_atoms(be_model: LDOSModel) -> None:
    calibrate(be_model, snapshots(40, seed=1), snapshots(10, seed=2), progress=False)
    atoms = crystal(3)
    atoms.calc = LDOSCalculator(be_model, device="cpu", grid_spacing=0.6)
    atoms.get_potential_energy()
    assert atoms.calc.get_extrapolation().max() < be_model.metadata.extrapolation["threshold"]
    atoms.positions[20, 2] += 0.6
    with pytest.warns(ExtrapolationWarning, match=r"of 54 atoms .* The farthest is atom \d+ at") as caught:
        atoms.get_potential_energy()
    named = str(caught[0].message).split("atoms ")[2].split(".")[0]
    beyond = np.flatnonzero(atoms.calc.get_extrapolation() > be_model.metadata.extrapolation["threshold"])
    assert "20" in named.split(", ")
    assert 20 in beyond
    assert len(beyond) < 54
    assert str(caught[0].message).startswith(f"{len(beyond)} of 54 atoms")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once per run
        atoms.positions[20, 2] += 0.05
        atoms.get_forces()
    smaller = crystal(1, 0.7)
    smaller.calc = atoms.calc
    with pytest.warns(ExtrapolationWarning, match="2 of 2 atoms"):
        smaller.get_potential_energy()


def test_command(be_model: LDOSModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for item in snapshots(12, seed=7):
        labelled = replace(item, electronic_temperature=300.0, free_energy=-1.0)
        save_snapshot(tmp_path / "data" / f"{item.name}.npz", labelled)
    save_model(be_model, tmp_path / "m.safetensors")
    arguments = [str(tmp_path / "m.safetensors"), str(tmp_path / "data")]
    assert main(["calibrate", *arguments, "--every", "6", "--offset", "5"]) == 0
    assert "the largest of 2 held-back structures" in capsys.readouterr().out
    assert load_model(tmp_path / "m.safetensors").metadata.extrapolation["structures"] == 2
    assert main(["info", str(tmp_path / "m.safetensors")]) == 0
    assert "largest of 2 held-back structures" in capsys.readouterr().out
    # what the model file tells needs not be told again
    assert main(["calibrate", *arguments]) == 2
    assert "does not tell what was held back" in capsys.readouterr().err
    names = sorted(path.stem for path in (tmp_path / "data").glob("*.npz"))
    told = {"training": names[3:], "held back": names[:3]}
    be_model.metadata = replace(be_model.metadata, provenance=told)
    save_model(be_model, tmp_path / "m.safetensors")
    assert main(["calibrate", *arguments, "--out", str(tmp_path / "new.safetensors")]) == 0
    assert load_model(tmp_path / "new.safetensors").metadata.extrapolation["structures"] == 3


def test_bundled_model_knows_a_compressed_cell(bundled: str, find_labels: Callable[[str], Path]) -> None:
    """Calibrated on the labels that come with the package: held-back structures are silent, 15 % compression is not."""
    items = {item.name: item for item in load_snapshots(find_labels("small"))}
    model = load_model(bundled)
    # by name: labels are still added
    held_back = items.keys() & set(model.metadata.provenance["held back"])
    training = [item for name, item in items.items() if name not in held_back]
    calibrate(model, training, [items[name] for name in sorted(held_back)], progress=False)
    atoms = items["h4_d04"].to_atoms()
    atoms.calc = LDOSCalculator(model, device="cpu")
    atoms.get_potential_energy()
    atoms = crystal(1, 0.85)
    atoms.calc = LDOSCalculator(model, device="cpu")
    # where the energy window is too narrow for the raised Fermi level, the warning comes before that error
    with pytest.warns(ExtrapolationWarning, match="2 of 2 atoms"), suppress(InputError):
        atoms.get_potential_energy()
