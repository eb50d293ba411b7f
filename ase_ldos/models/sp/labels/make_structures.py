"""Write the lists of structures of ten elements and their alloys: ``python make_structures.py``.

The order within a list is the order of worth: crystals of the elements and ordered binaries at rest and at other
volumes, the same strained and with a displaced atom, small rattled cells, random alloys, ternaries, liquids. A cell
without symmetry takes ten times as long as one that has some (``hard``; those of ``soft`` are cheap), so most are
distorted along an axis that keeps a part of it. What is held back is decided here, once:

* ``*-test``: every sixth structure of each kind;
* ``*-pairs``: all structures of six pairs of elements that are never seen together (:data:`UNSEEN_PAIRS`).

* ``*-reference``: five volumes of the ten elements and ten compounds, for lattice constants and bulk moduli; a series
  shares one mesh of k-points and one grid of pw.x, so that its energies lie on a smooth curve. Never trained on.

``soft`` are the structures of Li, Na, Mg and K alone, which a cutoff of 18 Ry suffices for; ``hard`` all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import spglib  # of the extra "phonons"
from ase import Atoms
from ase.build import bulk
from ase.io import write
from ase.neighborlist import neighbor_list

from ase_ldos.labelling.pw import kpoint_mesh
from ase_ldos.units import BOHR

ELEMENTS = ("Li", "Be", "Na", "Mg", "Al", "Si", "K", "Ga", "Ge", "As")
SOFT = {"Li", "Na", "Mg", "K"}
#: Every element is in one of them; where two were natural, the one whose relative stays (Mg2Si, GaAs) is held back.
UNSEEN_PAIRS = {
    frozenset(pair) for pair in (("Li", "Mg"), ("Na", "K"), ("Be", "Al"), ("Mg", "Ge"), ("Al", "As"), ("Si", "Ga"))
}
#: Volume per atom of close-packed phases, Å³, about that of PBE: alloys take the mean.
VOLUME = {
    "Li": 19.3,
    "Be": 7.95,
    "Na": 37.0,
    "Mg": 23.0,
    "Al": 16.5,
    "Si": 14.6,
    "K": 73.5,
    "Ga": 18.5,
    "Ge": 18.3,
    "As": 19.0,
}
#: Volume per atom of open phases of four neighbours over that of close-packed ones, as in Si and Ge.
OPEN = 1.37
#: Crystals of each element by name; the first is that at rest.
CRYSTALS = {
    "Li": ("bcc", "fcc", "hcp"),
    "Be": ("hcp", "fcc", "bcc"),
    "Na": ("bcc", "hcp", "fcc"),
    "Mg": ("hcp", "fcc", "bcc"),
    "Al": ("fcc", "hcp", "bcc"),
    "Si": ("diamond", "betatin", "fcc", "bcc"),
    "K": ("bcc", "fcc", "hcp"),
    "Ga": ("alpha", "fcc", "bct"),
    "Ge": ("diamond", "betatin", "fcc"),
    "As": ("a7", "sc", "fcc"),
}
#: Compounds whose structure is known, elements in the order of ELEMENTS or of the prototype's sites: lattice constant
#: of the conventional cell, Å.
COMPOUNDS = {
    "GaAs-zincblende": 5.75,
    "AlAs-zincblende": 5.73,
    "SiGe-zincblende": 5.62,
    "MgMgSi-antifluorite": 6.36,
    "MgMgGe-antifluorite": 6.41,
    "LiAl-b32": 6.36,
    "NaK-b2": 4.8,
    "LiMg-b2": 3.46,
    "LiGa-b32": 6.21,
    "LiAlAlAl-l12": 4.01,
}
#: Volumes of the reference over those of the lists.
SERIES = (0.94, 0.97, 1.0, 1.03, 1.06)
#: Cutoffs of the set-ups, Ry, and their spacing of k-points, 1/Å.
CUTOFFS, KSPACING = {"soft": 18.0, "hard": 30.0}, 0.16
#: Spacing in hard cells of little symmetry (so many rotations at most), where it is as good as the other in crystals.
LOW_SYMMETRY, LOW_SYMMETRY_KSPACING = 8, 0.2
#: Grids of pw.x, multiples of four, so that quarters of a cell are on them.
GRIDS = (12, 16, 20, 24, 32, 36, 40, 48, 60, 64, 72, 80, 96)
#: Closest pair in rattled cells and liquids over the sum of radii, which are those of spheres of VOLUME.
CLOSEST = 0.62


def volume_of(symbols: list[str], *, open_structure: bool = False) -> float:
    """Volume of a cell with these atoms, Å³, by the mean of the elements'."""
    return sum(VOLUME[symbol] for symbol in symbols) * (OPEN if open_structure else 1.0)


