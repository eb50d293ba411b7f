"""MALA's files: contents with closed forms, and pickles that must not run."""

from __future__ import annotations

import io
import json
import math
import pickle
from pathlib import Path

import mala_files
import numpy as np
import pytest
import torch
from mala_files import ENERGIES, N_ELECTRONS, SLOPE, TEMPERATURE

from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.formats.mala import read_mala_snapshot, write_mala_snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.import_mala import read_mala_model
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.units import BOLTZMANN


def test_snapshot_has_the_electrons_that_were_written(tmp_path: Path) -> None:
    """Of D = SLOPE (ε + 5) Sommerfeld's expansions end: they are exact."""
    snapshot = read_mala_snapshot(mala_files.write_snapshot(tmp_path), ENERGIES)
    assert snapshot.n_electrons == N_ELECTRONS
    assert snapshot.electronic_temperature == TEMPERATURE
    np.testing.assert_array_equal(snapshot.ldos_values(), mala_files.ldos())
    assert snapshot.forces is not None
    np.testing.assert_array_equal(snapshot.forces, mala_files.table()["atomic_forces_dft"])
    kT = BOLTZMANN * TEMPERATURE
    dos, energies = torch.as_tensor(snapshot.dos), torch.as_tensor(snapshot.energies)
    level = fermi_level(dos, energies, N_ELECTRONS, kT)
    expected = -5 + math.sqrt(2 * N_ELECTRONS / SLOPE - (math.pi * kT) ** 2 / 3)
    assert float(level) == pytest.approx(expected, abs=1e-6)  # float32 in the file
    weights = occupation_weights(energies, level, kT)
    height = expected + 5
    band = SLOPE * (height**3 / 3 - 5 * height**2 / 2 + (math.pi * kT) ** 2 / 6 * (2 * expected + 5))
    assert float(weights.band @ dos) == pytest.approx(band, abs=1e-5)
    assert float(weights.entropy @ dos) == pytest.approx(-((math.pi * kT) ** 2) / 3 * SLOPE * height, rel=1e-6)
    parts = (snapshot.one_electron, snapshot.hartree, snapshot.xc, snapshot.ewald, snapshot.smearing_TS)
    assert sum(part for part in parts if part is not None) == pytest.approx(snapshot.free_energy, abs=1e-9)


def test_model_is_its_definition_on_our_own_snap(tmp_path: Path) -> None:
    model = read_mala_model(mala_files.write_model(tmp_path))
    np.testing.assert_array_equal(model.energies.numpy(), ENERGIES)
    assert model.charges(torch.tensor([4, 4])).sum() == N_ELECTRONS
    assert model.metadata.electronic_temperature == TEMPERATURE
    atoms = mala_files.beryllium()
    structure = Structure.from_atoms(atoms)
    snapshot = read_mala_snapshot(mala_files.write_snapshot(tmp_path), ENERGIES)
    write_mala_snapshot(
        tmp_path / "columns", snapshot, SNAP((4,), twojmax=mala_files.TWOJMAX, cutoff=mala_files.CUTOFF)
    )
    columns = np.load(tmp_path / "columns/Be_snapshot0.in.npy")[..., 3:].astype(float)
    expected = mala_files.evaluate(columns.reshape(-1, columns.shape[-1]))
    # the model knows the spacing of its grid
    found = predict_ldos(model, structure)
    assert found.shape == (*mala_files.SHAPE, mala_files.SIZE)
    np.testing.assert_allclose(
        found.reshape(expected.shape), expected, atol=1e-6 * expected.max()
    )  # columns are float32
    prediction = predict(model, structure)
    dos = torch.as_tensor(expected.mean(axis=0) * atoms.get_volume())
    kT = BOLTZMANN * TEMPERATURE
    assert prediction.fermi_level == pytest.approx(float(fermi_level(dos, model.energies, N_ELECTRONS, kT)), abs=1e-5)


def test_model_survives_our_own_format(tmp_path: Path) -> None:
    model = read_mala_model(mala_files.write_model(tmp_path))
    save_model(model, tmp_path / "be.safetensors")
    again = load_model(tmp_path / "be.safetensors")
    assert again.dtype == torch.float64
    for first, second in zip(model.head, again.head, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(model.projection, again.projection, rtol=0, atol=0)


def test_snapshot_survives_with_descriptor_columns(tmp_path: Path) -> None:
    source = mala_files.write_snapshot(tmp_path)
    snapshot = read_mala_snapshot(source, ENERGIES)
    descriptor = SNAP((4,), twojmax=2, cutoff=3.0)
    write_mala_snapshot(tmp_path / "again", snapshot, descriptor)
    again = read_mala_snapshot(tmp_path / "again/Be_snapshot0.info.json", ENERGIES)
    for key in ("ldos", "positions", "cell", "forces"):
        np.testing.assert_array_equal(getattr(again, key), getattr(snapshot, key))
    assert again.free_energy == snapshot.free_energy
    columns = np.load(tmp_path / "again/Be_snapshot0.in.npy")
    assert columns.shape == (*mala_files.SHAPE, 3 + descriptor.n_features)
    voxel = np.array(mala_files.table()["voxel"]["array"])  # type: ignore[index]
    np.testing.assert_allclose(columns[3, 2, 5, :3], np.array([3, 2, 5]) @ voxel, rtol=1e-6)
    written, original = json.loads((tmp_path / "again/Be_snapshot0.info.json").read_text()), mala_files.table()
    for key in ("number_of_electrons_exact", "electrons_per_atom", "grid_dimensions", "atoms", "fermi_energy_dft"):
        assert written[key] == original[key]
    np.testing.assert_allclose(written["voxel"]["array"], voxel, atol=1e-12)


def test_wrong_energies_and_files_are_named(tmp_path: Path) -> None:
    source = mala_files.write_snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"key 'ldos' has shape \(4, 4, 6, 11\)"):
        read_mala_snapshot(source, ENERGIES[:-1])
    with pytest.raises(ValueError, match=r"not the NAME\.info\.json"):
        read_mala_snapshot(tmp_path / "x.json", ENERGIES)
    (tmp_path / "x.info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x\.out\.npy are not a MALA snapshot"):
        read_mala_snapshot(tmp_path / "x.info.json", ENERGIES)
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="cannot be read as a MALA model"):
        read_mala_model(tmp_path / "x.zip")


class Malice:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (self.path,))


def test_scaler_that_runs_code_is_refused(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(ValueError, match="which is not allowed"):
        read_mala_model(mala_files.write_model(tmp_path, iscaler=pickle.dumps(Malice(trap))))
    buffer = io.BytesIO()
    torch.save({"layers.0.weight": Malice(trap)}, buffer)
    with pytest.raises(ValueError, match="cannot be read as a MALA model"):
        read_mala_model(mala_files.write_model(tmp_path, network=buffer.getvalue()))
    assert not trap.exists()


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    parameters = mala_files.parameters()
    parameters["network"]["nn_type"] = "transformer"
    with pytest.raises(ValueError, match="network 'transformer'; only 'feed-forward'"):
        read_mala_model(mala_files.write_model(tmp_path, params=json.dumps(parameters).encode()))
    scaler = mala_files.pickled_scaler("feature-wise-minmax")
    with pytest.raises(ValueError, match="scales its inputs by 'feature-wise-minmax'"):
        read_mala_model(mala_files.write_model(tmp_path, iscaler=scaler))
