"""MALA's files: published numbers, our own SNAP, and pickles that must not run."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.formats.mala import read_mala_snapshot, write_mala_snapshot
from ase_ldos.geometry.grid import Grid
from ase_ldos.model.import_mala import read_mala_model
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.prediction.predict import predict
from ase_ldos.units import BOLTZMANN

ENERGIES = -5 + 2.5 * np.arange(11)
#: What an independent evaluation of the stored files gives, eV.
FERMI_LEVELS = (10.2407354373, 10.1492071548)
BAND_ENERGIES = (12.4470771390, 12.2794801412)
PREDICTED_FERMI_LEVELS = (10.2452200205, 9.9479625676)
PREDICTED_BAND_ENERGIES = (12.4539675, 12.2602531)


@pytest.fixture(scope="module", params=[0, 1])
def case(request: pytest.FixtureRequest, mala_folder: Path) -> tuple[int, Snapshot, torch.Tensor]:
    """Number, snapshot and stored SNAP columns."""
    i = request.param
    columns = np.load(mala_folder / f"Be_snapshot{i}.in.npy")[..., 3:]
    return (
        i,
        read_mala_snapshot(mala_folder / f"Be_snapshot{i}.info.json", ENERGIES),
        torch.as_tensor(columns).double(),
    )


def test_snapshot_gives_the_known_fermi_level_and_band_energy(case: tuple[int, Snapshot, torch.Tensor]) -> None:
    i, snapshot, _ = case
    assert snapshot.n_electrons == 4
    assert snapshot.electronic_temperature is not None
    thermal_energy = BOLTZMANN * snapshot.electronic_temperature
    dos, energies = torch.as_tensor(snapshot.dos), torch.as_tensor(snapshot.energies)
    level = fermi_level(dos, energies, 4.0, thermal_energy)
    assert float(level) == pytest.approx(FERMI_LEVELS[i], rel=1e-6)
    weights = occupation_weights(energies, level, thermal_energy)
    assert float(weights.band @ dos) == pytest.approx(BAND_ENERGIES[i], rel=1e-6)
    parts = (snapshot.one_electron, snapshot.hartree, snapshot.xc, snapshot.ewald, snapshot.smearing_TS)
    assert sum(part for part in parts if part is not None) == pytest.approx(snapshot.free_energy, abs=1e-4)


def test_model_on_stored_columns(case: tuple[int, Snapshot, torch.Tensor], mala_folder: Path) -> None:
    i, snapshot, columns = case
    model = read_mala_model(mala_folder / "Be_model.zip")
    np.testing.assert_allclose(model.energies.numpy(), ENERGIES)
    assert model.charges(torch.tensor([4, 4])).sum() == 4
    weight, bias = model.head
    with torch.no_grad():
        hidden = model.network.features((columns - model.mean) @ model.projection)
        ldos = hidden @ weight.T + bias
    assert abs(ldos.numpy() - snapshot.ldos_values()).mean() < (0.02, 0.15)[i] * snapshot.ldos_values().mean()
    dos = ldos.mean(dim=(0, 1, 2)) * abs(float(np.linalg.det(snapshot.cell)))
    thermal_energy = BOLTZMANN * model.metadata.electronic_temperature
    level = fermi_level(dos, model.energies, 4.0, thermal_energy)
    assert float(level) == pytest.approx(PREDICTED_FERMI_LEVELS[i], rel=1e-5)
    weights = occupation_weights(model.energies, level, thermal_energy)
    assert float(weights.band @ dos) == pytest.approx(PREDICTED_BAND_ENERGIES[i], rel=1e-5)


def test_model_through_our_own_snap(case: tuple[int, Snapshot, torch.Tensor], mala_folder: Path) -> None:
    i, snapshot, _ = case
    model = read_mala_model(mala_folder / "Be_model.zip")
    grid = Grid(snapshot.structure.cell, snapshot.shape or (1, 1, 1))
    prediction = predict(model, snapshot.structure, grid=grid)
    assert prediction.fermi_level == pytest.approx(PREDICTED_FERMI_LEVELS[i], rel=1e-4)
    assert float(prediction.energies.band) == pytest.approx(PREDICTED_BAND_ENERGIES[i], rel=1e-4)


def test_model_survives_our_own_format(mala_folder: Path, tmp_path: Path) -> None:
    model = read_mala_model(mala_folder / "Be_model.zip")
    save_model(model, tmp_path / "be.safetensors")
    again = load_model(tmp_path / "be.safetensors")
    assert again.dtype == torch.float64
    for first, second in zip(model.head, again.head, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(model.projection, again.projection, rtol=0, atol=0)


def test_snapshot_survives_with_descriptor_columns(mala_folder: Path, tmp_path: Path) -> None:
    snapshot = read_mala_snapshot(mala_folder / "Be_snapshot0.info.json", ENERGIES)
    write_mala_snapshot(tmp_path, snapshot, SNAP((4,), twojmax=2))
    again = read_mala_snapshot(tmp_path / "Be_snapshot0.info.json", ENERGIES)
    for key in ("ldos", "positions", "cell", "forces"):
        np.testing.assert_array_equal(getattr(again, key), getattr(snapshot, key))
    assert again.free_energy == snapshot.free_energy
    theirs = np.load(mala_folder / "Be_snapshot0.in.npy")
    ours = np.load(tmp_path / "Be_snapshot0.in.npy")
    np.testing.assert_allclose(ours[..., :3], theirs[..., :3], atol=1e-5)
    np.testing.assert_allclose(ours[..., 3], theirs[..., 3], rtol=1e-4)  # B_000 does not depend on 2J
    written, original = (
        json.loads((folder / "Be_snapshot0.info.json").read_text()) for folder in (tmp_path, mala_folder)
    )
    for key in ("number_of_electrons_exact", "electrons_per_atom", "grid_dimensions", "atoms", "fermi_energy_dft"):
        assert written[key] == original[key]
    np.testing.assert_allclose(written["voxel"]["array"], original["voxel"]["array"], atol=1e-12)


def test_wrong_energies_and_files_are_named(mala_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"key 'ldos' has shape \(18, 18, 27, 11\)"):
        read_mala_snapshot(mala_folder / "Be_snapshot0.info.json", ENERGIES[:-1])
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


def changed_model(source: Path, target: Path, **members: bytes) -> Path:
    """Copy a model with some members replaced."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.namelist():
            new.writestr(member, members.get(member.split(".")[1], old.read(member)))
    return target


