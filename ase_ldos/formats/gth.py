"""Goedecker-Teter-Hutter (GTH) pseudopotentials: published parameters, and files that Quantum ESPRESSO reads.

With r in bohr and energies in hartree (Hartwigsen, Goedecker and Hutter, Phys. Rev. B 58, 3641 (1998), eqs. 1 to 8):

    V_loc(r) = −Z/r erf(r/(√2 r_loc)) + exp(−x²/2) [C₁ + C₂ x² + C₃ x⁴ + C₄ x⁶],   x = r/r_loc
    V_nl     = Σ_l Σ_m Σ_ij |p_i^l Y_lm> h_ij^l <p_j^l Y_lm|
    p_i^l(r) = √2 r^(l + 2i − 2) exp(−r²/(2 r_l²)) / (r_l^(l + 2i − 1/2) √Γ(l + 2i − 1/2)),   ∫ p² r² dr = 1

Quantum ESPRESSO reads these functions in two layouts. From the one with the parameters (``.gth``, ABINIT's pspcod 10)
version 6.7 computes a wrong stress where there is a p projector; the tabulated form (UPF 2), written here, is right.
The table holds parameters for PBE of CP2K's set UZH (file POTENTIAL_UZH; see also Goedecker, Teter and Hutter,
Phys. Rev. B 54, 1703 (1996), and Krack, Theor. Chem. Acc. 114, 145 (2005)); others are taken from an installed
``cp2k-data`` or ``pyscf``, which carry the whole set.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers
from scipy.special import erf

from ase_ldos.files import write_text

#: Where packages put CP2K's file, after the folder that the variable CP2K_DATA_DIR names.
_CP2K_FOLDERS = ("/usr/share/cp2k", "/usr/local/share/cp2k/data", "/opt/cp2k/data")
_CP2K_FILE = "POTENTIAL_UZH"
#: Logarithmic mesh r_i = exp(_START + i _STEP)/Z up to _END bohr, at an odd number of points as Simpson's rule wants.
_START, _STEP, _END = -7.0, 1.0 / 120.0, 12.0


@dataclass(frozen=True)
class Channel:
    """The projectors of one angular momentum.

    Attributes:
        radius: r_l, bohr.
        coefficients: upper triangle of h^l by rows, hartree: (h11,), (h11, h12, h22) or (h11, h12, h13, h22, h23, h33).
    """

    radius: float
    coefficients: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of projectors."""
        return (math.isqrt(1 + 8 * len(self.coefficients)) - 1) // 2

    @property
    def matrix(self) -> np.ndarray:
        """h^l, hartree, ``[size, size]``."""
        h = np.zeros((self.size, self.size))
        h[np.triu_indices(self.size)] = self.coefficients
        return h + h.T - np.diag(h.diagonal())


@dataclass(frozen=True)
class GTHPotential:
    """A GTH pseudopotential for PBE.

    Attributes:
        symbol: chemical element.
        valence: number of its electrons.
        radius: r_loc, bohr.
        local: C₁, C₂, …, hartree.
        channels: projectors of l = 0, 1, ….
    """

    symbol: str
    valence: int
    radius: float
    local: tuple[float, ...]
    channels: tuple[Channel, ...]

    @property
    def name(self) -> str:
        """Element and charge, as in ``Be-q2``."""
        return f"{self.symbol}-q{self.valence}"

    @property
    def file_name(self) -> str:
        """Name of its UPF file."""
        return f"{self.symbol}.gth-pbe-uzh-q{self.valence}.UPF"


def _potential(
    symbol: str, valence: int, radius: float, local: tuple[float, ...], *channels: tuple[float, tuple[float, ...]]
) -> GTHPotential:
    return GTHPotential(symbol, valence, radius, local, tuple(Channel(r, h) for r, h in channels))


