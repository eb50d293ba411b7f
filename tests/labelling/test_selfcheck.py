"""Self-checks of labels: on energies with known derivatives, and on pw.x."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_ldos.dataset.npz import load_snapshot
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.dft_settings import Recipe, load_recipe
from ase_ldos.labelling.provenance import read_record
from ase_ldos.labelling.pw import calculate, with_energy_defects
from ase_ldos.labelling.run import label_structures
from ase_ldos.labelling.selfcheck import DerivativeCheck, check_derivatives, energy_defect, smearing_shift
from ase_ldos.labelling.subprocesses import CalculationError
from ase_ldos.units import GIGAPASCAL

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")

ATOMS = Atoms(
    "Be2", cell=[[3.0, 0.2, 0], [0, 3.5, 0.1], [0.3, 0, 4.0]], positions=[[0.1, 0, 0.2], [1.4, 1.9, 2]], pbc=1
)


def recipe(folder: Path) -> Recipe:
    return Recipe({"Be": "Be.gth-pbe-uzh-q2.UPF"}, folder, 14.0, 2000.0, kspacing=0.8, bands_per_atom=3)


def label(
    name: str,
    atoms: Atoms,
    setup: Recipe,
    folder: Path,
    *,
    pulay: float = 0.0,
    shear: float = 0.0,
    push: float = 0.0,
    pressure_only: bool = False,
) -> Snapshot:
    """Labels by A = Σ_i k_i x_ij² + a tr(M g) + b ln V with cell's metric g, and errors that may be put in."""
    assert folder.is_dir()
    assert not list(folder.iterdir())
    assert setup.ldos is None
    assert setup.kspacing == 0.8
    cell, x = atoms.cell.array, atoms.positions
    volume = abs(np.linalg.det(cell))
    bond = x[1] - x[0]
    springs = np.array([0.5, 0.8, 1.5])
    energy = float(springs @ bond**2 + 3 * np.log(volume) + 0.05 * volume**1.5 / 10)
    force = 2 * springs * bond
    # dA/dε_ij: atoms move with the cell
    virial = np.outer(2 * springs * bond, bond) + (3 + 0.0075 * volume**1.5) * np.eye(3)
    stress = 0.5 * (virial + virial.T) / volume + pulay * len(atoms) / volume * np.eye(3)
    stress += shear * np.diag([-1 / 3, -1 / 3, 2 / 3])
    forces = np.array([force, -force]) + push / np.sqrt(14) * np.array([[1, 2, 3], [0, 0, 0]])
    stresses = {"pressure": -float(np.trace(stress)) / 3} if pressure_only else {"stress": stress}
    grid = np.array(atoms.info.get("fft_grid", [10, 10, 12]))
    arrays = {"free_energy": energy, "forces": forces, "fft_grid": grid}
    return Snapshot(name, atoms.numbers, cell, atoms.positions, **arrays, **stresses)  # type: ignore[arg-type]


def test_right_derivatives_pass(tmp_path: Path) -> None:
    found = check_derivatives("x", ATOMS, recipe(tmp_path), label, tmp_path)
    assert abs(found.pressure) < 2e-4
    assert found.deviatoric is not None
    assert abs(found.deviatoric) < 2e-4
    assert abs(found.force) < 1e-9
    assert abs(found.pulay) < 1e-5
    found.refuse_if_wrong()
    assert found.as_record().keys() == {"structure", "pressure_GPa", "deviatoric_GPa", "force_eV_per_A", "pulay"}
    assert not list(tmp_path.iterdir())


def test_wrong_derivatives_are_found_and_measured(tmp_path: Path) -> None:
    volume = ATOMS.get_volume()
    found = check_derivatives("x", ATOMS, recipe(tmp_path), partial(label, pulay=0.03), tmp_path)
    assert found.pressure == pytest.approx(0.06 / volume * GIGAPASCAL, rel=1e-3)
    assert found.pulay == pytest.approx(0.03, rel=2e-3)
    with pytest.raises(
        ValueError, match=r"tr\(stress\)/3 differs by \+0.23 GPa .*\[pulay\] that make 0.0300 eV per atom"
    ):
        found.refuse_if_wrong()
    # a constant that is there already is counted
    known = replace(recipe(tmp_path), pulay={"Be": 0.01})
    assert check_derivatives("x", ATOMS, known, partial(label, pulay=0.03), tmp_path).pulay == pytest.approx(
        0.04, rel=2e-3
    )
    found = check_derivatives("x", ATOMS, recipe(tmp_path), partial(label, shear=-0.002), tmp_path)
    assert found.deviatoric == pytest.approx(-0.002 * GIGAPASCAL, rel=1e-2)
    with pytest.raises(ValueError, match=r"self-check with x: σ_zz .* differs by -0.32 GPa"):
        found.refuse_if_wrong()
    found = check_derivatives("x", ATOMS, recipe(tmp_path), partial(label, push=0.02), tmp_path)
    assert found.force == pytest.approx(0.02, rel=1e-6)
    with pytest.raises(ValueError, match=r"a force differs by \+0.0200 eV/Å"):
        found.refuse_if_wrong()
    found = check_derivatives("x", ATOMS, recipe(tmp_path), partial(label, shear=1.0, pressure_only=True), tmp_path)
    assert found.deviatoric is None
    found.refuse_if_wrong()


