"""Quantum ESPRESSO for real on a 2-atom cell, and its files and failures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from scipy.special import ndtr

from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.labelling.dft_settings import DOSRecipe, LDOSRecipe, Recipe, load_recipe
from ase_ldos.labelling.pw import (
    PREFIX,
    calculate,
    check_setup,
    dos_arrays,
    input_text,
    kpoint_mesh,
    mesh_of,
    wrong_deviatoric_stress,
)
from ase_ldos.labelling.pw_output import band_densities, read_density, read_wavefunctions, read_xml, sample_ldos
from ase_ldos.labelling.subprocesses import CalculationError, program_version, run_program
from ase_ldos.physics.core_charge import core_density
from ase_ldos.physics.exchange_correlation import xc_energies

needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="Quantum ESPRESSO's pw.x is not on the PATH")


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.25, c=3.54)
    atoms.positions[1] += (0.05, -0.03, 0.04)
    return atoms


def recipe(folder: Path, *, ldos: bool = True) -> Recipe:
    return Recipe(
        pseudopotentials={"Be": "Be.gth-pbe-uzh-q2.UPF"},
        pseudo_dir=folder,
        cutoff=14.0,
        electronic_temperature=2000.0,
        kspacing=0.8,
        bands_per_atom=3,
        convergence=1e-10,
        # a little less than the self-consistent run's: the same mesh, but a run of its own
        ldos=LDOSRecipe(sigma=0.6, minimum=-8, maximum=16, spacing=0.3, kspacing=0.79, bands_per_atom=3)
        if ldos
        else None,
    )


@pytest.fixture(scope="module")
def finished(pseudo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    """Folder and snapshot of a calculation with LDOS."""
    if shutil.which("pw.x") is None:
        pytest.skip("Quantum ESPRESSO's pw.x is not on the PATH")
    folder = tmp_path_factory.mktemp("pw")
    return folder, calculate("be2", beryllium(), recipe(pseudo_folder), folder)


def test_kpoint_meshes_are_those_of_the_reference(be_files: list[Path]) -> None:
    for snapshot in load_snapshots(be_files):
        assert kpoint_mesh(snapshot.cell, 0.25) == tuple(snapshot.kpoints)  # type: ignore[arg-type]
        if snapshot.kpoints_dense is not None:
            assert kpoint_mesh(snapshot.cell, 0.2) == tuple(snapshot.kpoints_dense)


def test_small_cells_of_beryllium_are_labelled_as_their_recipe_says() -> None:
    folder = Path(__file__).resolve().parents[2] / "ase_ldos/models/be"  # an installed package lacks the labels
    setup = load_recipe(folder / "dft-small-cells.toml")
    assert setup.dos is not None
    for source in ("small-cells.npz", "close-pairs-test.npz", "disputed-test.npz"):
        for snapshot in load_snapshots(folder / "labels" / source):
            assert snapshot.kpoints is not None
            assert tuple(snapshot.kpoints) == kpoint_mesh(snapshot.cell, setup.kspacing)
            assert snapshot.electronic_temperature == pytest.approx(setup.electronic_temperature, abs=1e-4)
            if not snapshot.has_ldos:
                assert snapshot.energies is not None
                assert snapshot.ldos_sigma == setup.dos.sigma
                nodes = setup.dos.energies(snapshot.energies[-1] + 2.05 * setup.dos.sigma)
                np.testing.assert_allclose(snapshot.energies, nodes, atol=1e-9)


def test_input_keeps_all_digits_and_options(pseudo_folder: Path, tmp_path: Path) -> None:
    setup = replace(recipe(pseudo_folder), options={"electrons": {"mixing_beta": 0.31}})
    text = input_text(beryllium(), setup, "nscf", tmp_path)
    assert "mixing_beta      = 0.31" in text
    assert "'nscf'" in text
    assert "1.269038105676658" in text  # y of the second atom
    assert "&IONS" not in text
    with pytest.raises(ValueError, match=r"no \[ldos\]"):
        input_text(beryllium(), recipe(pseudo_folder, ldos=False), "nscf", tmp_path)


@pytest.mark.qe
def test_energy_terms_and_counts(finished) -> None:  # noqa: ANN001
    _, snapshot = finished
    parts = snapshot.one_electron + snapshot.hartree + snapshot.xc + snapshot.ewald + snapshot.smearing_TS
    assert parts == pytest.approx(snapshot.free_energy, abs=1e-9)
    volume = abs(np.linalg.det(snapshot.cell))
    assert snapshot.density.mean(dtype=float) * volume == pytest.approx(4, abs=1e-5)
    assert snapshot.k_weights.sum() == pytest.approx(2, abs=1e-12)
    assert snapshot.valence == 2
    assert abs(snapshot.forces.sum(axis=0)).max() < 1e-3
    np.testing.assert_allclose(snapshot.stress, snapshot.stress.T, atol=1e-8)
    assert abs(snapshot.energy_defect) < 2e-3


def test_dos_of_two_bands_is_two_gaussians() -> None:
    """k-points of weight 0.5 and 1.5, one band at 0 and 0.5 eV, the next at 6 and 5 eV: known up to 5 − 2σ."""
    arrays = dos_arrays(DOSRecipe(0.25, -4.0, 0.125), np.array([[0.0, 6.0], [0.5, 5.0]]), np.array([0.5, 1.5]))
    energies = arrays["energies"]
    assert energies[-1] == 4.5
    bell = lambda center: np.exp(-8 * (energies - center) ** 2) / (0.25 * np.sqrt(2 * np.pi))  # noqa: E731
    exact = 0.5 * (bell(0) + bell(6)) + 1.5 * (bell(0.5) + bell(5))
    np.testing.assert_allclose(arrays["dos"], exact, rtol=1e-12)
    assert arrays["ldos_sigma"] == 0.25


@pytest.mark.qe
def test_ldos_integrates_to_dos(finished) -> None:  # noqa: ANN001
    _, snapshot = finished
    volume = abs(np.linalg.det(snapshot.cell))
    integral = snapshot.ldos_values().mean(axis=(0, 1, 2), dtype=float) * volume
    np.testing.assert_allclose(integral, snapshot.dos, atol=1e-3 * snapshot.dos.max())
    # all bands lie in the window, so the DOS holds 2 electrons per band up to the Gaussians' tails
    below = snapshot.eigenvalues_dense < 13
    assert np.trapezoid(snapshot.dos, snapshot.energies) >= (below * snapshot.k_weights_dense[:, None]).sum() - 0.01


@pytest.mark.qe
def test_occupied_wavefunctions_make_the_density(finished) -> None:  # noqa: ANN001
    folder, snapshot = finished
    save = folder / f"{PREFIX}.save"
    results = read_xml(save)
    grid = tuple(int(n) for n in results["fft_grid"])
    density = np.zeros(snapshot.shape)
    for k, weight in enumerate(results["k_weights"]):
        states = read_wavefunctions(save / f"wfc{k + 1}.dat")
        np.testing.assert_allclose((abs(states.coefficients) ** 2).sum(axis=1), 1, atol=1e-10)
        bands = band_densities(states, grid, snapshot.shape)
        density += np.tensordot(weight * results["occupations"][k], bands, axes=1)
    density /= abs(np.linalg.det(snapshot.cell))
    # same mesh in both runs, so only the convergence of the states separates the two
    np.testing.assert_allclose(density, snapshot.density, atol=1e-4 * snapshot.density.max())


@pytest.mark.qe
def test_density_on_another_grid_is_resampled(finished) -> None:  # noqa: ANN001
    folder, _ = finished
    path = folder / f"{PREFIX}.save" / "charge-density.dat"
    fine, coarse = read_density(path, (30, 30, 45)), read_density(path, (10, 10, 15))
    assert fine.mean() == pytest.approx(coarse.mean(), rel=1e-12)
    np.testing.assert_allclose(fine[::3, ::3, ::3], coarse, atol=0.02 * fine.max())


@pytest.mark.qe
def test_forces_are_derivatives_of_the_energy(pseudo_folder: Path, tmp_path: Path) -> None:
    energies = []
    for i, step in enumerate((0.01, -0.01)):
        atoms = beryllium()
        atoms.positions[1, 0] += step
        (tmp_path / str(i)).mkdir()
        energies.append(calculate("x", atoms, recipe(pseudo_folder, ldos=False), tmp_path / str(i)).free_energy)
    (tmp_path / "force").mkdir()
    sampled = replace(recipe(pseudo_folder, ldos=False), dos=DOSRecipe(sigma=0.6, minimum=-8.0, spacing=0.3))
    snapshot = calculate("x", beryllium(), sampled, tmp_path / "force")
    assert snapshot.forces is not None
    assert snapshot.forces[1, 0] == pytest.approx(-(energies[0] - energies[1]) / 0.02, abs=2e-3)  # type: ignore[operator]
    assert not snapshot.has_ldos
    # the DOS of the same mesh holds 2 electrons per band below its end, but for the Gaussians' tails
    assert snapshot.dos is not None
    assert snapshot.energies is not None
    assert snapshot.eigenvalues is not None
    assert snapshot.k_weights is not None
    end = snapshot.energies[-1]
    held = (snapshot.k_weights[:, None] * ndtr((end - snapshot.eigenvalues) / 0.6)).sum()
    assert np.trapezoid(snapshot.dos, snapshot.energies) == pytest.approx(held, rel=2e-3)


@pytest.mark.qe
def test_a_launcher_gives_the_same_labels(pseudo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two MPI processes each holds half of the waves, so that their order in the files is another."""
    if shutil.which("mpirun") is None or shutil.which("pw.x") is None:
        pytest.skip("mpirun and pw.x are not on the PATH")
    # as root in a container, and kind to whatever else runs there
    options = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
    }
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    few_waves = replace(recipe(pseudo_folder), cutoff=8.0, kspacing=2.5)
    assert few_waves.ldos is not None
    few_waves = replace(few_waves, ldos=replace(few_waves.ldos, kspacing=2.5))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    serial = calculate("be2", beryllium(), few_waves, tmp_path / "one")
    parallel = calculate("be2", beryllium(), few_waves, tmp_path / "two", launcher="mpirun -n 2")
    assert "running on     2 processors" in (tmp_path / "two/pw.out").read_text()
    assert parallel.forces is not None
    assert parallel.density is not None
    assert serial.density is not None
    assert parallel.free_energy == pytest.approx(serial.free_energy, abs=1e-7)
    np.testing.assert_allclose(parallel.forces, serial.forces, atol=1e-4)  # both are converged to no more
    np.testing.assert_allclose(parallel.density, serial.density, atol=1e-5 * serial.density.max())
    np.testing.assert_allclose(parallel.ldos_values(), serial.ldos_values(), atol=1e-3 * serial.ldos_values().max())