def at_volume(atoms: Atoms, volume: float) -> Atoms:
    """The same structure scaled to a volume."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return copy


def element_crystal(symbol: str, kind: str) -> Atoms:
    """A crystal of an element at its volume."""
    if kind == "betatin":
        cell = np.array([[-0.5, 0.5, 0.2750], [0.5, -0.5, 0.2750], [0.5, 0.5, -0.2750]])
        atoms = Atoms([symbol] * 2, cell=cell, scaled_positions=[(0, 0, 0), (0.75, 0.25, 0.5)], pbc=True)
        return at_volume(atoms, 2 * VOLUME[symbol] * 1.03)
    if kind == "alpha":  # Cmca, 4 atoms in the primitive cell
        a, b, c, y, z = 4.52, 7.66, 4.53, 0.156, 0.081
        cell = np.array([[a / 2, -b / 2, 0], [a / 2, b / 2, 0], [0, 0, c]])
        places = np.array([[0, y, z], [0, -y, -z], [0, 0.5 + y, 0.5 - z], [0, 0.5 - y, 0.5 + z]]) * [a, b, c]
        atoms = Atoms([symbol] * 4, cell=cell, positions=places, pbc=True)
        return at_volume(atoms, 4 * 20.3)
    if kind == "bct":
        return at_volume(bulk(symbol, "bct", a=2.8, c=4.45), VOLUME[symbol])
    if kind == "a7":
        angle, u = np.radians(54.1), 0.227
        first = np.array([1.0, 0.0, 0.0])
        second = np.array([np.cos(angle), np.sin(angle), 0.0])
        x, y = np.cos(angle), (np.cos(angle) - np.cos(angle) ** 2) / np.sin(angle)
        cell = np.array([first, second, [x, y, np.sqrt(1 - x**2 - y**2)]])
        atoms = Atoms([symbol] * 2, cell=cell, scaled_positions=[(u, u, u), (-u, -u, -u)], pbc=True)
        return at_volume(atoms, 2 * 22.5)
    if kind == "diamond":
        return at_volume(bulk(symbol, "diamond", a=5.5), volume_of([symbol] * 2, open_structure=True))
    if kind == "sc":
        return at_volume(bulk(symbol, "sc", a=2.8), 1.07 * VOLUME[symbol])
    if kind == "hcp":
        return at_volume(bulk(symbol, "hcp", a=3.0, c=4.85), 2 * VOLUME[symbol])
    return at_volume(bulk(symbol, kind, a=4.0), VOLUME[symbol])


def compound(name: str) -> Atoms:
    """A compound at its lattice constant, ``SYMBOLS-prototype``."""
    formula, prototype = name.split("-")
    symbols, a = list(Atoms(formula).symbols), COMPOUNDS[name]
    cubic, face = np.eye(3), np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    cells: dict[str, tuple[np.ndarray, list[tuple[float, float, float]]]] = {
        "zincblende": (face, [(0, 0, 0), (0.25, 0.25, 0.25)]),
        "antifluorite": (face, [(0.25, 0.25, 0.25), (0.75, 0.75, 0.75), (0, 0, 0)]),
        "b2": (cubic, [(0, 0, 0), (0.5, 0.5, 0.5)]),
        "l12": (cubic, [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]),
    }
    if prototype == "b32":
        places = [(0, 0, 0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75)]
        first, second = symbols
        return Atoms([first, first, second, second], cell=a * face, scaled_positions=places, pbc=True)
    cell, places = cells[prototype]
    return Atoms(symbols, cell=a * cell, scaled_positions=places, pbc=True)


def ordered_binaries(first: str, second: str) -> Iterator[tuple[str, Atoms]]:
    """Small ordered cells of a pair; open ones where both elements like four neighbours."""
    cubic, face = np.eye(3), np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    pair = [first, second]
    b2 = Atoms(pair, cell=cubic, scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], pbc=True)
    yield "b2", at_volume(b2, volume_of(pair))
    if {first, second} & {"Si", "Ge", "As", "Ga"}:
        zincblende = Atoms(pair, cell=face, scaled_positions=[(0, 0, 0), (0.25, 0.25, 0.25)], pbc=True)
        yield "zincblende", at_volume(zincblende, volume_of(pair, open_structure=True))
    else:
        tetragonal = np.diag([1.0, 1.0, 2**0.5])
        l10 = Atoms(pair, cell=tetragonal, scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], pbc=True)
        yield "l10", at_volume(l10, volume_of(pair))
    corners = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    for symbols in ([first, second, second, second], [second, first, first, first]):
        yield (
            f"l12-{symbols[0]}",
            at_volume(Atoms(symbols, cell=cubic, scaled_positions=corners, pbc=True), volume_of(symbols)),
        )


def closest_pairs_fit(atoms: Atoms) -> bool:
    """Whether no pair is closer than a part of the sum of its radii."""
    radii = {symbol: (3 * volume / (4 * np.pi)) ** (1 / 3) for symbol, volume in VOLUME.items()}
    limits = {(a, b): CLOSEST * (radii[a] + radii[b]) for a in set(atoms.symbols) for b in set(atoms.symbols)}
    return len(neighbor_list("i", atoms, limits)) == 0


def disturbed(atoms: Atoms, rng: np.random.Generator, amplitude: float, strain: float = 0.05) -> Atoms:
    """A random volume within 10 %, a random strain, and displacements that are a part of the neighbours' distance."""
    distance = (atoms.get_volume() / len(atoms)) ** (1 / 3)
    for _ in range(1000):
        tensor = rng.uniform(-strain, strain, (3, 3))
        deformation = np.eye(3) + (tensor + tensor.T) / 2
        deformation *= (rng.uniform(0.9, 1.1) / np.linalg.det(deformation)) ** (1 / 3)
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        copy.positions += rng.normal(0.0, amplitude * distance, copy.positions.shape)
        if closest_pairs_fit(copy):
            return copy
    raise ValueError(f"{atoms.get_chemical_formula()}: no disturbed cell keeps its atoms apart")


