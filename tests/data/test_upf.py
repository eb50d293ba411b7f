"""Pseudopotential files against numbers computed by hand and against each other."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ase_ldos.data.upf import core_density, read_pseudopotential
from ase_ldos.grid import Grid
from ase_ldos.structure import Structure
from ase_ldos.units import BOHR

WIDTH, CHARGE = 0.8, 1.5  # bohr, electrons: a Gaussian core


def numbers(values: np.ndarray) -> str:
    return " ".join(f"{v:.15E}" for v in values)


def upf(version: int, *, core: bool = True, kind: str = "NC") -> str:
    """A UPF file of either version with a Gaussian core charge on a logarithmic mesh."""
    x = np.arange(801)
    radii = 1e-4 * np.exp(0.0145 * x)
    values = CHARGE * (2 * np.pi * WIDTH**2) ** -1.5 * np.exp(-0.5 * (radii / WIDTH) ** 2)
    flag = "T" if core else "F"
    if version == 2:
        header = (
            f'<PP_HEADER\n element="Mg"\n pseudo_type="{kind}"\n core_correction="{flag}"\n'
            ' functional=" SLA  PW   PBX  PBC"\n z_valence="2.000000000E+00"/>'
        )
    else:
        header = (
            f"<PP_HEADER>\n   0   Version Number\n   Mg  Element\n   {kind}  Norm - Conserving\n   {flag}  NLCC\n"
            " SLA  PW   PBX  PBC    PBE  Exchange-Correlation functional\n    2.00000000000      Z valence\n"
            "</PP_HEADER>"
        )
    return (
        f"<UPF><PP_INFO> rel < 1 & more </PP_INFO>\n{header}\n<PP_MESH><PP_R>{numbers(radii)}</PP_R>"
        f'<PP_RAB type="real">{numbers(0.0145 * radii)}</PP_RAB></PP_MESH><PP_NLCC>{numbers(values)}</PP_NLCC></UPF>'
    )


@pytest.mark.parametrize("version", [1, 2])
def test_header_and_gaussian_core(tmp_path: Path, version: int) -> None:
    path = tmp_path / "Mg.UPF"
    path.write_text(upf(version))
    pseudo = read_pseudopotential(path)
    assert (pseudo.symbol, pseudo.valence, pseudo.functional, pseudo.kind) == ("Mg", 2.0, "pbe", "NC")
    assert pseudo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    wavenumbers = np.array([[0.0, 1.0], [2.5, 7.0]])
    exact = CHARGE * np.exp(-0.5 * (wavenumbers * WIDTH * BOHR) ** 2)
    np.testing.assert_allclose(pseudo.core_form_factor(wavenumbers), exact, atol=2e-6)


def test_core_density_is_the_sum_of_gaussians(tmp_path: Path) -> None:
    (tmp_path / "Mg.UPF").write_text(upf(2))
    pseudos = {"Mg": read_pseudopotential(tmp_path / "Mg.UPF")}
    cell = np.array([[6.0, 0.0, 0.0], [1.5, 6.5, 0.0], [0.0, -1.0, 7.0]])
    structure = Structure.from_arrays(np.array([12, 12]), np.array([[0.3, 0.2, 0.1], [2.0, 3.0, 4.0]]), cell)
    grid = Grid(structure.cell, (24, 24, 30))
    density = core_density(structure, grid, pseudos)
    assert float(grid.integrate(density)) == pytest.approx(2 * CHARGE, abs=1e-5)
    points, width = grid.points(), WIDTH * BOHR
    images = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3) @ structure.cell
    squares = torch.cdist(points, (structure.positions[:, None] + images).reshape(-1, 3)) ** 2
    direct = CHARGE * (2 * math.pi * width**2) ** -1.5 * torch.exp(-0.5 * squares / width**2).sum(dim=1)
    torch.testing.assert_close(density.flatten(), direct, atol=2e-5, rtol=0)


def test_core_density_follows_the_atoms(tmp_path: Path) -> None:
    (tmp_path / "Mg.UPF").write_text(upf(2))
    pseudos = {"Mg": read_pseudopotential(tmp_path / "Mg.UPF")}
    cell = 5 * torch.eye(3, dtype=torch.float64)
    start = torch.tensor([[0.3, 0.2, 0.1], [2.0, 2.5, 3.0]], dtype=torch.float64, requires_grad=True)
    grid = Grid(cell, (8, 8, 8))
    weights = torch.linspace(0, 1, 512, dtype=torch.float64).reshape(8, 8, 8)

    def total(positions: torch.Tensor) -> torch.Tensor:
        return (core_density(Structure(torch.tensor([12, 12]), positions, cell), grid, pseudos) * weights).sum()

    assert torch.autograd.gradcheck(total, (start,), atol=1e-6)


def test_gth_file(dft_folder: Path) -> None:
    be, al = (read_pseudopotential(dft_folder / name) for name in ("Be.pbe-gth-q2.gth", "Al.pbe-gth-q3.gth"))
    assert (be.symbol, be.valence, be.functional, be.kind, be.has_core_charge) == ("Be", 2.0, "pbe", "NC", False)
    assert (al.symbol, al.valence, al.functional) == ("Al", 3.0, "pbe")
    structure = Structure.from_arrays(np.array([4]), np.zeros((1, 3)), 3 * np.eye(3))
    assert not core_density(structure, Grid(structure.cell, (4, 4, 4)), {"Be": be}).any()
    with pytest.raises(ValueError, match="no pseudopotential of Be"):
        core_density(structure, Grid(structure.cell, (4, 4, 4)), {"Al": al})
    with pytest.raises(ValueError, match="Be has no core charge"):
        be.core_form_factor(np.ones(2))


@pytest.mark.parametrize(("kind", "expected"), [("US", "US"), ("USPP", "US"), ("PAW", "PAW"), ("SL", "NC")])
def test_kinds(tmp_path: Path, kind: str, expected: str) -> None:
    (tmp_path / "Mg.UPF").write_text(upf(2, core=False, kind=kind))
    pseudo = read_pseudopotential(tmp_path / "Mg.UPF")
    assert pseudo.kind == expected
    assert not pseudo.has_core_charge


def test_installed_files_are_read() -> None:
    folder = Path("/usr/share/espresso/pseudo")
    files = sorted(folder.glob("*.UPF"))
    if not files:
        pytest.skip("Quantum ESPRESSO's own pseudopotentials are not installed")
    pseudos = {path.name: read_pseudopotential(path) for path in files}
    for name, pseudo in pseudos.items():
        if name.split(".")[0].isalpha() and len(name.split(".")[0]) <= 2:
            assert pseudo.symbol == name.split(".")[0]
        assert 0 < pseudo.valence < 30
        assert pseudo.has_core_charge == (pseudo.core_radii is not None)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no pseudopotential file"):
        read_pseudopotential(tmp_path / "Be.upf")
    (tmp_path / "Be.txt").write_text("nothing")
    with pytest.raises(ValueError, match="neither UPF"):
        read_pseudopotential(tmp_path / "Be.txt")
    (tmp_path / "Mg.UPF").write_text(upf(2).split("<PP_NLCC>")[0])
    with pytest.raises(ValueError, match="it has no PP_NLCC"):
        read_pseudopotential(tmp_path / "Mg.UPF")
    (tmp_path / "X.UPF").write_text(upf(2).replace('"Mg"', '"Xx"'))
    with pytest.raises(ValueError, match="its element is 'Xx'"):
        read_pseudopotential(tmp_path / "X.UPF")
    (tmp_path / "Be.gth").write_text("title\n4 2 0 zatom\n7 11 0\n")
    with pytest.raises(ValueError, match="pspcod is 7"):
        read_pseudopotential(tmp_path / "Be.gth")