@pytest.mark.qe
@needs_pw
def test_energy_comes_back_from_density_and_eigenvalues(
    pseudo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    atoms.positions[1] += (0.05, -0.03, 0.04)
    snapshot = calculate("x", atoms, recipe(pseudo_folder), tmp_path)
    pseudo = read_pseudopotential(pseudo_folder / "Be.gth-pbe-uzh-q2.UPF")
    defect = energy_defect(snapshot, {"Be": pseudo})
    assert defect is not None
    assert defect == snapshot.energy_defect
    assert abs(defect) < 1e-3
    assert energy_defect(snapshot, {"Be": replace(pseudo, kind="PAW")}) is None
    assert energy_defect(snapshot, {"Be": replace(pseudo, functional="blyp")}) is None
    assert energy_defect(replace(snapshot, density=None), {"Be": pseudo}) is None
    # of another density or functional it would not
    assert abs(energy_defect(snapshot, {"Be": replace(pseudo, functional="lda")}) or 0) > 0.005
    assert snapshot.density is not None
    assert abs(energy_defect(replace(snapshot, density=snapshot.density * 1.01), {"Be": pseudo}) or 0) > 0.01
    (tmp_path / "a").mkdir()
    elsewhere = replace(recipe(pseudo_folder), options={"system": {"input_dft": "PBE"}})
    assert calculate("x", atoms, elsewhere, tmp_path / "a").energy_defect is None
    (tmp_path / "b").mkdir()
    monkeypatch.setattr("ase_ldos.labelling.pw.ENERGY_BOUND", 1e-6)
    with pytest.raises(CalculationError, match=r"meV/atom off pw\.x's \(bound 0.001\); lower grid_spacing"):
        calculate("x", atoms, recipe(pseudo_folder), tmp_path / "b")


@pytest.mark.qe
@needs_pw
def test_a_new_setup_is_checked_once(pseudo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    frames = [atoms, atoms.copy()]
    for name, frame in zip("ab", frames):
        frame.info["name"] = name
    calls: list[str] = []

    def fake(name: str, *_: object) -> DerivativeCheck:
        calls.append(name)
        return DerivativeCheck(name, 0.01, -0.02, 0.001, 0.02)

    monkeypatch.setattr("ase_ldos.labelling.run.check_derivatives", fake)
    setup = recipe(pseudo_folder)
    label_structures(frames[:1], setup, tmp_path, check=True)
    label_structures(frames, setup, tmp_path, check=True)
    label_structures(frames, replace(setup, kspacing=0.9), tmp_path, check=True)
    assert calls == ["a"]
    expected = {"structure": "a", "pressure_GPa": 0.01, "deviatoric_GPa": -0.02, "force_eV_per_A": 0.001, "pulay": 0.02}
    assert read_record(tmp_path)["checks"] == [expected | {"recipe": 0}]

    def broken(*_: object) -> DerivativeCheck:
        raise CalculationError("pw.x stopped")

    monkeypatch.setattr("ase_ldos.labelling.run.check_derivatives", broken)
    with pytest.raises(ValueError, match=r"self-check of the set-up failed: pw.x stopped \(--no-check"):
        label_structures(frames, setup, tmp_path / "other", check=True)


@pytest.mark.qe
@needs_pw
@pytest.mark.slow
def test_pw_is_right_about_its_own_derivatives_and_its_pulay_stress(pseudo_folder: Path, tmp_path: Path) -> None:
    """At 30 Ry beryllium's stress holds 0.4 GPa of Pulay stress, and nothing else is wrong."""
    setup = replace(recipe(pseudo_folder), cutoff=30.0, kspacing=0.35, convergence=1e-10)
    found = check_derivatives("be", bulk("Be", "hcp", a=2.25, c=3.54), setup, calculate, tmp_path)
    assert found.pressure == pytest.approx(0.42, abs=0.05)
    assert found.deviatoric == pytest.approx(0, abs=0.1)
    assert abs(found.force) < 1e-3
    with pytest.raises(ValueError, match=r"table \[pulay\] that make 0.02"):
        found.refuse_if_wrong()


def test_an_ldos_of_other_energies_is_refused(pseudo_folder: Path) -> None:
    """On the mesh of the energies; on one of its own the LDOS may differ, and by how much is recorded."""
    models = Path(__file__).resolve().parents[2] / "ase_ldos" / "models"  # an installed package has no labels
    snapshot = load_snapshot(models / "be" / "labels" / "small" / "d4_d00.npz")
    setup = load_recipe(models / "be" / "dft.toml", pseudo_dir=pseudo_folder)
    checked = with_energy_defects(replace(snapshot, energy_defect=None, ldos_energy_defect=None), setup)
    assert checked.energy_defect == pytest.approx(snapshot.energy_defect, abs=1e-3)
    assert checked.ldos_energy_defect == pytest.approx(snapshot.ldos_energy_defect, abs=4e-3)
    assert checked.ldos_energy_defect is not None
    # Gaussians of another width shift the energy as its square
    assert smearing_shift(replace(snapshot, ldos_sigma=0.4)) == pytest.approx(4 * smearing_shift(snapshot))
    with pytest.raises(ValueError, match="has no DOS with its width"):
        smearing_shift(replace(snapshot, ldos_sigma=None))
    assert snapshot.energies is not None
    raised = replace(snapshot, energies=snapshot.energies + 0.01)
    with pytest.raises(CalculationError, match=r"the LDOS gives a free energy \+20\.\d meV/atom off pw\.x's"):
        with_energy_defects(raised, setup)
    assert setup.ldos is not None
    own_mesh = replace(setup, ldos=replace(setup.ldos, kspacing=0.1))
    found = with_energy_defects(raised, own_mesh).ldos_energy_defect
    assert found == pytest.approx(checked.ldos_energy_defect + 0.01 * 8, rel=1e-3)
    assert with_energy_defects(replace(snapshot, ldos=None, ldos_energy_defect=None), setup).ldos_energy_defect is None
    empty = replace(snapshot, density=None, energy_defect=None, ldos_energy_defect=None)
    assert with_energy_defects(empty, setup).energy_defect is None
