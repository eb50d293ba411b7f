"""Pseudopotential files: what a model must know of them (UPF 1 and 2, and GTH in ABINIT's layout)."""

from __future__ import annotations

import hashlib
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from scipy.integrate import simpson

from ase_ldos.files import reading
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.physics.exchange_correlation import FUNCTIONALS
from ase_ldos.units import BOHR

#: Names by which Quantum ESPRESSO's files call functionals, in those of ``physics.exchange_correlation.FUNCTIONALS``.
#: A functional that is not there keeps a name of its own, so that a message can say which it is.
_SHORT_NAMES = {"PBE": "pbe", "PZ": "lda-pz", "PW": "lda", "PBESOL": "pbesol", "BLYP": "blyp", "TPSS": "tpss"}
_LONG_NAMES = {
    "SLA PW PBX PBC": "pbe",
    "SLA PW PBE PBE": "pbe",
    "SLA PZ NOGX NOGC": "lda-pz",
    "SLA PW NOGX NOGC": "lda",
    "SLA PW PSX PSC": "pbesol",
    "SLA LYP B88 BLYP": "blyp",
}
_ABINIT_FUNCTIONALS = {1: "lda", 7: "lda", 11: "pbe"}
#: Quantum ESPRESSO integrates radial functions to this radius (bohr) only; so do we, to agree with its energies.
CORE_RADIUS = 10.0
#: Nodes of the core charge's transform, 1/Å; the interpolation's error is of order (0.1 r)⁴/384 for a core of size r.
_SPACING = 0.1
#: The last of them, beyond what a grid of 0.1 Å carries.
_LARGEST = 60.0
#: Between words and numbers, of the header too.
_SEPARATORS = re.compile(r'[\s"<>=]+')


@dataclass(frozen=True, eq=False)
class Pseudopotential:
    """What the LDOS' energy formula and a model's provenance need of a pseudopotential.

    Attributes:
        symbol: chemical element.
        valence: number of its electrons.
        functional: a name of ``physics.exchange_correlation.FUNCTIONALS`` (``"lda"`` is that of Perdew and Wang); of a
            functional that is not there, another name in lower case such as ``"lda-pz"``.
        kind: ``"NC"`` (norm-conserving), ``"US"`` (ultrasoft) or ``"PAW"``.
        core: Fourier transform of its partial core charge; ``None`` without one.
        sha256: hash of what it says, see :func:`content_digest`.
        analytic_momenta: in a GTH file, whose projectors are given by formulas, the number of angular momenta that
            may have some; 0 in a UPF file.
    """

    symbol: str
    valence: float
    functional: str
    kind: str
    sha256: str
    core: CoreCharge | None = None
    analytic_momenta: int = 0

    @property
    def has_core_charge(self) -> bool:
        """Whether it has a non-linear core correction."""
        return self.core is not None


def check_functional(source: str, functional: str, expected: str | None = None) -> None:
    """Refuse what was made for another functional than the energies are calculated with.

    Args:
        source: file that names the functional, for the message.
        functional: its name.
        expected: the model's; by default any that is known will do.

    Raises:
        ValueError: the functional is not known, or not the expected one; the message names those that are known.
    """
    known = ", ".join(FUNCTIONALS)
    if functional not in FUNCTIONALS:
        raise ValueError(
            f"{source} has the exchange-correlation functional {functional!r}, which is unknown; known: {known}"
        )
    if expected is not None and functional != expected:
        raise ValueError(
            f"{source} has the exchange-correlation functional {functional!r}, the model {expected!r}; "
            f"they must agree (known: {known})"
        )


