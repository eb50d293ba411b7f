"""GTH potentials: integrals known in closed form, the parameter files of other programs, and pw.x."""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase_ldos.formats import gth
from scipy.integrate import simpson

from ase_ldos.cli.pseudo import add_arguments, run
from ase_ldos.formats.gth import (
    TABLE,
    Channel,
    GTHPotential,
    find_potential,
    local_potential,
    projectors,
    read_cp2k,
    upf_text,
    write_upf,
)
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.labelling.dft_settings import Recipe
from ase_ldos.labelling.pw import calculate
from ase_ldos.units import GIGAPASCAL

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")

#: In CP2K's layout: a made-up potential with every kind of line, one for another functional, one that there is not.
CP2K = """
# a comment
Xe GTH-PBE0-q8 GTH-HYB-q8
    2    6
    0.5  1  -1.0
    0

Xe GTH-PBE-q8 GTH-GGA-q8
    2    6    0    0
    0.56000000       2   -9.5    1.25
       2
    0.51000000       3    5.25    0.50   -1.00
                                 -0.75    2.00
                                          -1.50
    0.57500000       1    0.875

Xe GTH-PBE-q18
    NA
"""


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CP2K_DATA_DIR", raising=False)
    monkeypatch.setattr(gth, "_CP2K_FOLDERS", ())
    monkeypatch.setattr(gth, "find_spec", lambda _: None)


@pytest.mark.parametrize("momentum", [0, 1, 2])
def test_projectors_are_normalised_and_have_their_transforms(momentum: int) -> None:
    """∫ p² r² dr = 1, and p_1^l transforms into itself: ∫ p j_l(qr) r² dr ∝ q^l exp(−q² r_l²/2)."""
    radii = np.linspace(1e-6, 12, 24001)
    rows = projectors(Channel(0.7, (1.0,) * 6), momentum, radii)
    np.testing.assert_allclose(simpson(rows**2, x=radii), 1, atol=1e-9)
    from scipy.special import spherical_jn

    q = np.array([0.5, 1.0, 2.0])
    found = simpson(rows[0] * radii * spherical_jn(momentum, q[:, None] * radii), x=radii)
    form = q**momentum * np.exp(-0.5 * (0.7 * q) ** 2)
    np.testing.assert_allclose(found / form, found[0] / form[0], rtol=1e-8)


@pytest.mark.parametrize("name", ["Be-q2", "Al-q3", "Ga-q3"])
def test_local_potential_has_its_transform(name: str) -> None:
    """V_loc + Z/r is short-ranged; its integral is known: 2π Z r_loc² + (2π)^(3/2) r_loc³ (C₁ + 3 C₂ + 15 C₃ …)."""
    potential = TABLE[name]
    radii = np.linspace(1e-7, 14, 40001)
    tail = local_potential(potential, radii) + potential.valence / radii
    exact = 2 * np.pi * potential.valence * potential.radius**2 + (2 * np.pi) ** 1.5 * potential.radius**3 * sum(
        c * factor for c, factor in zip(potential.local, (1, 3))
    )
    assert simpson(4 * np.pi * radii**2 * tail, x=radii) == pytest.approx(exact, abs=1e-7)


def test_files_hold_the_parameters_of_abinit_files(dft_folder: Path) -> None:
    for potential in TABLE.values():
        lines = (dft_folder / f"{potential.symbol}.gth-pbe-uzh-q{potential.valence}.gth").read_text().splitlines()
        radius, _, *local = (float(word) for word in lines[3].split())
        assert radius == potential.radius
        assert tuple(c for c in local if c) == potential.local
        text = " ".join(lines[5:])
        for channel in potential.channels:
            for number in (channel.radius, *channel.coefficients):
                assert f"{number:.14f}" in text


