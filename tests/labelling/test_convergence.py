"""Measuring a set-up, on a made-up DFT whose errors are known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

import ase_ldos.labelling.convergence as convergence
from ase_ldos.dataset.snapshot import Snapshot, band_gap
from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.geometry.grid import grid_shape
from ase_ldos.labelling.convergence import CUTOFFS, ConvergenceTargets, SetupMeasurement, measure_mesh, measure_setup
from ase_ldos.labelling.dft_settings import Recipe
from ase_ldos.labelling.pw import mesh_of
from ase_ldos.labelling.selfcheck import DerivativeCheck

CRYSTAL = bulk("Be", "hcp", a=2.25, c=3.54)
PER_ATOM = CRYSTAL.get_volume() / 2


class Program:
    """In place of pw.x: states of free electrons in a well, energies with errors of e^(−cutoff/3) and of the mesh.

    Attributes:
        shifted: error of a shifted mesh, that of a centred one is 1.
        doubled: error of the shifted mesh of the cell of two primitive ones, likewise.
        gap: of all cells but rattled ones, and that of these, eV; 0: as the levels have it.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Recipe]] = []
        self.break_after: int | None = None
        self.shifted = self.doubled = -20.0
        self.gap, self.rattled_gap = 0.0, 0.0

    def __call__(self, name: str, atoms: Atoms, recipe: Recipe, _folder: Path, **_: object) -> Snapshot:
        if self.break_after is not None and len(self.calls) >= self.break_after:
            raise KeyboardInterrupt
        self.calls.append((name, recipe))
        volume = atoms.get_volume() / len(atoms)
        mesh = mesh_of(atoms, recipe.kspacing)
        steps = np.stack(np.meshgrid(*map(np.arange, mesh), indexing="ij"), -1).reshape(-1, 3)
        points = 2 * math.pi * (steps + np.array(recipe.kpoint_shift) / 2) / mesh
        reciprocal = np.linalg.inv(atoms.cell.array)
        shifts = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2 * math.pi
        squares = np.square((points[:, None] - shifts[None]) @ reciprocal.T).sum(-1)
        n_bands = math.ceil(recipe.bands_per_atom * len(atoms))
        eigenvalues = np.sort(3.81 * squares, axis=1)[:, :n_bands]
        if self.gap:
            wanted = self.rattled_gap if name.endswith("rattled") else self.gap
            eigenvalues[:, len(atoms) :] += wanted - band_gap(eigenvalues, 2.0 * len(atoms))
        of_mesh = 1.0
        if any(recipe.kpoint_shift):
            of_mesh = self.doubled if name.endswith("doubled") else self.shifted
        error = 5.0 * math.exp(-recipe.cutoff / 3) + of_mesh * 0.3 * math.exp(-3.0 / recipe.kspacing)
        x = volume / PER_ATOM - 1
        density = np.ones(grid_shape(atoms.cell.array, recipe.grid_spacing)) * 2 / volume
        return Snapshot(
            name,
            atoms.numbers,
            atoms.cell.array,
            atoms.positions,
            density=density.astype(np.float32),
            free_energy=len(atoms) * (2.0 * x**2 + error * (1 + x)),
            band_energy=0.0,
            smearing_TS=0.0,
            fermi_level=11.0,
            forces=np.full((len(atoms), 3), error),
            stress=np.zeros((3, 3)),
            kpoints=np.array(mesh),
            k_weights=np.full(len(points), 2 / len(points)),
            eigenvalues=eigenvalues,
            valence=2.0,
        )


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program()
    monkeypatch.setattr(convergence, "calculate", made)
    monkeypatch.setattr(convergence, "KSPACINGS", (0.8, 0.7, 0.6, 0.5, 0.42, 0.36, 0.31, 0.27))
    monkeypatch.setattr(convergence, "check_setup", lambda *_, **__: None)
    check = DerivativeCheck("x", pressure=0.3, deviatoric=0.01, force=0.001, pulay=0.02)
    monkeypatch.setattr(convergence, "check_derivatives", lambda *_: check)
    # the made-up density has no energy; what its grid leaves out falls with the number of points
    monkeypatch.setattr(
        convergence, "energy_defect", lambda s, _: len(s) * 1e3 * float(s.density.size / len(s)) ** -2.0
    )
    return made


