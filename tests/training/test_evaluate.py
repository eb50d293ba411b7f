"""The errors of a model against labels that are known by construction."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from ase_ldos.cli import calibrate
from ase_ldos.cli.evaluate import add_arguments, run
from ase_ldos.dataset.npz import Snapshot, save_snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.training.evaluate import SnapshotErrors, evaluate_model, format_table, summarise


def own_prediction(model: LDOSModel, name: str = "hcp2_00") -> Snapshot:
    """A snapshot whose labels are the model's own prediction."""
    atoms = bulk("Be", "hcp", a=2.25, c=3.55)
    atoms.rattle(0.05, seed=1)
    structure = Structure.from_atoms(atoms)
    found = predict(model, structure, forces=True, stress=True)
    assert found.forces is not None
    assert found.stress is not None
    return Snapshot(
        name=name,
        numbers=atoms.numbers,
        cell=atoms.cell[:],
        positions=atoms.positions,
        energies=model.energies.numpy(),
        ldos=predict_ldos(model, structure).numpy(),
        ldos_scale=1.0,
        ldos_sigma=0.3,
        density=found.density.numpy(),
        free_energy=found.free_energy,
        forces=found.forces.numpy(),
        stress=found.stress.numpy(),
        fermi_level_dense=found.fermi_level,
        electronic_temperature=3000.0,
    )


@pytest.fixture
def model(be_model: LDOSModel) -> LDOSModel:
    be_model.metadata = replace(be_model.metadata, broadening=0.3)
    return be_model


def test_a_model_agrees_with_itself(model: LDOSModel) -> None:
    (errors,) = evaluate_model(model, [own_prediction(model)], progress=False)
    assert errors.group == "hcp2"
    assert set(errors.values) >= {
        "energy",
        "energy_ldos",
        "forces",
        "stress",
        "density",
        "dos",
        "fermi_level",
        "electrons",
        "ldos",
    }
    for name, value in errors.values.items():
        assert abs(value) < 1e-5, name


def test_shifted_labels_give_the_shift(model: LDOSModel) -> None:
    exact = own_prediction(model)
    assert exact.forces is not None
    assert exact.free_energy is not None
    assert exact.density is not None
    wrong = replace(
        exact, forces=exact.forces + 0.02, free_energy=exact.free_energy - 0.004, density=exact.density * 0.99
    )
    (errors,) = evaluate_model(model, [wrong], progress=False)
    assert errors.values["energy"] == pytest.approx(2.0, abs=1e-6)
    assert errors.values["forces"] == pytest.approx(20.0, abs=1e-6)
    assert errors.values["density"] == pytest.approx(100 / 99, abs=1e-6)


def test_a_dos_without_ldos_is_compared_as_far_as_it_is_known(model: LDOSModel) -> None:
    exact = own_prediction(model)
    assert exact.energies is not None
    dos = predict(model, exact.structure).dos.numpy()[:90]
    known = replace(exact, ldos=None, ldos_scale=None, energies=exact.energies[:90], dos=1.02 * dos)
    (errors,) = evaluate_model(model, [known], progress=False)
    assert errors.values["dos"] == pytest.approx(100 * 0.02 / 1.02, abs=1e-6)
    # DFT counts 2 % more below the Fermi level: of the 4 electrons of 2 atoms
    assert errors.values["electrons"] == pytest.approx(-40.0, abs=1.0)
    assert "ldos" not in errors.values


def test_labels_that_are_missing_are_left_out(model: LDOSModel) -> None:
    bare = replace(own_prediction(model), ldos=None, ldos_scale=None, energies=None, forces=None)
    (errors,) = evaluate_model(model, [bare], progress=False)
    assert "forces" not in errors.values
    assert "ldos" not in errors.values
    assert "forces" not in format_table([errors])


def test_an_ldos_that_ends_among_occupied_states_gives_no_energy(model: LDOSModel) -> None:
    """DFT had too few bands: what is known of the LDOS still counts."""
    exact = own_prediction(model)
    assert exact.energies is not None
    assert exact.ldos is not None
    assert exact.fermi_level_dense is not None
    # at 3000 K states are occupied far beyond half an eV
    known = int(np.searchsorted(exact.energies, exact.fermi_level_dense + 0.5))
    short = replace(exact, energies=exact.energies[:known], ldos=exact.ldos[..., :known])
    (errors,) = evaluate_model(model, [short], progress=False)
    assert not {"energy_ldos", "ldos_occupied"} & set(errors.values)
    assert errors.values["ldos"] < 1e-5
    assert errors.values["energy"] == pytest.approx(0, abs=1e-5)


def test_summary_separates_bias_spread_and_families() -> None:
    errors = [
        SnapshotErrors("hcp_0", "hcp", {"energy": 1.0, "forces": 3.0}),
        SnapshotErrors("hcp_1", "hcp", {"energy": 3.0, "forces": 4.0}),
        SnapshotErrors("fcc_0", "fcc", {"energy": -4.0}),
    ]
    summary = summarise(errors)
    assert summary["energy_bias"] == pytest.approx(0.0)
    assert summary["energy_spread"] == pytest.approx(np.sqrt(26 / 3))
    assert summary["energy_within_family"] == pytest.approx(np.sqrt(2))
    assert summary["forces"] == pytest.approx(np.sqrt(12.5))
    assert "spread within one cell type 1.41" in format_table(errors)


def test_command_evaluates_held_back_files(
    model: LDOSModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, tmp_path / "m.safetensors")
    (tmp_path / "data").mkdir()
    for number in range(3):
        name = f"hcp2_{number:02d}"
        save_snapshot(tmp_path / "data" / f"{name}.npz", own_prediction(model, name))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    base = [str(tmp_path / "m.safetensors"), str(tmp_path / "data")]
    assert run(parser.parse_args([*base, "--every", "3", "--json"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report["snapshots"]) == ["hcp2_01"]
    assert run(parser.parse_args(base)) == 0
    assert "RMS" in capsys.readouterr().out
    with pytest.raises(ValueError, match="does not tell what was held back"):
        run(parser.parse_args([*base, "--held-out"]))
    for held_back, message in ((["hcp2_00", "elsewhere"], ""), (["elsewhere"], "none of these 3 snapshots was held")):
        model.metadata = replace(model.metadata, provenance={"held back": held_back})
        save_model(model, tmp_path / "m.safetensors")
        if message:
            with pytest.raises(ValueError, match=message):
                run(parser.parse_args([*base, "--held-out"]))
        else:
            assert run(parser.parse_args([*base, "--held-out", "--json"])) == 0
            assert list(json.loads(capsys.readouterr().out)["snapshots"]) == ["hcp2_00"]
    with pytest.raises(ValueError, match="--every 0 must be at least 1"):
        run(parser.parse_args([*base, "--every", "0"]))
    model.metadata = replace(model.metadata, provenance={"training": ["hcp2_01", "hcp2_02"], "held back": ["hcp2_00"]})
    save_model(model, tmp_path / "m.safetensors")
    capsys.readouterr()
    assert run(parser.parse_args(base)) == 0
    assert "2 of these 3 snapshots, hcp2_01 for one, have names that" in capsys.readouterr().err
    calibration = argparse.ArgumentParser()
    calibrate.add_arguments(calibration)
    with pytest.raises(ValueError, match="1 of the 1 held-back snapshots, hcp2_01 for one, were learned"):
        calibrate.run(calibration.parse_args([*base, "--every", "3"]))