def read_pseudopotential(path: str | os.PathLike[str]) -> Pseudopotential:
    """Read a UPF or GTH file.

    Raises:
        ValueError: no such file, or not a pseudopotential of a known layout.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no pseudopotential file {path}")
    text = path.read_bytes().decode("utf-8", errors="replace")
    with reading(path, "a pseudopotential"):
        digest = content_digest(text)
        if "<PP_HEADER" in text:
            return _parse_upf(text, digest)
        if path.suffix.lower() == ".gth":
            return _parse_gth(text, digest)
    raise ValueError(f"{path} is neither UPF (it has no PP_HEADER) nor a .gth file; give one of these")


def content_digest(text: str) -> str:
    """Hash of the words and numbers of a pseudopotential file: equal potentials have equal hashes.

    Numbers count to six digits and PP_INFO not at all, as tables that two machines calculate from the same parameters
    differ in the last digits (exponential functions do), and labels of one are to be gone on with on the other.
    """
    words = _SEPARATORS.split(_without_information(text))
    return hashlib.sha256(" ".join(map(_rounded, words)).encode()).hexdigest()


def _without_information(text: str) -> str:
    """A UPF file without PP_INFO, in which any text may stand."""
    start, end = text.find("<PP_INFO"), text.find("</PP_INFO>")
    return text[:start] + text[end + len("</PP_INFO>") :] if 0 <= start < end else text


def _rounded(word: str) -> str:
    """A number to six digits, 0 below 1e-30; another word as it is."""
    try:
        number = float(_decimal(word))
    except ValueError:
        return word
    return "0" if abs(number) < 1e-30 else f"{number:.5e}"


def _parse_upf(text: str, digest: str) -> Pseudopotential:
    sections = _plain_sections(text) if "<PP_HEADER>" in text else _xml_sections(text)
    header = sections.header
    symbol = header["element"].strip()
    if symbol not in atomic_numbers:
        raise ValueError(f"its element is {symbol!r}")
    kind = {"NC": "NC", "SL": "NC", "1/R": "NC", "PAW": "PAW"}.get(header["pseudo_type"].strip().upper(), "US")
    if _is_true(header.get("is_paw", "f")):
        kind = "PAW"
    core = None
    if _is_true(header["core_correction"]):
        radii, steps, values = (sections.numbers(tag) for tag in ("PP_R", "PP_RAB", "PP_NLCC"))
        if not len(radii) == len(steps) == len(values) > 1:
            raise ValueError(f"PP_R, PP_RAB and PP_NLCC hold {len(radii)}, {len(steps)} and {len(values)} numbers")
        # as Quantum ESPRESSO: the mesh ends at the first point beyond the radius, at an odd number of points
        size = min(int(np.searchsorted(radii, CORE_RADIUS, side="right")) + 1, len(radii))
        size = 2 * ((size + 1) // 2) - 1
        core = _core_charge(radii[:size] * BOHR, steps[:size] * BOHR, values[:size] / BOHR**3)
    valence = float(_decimal(header["z_valence"]))
    _check_valence(valence)
    return Pseudopotential(symbol, valence, functional_name(header["functional"]), kind, digest, core)


def _check_valence(valence: float) -> None:
    if not 0 < valence < 200:
        raise ValueError(f"its number of valence electrons is {valence:g}")


def _core_charge(radii: np.ndarray, steps: np.ndarray, values: np.ndarray) -> CoreCharge:
    """Transform a radial density (e/Å³) given on radii (Å) with dr/di ``steps`` (Å)."""
    shells = 4 * np.pi * radii**2 * values * steps
    wavenumbers = _SPACING * np.arange(round(_LARGEST / _SPACING) + 1)
    x = wavenumbers[:, None] * radii
    sinc = np.sinc(x / np.pi)
    form = simpson(shells * sinc)
    # d/dG sin(Gr)/(Gr) = [cos(Gr) − sin(Gr)/(Gr)]/G, which is 0 at G = 0
    slope = np.append(0.0, simpson(shells * (np.cos(x[1:]) - sinc[1:])) / wavenumbers[1:])
    return CoreCharge(_SPACING, tuple(form.tolist()), tuple(slope.tolist()))


class _Header(dict[str, str]):
    """Attributes of PP_HEADER; a missing one is told in a sentence."""

    def __missing__(self, key: str) -> str:
        raise ValueError(f"its PP_HEADER has no {key}")


@dataclass(frozen=True)
class _Sections:
    """What a UPF file holds: the header, and the text of the other sections by name."""

    header: _Header
    texts: Mapping[str, str]

    def numbers(self, tag: str) -> np.ndarray:
        if tag not in self.texts:
            raise ValueError(f"it has no {tag}")
        try:
            found = np.array(_decimal(self.texts[tag]).split(), dtype=float)
        except ValueError as error:
            raise ValueError(f"its {tag} holds something else than numbers") from error
        # beyond what a float32 could hold, squares and products of numbers are no longer finite
        if not np.all(np.abs(found) < 1e30):
            raise ValueError(f"its {tag} holds numbers that are not finite")
        return found


def _xml_sections(text: str) -> _Sections:
    """Version 2: XML, but for PP_INFO."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it defines entities of its own; a pseudopotential needs none")
    text = _without_information(text)
    try:
        # what stands before the root may be a declaration, comments, or anything
        root = ET.fromstring(text[text.find("<UPF") :] if "<UPF" in text else f"<UPF>{text}</UPF>")  # noqa: S314
    except ET.ParseError as error:
        raise ValueError(f"it is not well-formed XML: {error}") from error
    header = root.find("PP_HEADER")
    if header is None:
        raise ValueError("it has no PP_HEADER")
    texts = {element.tag: element.text or "" for element in root.iter()}
    return _Sections(_Header({key.lower(): value for key, value in header.items()}), texts)