def test_scaler_that_runs_code_is_refused(mala_folder: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bad = changed_model(mala_folder / "Be_model.zip", tmp_path / "Be_model.zip", iscaler=pickle.dumps(Malice(trap)))
    with pytest.raises(ValueError, match="which is not allowed"):
        read_mala_model(bad)
    buffer = io.BytesIO()
    torch.save({"layers.0.weight": Malice(trap)}, buffer)
    bad = changed_model(mala_folder / "Be_model.zip", tmp_path / "Be_model.zip", network=buffer.getvalue())
    with pytest.raises(ValueError, match="cannot be read as a MALA model"):
        read_mala_model(bad)
    assert not trap.exists()


def test_models_of_another_kind_are_refused(mala_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(mala_folder / "Be_model.zip") as archive:
        parameters = json.loads(archive.read("Be_model.params.json"))
    parameters["network"]["nn_type"] = "transformer"
    text = json.dumps(parameters).encode()
    bad = changed_model(mala_folder / "Be_model.zip", tmp_path / "Be_model.zip", params=text)
    with pytest.raises(ValueError, match="network 'transformer'; only 'feed-forward'"):
        read_mala_model(bad)
    shutil.copy(mala_folder / "LICENSE", tmp_path / "LICENSE.zip")
    with pytest.raises(ValueError, match="cannot be read"):
        read_mala_model(tmp_path / "LICENSE.zip")