#: The potentials that need no other package.
TABLE: dict[str, GTHPotential] = {
    potential.name: potential
    for potential in (
        _potential(
            "Li",
            1,
            0.76670177870108,
            (-1.90296655278366, 0.34217351327808),
            (0.66601257185493, (1.73677711010090,)),
            (1.08507379195620, (-0.01539384864460,)),
        ),
        _potential(
            "Be",
            2,
            0.73814227485959,
            (-2.58105277727435, 0.36778122185676),
            (0.52787019040905, (3.05281309477106,)),
            (0.65423128270096, (0.09529367235766,)),
        ),
        _potential(
            "Na",
            1,
            0.87948364241558,
            (-1.16444467445039,),
            (0.67053579706433, (1.86827773481150, -0.22540116228205, 0.63725384210554)),
            (0.86099184094473, (0.61384869795326,)),
        ),
        _potential(
            "Mg",
            2,
            0.59977148569510,
            (-2.41739276569489,),
            (0.59524672582273, (3.46450483750071, -0.80186245274095, 1.01297251625241)),
            (0.70813457640161, (0.82842564940260,)),
        ),
        _potential(
            "Al",
            3,
            0.45000971106835,
            (-7.55644997237063,),
            (0.48744057136206, (6.96008533256047, -1.88883535944668, 2.43848344694845)),
            (0.56227366274780, (1.86536320212543,)),
        ),
        _potential(
            "Si",
            4,
            0.43998262317118,
            (-6.26927043053227,),
            (0.43563454498612, (8.95185227086162, -2.70627090617658, 3.49378652994003)),
            (0.49795764581723, (2.43127675905050,)),
        ),
        _potential(
            "K",
            1,
            0.88722884833470,
            (0.08373423591225,),
            (
                0.94971038525934,
                (
                    0.98879700511619,
                    -0.13629828078028,
                    -0.08734580737815,
                    0.37778539009613,
                    0.16924238773675,
                    -0.24335085663540,
                ),
            ),
            (1.06916971969736, (0.59090469523362, 0.00493894963263, 0.05388072940928)),
            (0.70763615084682, (-1.55304192758320,)),
        ),
        _potential(
            "Ga",
            3,
            0.56193621471906,
            (),
            (
                0.56664782067932,
                (
                    2.24327404774109,
                    1.03244726719470,
                    -0.76062858677038,
                    -2.58074081301156,
                    1.96393660576806,
                    -1.55892848765136,
                ),
            ),
            (0.64723100560509, (0.31242581148985, 0.61341461218498, -0.72590137027430)),
            (0.99152647252310, (0.09376089070199,)),
        ),
        _potential(
            "Ge",
            4,
            0.54044322442644,
            (),
            (
                0.42186518805788,
                (
                    7.51023955985005,
                    -0.58810803073412,
                    -1.44797581748367,
                    -1.59588929848250,
                    3.73865689176280,
                    -2.96747742430949,
                ),
            ),
            (0.56759893389960, (0.91388136790900, 0.54687584132299, -0.64703371806713)),
            (0.81395231895643, (0.19717233173825,)),
        ),
        _potential(
            "As",
            5,
            0.52057915638833,
            (),
            (
                0.45555065904338,
                (
                    5.52084214284863,
                    0.03512251760777,
                    -1.06108244081564,
                    -1.77117452304219,
                    2.73970276540646,
                    -2.17455768115837,
                ),
            ),
            (0.55466054325102, (1.02179727399366, 0.62920826977111, -0.74448826753111)),
            (0.70372111944410, (0.31479065140615,)),
        ),
    )
}


def find_potential(name: str) -> GTHPotential:
    """The potential of an element and charge.

    Args:
        name: ``Be-q2``; or ``Be`` for the only charge in the table, or, where the table has none, in the whole set.

    Raises:
        ValueError: an unknown element, or no such potential; the message names the known ones.
    """
    parts = re.fullmatch(r"([A-Z][a-z]?)(?:-q(\d+))?", name)
    if parts is None or parts[1] not in atomic_numbers:
        raise ValueError(f"{name!r} is not an element, or an element and its number of electrons, as in Be or Be-q2")
    symbol, valence = parts[1], parts[2]
    file = _installed_set()
    for source in (TABLE, {} if file is None else read_cp2k(file)):
        known = [potential for potential in source.values() if potential.symbol == symbol]
        chosen = [potential for potential in known if valence in (None, str(potential.valence))]
        if len(chosen) == 1:
            return chosen[0]
        if len(chosen) > 1:
            raise ValueError(f"{symbol} has {', '.join(p.name for p in known)}; say which one")
    everywhere = TABLE if file is None else TABLE | read_cp2k(file)
    same = [potential.name for potential in everywhere.values() if potential.symbol == symbol]
    hint = "" if file else "; all others come with Debian's cp2k-data or pip's pyscf, which are not installed"
    raise ValueError(f"no GTH potential {name} is known; known are {', '.join(same or TABLE)}{hint}")