def random_alloy(symbols: list[str], rng: np.random.Generator, *, open_structure: bool) -> Atoms:
    """Atoms at random on the sites of a cell of 4 or 8 atoms: diamond's where open, else fcc's or bcc's, disturbed."""
    if open_structure:
        eight = len(symbols) == 8
        cell = bulk("Si", "diamond", a=5.0, cubic=True) if eight else bulk("Si", "diamond", a=5.0).repeat((2, 1, 1))
    elif len(symbols) == 4:
        cell = bulk("Al", "fcc", a=4.0, cubic=True)
    else:
        cell = bulk("Al", "bcc", a=3.0, cubic=True).repeat((2, 2, 1))
    cell.symbols = rng.permutation(symbols)
    scaled = at_volume(cell, volume_of(symbols, open_structure=open_structure))
    return disturbed(scaled, rng, rng.uniform(0.03, 0.08))


def likes_four_neighbours(symbols: list[str]) -> bool:
    """Whether an alloy of these elements is open as Si and GaAs are."""
    return set(symbols) <= {"Al", "Si", "Ga", "Ge", "As"} and set(symbols) != {"Al", "Ga"}


def liquid(symbols: list[str], rng: np.random.Generator) -> Atoms:
    """Atoms anywhere in a cube that keep a distance of each other, pushed apart where they do not."""
    edge = (1.1 * volume_of(symbols)) ** (1 / 3)
    radii = np.array([(3 * VOLUME[symbol] / (4 * np.pi)) ** (1 / 3) for symbol in symbols])
    limits = 0.75 * (radii[:, None] + radii)
    for _ in range(200):
        places = rng.uniform(0, edge, (len(symbols), 3))
        for _ in range(2000):
            arms = places[:, None] - places
            arms -= edge * np.rint(arms / edge)
            lengths = np.linalg.norm(arms, axis=2) + 10 * edge * np.eye(len(symbols))
            overlap = np.clip(limits - lengths, 0, None)
            if overlap.max() == 0:
                return Atoms(symbols, positions=places, cell=edge * np.eye(3), pbc=True)
            places += 0.3 * ((overlap / lengths)[..., None] * arms).sum(axis=1)
    raise ValueError(f"no room for {''.join(symbols)}")


