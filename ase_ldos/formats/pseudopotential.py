"""Pseudopotential files: what a model must know of them (UPF 1 and 2, and GTH in ABINIT's layout)."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from scipy.integrate import simpson

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
        sha256: hash of the file.
    """

    symbol: str
    valence: float
    functional: str
    kind: str
    sha256: str
    core: CoreCharge | None = None

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
    content = path.read_bytes()
    text = content.decode("utf-8", errors="replace")
    digest = hashlib.sha256(content).hexdigest()
    try:
        if "<PP_HEADER" in text:
            return _parse_upf(text, digest)
        if path.suffix.lower() == ".gth":
            return _parse_gth(text, digest)
    except (ValueError, IndexError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a pseudopotential: {error}") from error
    raise ValueError(f"{path} is neither UPF (it has no PP_HEADER) nor a .gth file; give one of these")


def _parse_upf(text: str, digest: str) -> Pseudopotential:
    header = _upf_header(text)
    symbol = header["element"].strip()
    if symbol not in atomic_numbers:
        raise ValueError(f"its element is {symbol!r}")
    kind = {"NC": "NC", "SL": "NC", "1/R": "NC", "PAW": "PAW"}.get(header["pseudo_type"].strip().upper(), "US")
    if header.get("is_paw", "f").strip(". ").lower().startswith("t"):
        kind = "PAW"
    core = None
    if header["core_correction"].strip(". ").lower().startswith("t"):
        radii, steps, values = (_upf_block(text, tag) for tag in ("PP_R", "PP_RAB", "PP_NLCC"))
        # as Quantum ESPRESSO: the mesh ends at the first point beyond the radius, at an odd number of points
        size = min(int(np.searchsorted(radii, CORE_RADIUS, side="right")) + 1, len(radii))
        size = 2 * ((size + 1) // 2) - 1
        core = _core_charge(radii[:size] * BOHR, steps[:size] * BOHR, values[:size] / BOHR**3)
    functional = functional_name(header["functional"])
    return Pseudopotential(symbol, float(header["z_valence"].replace("D", "E")), functional, kind, digest, core)


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


def _upf_header(text: str) -> dict[str, str]:
    start = re.search(r"<PP_HEADER\s+([^>]*)/?>", text)
    if start and "=" in start.group(1):
        return {key.lower(): value for key, value in re.findall(r'(\w+)\s*=\s*"([^"]*)"', start.group(1))}
    block = re.search(r"<PP_HEADER>(.*?)</PP_HEADER>", text, re.DOTALL)
    if block is None:
        raise ValueError("its PP_HEADER does not end")
    lines = [line for line in block.group(1).splitlines() if line.strip()]
    return {
        "element": lines[1].split()[0],
        "pseudo_type": lines[2].split()[0],
        "core_correction": lines[3].split()[0],
        "functional": " ".join(lines[4].split()[:4]),
        "z_valence": lines[5].split()[0],
    }


def _upf_block(text: str, tag: str) -> np.ndarray:
    block = re.search(rf"<{tag}(?:\s[^>]*)?>(.*?)</{tag}>", text, re.DOTALL)
    if block is None:
        raise ValueError(f"it has no {tag}")
    return np.array(block.group(1).replace("D", "E").split(), dtype=float)


def functional_name(name: str) -> str:
    """The name in this package of a functional as Quantum ESPRESSO calls it, short or by its four components."""
    words = tuple(name.upper().replace("+", " ").replace("-", " ").split())
    if len(words) == 1:
        return _SHORT_NAMES.get(words[0], words[0].lower())
    return _LONG_NAMES.get(" ".join(words[:4]), " ".join(words).lower())


def _parse_gth(text: str, digest: str) -> Pseudopotential:
    lines = text.splitlines()
    number, valence = (float(word) for word in lines[1].split()[:2])
    code, functional = (int(word) for word in lines[2].split()[:2])
    if code not in (2, 3, 10):
        raise ValueError(f"its pspcod is {code}; 2, 3 or 10 (GTH and HGH) are expected")
    name = _ABINIT_FUNCTIONALS.get(functional, f"abinit {functional}")
    return Pseudopotential(chemical_symbols[int(number)], valence, name, "NC", digest)