def test_every_file_can_be_read_and_says_what_it_is(tmp_path: Path) -> None:
    for potential in TABLE.values():
        path = write_upf(potential, tmp_path / "new")
        pseudo = read_pseudopotential(path)
        assert (pseudo.symbol, pseudo.valence, pseudo.functional) == (potential.symbol, potential.valence, "pbe")
        assert (pseudo.kind, pseudo.core, pseudo.analytic_momenta) == ("NC", None, 0)
        assert path.name == f"{potential.symbol}.gth-pbe-uzh-q{potential.valence}.UPF"
        assert path.read_text() == upf_text(potential)
        assert not list((tmp_path / "new").glob(".*"))


def test_tables_agree_with_those_made_by_others(dft_folder: Path) -> None:
    for potential in TABLE.values():
        ours = upf_text(potential)
        theirs = (dft_folder / f"{potential.symbol}.gth-pbe-uzh-q{potential.valence}.UPF").read_text()
        tags = ["PP_DIJ", *(tag for tag in re.findall(r"<(PP_BETA\.\d+)", theirs))]
        for tag in tags:
            np.testing.assert_allclose(_ends(ours, tag), _ends(theirs, tag), rtol=1e-8, atol=1e-12)


def _ends(text: str, tag: str) -> np.ndarray:
    """The matrix D; of a projector its norm and its first moment, which do not depend on the mesh."""
    values = _block(text, tag)
    if tag == "PP_DIJ":
        return values
    radii, steps = _block(text, "PP_R"), _block(text, "PP_RAB")
    return np.array([(values**2 * steps).sum(), (values * radii * steps).sum()])


def _block(text: str, tag: str) -> np.ndarray:
    found = re.search(rf"<{tag}[ >][^>]*>?(.*?)</{tag}>", text, re.DOTALL)
    assert found is not None
    return np.array([float(word) for word in found[1].split(">")[-1].split()])


def test_names_are_found_or_refused_by_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_potential("Be") is TABLE["Be-q2"]
    assert find_potential("As-q5") is TABLE["As-q5"]
    with pytest.raises(ValueError, match=r"no GTH potential Be-q9 is known; known are Be-q2; all others come with"):
        find_potential("Be-q9")
    with pytest.raises(ValueError, match=r"no GTH potential Xe is known; known are Li-q1, Be-q2, .*pyscf"):
        find_potential("Xe")
    for name in ("Qq", "be", "Be-2", "Be-q", ""):
        with pytest.raises(ValueError, match="is not an element"):
            find_potential(name)
    (tmp_path / "POTENTIAL_UZH").write_text(CP2K)
    monkeypatch.setenv("CP2K_DATA_DIR", str(tmp_path))
    expected = GTHPotential(
        "Xe", 8, 0.56, (-9.5, 1.25), (Channel(0.51, (5.25, 0.5, -1.0, -0.75, 2.0, -1.5)), Channel(0.575, (0.875,)))
    )
    assert find_potential("Xe") == find_potential("Xe-q8") == expected
    assert expected.name == "Xe-q8"
    np.testing.assert_array_equal(
        expected.channels[0].matrix, [[5.25, 0.5, -1.0], [0.5, -0.75, 2.0], [-1.0, 2.0, -1.5]]
    )
    with pytest.raises(ValueError, match=r"no GTH potential Xe-q26 is known; known are Xe-q8$"):
        find_potential("Xe-q26")
    (tmp_path / "POTENTIAL_UZH").write_text(CP2K.replace("q18\n    NA", "q18\n    2 6 10\n 0.3 0\n 0"))
    with pytest.raises(ValueError, match="Xe has Xe-q8, Xe-q18; say which one"):
        find_potential("Xe")


def test_damaged_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        read_cp2k(tmp_path / "no")
    (tmp_path / "cut").write_text("Xe GTH-PBE-q8\n  2 6\n  0.56 2 -9.5\n")
    with pytest.raises(ValueError, match="Xe GTH-PBE-q8: cannot be read as a GTH potential"):
        read_cp2k(tmp_path / "cut")