Named = dict[str, Atoms]


def all_structures() -> Iterator[tuple[str, Atoms]]:
    """Every structure by its name, the most worth having first."""
    crystals = {f"{s}-{kind}": element_crystal(s, kind) for s in ELEMENTS for kind in CRYSTALS[s]}
    at_rest = {f"{s}-{kinds[0]}": crystals[f"{s}-{kinds[0]}"] for s, kinds in CRYSTALS.items()}
    compounds = {name: compound(name) for name in COMPOUNDS}
    binaries = {
        f"{first}{second}-{kind}": atoms
        for first, second in combinations(ELEMENTS, 2)
        for kind, atoms in ordered_binaries(first, second)
        if f"{first}{second}-{kind}" not in COMPOUNDS
    }
    simple = {name: atoms for name, atoms in binaries.items() if "-l12" not in name}
    yield from symmetric_structures(crystals, at_rest, compounds, binaries, simple)
    rng = np.random.default_rng(23)
    yield from only_soft(disturbed_structures(crystals, compounds | simple, rng))
    yield from only_soft(disordered_structures(at_rest, rng))
    own = np.random.default_rng(24)
    yield from ordered_structures(own)
    yield from distorted_structures(crystals, compounds | simple, own)
    yield from small_disordered_structures(own)


def symmetric_structures(
    crystals: Named, at_rest: Named, compounds: Named, binaries: Named, simple: Named
) -> Iterator[tuple[str, Atoms]]:
    """What is small and symmetric: seconds each."""
    yield from at_rest.items()
    yield from compounds.items()
    yield from ((name, atoms) for name, atoms in crystals.items() if name not in at_rest)
    yield from simple.items()
    for factor in (0.9, 1.1):
        for name, atoms in crystals.items():
            yield f"{name}-v{round(100 * factor)}", at_volume(atoms, factor * atoms.get_volume())
    for name, atoms in compounds.items():
        for factor in (0.93, 1.07):
            yield f"{name}-v{round(100 * factor)}", at_volume(atoms, factor * atoms.get_volume())
    yield from ((name, atoms) for name, atoms in binaries.items() if name not in simple)


def family_of(atoms: Atoms) -> str:
    """``"soft"``, of Li, Na, Mg and K alone, or ``"hard"``."""
    return "soft" if set(atoms.symbols) <= SOFT else "hard"


def only_soft(structures: Iterator[tuple[str, Atoms]]) -> Iterator[tuple[str, Atoms]]:
    """Those of the lower cutoff. The others, too dear to label, are drawn nevertheless, so that these stay the same."""
    return ((name, atoms) for name, atoms in structures if family_of(atoms) == "soft")


def hard_pairs() -> Iterator[tuple[str, str]]:
    """Pairs of elements with one at least that takes the higher cutoff."""
    return (pair for pair in combinations(ELEMENTS, 2) if not set(pair) <= SOFT)


def ordered_structures(rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """More compositions and neighbours of each pair, in the cells of antifluorite and of Fe3Al, at any volume."""
    face = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    corner, first, middle, last = (0, 0, 0), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75)
    for kind, places in (("antifluorite", [corner, first, last]), ("d03", [corner, first, middle, last])):
        for number, pair in enumerate(hard_pairs()):
            one, other = pair if number % 2 else pair[::-1]
            symbols = [one] + [other] * (len(places) - 1)
            atoms = Atoms(symbols, cell=face, scaled_positions=places, pbc=True)
            yield f"{pair[0]}{pair[1]}-{kind}", at_volume(atoms, rng.uniform(0.93, 1.07) * volume_of(symbols))