@pytest.mark.qe
@needs_pw
def test_core_charge_gives_the_xc_energy_of_espresso(tmp_path: Path) -> None:
    folder = Path("/usr/share/espresso/pseudo")
    if not (folder / "Mg.pz-n-vbc.UPF").exists():
        pytest.skip("quantum-espresso-data with Mg.pz-n-vbc.UPF is not installed")
    setup = replace(
        recipe(folder, ldos=False),
        pseudopotentials={"Mg": "Mg.pz-n-vbc.UPF"},
        options={"system": {"input_dft": "PBE"}},
        grid_spacing=0.14,
    )
    atoms = bulk("Mg", "hcp", a=3.2, c=5.2)
    snapshot = calculate("mg", atoms, setup, tmp_path)
    assert snapshot.density is not None
    assert snapshot.xc is not None
    structure = Structure.from_atoms(atoms)
    fine = tuple(int(n) for n in read_xml(tmp_path / f"{PREFIX}.save")["fft_grid"])
    density = torch.as_tensor(read_density(tmp_path / f"{PREFIX}.save" / "charge-density.dat", fine))
    grid = Grid(structure.cell, fine)
    charge = read_pseudopotential(folder / "Mg.pz-n-vbc.UPF").core
    assert charge is not None
    core = core_density(structure, grid, {"Mg": charge})
    assert float(xc_energies(density, grid, "pbe", core)[0]) == pytest.approx(snapshot.xc, abs=1e-3)
    assert abs(float(xc_energies(density, grid)[0]) - snapshot.xc) > 1.0