def _installed_set() -> Path | None:
    """CP2K's file with the whole set, if cp2k-data or pyscf is installed."""
    folders = [Path(folder) for folder in (os.environ.get("CP2K_DATA_DIR", ""), *_CP2K_FOLDERS) if folder]
    pyscf = find_spec("pyscf")
    if pyscf is not None and pyscf.origin is not None:
        folders.append(Path(pyscf.origin).parent / "pbc/gto/pseudo")
    return next((folder / _CP2K_FILE for folder in folders if (folder / _CP2K_FILE).is_file()), None)


def read_cp2k(path: str | os.PathLike[str]) -> dict[str, GTHPotential]:
    """Read the potentials ``GTH-PBE-qN`` of a file in CP2K's layout, by names as in ``Be-q2``.

    Raises:
        ValueError: the file is missing, or an entry is not one of a GTH potential.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file of potentials {path}")
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    heads = [i for i, line in enumerate(lines) if line[:1].isalpha()]
    found: dict[str, GTHPotential] = {}
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        symbol, *names = lines[start].split()
        charge = next((match[1] for name in names if (match := re.fullmatch(r"GTH-PBE-q(\d+)", name))), None)
        if charge is None:
            continue
        body = [line for line in lines[start + 1 : end] if line]
        if not body:
            continue  # the set names some potentials and says that there are none ("NA")
        try:
            found[f"{symbol}-q{charge}"] = _parse_cp2k(symbol, int(charge), " ".join(body[1:]).split())
        except ValueError as error:
            raise ValueError(f"{path}, {lines[start]}: cannot be read as a GTH potential ({error})") from error
    return found


def _parse_cp2k(symbol: str, valence: int, words: list[str]) -> GTHPotential:
    """What follows the occupations: r_loc, n, C; number of channels; r, size and h of each."""
    rest = iter(words)

    def numbers(count: int) -> tuple[float, ...]:
        found = tuple(float(word) for word in islice(rest, count))
        if len(found) < count:
            raise ValueError("it ends too early")
        return found

    def count() -> int:
        return int(numbers(1)[0])

    (radius,) = numbers(1)
    local = numbers(count())
    channels = []
    for _ in range(count()):
        (channel_radius,) = numbers(1)
        size = count()
        channels.append(Channel(channel_radius, numbers(size * (size + 1) // 2)))
    return GTHPotential(symbol, valence, radius, local, tuple(channels))


def local_potential(potential: GTHPotential, radii: np.ndarray) -> np.ndarray:
    """V_loc on radii (bohr, above 0), hartree."""
    x = radii / potential.radius
    polynomial = sum((c * x ** (2 * i) for i, c in enumerate(potential.local)), np.zeros_like(x))
    return -potential.valence / radii * erf(x / math.sqrt(2)) + np.exp(-(x**2) / 2) * polynomial


def projectors(channel: Channel, momentum: int, radii: np.ndarray) -> np.ndarray:
    """The products r p_i^l(r) on radii (bohr), bohr^(−1/2), ``[size, radius]``."""
    rows = []
    for i in range(1, channel.size + 1):
        power = momentum + 2 * i - 0.5
        norm = math.sqrt(2 / math.gamma(power)) / channel.radius**power
        rows.append(norm * radii ** (momentum + 2 * i - 1) * np.exp(-0.5 * (radii / channel.radius) ** 2))
    return np.array(rows).reshape(channel.size, len(radii))


def starting_density(potential: GTHPotential, radii: np.ndarray) -> np.ndarray:
    """4π r² n(r) of a density from which self-consistency starts, 1/bohr; it has no influence on what comes out."""
    return potential.valence / 2 * radii**2 * np.exp(-radii)


def upf_text(potential: GTHPotential) -> str:
    """The potential as a UPF file of version 2; the same text on every machine up to the last digit of a number.

    Energies are in Ry, as UPF wants them: D = 2 h, V_loc × 2.
    """
    z = atomic_numbers[potential.symbol]
    size = 2 * (math.ceil((math.log(_END * z) - _START) / _STEP) // 2) + 1
    radii = np.exp(_START + _STEP * np.arange(size)) / z
    shells = [(momentum, channel) for momentum, channel in enumerate(potential.channels) if channel.size]
    betas = [(momentum, row) for momentum, channel in shells for row in projectors(channel, momentum, radii)]
    couplings = np.zeros((len(betas), len(betas)))
    first = 0
    for _, channel in shells:
        last = first + channel.size
        couplings[first:last, first:last] = 2 * channel.matrix
        first = last
    header = {
        "generated": "ase-ldos pseudo",
        "comment": f"GTH-PBE-q{potential.valence} of CP2K's set UZH",
        "element": potential.symbol,
        "pseudo_type": "NC",
        "relativistic": "scalar",
        "is_ultrasoft": "F",
        "is_paw": "F",
        "is_coulomb": "F",
        "has_so": "F",
        "has_wfc": "F",
        "has_gipaw": "F",
        "core_correction": "F",
        "functional": "PBE",
        "z_valence": f"{potential.valence:.3f}",
        "l_max": str(max((momentum for momentum, _ in shells), default=0)),
        "l_max_rho": "0",
        "l_local": "-3",
        "mesh_size": str(size),
        "number_of_wfc": "0",
        "number_of_proj": str(len(betas)),
    }
    mesh = f'dx="{_STEP:.15f}" mesh="{size}" xmin="{_START}" rmax="{radii[-1]:.12f}" zmesh="{z}.0"'
    cut = f'cutoff_radius_index="{size}" cutoff_radius="{radii[-1]:.12f}" ultrasoft_cutoff_radius="0.0"'
    lines = [
        '<UPF version="2.0.1">',
        f"<PP_INFO>\n{_information(potential)}\n</PP_INFO>",
        "<PP_HEADER\n" + "\n".join(f' {key}="{value}"' for key, value in header.items()) + "/>",
        f"<PP_MESH {mesh}>",
        _block("PP_R", radii),
        _block("PP_RAB", radii * _STEP),
        "</PP_MESH>",
        _block("PP_LOCAL", 2 * local_potential(potential, radii)),
        "<PP_NONLOCAL>",
    ]
    for i, (momentum, row) in enumerate(betas, 1):
        lines.append(_block(f"PP_BETA.{i}", row, f' index="{i}" angular_momentum="{momentum}" {cut}'))
    lines += [
        _block("PP_DIJ", couplings.ravel()),
        "</PP_NONLOCAL>",
        "<PP_PSWFC>\n</PP_PSWFC>",
        _block("PP_RHOATOM", starting_density(potential, radii)),
        "</UPF>",
    ]
    return "\n".join(lines) + "\n"


def write_upf(potential: GTHPotential, folder: str | os.PathLike[str]) -> Path:
    """Write the UPF file into a folder, which is made if need be; returns its path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / potential.file_name
    write_text(path, upf_text(potential))
    return path


def _information(potential: GTHPotential) -> str:
    """The parameters, so that the file tells from what it was made."""
    lines = [
        f"GTH potential of {potential.symbol} with {potential.valence} electrons, PBE: set UZH of CP2K, tabulated.",
        "Goedecker, Teter and Hutter, Phys. Rev. B 54, 1703 (1996);",
        "Hartwigsen, Goedecker and Hutter, Phys. Rev. B 58, 3641 (1998); Krack, Theor. Chem. Acc. 114, 145 (2005).",
        "In bohr and hartree:",
        f"r_loc {potential.radius!r} C " + " ".join(map(repr, potential.local)),
    ]
    for momentum, channel in enumerate(potential.channels):
        lines.append(f"l {momentum} r {channel.radius!r} h " + " ".join(map(repr, channel.coefficients)))
    return "\n".join(lines)


def _block(tag: str, values: np.ndarray, attributes: str = "") -> str:
    words = [f"{value:.14E}" for value in values]
    rows = [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)]
    head = f'<{tag} type="real" size="{len(words)}" columns="4"{attributes}>'
    return "\n".join([head, *rows, f"</{tag}>"])