def distorted_structures(crystals: Named, alloys: Named, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """What feels forces: crystals and ordered alloys, distorted along an axis."""
    for number in range(3):
        for name, atoms in (crystals if number else crystals | alloys).items():
            if family_of(atoms) == "hard":
                yield f"{name}-s{number}", distorted_along_axis(two_atoms(atoms), rng)


def two_atoms(atoms: Atoms) -> Atoms:
    """A crystal of one atom in a cell of two that is as symmetric as may be."""
    if len(atoms) > 1:
        return atoms
    lengths = [np.linalg.norm(signs @ atoms.cell.array) for signs in ((1, 1, 0), (1, 0, 1), (0, 1, 1))]
    if np.allclose(lengths, 2**0.5 * atoms.cell.lengths()[0]):  # simple cubic
        return atoms.repeat((1, 1, 2))
    if np.ptp(atoms.cell.angles()) < 1e-6 and abs(atoms.cell.angles()[0] - 60) < 1e-6:  # fcc: half its cube
        a = 2**0.5 * atoms.cell.lengths()[0]
        cell = np.diag([a / 2**0.5, a / 2**0.5, a])
    else:  # bcc and body-centred tetragonal: sums of two vectors are the edges
        cell = np.diag(lengths[::-1])
    symbols = list(atoms.symbols) * 2
    return Atoms(symbols, cell=cell, scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], pbc=True)


def distorted_along_axis(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """A random volume within 10 %, a strain along an axis and one atom moved along it: some symmetry is left."""
    distance = (atoms.get_volume() / len(atoms)) ** (1 / 3)
    axes = [np.array(axis) / np.linalg.norm(axis) for axis in ((0, 0, 1), (1, 1, 1), (1, 1, 0), (1, 0, 0))]
    found: list[tuple[int, Atoms]] = []
    for axis in rng.permutation(axes):
        deformation = np.eye(3) + rng.uniform(-0.06, 0.06) * np.outer(axis, axis)
        deformation *= (rng.uniform(0.9, 1.1) / np.linalg.det(deformation)) ** (1 / 3)
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        copy.positions[rng.integers(len(copy))] += rng.choice((-1, 1)) * rng.uniform(0.03, 0.1) * distance * axis
        if closest_pairs_fit(copy):
            found.append((n_rotations(copy), copy))
    # the first axis of sufficient symmetry, so that all of them occur
    good = [cell for count, cell in found if count >= 8]
    return good[0] if good else max(found, key=lambda item: item[0])[1]


def n_rotations(atoms: Atoms) -> int:
    """Number of rotations, inversion put to them, that k-points are equal under."""
    data = spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-5)
    if data is None:
        raise ValueError(f"{atoms.get_chemical_formula()}: no space group is found")
    rotations = {tuple(rotation.ravel()) for rotation in data.rotations}
    return len(rotations | {tuple(-np.array(rotation)) for rotation in rotations})


def is_crystal(name: str) -> bool:
    """Whether a structure is a crystal at its own or another volume."""
    return re.search(r"-(s\d|alloy|ternary-\d+|liquid)$", name) is None