def test_command_writes_all_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args(["Be", "Si-q4", "--out", str(tmp_path)])) == 0
    assert "Be.gth-pbe-uzh-q2.UPF: 2 electrons" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Be.gth-pbe-uzh-q2.UPF", "Si.gth-pbe-uzh-q4.UPF"]
    with pytest.raises(ValueError, match="Be-q9"):
        run(parser.parse_args(["Si", "Be-q9", "--out", str(tmp_path / "none")]))
    assert not (tmp_path / "none").exists()
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "Built in: Li-q1, Be-q2" in capsys.readouterr().out


def _setup(file: str, folder: Path, symbol: str) -> Recipe:
    return Recipe({symbol: file}, folder, 20.0, 2000.0, kspacing=0.6, bands_per_atom=4, convergence=1e-11)


@pytest.mark.qe
@needs_pw
@pytest.mark.parametrize("symbol", ["Be", "Si"])
def test_pw_finds_what_it_finds_with_gth_files_and_other_tables(symbol: str, dft_folder: Path, tmp_path: Path) -> None:
    atoms = bulk("Be", a=2.25, c=3.5) if symbol == "Be" else bulk("Si", a=5.4)
    atoms.positions[1] += (0.05, -0.03, 0.04)
    potential = find_potential(symbol)
    write_upf(potential, tmp_path)
    files = (tmp_path, potential.file_name), (dft_folder, potential.file_name), (dft_folder, f"{_stem(potential)}.gth")
    results = []
    for i, (folder, file) in enumerate(files):
        (tmp_path / str(i)).mkdir()
        results.append(calculate("x", atoms, _setup(file, folder, symbol), tmp_path / str(i)))
    ours, theirs, analytic = results
    assert ours.free_energy == pytest.approx(theirs.free_energy, abs=1e-6)
    assert ours.free_energy == pytest.approx(analytic.free_energy, abs=4e-6)
    np.testing.assert_allclose(ours.forces, theirs.forces, atol=2e-5)
    np.testing.assert_allclose(ours.forces, analytic.forces, atol=2e-4)
    np.testing.assert_allclose(ours.stress, theirs.stress, atol=1e-6)
    # the old program's stress from the other layout is right in its trace alone, which is all that is kept
    assert analytic.stress is None
    assert ours.stress is not None
    assert analytic.pressure == pytest.approx(-np.trace(ours.stress) / 3, abs=1e-5)


def _stem(potential: GTHPotential) -> str:
    return potential.file_name.removesuffix(".UPF")


@pytest.mark.qe
@needs_pw
def test_stress_is_the_derivative_of_energies_for_a_p_projector(tmp_path: Path) -> None:
    """The strain that keeps the volume, of which pw.x 6.7 has a stress 27 % wrong with the other layout."""
    write_upf(find_potential("Si"), tmp_path)
    setup = replace(_setup("Si.gth-pbe-uzh-q4.UPF", tmp_path, "Si"), cutoff=30.0)

    def result(strain: float) -> tuple[float, np.ndarray]:
        atoms: Atoms = bulk("Si", a=5.4)
        atoms.set_cell(atoms.cell.array @ np.diag([1 - strain / 2, 1 - strain / 2, 1 + strain]), scale_atoms=True)
        atoms.info["kpoints"], atoms.info["fft_grid"] = np.array([3, 3, 3]), np.array([32, 32, 32])
        folder = tmp_path / f"{strain}"
        folder.mkdir()
        snapshot = calculate("x", atoms, setup, folder)
        assert snapshot.stress is not None
        return float(snapshot.free_energy or 0.0), snapshot.stress * GIGAPASCAL

    base = bulk("Si", a=5.4)
    step = 0.01  # at a smaller one, waves that come and go with the cell are heard
    slope = (result(0.02 + step)[0] - result(0.02 - step)[0]) / (2 * step) / base.get_volume() * GIGAPASCAL
    stress = result(0.02)[1]
    # dA/de at e = 0.02, where the strain's derivative is (−1/2, −1/2, 1) on lengths (0.99, 0.99, 1.02)
    shape = np.diag([-0.5 / 0.99, -0.5 / 0.99, 1 / 1.02]) * (0.99**2 * 1.02)
    assert slope == pytest.approx((stress * shape).sum(), abs=0.3)
    assert slope > 2