def measure(tmp_path: Path, **targets: float) -> SetupMeasurement:
    tmp_path.mkdir(exist_ok=True)
    write_upf(find_potential("Be"), tmp_path)
    chosen = ConvergenceTargets(**({"dos": 60.0, "energy": 20.0} | targets))
    return measure_setup(
        [CRYSTAL], {"Be": "Be.gth-pbe-uzh-q2.UPF"}, tmp_path, tmp_path / "runs", targets=chosen,
        electronic_temperature=3000.0,
    )  # fmt: skip


def test_every_choice_meets_its_target_and_the_one_before_does_not(tmp_path: Path, program: Program) -> None:
    found = measure(tmp_path)
    recipe = found.recipe
    series = {item.name: item for item in found.series}
    assert recipe.kpoint_shift == (0, 0, 0)
    assert recipe.occupations == "smearing"
    # the error of a difference over 6 % of volume, and that of a force
    force = lambda cutoff: 5000 * math.exp(-cutoff / 3)  # noqa: E731
    place = CUTOFFS.index(recipe.cutoff)
    assert math.sqrt(3) * (force(recipe.cutoff) - force(CUTOFFS[place + 1])) <= 8.0
    assert math.sqrt(3) * (force(CUTOFFS[place - 1]) - force(recipe.cutoff)) > 8.0
    assert series["cutoff"].met
    rows = series["cutoff"].rows
    assert rows[-1][2:5] == (0.0, 0.0, 0.0)  # each is compared with the last
    # the made-up stress is none, the derivative of the energies is error / volume and what 2x² leaves, which is even
    expected = [160.2177 * 5.0 * math.exp(-cutoff / 3) / PER_ATOM for cutoff in CUTOFFS[: place + 2]]
    of_mesh = 160.2177 * 0.3 * math.exp(-3.0 / convergence.COARSE_KSPACING) / PER_ATOM
    assert [row[5] for row in rows] == pytest.approx([value + of_mesh for value in expected], rel=1e-6)
    assert [row[0] for row in rows] == list(CUTOFFS[: place + 2])
    # the mesh: energies converge, and the DOS
    mesh = series["k-spacing"]
    assert mesh.met
    assert recipe.kspacing == mesh.chosen == mesh.rows[-2][0]
    # the window is filled by the bands and reaches 4 eV above the Fermi level
    assert recipe.ldos is not None
    assert recipe.ldos.maximum >= 15.0
    assert recipe.ldos.minimum <= -5 * recipe.ldos.sigma + 0.5
    assert recipe.one_mesh
    # the coarsest grid within half a meV per atom
    grid = series["grid"]
    good = [row for row in grid.rows if row[2] <= 0.5]
    assert grid.chosen == good[0][0]
    assert recipe.pulay == {"Be": 0.02}
    assert recipe.options == {"system": {"nosym": False}}
    assert found.electrons == {"Be": 2.0}


def test_a_large_pulay_stress_raises_the_cutoff(tmp_path: Path, program: Program) -> None:
    of_mesh = 0.3 * math.exp(-3.0 / convergence.COARSE_KSPACING)
    stress = lambda cutoff: 160.2177 * (5.0 * math.exp(-cutoff / 3) + of_mesh) / PER_ATOM  # noqa: E731
    bound = stress(50.0)
    loose = measure(tmp_path / "loose", pulay=100.0).recipe.cutoff
    strict = measure(tmp_path / "strict", pulay=bound).recipe.cutoff
    before = CUTOFFS[CUTOFFS.index(strict) - 1]
    assert strict > loose
    assert stress(strict) <= bound < stress(before)