def small_disordered_structures(rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """Random alloys of four atoms of every pair, some of three elements, and a few liquids."""
    for number, (first, second) in enumerate(hard_pairs()):
        share = 1 + number % 3
        symbols = [first] * share + [second] * (4 - share)
        yield f"{first}{second}-alloy", random_alloy(symbols, rng, open_structure=likes_four_neighbours(symbols))
    for number in range(12):
        chosen = list(rng.choice(ELEMENTS, 3, replace=False))
        if not set(chosen) <= SOFT:
            symbols = [*chosen, chosen[number % 3]]
            atoms = random_alloy(symbols, rng, open_structure=likes_four_neighbours(symbols))
            yield f"{''.join(chosen)}-ternary-{number}", atoms
    for symbol in ELEMENTS:
        if symbol not in SOFT:
            yield f"{symbol}-liquid", liquid([symbol] * 4, rng)


def disturbed_structures(crystals: Named, alloys: Named, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """What feels forces: crystals and ordered alloys, rattled and strained."""
    for number, amplitude in enumerate((0.03, 0.08)):
        for name, atoms in crystals.items():
            cell = atoms if len(atoms) > 1 else atoms.repeat((2, 1, 1))
            yield f"{name}-r{number}", disturbed(cell, rng, amplitude)
    for number in range(2):
        for name, atoms in alloys.items():
            yield f"{name}-r{number}", disturbed(atoms, rng, rng.uniform(0.03, 0.08))


def disordered_structures(at_rest: Named, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """Random alloys of every pair, hot crystals, ternaries, liquids."""
    for first, second in combinations(ELEMENTS, 2):
        open_structure = likes_four_neighbours([first, second])
        for number in range(3):
            share = 2 if open_structure else 1 + number
            n = 8 if open_structure else 4
            symbols = [first] * (share * n // 4) + [second] * (n - share * n // 4)
            yield f"{first}{second}-alloy-{number}", random_alloy(symbols, rng, open_structure=open_structure)
    for number, (name, atoms) in enumerate(at_rest.items()):
        cell = atoms.repeat((2, 2, 1)) if len(atoms) == 1 else atoms.repeat((2, 1, 1))
        yield f"{name}-hot-{number % 2}", disturbed(cell, rng, 0.11)
    for number in range(24):
        chosen = list(rng.choice(ELEMENTS, 3, replace=False))
        symbols = [*chosen, chosen[number % 3]]
        yield f"{''.join(chosen)}-ternary-{number}", random_alloy(symbols, rng, open_structure=False)
    for number in range(30):
        chosen = [ELEMENTS[number % 10]] if number < 10 else list(rng.choice(ELEMENTS, 2, replace=False))
        yield f"{''.join(chosen)}-liquid-{number}", liquid((chosen * 6)[:6], rng)


def volume_series() -> Iterator[tuple[str, Atoms]]:
    """Elements and compounds at rest at several volumes: the list's name and the structure."""
    crystals = {f"{s}-{kinds[0]}": element_crystal(s, kinds[0]) for s, kinds in CRYSTALS.items()}
    for name, atoms in (crystals | {name: compound(name) for name in COMPOUNDS}).items():
        family = family_of(atoms)
        largest = at_volume(atoms, max(SERIES) * atoms.get_volume())
        # up to twice the largest wave vector of a state, in both directions, 1/Å
        waves = 2 * np.sqrt(CUTOFFS[family]) / BOHR * largest.cell.lengths() / np.pi
        grid = [next(n for n in GRIDS if n >= wanted + 1) for wanted in waves]
        mesh = kpoint_mesh(at_volume(atoms, min(SERIES) * atoms.get_volume()).cell.array, KSPACING)
        for factor in SERIES:
            cell = at_volume(atoms, factor * atoms.get_volume())
            cell.info = {"kpoints": np.array(mesh), "fft_grid": np.array(grid)}
            cell.info["name"] = f"reference_{name}-v{round(100 * factor)}"
            yield f"{family}-reference", cell


def list_of(atoms: Atoms, place: int) -> str:
    """Name of the list that a structure goes to; ``place`` is its number among those of its cutoff."""
    symbols = set(atoms.symbols)
    family = family_of(atoms)
    if any(pair <= symbols for pair in UNSEEN_PAIRS):
        return f"{family}-pairs"
    return f"{family}-test" if place % 6 == 5 else family


def lists() -> dict[str, list[Atoms]]:
    """All lists by name."""
    found: dict[str, list[Atoms]] = {}
    places = {"soft": 0, "hard": 0}
    for name, structure in all_structures():
        atoms = structure.copy()
        family = family_of(atoms)
        target = list_of(atoms, places[family])
        places[family] += not target.endswith("-pairs")
        # one underscore: all structures are one group, whose energies are compared with each other
        atoms.info = {"name": f"sp_{name}"}
        if family == "hard" and not is_crystal(name) and n_rotations(atoms) <= LOW_SYMMETRY:
            atoms.info["kpoints"] = np.array(kpoint_mesh(atoms.cell.array, LOW_SYMMETRY_KSPACING))
        atoms.wrap()
        found.setdefault(target, []).append(atoms)
    for target, atoms in volume_series():
        found.setdefault(target, []).append(atoms)
    return found


if __name__ == "__main__":
    for key, structures in lists().items():
        write(Path(__file__).parent / f"{key}.extxyz", structures)
