"""Pseudopotential files against numbers computed by hand and against each other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ase_ldos.formats.pseudopotential import read_pseudopotential
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
    assert pseudo.core is not None
    np.testing.assert_allclose(pseudo.core.form_factor(torch.as_tensor(wavenumbers)), exact, atol=2e-6)
    np.testing.assert_allclose(
        pseudo.core.slopes[10], -np.exp(-0.5 * (WIDTH * BOHR) ** 2) * CHARGE * (WIDTH * BOHR) ** 2, atol=2e-6
    )


def test_gth_file(dft_folder: Path) -> None:
    be, al = (read_pseudopotential(dft_folder / name) for name in ("Be.pbe-gth-q2.gth", "Al.pbe-gth-q3.gth"))
    assert (be.symbol, be.valence, be.functional, be.kind, be.has_core_charge) == ("Be", 2.0, "pbe", "NC", False)
    assert (al.symbol, al.valence, al.functional) == ("Al", 3.0, "pbe")


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
        assert pseudo.core is None or 0 < pseudo.core.values[0] < 60


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
