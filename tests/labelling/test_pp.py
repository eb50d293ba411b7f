"""The LDOS through pp.x: for real where the kernel can be had, and by a stand-in where it needs a later version."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.formats.cube import read_ldos_cubes, write_ldos_cubes
from ase_ldos.labelling.dft_settings import LDOSRecipe, Recipe
from ase_ldos.labelling.pp import postproc_input, sample_ldos_by_postproc
from ase_ldos.labelling.pw import PREFIX, calculate, check_setup, input_text
from ase_ldos.labelling.pw_output import read_xml, sample_dos, sample_ldos
from ase_ldos.labelling.run import label_structures
from ase_ldos.labelling.subprocesses import CalculationError, program_version, run_program

ESPRESSO_FILES = Path("/usr/share/espresso/pseudo")
SAMPLING = LDOSRecipe(sigma=0.6, minimum=-8, maximum=16, spacing=0.6, kspacing=1.2, bands_per_atom=3)
needs_pp = pytest.mark.skipif(
    shutil.which("pw.x") is None or shutil.which("pp.x") is None,
    reason="Quantum ESPRESSO's pw.x and pp.x are not on the PATH",
)
SOFT = '<PP_HEADER element="Be" pseudo_type="US" core_correction="F" functional="PBE" z_valence="2"/>'
Program = Callable[[str, str], Path]


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    atoms.positions[1] += (0.05, -0.03, 0.04)
    return atoms


def recipe(folder: Path, **pseudopotentials: str) -> Recipe:
    return Recipe(
        pseudopotentials=pseudopotentials or {"Be": "Be.pbe-gth-q2.gth"},
        pseudo_dir=folder,
        cutoff=14.0,
        electronic_temperature=2000.0,
        kspacing=1.2,
        bands_per_atom=3,
        convergence=1e-10,
        ldos=SAMPLING,
    )


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a shell script before the real program of its name; it may call that as ``$real``."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(name: str, body: str) -> Path:
        (folder / name).write_text(f"#!/bin/sh\nreal={shutil.which(name)}\n{body}\n")
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return folder / name

    return write


def test_input_has_every_energy_and_the_gaussian() -> None:
    energies = -7 + 0.1 * np.arange(191)
    text = postproc_input("pwscf", energies, 0.2)
    values = dict(re.findall(r"(\w+) = (\S+)", text))
    first, last, step = (float(values[key]) for key in ("emin", "emax", "delta_e"))
    assert int((last - first) / step) + 1 == 191
    assert first == -7
    assert step == pytest.approx(0.1, abs=1e-11)
    # pp.x has exp(−x²/degauss²), a standard deviation of degauss/√2
    assert float(values["degauss_ldos"]) == pytest.approx(0.2 * np.sqrt(2), abs=1e-14)
    assert values["use_gauss_ldos"] == ".true."
    assert (values["plot_num"], values["iflag"], values["output_format"]) == ("3", "3", "6")


@pytest.mark.qe
@needs_pp
def test_cubes_of_pp_are_the_ldos_of_the_wavefunctions(dft_folder: Path, tmp_path: Path) -> None:
    """Before 7.2 pp.x takes the kernel of pw.x's occupations: a Gaussian where these are."""
    setup = replace(recipe(dft_folder), options={"system": {"smearing": "gaussian"}})
    atoms, energies, sigma = beryllium(), SAMPLING.energies, SAMPLING.sigma
    for calculation in ("scf", "nscf"):
        run_program("pw.x", input_text(atoms, setup, calculation, tmp_path), tmp_path)
    text = postproc_input(PREFIX, energies, sigma)
    if program_version("pp.x") < (7, 2):
        text = text.replace("  use_gauss_ldos = .true.\n", "")
    run_program("pp.x", text, tmp_path)
    shape = (10, 10, 15)
    found = read_ldos_cubes(list(tmp_path.glob("ldos*.cube")), energies, shape=shape)
    expected = sample_ldos(tmp_path / f"{PREFIX}.save", shape, atoms.get_volume(), energies, sigma)
    np.testing.assert_allclose(found.ldos_values(), expected, rtol=1e-4, atol=1e-5 * expected.max())
    shift = found.to_atoms().get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    np.testing.assert_allclose(shift, shift.round(), atol=1e-5)  # pp.x may write another image of an atom
    dense = read_xml(tmp_path / f"{PREFIX}.save")
    dos = sample_dos(energies, sigma, dense["eigenvalues"], dense["k_weights"])
    np.testing.assert_allclose(found.dos, dos, atol=1e-4 * dos.max())