def _plain_sections(text: str) -> _Sections:
    """Version 1: sections between tags of their own, the header's values by their line."""
    while 0 <= (start := text.find("<!--")) < (end := text.find("-->", start)):
        text = text[:start] + text[end + 3 :]
    lines = [line for line in _between(text, "PP_HEADER").splitlines() if line.strip()]
    if len(lines) < 6:
        raise ValueError(f"its PP_HEADER has {len(lines)} lines; at least 6 are expected")
    header = {
        "element": lines[1].split()[0],
        "pseudo_type": lines[2].split()[0],
        "core_correction": lines[3].split()[0],
        "functional": " ".join(lines[4].split()[:4]),
        "z_valence": lines[5].split()[0],
    }
    texts = {tag: _between(text, tag) for tag in ("PP_R", "PP_RAB", "PP_NLCC") if f"<{tag}>" in text}
    return _Sections(_Header(header), texts)


def _between(text: str, tag: str) -> str:
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", start)
    if start < 0 or end < 0:
        raise ValueError(f"its {tag} does not end" if start >= 0 else f"it has no {tag}")
    return text[start + len(tag) + 2 : end]


def _decimal(text: str) -> str:
    """Fortran's exponents as everybody else's."""
    return text.replace("D", "E").replace("d", "e")


def _is_true(text: str) -> bool:
    """A logical of Fortran or XML: T, .true., true, 1."""
    return text.strip(" .").lower().startswith(("t", "1"))


def functional_name(name: str) -> str:
    """The name in this package of a functional as Quantum ESPRESSO calls it, short or by its four components."""
    words = tuple(name.upper().replace("+", " ").replace("-", " ").split())
    if len(words) == 1:
        return _SHORT_NAMES.get(words[0], words[0].lower())
    return _LONG_NAMES.get(" ".join(words[:4]), " ".join(words).lower())


def _parse_gth(text: str, digest: str) -> Pseudopotential:
    lines = text.splitlines()
    number, valence = (float(word) for word in lines[1].split()[:2])
    if number not in range(1, len(chemical_symbols)):
        raise ValueError(f"its atomic number is {number:g}")
    _check_valence(valence)
    code, functional, largest = (int(word) for word in lines[2].split()[:3])
    if code not in (2, 3, 10):
        raise ValueError(f"its pspcod is {code}; 2, 3 or 10 (GTH and HGH) are expected")
    name = _ABINIT_FUNCTIONALS.get(functional, f"abinit {functional}")
    return Pseudopotential(chemical_symbols[int(number)], valence, name, "NC", digest, analytic_momenta=largest + 1)