@pytest.mark.qe
def test_cut_off_files_are_named(finished, tmp_path: Path) -> None:  # noqa: ANN001
    folder, snapshot = finished
    save = tmp_path / "cut.save"
    shutil.copytree(folder / f"{PREFIX}.save", save)
    for name in ("wfc1.dat", "charge-density.dat", "data-file-schema.xml"):
        content = (save / name).read_bytes()
        (save / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"wfc1\.dat is cut off"):
        read_wavefunctions(save / "wfc1.dat")
    with pytest.raises(ValueError, match=r"charge-density\.dat is cut off"):
        read_density(save / "charge-density.dat", (4, 4, 4))
    with pytest.raises(ValueError, match=r"data-file-schema\.xml is missing or cut off"):
        sample_ldos(save, snapshot.shape, 1.0, snapshot.energies, 0.2)


@pytest.mark.qe
@needs_pw
def test_failures_have_reasons(pseudo_folder: Path, tmp_path: Path) -> None:
    setup = replace(recipe(pseudo_folder, ldos=False), options={"electrons": {"electron_maxstep": 1}})
    with pytest.raises(CalculationError, match="did not converge"):
        calculate("x", beryllium(), setup, tmp_path)
    few_bands = replace(recipe(pseudo_folder, ldos=False), bands_per_atom=0.5)
    with pytest.raises(CalculationError, match=r"pw\.x stopped.*too few bands"):
        calculate("x", beryllium(), few_bands, tmp_path)


