"""Labels by name: from the package, from a folder, and refused where they belong to another structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.labelling.reference_labels import MODELS, reference_labels


def hcp(name: str, height: float = 2.245 * 1.573) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.245, c=height)
    atoms.info["name"] = name
    return atoms


def test_labels_of_the_package() -> None:
    found = reference_labels([hcp("hcp"), hcp("unknown")])
    assert set(found) == {"hcp"}
    snapshot = {item.name: item for item in load_snapshots(MODELS / "be" / "reference.npz")}["hcp"]
    atoms = found["hcp"]
    assert snapshot.stress is not None
    assert atoms.get_potential_energy() == snapshot.free_energy
    assert np.array_equal(atoms.get_forces(), snapshot.forces)
    assert np.array_equal(atoms.get_stress(), full_3x3_to_voigt_6_stress(snapshot.stress))


def test_labels_of_other_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="of another cell"):
        reference_labels([hcp("hcp", 3.6)])
    moved = hcp("hcp")
    moved.positions[0, 2] += 0.01
    with pytest.raises(ValueError, match="at other places"):
        reference_labels([moved])
    assert np.abs(reference_labels([moved], exact=False)["hcp"].positions - moved.positions).max() > 0.009


def test_missing_pseudopotential_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pw.x is not|Be.gth-pbe-uzh-q2.UPF"):
        reference_labels([hcp("x")], pseudo_dir=tmp_path, folder=tmp_path / "dft")


@pytest.mark.qe
def test_calculated_on_the_spot(pseudo_folder: Path, tmp_path: Path) -> None:
    """One atom, few k-points; a second call finds the label."""
    recipe = (MODELS / "be" / "reference.toml").read_text().replace("kspacing = 0.165", "kspacing = 1.0")
    (tmp_path / "coarse.toml").write_text(recipe)
    options = {"pseudo_dir": pseudo_folder, "folder": tmp_path / "dft", "recipe": tmp_path / "coarse.toml"}
    first = reference_labels([hcp("x")], **options)["x"]
    stamp = (tmp_path / "dft" / "x.npz").stat().st_mtime_ns
    again = reference_labels([hcp("x")], **options)["x"]
    assert again.get_potential_energy() == first.get_potential_energy()
    assert first.get_potential_energy() < -50
    assert (tmp_path / "dft" / "x.npz").stat().st_mtime_ns == stamp


def test_new_calculations_take_the_meshes_of_packed_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or their own; a relaxed cell of the same name too, whose energy is compared with the others'."""
    asked: list[Atoms] = []

    def stub(cells: list[Atoms], *_: object) -> dict[str, object]:
        asked.extend(cells)
        return {}

    monkeypatch.setattr("ase_ldos.labelling.reference_labels._calculate", stub)
    own = hcp("compressed_1.00")
    own.info["kpoints"] = np.array([2, 2, 2])
    cells = [hcp("hcp", 3.6), own, hcp("new")]
    assert reference_labels(cells, pseudo_dir=tmp_path) == {}
    known, other, new = (atoms.info for atoms in asked)
    np.testing.assert_array_equal(known["kpoints"], [20, 20, 11])
    np.testing.assert_array_equal(known["fft_grid"], [15, 15, 24])
    np.testing.assert_array_equal(other["kpoints"], [2, 2, 2])
    assert new == {"name": "new"}
    assert "kpoints" not in cells[0].info
