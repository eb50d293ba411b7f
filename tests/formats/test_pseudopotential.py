"""Pseudopotential files against numbers computed by hand and against each other."""

from __future__ import annotations

import re
import time
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
    kind_of_numbers = ' type="real"' if version == 2 else ""
    body = (
        f"<PP_INFO> rel < 1 & more </PP_INFO>\n{header}\n<PP_MESH><PP_R>{numbers(radii)}</PP_R>"
        f"<PP_RAB{kind_of_numbers}>{numbers(0.0145 * radii)}</PP_RAB></PP_MESH><PP_NLCC>{numbers(values)}</PP_NLCC>"
    )
    return f'<UPF version="2.0.1">{body}</UPF>' if version == 2 else body


@pytest.mark.parametrize("version", [1, 2])
def test_header_and_gaussian_core(tmp_path: Path, version: int) -> None:
    path = tmp_path / "Mg.UPF"
    path.write_text(upf(version))
    pseudo = read_pseudopotential(path)
    assert (pseudo.symbol, pseudo.valence, pseudo.functional, pseudo.kind) == ("Mg", 2.0, "pbe", "NC")
    wavenumbers = np.array([[0.0, 1.0], [2.5, 7.0]])
    exact = CHARGE * np.exp(-0.5 * (wavenumbers * WIDTH * BOHR) ** 2)
    assert pseudo.core is not None
    np.testing.assert_allclose(pseudo.core.form_factor(torch.as_tensor(wavenumbers)), exact, atol=2e-6)
    np.testing.assert_allclose(
        pseudo.core.slopes[10], -np.exp(-0.5 * (WIDTH * BOHR) ** 2) * CHARGE * (WIDTH * BOHR) ** 2, atol=2e-6
    )


def test_equal_potentials_have_equal_hashes(tmp_path: Path) -> None:
    """Another machine's exponential function, layout or comment does not count; another potential does."""
    path = tmp_path / "Mg.UPF"

    def digest(text: str) -> str:
        path.write_text(text)
        return read_pseudopotential(path).sha256

    text = upf(2)
    first = digest(text)
    noise = re.sub(r"\d\.\d{15}E[+-]\d\d", lambda found: f"{float(found[0]) * (1 + 3e-14):.17e}\n", text)
    assert noise != text
    assert digest(noise) == first
    assert digest(text.replace("rel < 1 & more", "by somebody else")) == first
    assert digest(text.replace("2.000000000E+00", "2.0D0")) == first
    values = re.findall(r"\d\.\d{15}E[+-]\d\d", text)
    assert digest(text.replace(values[1700], f"{1.001 * float(values[1700]):.15E}", 1)) != first
    assert digest(upf(2, kind="SL")) != first


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
    with pytest.raises(ValueError, match="not well-formed XML"):
        read_pseudopotential(tmp_path / "Mg.UPF")
    for version in (1, 2):
        (tmp_path / "Mg.UPF").write_text(upf(version).replace("PP_NLCC", "PP_OTHER"))
        with pytest.raises(ValueError, match="it has no PP_NLCC"):
            read_pseudopotential(tmp_path / "Mg.UPF")
    (tmp_path / "X.UPF").write_text(upf(2).replace('"Mg"', '"Xx"'))
    with pytest.raises(ValueError, match="its element is 'Xx'"):
        read_pseudopotential(tmp_path / "X.UPF")
    (tmp_path / "Be.gth").write_text("title\n4 2 0 zatom\n7 11 0\n")
    with pytest.raises(ValueError, match="pspcod is 7"):
        read_pseudopotential(tmp_path / "Be.gth")


def test_headers_as_xml_allows_them(tmp_path: Path) -> None:
    """Single quotes, a > within an attribute, comments, notes: fuzzed files that were refused with a bare word."""
    plain = upf(2, core=False)
    variants = (
        plain.replace('element="Mg"', "element='Mg'"),
        plain.replace('element="Mg"', 'comment="a > b" element="Mg"'),
        plain.replace("<PP_HEADER", '<!-- made by <a program> --><PP_HEADER note="see there"'),
        "<?xml version='1.0'?>\n<!-- first -->\n" + plain,
        upf(1, core=False).replace("<PP_HEADER>", "<!-- a comment -->\n<PP_HEADER>"),
    )
    for text in variants:
        (tmp_path / "Mg.UPF").write_text(text)
        pseudo = read_pseudopotential(tmp_path / "Mg.UPF")
        assert (pseudo.symbol, pseudo.valence, pseudo.functional) == ("Mg", 2.0, "pbe")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('element="Mg"', "", "its PP_HEADER has no element"),
        ('functional="', 'functionals="', "its PP_HEADER has no functional"),
        ("2.000000000E+00", "-2", "valence electrons is -2"),
        ("2.000000000E+00", "many", "could not convert"),
        ('<UPF version="2.0.1">', '<!DOCTYPE x [<!ENTITY a "b">]><UPF version="2.0.1">', "entities of its own"),
        ("<PP_R>", "<PP_R>one two ", "its PP_R holds something else than numbers"),
        ("<PP_R>", "<PP_R>1.0 ", r"PP_R, PP_RAB and PP_NLCC hold 802, 801 and 801"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "Mg.UPF").write_text(upf(2).replace(old, new))
    with pytest.raises(ValueError, match=rf"Mg.UPF is not a pseudopotential, or is damaged: .*{message}"):
        read_pseudopotential(tmp_path / "Mg.UPF")


@pytest.mark.parametrize("version", [1, 2])
def test_blanks_cost_no_more_than_reading_them(tmp_path: Path, version: int) -> None:
    """A megabyte of blanks in a tag took minutes."""
    blanks = " " * 2**20
    (tmp_path / "Mg.UPF").write_text(
        upf(version, core=False).replace("<PP_HEADER", f"<PP_MESH{blanks}/>{blanks}<PP_HEADER")
    )
    started = time.process_time()
    assert read_pseudopotential(tmp_path / "Mg.UPF").symbol == "Mg"
    assert time.process_time() - started < 2
