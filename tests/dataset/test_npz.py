"""Snapshots: reading, checking, packing, broadening."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ase_ldos.dataset.broadening import broaden, on_model_energies
from ase_ldos.dataset.npz import (
    Snapshot,
    load_snapshot,
    load_snapshots,
    pack_snapshots,
    save_snapshot,
    snapshot_to_arrays,
)


def make(name: str = "a", n_atoms: int = 2, shape: tuple[int, int, int] = (4, 4, 6), *, ldos: bool = False) -> Snapshot:
    rng = np.random.default_rng(n_atoms)
    extra: dict[str, object] = {}
    if ldos:
        extra = {
            "energies": np.linspace(-1, 1, 5),
            "ldos": rng.random((*shape, 5)).astype(np.float16),
            "ldos_scale": 0.25,
            "dos": rng.random(5),
        }
    return Snapshot(
        name=name,
        numbers=np.full(n_atoms, 4),
        cell=np.diag([4.0, 4.0, 6.0]),
        positions=rng.random((n_atoms, 3)),
        free_energy=-30.25 * n_atoms,
        forces=rng.random((n_atoms, 3)),
        stress=rng.random((3, 3)),
        density=rng.random(shape).astype(np.float32),
        eigenvalues=rng.random((3, 2 * n_atoms)),
        k_weights=np.array([0.5, 1.0, 0.5]),
        valence=2.0,
        **extra,  # type: ignore[arg-type]
    )


def test_reference_files_load(be_files: list[Path]) -> None:
    snapshots = load_snapshots(be_files[0].parent)
    assert [s.name for s in snapshots] == [path.stem for path in be_files]
    assert [s.has_ldos for s in snapshots] == [True, False]
    for snapshot in snapshots:
        assert snapshot.n_electrons == 2 * len(snapshot)
        volume = abs(np.linalg.det(snapshot.cell))
        assert snapshot.density is not None
        assert snapshot.density.mean() * volume == pytest.approx(2 * len(snapshot), abs=1e-4)
        assert snapshot.density.shape == snapshot.shape


def test_ldos_integrates_to_dos(be_files: list[Path]) -> None:
    snapshot = load_snapshot(be_files[0])
    integral = snapshot.ldos_values().mean(axis=(0, 1, 2), dtype=float) * abs(np.linalg.det(snapshot.cell))
    assert snapshot.dos is not None
    np.testing.assert_allclose(integral, snapshot.dos, atol=2e-4 * snapshot.dos.max())


def test_energy_parts_sum_to_free_energy(be_files: list[Path]) -> None:
    for snapshot in load_snapshots(be_files):
        parts = (snapshot.one_electron, snapshot.hartree, snapshot.xc, snapshot.ewald, snapshot.smearing_TS)
        assert sum(part for part in parts if part is not None) == pytest.approx(snapshot.free_energy, abs=1e-6)


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    snapshot = make(ldos=True)
    save_snapshot(tmp_path / "a.npz", snapshot)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    again = load_snapshot(tmp_path / "a.npz")
    first, second = snapshot_to_arrays(snapshot), snapshot_to_arrays(again)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
        assert value.dtype == second[key].dtype
    np.testing.assert_array_equal(again.ldos_values(), snapshot.ldos_values())


def test_structure_and_atoms_agree() -> None:
    snapshot = make()
    atoms = snapshot.to_atoms()
    np.testing.assert_array_equal(snapshot.structure.positions.numpy(), atoms.positions)
    assert atoms.pbc.all()


def test_packed_file_gives_back_ragged_snapshots(tmp_path: Path) -> None:
    snapshots = [make("a", 2), make("b", 3, (6, 4, 4)), make("c", 2, ldos=True)]
    pack_snapshots(tmp_path / "all.npz", snapshots)
    loaded = load_snapshots(tmp_path / "all.npz")
    assert [s.name for s in loaded] == ["a", "b", "c"]
    for before, after in zip(snapshots, loaded, strict=True):
        assert not after.has_ldos
        assert after.free_energy == before.free_energy
        assert before.forces is not None
        np.testing.assert_array_equal(after.forces, before.forces)
        assert before.density is not None
        assert after.density is not None
        np.testing.assert_allclose(after.density, before.density, rtol=5e-4)
        assert after.density.dtype == np.float32
        assert before.eigenvalues is not None
        np.testing.assert_allclose(after.eigenvalues, before.eigenvalues, rtol=1e-7)


def test_packed_file_keeps_a_dos_of_its_own(tmp_path: Path) -> None:
    """That of the dense mesh goes with the LDOS: without the mesh nobody knows up to where it is complete."""
    own = replace(make("a"), energies=np.linspace(-1, 1, 5), dos=np.arange(5.0), ldos_sigma=0.3)
    dense = replace(make("b", ldos=True), eigenvalues_dense=np.zeros((5, 4)), k_weights_dense=np.ones(5))
    pack_snapshots(tmp_path / "all.npz", [own, dense], eigenvalues=False)
    first, second = load_snapshots(tmp_path / "all.npz")
    np.testing.assert_array_equal(first.dos, own.dos)
    np.testing.assert_array_equal(first.energies, own.energies)
    assert first.ldos_sigma == 0.3
    assert first.eigenvalues is None
    assert second.dos is None
    assert second.energies is None


def test_packed_file_without_density_and_with_missing_labels(tmp_path: Path) -> None:
    bare = Snapshot(name="bare", numbers=np.array([4]), cell=3 * np.eye(3), positions=np.zeros((1, 3)))
    pack_snapshots(tmp_path / "all.npz", [make("a"), bare], density=False)
    first, second = load_snapshots(tmp_path)
    assert first.density is None
    assert first.free_energy is not None
    assert second.free_energy is None
    assert second.forces is None


def test_packed_reference_labels_are_small(be_files: list[Path], tmp_path: Path) -> None:
    labels = load_snapshots(be_files[1:])
    pack_snapshots(tmp_path / "be.npz", labels)
    assert (tmp_path / "be.npz").stat().st_size < 40_000 * len(labels)
    for before, after in zip(labels, load_snapshots(tmp_path / "be.npz"), strict=True):
        np.testing.assert_array_equal(after.positions, before.positions)
        assert after.kpoints is not None


def test_gaussian_widens_to_gaussian() -> None:
    energies = np.linspace(-7, 12, 191)

    def gaussian(center: float, sigma: float) -> np.ndarray:
        return np.exp(-0.5 * ((energies - center) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))

    narrow = np.stack([gaussian(0.0, 0.2), 3 * gaussian(5.03, 0.2)])
    wide = broaden(narrow, energies, math.sqrt(0.3**2 - 0.2**2))
    np.testing.assert_allclose(wide, np.stack([gaussian(0.0, 0.3), 3 * gaussian(5.03, 0.3)]), atol=1e-10)
    coarse = broaden(narrow, energies, math.sqrt(0.3**2 - 0.2**2), onto=energies[::3])
    np.testing.assert_allclose(coarse, wide[:, ::3], atol=1e-14)


def test_constant_stays_constant_to_the_ends_of_the_window() -> None:
    energies = np.linspace(0, 5, 51)
    np.testing.assert_allclose(broaden(np.full((2, 51), 1.7), energies, 0.4), 1.7, rtol=1e-10)


def test_broadened_dos_is_the_dos_of_the_eigenvalues(be_files: list[Path]) -> None:
    snapshot = load_snapshot(be_files[0])
    assert snapshot.dos is not None
    assert snapshot.energies is not None
    assert snapshot.eigenvalues_dense is not None
    assert snapshot.k_weights_dense is not None
    wide = broaden(snapshot.dos, snapshot.energies, math.sqrt(0.3**2 - 0.2**2))
    arguments = (snapshot.energies[:, None, None] - snapshot.eigenvalues_dense) / 0.3
    direct = (np.exp(-0.5 * arguments**2) * snapshot.k_weights_dense[:, None]).sum(axis=(1, 2))
    direct /= 0.3 * math.sqrt(2 * math.pi)
    inside = snapshot.energies < 11.0
    np.testing.assert_allclose(wide[inside], direct[inside], atol=1e-4)


def test_what_dft_left_out_is_not_known(be_files: list[Path]) -> None:
    """With four bands, the fourth of which begins at 9.404 eV: above, the DOS lacks states."""
    whole = load_snapshot(be_files[0])
    assert whole.dos is not None
    assert whole.eigenvalues_dense is not None
    snapshot = replace(whole, eigenvalues_dense=whole.eigenvalues_dense[:, :4])
    assert snapshot.complete_below == pytest.approx(9.404, abs=1e-3)
    energies = np.linspace(-5, 17, 221)
    found, known = on_model_energies(snapshot, whole.dos, energies, 0.3)
    assert energies[known - 1] == pytest.approx(8.8)
    assert found.shape == (known,)
    without = replace(snapshot, eigenvalues_dense=whole.eigenvalues_dense[:, :3])
    lower, fewer = on_model_energies(without, whole.dos, energies, 0.3)
    assert fewer < known
    np.testing.assert_allclose(lower, found[:fewer], rtol=1e-12)
    unknown = replace(snapshot, eigenvalues_dense=None)
    assert on_model_energies(unknown, whole.dos, energies, 0.3)[1] == 171  # to the data's end, 12 eV
    with pytest.raises(ValueError, match="broader than the model's"):
        on_model_energies(snapshot, whole.dos, energies, 0.1)
    with pytest.raises(ValueError, match="below the model's window"):
        on_model_energies(snapshot, whole.dos, energies + 20, 0.3)


def test_float16_is_widened_in_float32() -> None:
    values = np.ones((3, 11), dtype=np.float16)
    assert broaden(values, np.linspace(0, 1, 11), 0.1).dtype == np.float32


@pytest.mark.parametrize(
    ("sigma", "energies", "onto", "message"),
    [
        (0.01, np.linspace(0, 1, 11), None, "at least 0.8 of the energy spacing"),
        (-0.2, np.linspace(0, 1, 11), None, "at least 0.8"),
        (0.2, np.linspace(0, 1, 11) ** 2, None, "equidistant"),
        (0.2, np.linspace(0, 1, 11), np.linspace(0, 2, 5), "asked for"),
    ],
)
def test_bad_broadening_is_refused(sigma: float, energies: np.ndarray, onto: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        broaden(np.ones(11), energies, sigma, onto)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": None}, r"bad.npz: key 'positions' is missing"),
        ({"energies": None}, r"key 'energies' is missing; it is needed beside 'ldos'"),
        ({"k_weights": None}, r"key 'k_weights' is missing"),
        ({"forces": np.zeros((5, 3))}, r"key 'forces' has shape \(5, 3\).*shape \(2, 3\) are expected"),
        ({"density": np.zeros((4, 4, 5))}, r"key 'density' .*shape \(4, 4, 6\)"),
        ({"cell": np.eye(2)}, r"key 'cell' .*shape \(3, 3\)"),
        ({"numbers": np.array(["Be", "Be"])}, r"key 'numbers' .*type <U2; numbers"),
        ({"free_energy": np.array(np.nan)}, r"key 'free_energy' contains NaN"),
        ({"energies": np.zeros(5)}, "does not increase"),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = snapshot_to_arrays(make(ldos=True)) | change
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        load_snapshot(tmp_path / "bad.npz")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no snapshot file"):
        load_snapshot(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"has no \.npz file"):
        load_snapshots(tmp_path)
    save_snapshot(tmp_path / "a.npz", make(ldos=True))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz is not a snapshot, or is damaged"):
        load_snapshot(tmp_path / "cut.npz")
    np.savez(tmp_path / "object.npz", numbers=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"object\.npz is not a snapshot, or is damaged"):
        load_snapshot(tmp_path / "object.npz")
    with pytest.raises(ValueError, match=r"written as \.npz"):
        save_snapshot(tmp_path / "a.txt", make())


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_snapshot(tmp_path / "a.npz", make())
    before = (tmp_path / "a.npz").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"a\.npz could not be written: .*No space left"):
        save_snapshot(tmp_path / "a.npz", make(ldos=True))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == before


def test_packed_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' stands twice"):
        pack_snapshots(tmp_path / "all.npz", [make(), make()])
    with pytest.raises(ValueError, match="nothing to pack"):
        pack_snapshots(tmp_path / "all.npz", [])
    pack_snapshots(tmp_path / "all.npz", [make("a"), make("b")])
    with pytest.raises(ValueError, match="read it with load_snapshots"):
        load_snapshot(tmp_path / "all.npz")
    arrays = dict(np.load(tmp_path / "all.npz"))
    np.savez(tmp_path / "short.npz", **(arrays | {"forces": arrays["forces"][:-1]}))
    with pytest.raises(ValueError, match=r"short\.npz: key 'forces' holds 11 values"):
        load_snapshots(tmp_path / "short.npz")
    np.savez(tmp_path / "new.npz", **(arrays | {"format": np.array("ase-ldos packed 9")}))
    with pytest.raises(ValueError, match="ase-ldos packed 9"):
        load_snapshots(tmp_path / "new.npz")


def test_without_ldos_values_are_refused() -> None:
    with pytest.raises(ValueError, match="has no LDOS"):
        make().ldos_values()