def test_the_kind_of_mesh_that_converges_first_is_taken(tmp_path: Path, program: Program) -> None:
    program.shifted = program.doubled = 0.02
    found = measure(tmp_path, energy=0.5, force=2.0, dos=300.0)
    centred, shifted = found.series[1:3]
    assert found.recipe.kpoint_shift == (1, 1, 1)
    assert found.recipe.kspacing == shifted.chosen == shifted.rows[-2][0]
    assert (centred.outcome, shifted.outcome) == ("not taken", "")
    assert centred.headline == "k-spacing: not taken"
    assert found.recipe.ldos is not None
    assert found.recipe.ldos.kspacing == shifted.chosen
    # no finer mesh of either kind was tried
    assert [row[0] for row in centred.rows] == [row[0] for row in shifted.rows]
    # two primitive cells side by side tell of a mesh that owes it to the symmetry of one
    program.doubled = 1.0
    other = measure(tmp_path / "other", energy=0.5, force=2.0, dos=300.0)
    assert other.recipe.kpoint_shift == (0, 0, 0)
    assert other.recipe.kspacing < shifted.chosen
    assert other.series[2].headline.endswith("not taken")


@pytest.mark.parametrize(
    ("gap", "rattled", "kind"), [(9.0, 6.0, "fixed"), (9.0, 4.0, "smearing"), (4.0, 9.0, "smearing")]
)
def test_occupations_are_fixed_where_every_gap_is_wide(
    tmp_path: Path, program: Program, gap: float, rattled: float, kind: str
) -> None:
    program.gap, program.rattled_gap = gap, rattled
    found = measure(tmp_path)
    series = found.series[3]
    assert found.recipe.occupations == kind
    assert series.headline == f"occupations: {kind}"
    # 20 kT of 3000 K
    assert series.rows[-1][1:] == pytest.approx((gap, gap, 20 * 3000 * 8.617333e-5))
    assert any(name.endswith("rattled") for name, _ in program.calls) == (gap > 5.17)
    assert program.calls[-1][1].occupations == kind


def test_a_mesh_is_found_for_a_set_up_that_is_given(tmp_path: Path, program: Program) -> None:
    whole = measure(tmp_path / "whole")
    program.calls.clear()
    given = replace(whole.recipe, cutoff=90.0, kspacing=0.01)
    targets = ConvergenceTargets(dos=60.0, energy=20.0)
    found = measure_mesh([CRYSTAL], given, tmp_path / "mesh", targets=targets, progress=lambda _: None)
    assert [series.chosen for series in found.series] == [series.chosen for series in whole.series[1:3]]
    assert found.check is None
    assert found.as_record()["check"] is None
    assert found.recipe.ldos is not None
    assert found.recipe.one_mesh
    assert replace(found.recipe, kspacing=0.01, ldos=None) == replace(given, ldos=None)
    assert {recipe.cutoff for _, recipe in program.calls} == {90.0}
    assert not any(recipe.ldos for _, recipe in program.calls)
    with pytest.raises(ValueError, match=r"for a set-up with \[ldos\]"):
        measure_mesh([CRYSTAL], replace(given, ldos=None), tmp_path)


def test_an_interrupted_measurement_repeats_nothing(tmp_path: Path, program: Program) -> None:
    program.break_after = 9
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path)
    assert len(program.calls) == 9
    program.break_after = None
    found = measure(tmp_path)
    done = [(name, r.cutoff, r.kspacing, r.bands_per_atom, r.kpoint_shift) for name, r in program.calls]
    assert len(done) == len(set(done))
    count = len(done)
    assert measure(tmp_path).as_record()["recipe"] == found.as_record()["recipe"]
    assert len(program.calls) == count


def test_what_cannot_be_reached_is_told(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convergence, "CUTOFFS", (12.0, 16.0))
    monkeypatch.setattr(convergence, "KSPACINGS", (0.6, 0.5))
    found = measure(tmp_path, force=1e-3, dos=0.1)
    series = {item.name: item for item in found.series}
    assert not series["cutoff"].met
    assert found.recipe.cutoff == 16.0
    assert not series["k-spacing"].met


def test_targets_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"the target dos is 0; it must be positive"):
        ConvergenceTargets(dos=0)


def test_no_structures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no structures to measure"):
        measure_setup([], {}, tmp_path, tmp_path)