@pytest.mark.qe
@needs_pp
def test_ultrasoft_states_are_sampled_with_their_augmentation(tmp_path: Path, program: Program) -> None:
    """The whole path on a carbon potential; an older pp.x is made to do a Gaussian by Gaussian occupations."""
    name = "C.pbe-rrkjus.UPF"
    if not (ESPRESSO_FILES / name).exists():
        pytest.skip(f"quantum-espresso-data with {name} is not installed")
    if program_version("pp.x") < (7, 2):
        program("pp.x", 'echo "Program POST-PROC v.7.2 starts"; sed -i /use_gauss/d "$2"; exec $real "$@"')
    system = {"smearing": "gaussian", "ecutrho": 110}
    sampling = replace(SAMPLING, minimum=-14, maximum=26, spacing=0.5, sigma=0.8, kspacing=2.0, bands_per_atom=4)
    setup = replace(
        recipe(ESPRESSO_FILES, C=name), cutoff=18.0, kspacing=2.0, options={"system": system}, ldos=sampling
    )
    (tmp_path / "work").mkdir()
    atoms = bulk("C", "diamond", a=3.57)
    check_setup(["C"], setup)
    snapshot = calculate("c", atoms, setup, tmp_path / "work")
    assert snapshot.dos is not None
    integral = snapshot.ldos_values().mean(axis=(0, 1, 2), dtype=float) * atoms.get_volume()
    np.testing.assert_allclose(integral, snapshot.dos, atol=1e-3 * snapshot.dos.max())
    # without its augmentation charge an ultrasoft state does not hold one electron
    bare = sample_ldos(
        tmp_path / f"work/{PREFIX}.save", (8, 8, 8), atoms.get_volume(), sampling.energies, sampling.sigma
    )
    assert abs(bare.mean(axis=(0, 1, 2)) * atoms.get_volume() - snapshot.dos).max() > 0.02 * snapshot.dos.max()


@pytest.mark.qe
@needs_pp
def test_another_kernel_is_found_out(dft_folder: Path, tmp_path: Path, program: Program) -> None:
    if program_version("pp.x") >= (7, 2):
        pytest.skip("this pp.x broadens by a Gaussian as it is told")
    atoms = beryllium()
    for calculation in ("scf", "nscf"):
        run_program("pw.x", input_text(atoms, recipe(dft_folder), calculation, tmp_path), tmp_path)
    program("pp.x", 'sed -i /use_gauss/d "$2"; exec $real "$@"')
    dense = read_xml(tmp_path / f"{PREFIX}.save")
    energies, sigma = SAMPLING.energies, SAMPLING.sigma
    dos = sample_dos(energies, sigma, dense["eigenvalues"], dense["k_weights"])
    with pytest.raises(CalculationError, match=r"does this pp\.x broaden by a Gaussian"):
        sample_ldos_by_postproc(tmp_path, PREFIX, (10, 10, 15), energies, sigma, dos)


def test_old_and_missing_programs_are_refused_before_any_scf(tmp_path: Path, program: Program) -> None:
    (tmp_path / "Be.UPF").write_text(SOFT)
    setup = recipe(tmp_path, Be="Be.UPF")
    program("pw.x", f"echo called >> {tmp_path}/calls; exit 1")
    version = program("pp.x", 'echo "     Program POST-PROC v.6.7MaX starts on 25Nov2026 at 14:54:17"; exit 1')
    with pytest.raises(ValueError, match=r"needs pp\.x 7\.2 or later \(use_gauss_ldos\); the one on the PATH is 6\.7"):
        label_structures([beryllium()], setup, tmp_path / "set")
    assert not (tmp_path / "calls").exists()
    assert not (tmp_path / "set").exists()
    check_setup(["Be"], replace(setup, ldos=None))
    version.write_text("#!/bin/sh\necho 'Program POST-PROC v.7.2 starts on 25Nov2026'; exit 1\n")
    check_setup(["Be"], setup)
    version.write_text("#!/bin/sh\necho libmpi.so is missing\n")
    with pytest.raises(ValueError, match=r"pp\.x does not tell its version; it says: libmpi\.so is missing"):
        check_setup(["Be"], setup)
    version.unlink()
    if shutil.which("pp.x") is None:
        with pytest.raises(ValueError, match=r"pp\.x is not on the PATH"):
            check_setup(["Be"], setup)


def test_cubes_of_a_new_pp_are_assembled(tmp_path: Path, program: Program) -> None:
    """A stand-in serves prepared cubes for the input that a pp.x of 7.2 would read."""
    energies = np.arange(12.0)
    rng, atoms = np.random.default_rng(0), beryllium()
    # few waves, so that the coarse grid carries all of them
    ldos = 2 + np.cos(2 * np.pi * np.arange(8) / 8)[:, None, None, None] * rng.random(12) + np.zeros((8, 6, 10, 12))
    source = Snapshot("ldos", atoms.numbers, atoms.cell.array, atoms.positions, energies, ldos, 1.0)
    write_ldos_cubes(tmp_path / "cubes", source)
    program("pp.x", f'cp {tmp_path}/cubes/*.cube .; cp "$2" {tmp_path}/seen; echo JOB DONE.')
    (tmp_path / "work").mkdir()
    dos = ldos.mean(axis=(0, 1, 2)) * atoms.get_volume()
    found = sample_ldos_by_postproc(tmp_path / "work", PREFIX, (4, 4, 6), energies, 0.5, dos)
    np.testing.assert_allclose(found, ldos[::2, :4, :6], rtol=1e-4)
    assert "use_gauss_ldos = .true." in (tmp_path / "seen").read_text()
    with pytest.raises(CalculationError, match="integrates to another DOS"):
        sample_ldos_by_postproc(tmp_path / "work", PREFIX, (4, 4, 6), energies, 0.5, 1.01 * dos)
    (tmp_path / "cubes/ldos_012.cube").unlink()
    (tmp_path / "work/ldos_012.cube").unlink()
    with pytest.raises(ValueError, match="11 cube files and 12 energies"):
        sample_ldos_by_postproc(tmp_path / "work", PREFIX, (4, 4, 6), energies, 0.5, dos)