@pytest.mark.qe
@needs_pw
def test_a_calculation_that_takes_too_long_is_ended(pseudo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CalculationError, match=r"pw\.x was ended after the recipe's time_limit, 0 s"):
        calculate("x", beryllium(), replace(recipe(pseudo_folder, ldos=False), time_limit=0.01), tmp_path)


@pytest.mark.qe
def test_ldos_comes_from_the_self_consistent_run_where_the_mesh_is_one(
    finished,  # noqa: ANN001
    pseudo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against a run of its own with strict states: the same LDOS to a thousandth, without the run."""
    setup = recipe(pseudo_folder)
    assert setup.ldos is not None
    setup = replace(setup, ldos=replace(setup.ldos, kspacing=0.8))
    assert setup.one_mesh
    assert not recipe(pseudo_folder).one_mesh
    assert not recipe(pseudo_folder, ldos=False).one_mesh
    calls: list[str] = []

    def counted(program: str, text: str, folder: Path, **options: object) -> None:
        calls.append(program)
        run_program(program, text, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("ase_ldos.labelling.pw.run_program", counted)
    snapshot = calculate("one", beryllium(), setup, tmp_path)
    assert calls == ["pw.x"]
    _, reference = finished
    assert snapshot.fermi_level == snapshot.fermi_level_dense == pytest.approx(reference.fermi_level_dense, abs=1e-3)
    assert snapshot.eigenvalues_dense is None
    assert snapshot.complete_below == pytest.approx(reference.complete_below, abs=1e-3)
    known = snapshot.energies < snapshot.complete_below
    ours, theirs = snapshot.ldos_values()[..., known], reference.ldos_values()[..., known]
    assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(theirs)


@pytest.mark.qe
def test_pulay_stress_is_taken_off(finished, pseudo_folder: Path, tmp_path: Path) -> None:  # noqa: ANN001
    setup = replace(recipe(pseudo_folder, ldos=False), pulay={"Be": 0.08})
    corrected = calculate("x", beryllium(), setup, tmp_path).stress
    _, snapshot = finished
    volume = beryllium().get_volume()
    np.testing.assert_allclose(snapshot.stress - corrected, 0.16 / volume * np.eye(3), atol=1e-6)


def test_meshes_may_be_given_with_the_structure(pseudo_folder: Path, tmp_path: Path) -> None:
    atoms = beryllium()
    atoms.info |= {"kpoints": np.array([5, 4, 3]), "fft_grid": [16, 18, 27]}
    text = input_text(atoms, recipe(pseudo_folder, ldos=False), "scf", tmp_path)
    assert "5 4 3  0 0 0" in text
    assert [line.split() for line in text.splitlines() if "nr2" in line] == [["nr2", "=", "18"]]
    assert mesh_of(beryllium(), 0.8) == kpoint_mesh(beryllium().cell.array, 0.8)
    for wrong in ([5, 4], [5, 4, 0], [1.5, 2, 3], "dense"):
        atoms.info["kpoints"] = wrong
        with pytest.raises(ValueError, match=r"info\['kpoints'\] = .*; three positive integers are expected"):
            input_text(atoms, recipe(pseudo_folder, ldos=False), "scf", tmp_path)


@pytest.mark.parametrize(
    ("file", "creator", "spoiled"),
    [
        ("Be.gth", "PWSCF 6.7MaX", True),
        ("Be.gth", "unknown", True),
        ("Be.gth", "PWSCF 7.2", False),
        ("Be.gth", "PWSCF 10.0", False),
        ("s-only.gth", "PWSCF 6.7MaX", False),
        ("Be.gth-pbe-uzh-q2.UPF", "PWSCF 6.7MaX", False),
    ],
)
def test_files_that_spoil_the_stress_are_known(
    file: str, creator: str, spoiled: bool, pseudo_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(pseudo_folder / "Be.gth-pbe-uzh-q2.UPF", tmp_path)
    head = "Be\n 4 2 70301 zatom,zion,pspdat\n 10 11 {} 0 2002 0 pspcod,pspxc,lmax,lloc,mmax,r2well\n 0.7 0\n"
    (tmp_path / "Be.gth").write_text(head.format(1))
    (tmp_path / "s-only.gth").write_text(head.format(0))
    setup = replace(recipe(tmp_path), pseudopotentials={"Be": file})
    assert wrong_deviatoric_stress(["Be", "Be"], setup, creator) == (file if spoiled else "")


def test_launcher_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-launcher could not be started: No such file"):
        run_program("pw.x", "", tmp_path, launcher="no-such-launcher -n 2")
    with pytest.raises(ValueError, match="no-such-launcher could not be started"):
        program_version("pw.x", launcher="no-such-launcher -n 2")


def test_an_ldos_that_fits_nowhere_is_refused_before_any_scf(pseudo_folder: Path, tmp_path: Path) -> None:
    setup = recipe(pseudo_folder)
    assert setup.ldos is not None
    huge = replace(setup, grid_spacing=0.03, ldos=replace(setup.ldos, spacing=0.003))
    with pytest.raises(ValueError, match=r"the LDOS on a grid of .* points would have .* values, more than 2.1e\+09"):
        calculate("x", beryllium(), huge, tmp_path)
    assert not list(tmp_path.iterdir())


def test_setup_is_checked_before_the_run(pseudo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pw.x"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_setup(["Be"], recipe(pseudo_folder))
    with pytest.raises(ValueError, match="no pseudopotential of Mg"):
        check_setup(["Be", "Mg"], recipe(pseudo_folder))
    wrong = replace(recipe(pseudo_folder), pseudopotentials={"Be": "Al.gth-pbe-uzh-q3.UPF"})
    with pytest.raises(ValueError, match="is a pseudopotential of Al, not Be"):
        check_setup(["Be"], wrong)
    paw = '<PP_HEADER element="Be" pseudo_type="PAW" core_correction="F" functional="PBE" z_valence="2"/>'
    (tmp_path / "Be.UPF").write_text(paw.replace("PAW", "NC").replace("PBE", "BLYP"))
    with pytest.raises(ValueError, match=r"Be\.UPF has .* functional 'blyp', which is unknown; known: lda, pbe,"):
        check_setup(["Be"], replace(recipe(tmp_path), pseudopotentials={"Be": "Be.UPF"}))
    chosen = replace(recipe(pseudo_folder), options={"system": {"input_dft": "tpss"}})
    with pytest.raises(ValueError, match=r"the recipe's input_dft has .* functional 'tpss', which is unknown"):
        check_setup(["Be"], chosen)
    check_setup(["Be"], replace(chosen, options={"system": {"input_dft": "PBESOL"}}))
    (tmp_path / "Be.UPF").write_text(paw)
    paw_setup = replace(recipe(tmp_path), pseudopotentials={"Be": "Be.UPF"})
    with pytest.raises(ValueError, match=r"Be\.UPF is of the kind PAW"):
        check_setup(["Be"], paw_setup)
    check_setup(["Be"], replace(paw_setup, ldos=None))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"pw\.x is not on the PATH"):
        check_setup(["Be"], recipe(pseudo_folder))
