"""What the viewer gets: arrays with known errors, bins that add up, a report that needs nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.cli.main import main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.web.arrays import decode, drawn_shape, encode_field, encode_fields, encode_floats
from ase_ldos.web.asset_files import ASSETS, read_asset, read_page
from ase_ldos.web.report import film_of_trajectory
from ase_ldos.web.script import make_script
from ase_ldos.web.standalone import standalone_page
from ase_ldos.web.view_document import view_document


@pytest.fixture
def atoms() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("bits", [8, 16])
def test_fields_keep_their_numbers_to_half_a_step(bits: int) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5, 6))
    low, high = values.min(), values.max()
    np.testing.assert_allclose(decode(encode_field(values, bits)), values, atol=0.501 * (high - low) / (2**bits - 1))
    spans = values.max(axis=(1, 2, 3)) - values.min(axis=(1, 2, 3))
    errors = np.abs(decode(encode_fields(values, bits)) - values).max(axis=(1, 2, 3))
    assert (errors <= 0.501 * spans / (2**bits - 1)).all()
    np.testing.assert_array_equal(decode(encode_floats(values)), values.astype(np.float32))
    assert (decode(encode_field(np.full((2, 2), 3.5))) == 3.5).all()


@pytest.mark.parametrize("points", [50, 4000, 200_000])
@pytest.mark.parametrize("lengths", [(3, 3, 3), (60, 60, 60), (4, 4, 400), (50, 50, 2)])
def test_drawn_grids_stay_within_their_points(lengths: tuple[float, float, float], points: int) -> None:
    shape = drawn_shape(np.diag(lengths).astype(float), 0.15, points)
    assert np.prod(shape) <= points
    spacing = np.array(lengths) / shape
    assert points < 1000 or spacing.max() < 4 * spacing.min()


def test_the_document_says_what_the_calculator_says(be_model: LDOSModel, atoms: Atoms) -> None:
    calculator = LDOSCalculator(be_model)
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    document = json.loads(json.dumps(view_document(atoms, calculator), allow_nan=False))
    prediction = calculator.prediction
    assert document["energies"][6]["energy"] == pytest.approx(prediction.free_energy)
    assert sum(row["energy"] for row in document["energies"][:6]) == pytest.approx(prediction.free_energy)
    np.testing.assert_allclose(decode(document["forces"]), calculator.results["forces"], atol=1e-6)
    density = decode(document["density"])
    assert density.mean() * document["volume"] == pytest.approx(4.0, rel=1e-3)
    np.testing.assert_allclose(decode(document["dos"]["by_atom"]).sum(axis=0), prediction.dos.numpy(), atol=1e-5)
    assert document["extrapolation"] is None


def test_bins_add_up_to_windows_and_to_the_density_of_states(be_model: LDOSModel, atoms: Atoms) -> None:
    calculator = LDOSCalculator(be_model, grid_spacing=0.15)
    calculator.get_potential_energy(atoms)
    bins = view_document(atoms, calculator)["bins"]
    fields, edges = decode(bins["fields"]), np.array(bins["edges"])
    chosen = slice(10, 31)
    window = (float(edges[10]), float(edges[31]))
    assert fields.shape[1:] == calculator.grid_shape
    exact = calculator.get_local_density(window)
    # each of the 21 bins has the error of 8 bits
    steps = np.ptp(fields[chosen], axis=(1, 2, 3)).sum() / 255
    np.testing.assert_allclose(fields[chosen].sum(axis=0), exact, atol=0.51 * steps)


def test_species_have_their_own_dos(alloy_model: LDOSModel, atoms: Atoms) -> None:
    atoms.symbols[1] = "Mg"
    atoms.set_cell(atoms.cell[:] * 1.1, scale_atoms=True)
    calculator = LDOSCalculator(alloy_model)
    dos = view_document(atoms, calculator)["dos"]
    assert set(dos["by_species"]) == {"Be", "Mg"}
    np.testing.assert_allclose(np.sum(list(dos["by_species"].values()), axis=0), dos["total"], atol=1e-9)


def test_atoms_beyond_the_training_range_are_told_of(bundled: str, atoms: Atoms) -> None:
    calculator = LDOSCalculator(bundled)
    atoms.set_cell(atoms.cell[:] * 0.88, scale_atoms=True)
    told = view_document(atoms, calculator)["extrapolation"]
    assert "unlike any" in told["warning"]
    assert (decode(told["distances"]) > told["threshold"]).all()


def test_a_page_carries_everything_it_needs(be_model: LDOSModel, atoms: Atoms) -> None:
    title = '</script><script>alert(1)</script>"&'
    page = standalone_page([view_document(atoms, LDOSCalculator(be_model), title=title)])
    assert "alert(1)</script>" not in page.replace("&lt;/script&gt;", "")
    assert "default-src 'none'" in page
    assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)', page)
    assert "Redistributions in binary form must reproduce" in page
    bundled_modules = set(re.findall(r"ase-ldos/(\w+)\.js\": \"data:", page))
    wanted = {"result_view"}
    for name in bundled_modules:
        wanted |= set(re.findall(r'from "\./(\w+)\.js"', read_asset(f"{name}.js")))
    assert bundled_modules == wanted


def test_every_file_of_the_page_is_there_and_no_other_place_is_asked() -> None:
    for page in ("index.html", "login.html"):
        named = set(re.findall(r'(?:src|href)="assets/([^"]+)"', read_page(page)))
        assert named <= set(ASSETS)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', read_page(page))
    own = [name for name in ASSETS if name.endswith((".js", ".css")) and "min" not in name]
    assert len(own) == 9
    for name in own:
        assert not re.search(r"https?://(?!www\.w3\.org)", read_asset(name)), name
        assert "innerHTML" not in read_asset(name)


def test_frames_of_other_atoms_are_no_film(be_model: LDOSModel, atoms: Atoms) -> None:
    with pytest.raises(ValueError, match="same atoms"):
        film_of_trajectory([atoms, atoms.repeat((2, 1, 1))], LDOSCalculator(be_model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("predict", {"forces": True}),
        ("relax", {"fmax": 1.0, "steps": 1, "cell": True, "temperature": 2500.0, "spacing": 0.5}),
        ("md", {"steps": 1, "timestep": 1.0, "ion_temperature": 300.0, "thermostat": "langevin", "seed": 1}),
        ("md", {"steps": 1, "timestep": 1.0, "ion_temperature": 300.0, "thermostat": "none", "seed": 1}),
    ],
)
def test_scripts_run(kind: str, settings: dict[str, object], atoms: Atoms, bundled: str, tmp_path: Path) -> None:
    write(tmp_path / "structure.extxyz", atoms)
    (tmp_path / "script.py").write_text(make_script(kind, bundled, settings))
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "free energy A" in run.stdout


def test_reports_from_the_command_line(atoms: Atoms, bundled: str, tmp_path: Path) -> None:
    frames = [atoms.copy() for _ in range(6)]
    for step, frame in enumerate(frames):
        frame.positions[0, 2] += 0.01 * step
    write(tmp_path / "run.traj", frames)
    out = tmp_path / "out.html"
    arguments = [
        str(tmp_path / "run.traj"),
        "--model",
        bundled,
        "--out",
        str(out),
        "--interval",
        "2",
        "--pictures",
        "3",
    ]
    assert main(["report", *arguments]) == 0
    (document,) = _documents(out)
    assert document["film"]["time"] == [0.0, 4.0, 10.0]
    assert document["film"]["unit"] == "fs"
    calculator = LDOSCalculator(bundled)
    assert document["energies"][6]["energy"] == pytest.approx(calculator.get_potential_energy(frames[-1]), abs=1e-6)
    assert main(["predict", str(tmp_path / "run.traj"), "--model", bundled, "--report", str(out)]) == 0
    (document,) = _documents(out)
    assert document["film"] is None
    assert main(["report", str(tmp_path / "missing.traj")]) == 2
    assert main(["report", *arguments[:3], "--out", str(tmp_path / "no" / "out.html")]) == 2


def _documents(path: Path) -> list[dict[str, object]]:
    found = re.search(r'id="documents">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])
