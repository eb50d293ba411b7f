"""Crystals of close-packed layers in any order: hcp, fcc, their polytypes, and every basal stacking fault.

A layer lies on one of three places A, B, C. From one layer to the next the place moves by +p or −p, p = (a₁ + 2 a₂)/3.
A layer is *h* (hexagonal: A B **A**) where the move changes its sign and *c* (cubic: A B **C**) where it does not
(Jagodziński's notation, Acta Cryst. 2, 201 (1949)). Faults are then a letter or two in a row:

| fault | layers |
|---|---|
| hcp, growth fault I₁ | h h h h h h c |
| hcp, deformation fault I₂ (slip by 1/3<1-100>) | h h h h c c |
| hcp, extrinsic fault E | h h h h c c c |
| fcc, intrinsic fault | c c c c h h |
| fcc, extrinsic fault | c c c c h c h |

A periodic cell holds one fault because it leans: its third vector ends on the place that the moves add up to.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

#: Moves from place A, in units of p.
_PLACES = {"A": 0, "B": 1, "C": 2}


def polytype(symbol: str, a: float, c: float, stacking: str, size: tuple[int, int] = (1, 1)) -> Atoms:
    """Close-packed layers in any order, periodic in three directions.

    Args:
        symbol: chemical element.
        a: distance of atoms in a layer, Å.
        c: twice the distance of layers (hcp's c), Å.
        stacking: the layers, either by place, ``"AB"`` is hcp, ``"ABC"`` fcc, ``"ABCB"`` double hcp, and the cell is
            upright; or by kind, ``"hh"``, ``"c"``, ``"hchc"``, and the cell leans if need be (see the module).
        size: repetitions along the two vectors of the layer.

    Raises:
        ValueError: an unknown element or letter, neighbouring layers on the same place (the last and the first too),
            or an odd number of h, with which the moves do not close.
    """
    if symbol not in atomic_numbers:
        raise ValueError(f"there is no chemical element {symbol!r}")
    places = _places_by_kind(stacking) if stacking and set(stacking) <= {"h", "c"} else _places_by_letter(stacking)
    n, lean = len(stacking), places[-1] % 3
    step = np.array([1 / 3, 2 / 3])
    # -1 instead of 2: the cell leans as little as it can
    top = step * (lean - 3 if lean == 2 else lean)
    plane = np.array([[a, 0, 0], [-a / 2, np.sqrt(3) / 2 * a, 0]])
    cell = np.array([*plane, top @ plane + [0, 0, c / 2 * n]])
    inside = np.array([step * (place % 3) % 1 for place in places[:-1]])
    heights = (np.arange(n) + 0.25) * c / 2
    positions = inside @ plane + heights[:, None] * [0, 0, 1]
    atoms = Atoms(f"{symbol}{n}", cell=cell, positions=positions, pbc=True)
    return atoms.repeat((*size, 1))


def stacking_fault(
    symbol: str, a: float, c: float, slide: float, *, layers: int = 4, size: tuple[int, int] = (1, 1)
) -> Atoms:
    """An hcp crystal whose upper half has slid along the partial Burgers vector: the path of the basal fault.

    The cell leans with the slide, so that one of the two interfaces stays perfect.

    Args:
        symbol: chemical element.
        a: hcp's a, Å.
        c: hcp's c, Å.
        slide: 0 is hcp, 1 the intrinsic fault I₂ (B over A becomes C over A).
        layers: number of layers, even.
        size: repetitions along the two vectors of the layer.

    Raises:
        ValueError: the number of layers is odd or below 4.
    """
    if layers < 4 or layers % 2:
        raise ValueError(f"{layers} layers are asked for; an even number of at least 4 is needed")
    atoms = polytype(symbol, a, c, "AB" * (layers // 2))
    cell = atoms.cell.array
    # a layer A above B moves to C along one of the three equivalent partial vectors, a layer B above A the other way
    sign = 1 if layers // 2 % 2 == 0 else -1
    vector = -sign * slide * np.array([1 / 3, 2 / 3, 0.0]) @ cell
    atoms.positions[atoms.get_scaled_positions()[:, 2] > 0.5] += vector
    cell[2] += vector
    atoms.set_cell(cell)
    return atoms.repeat((*size, 1))


def relax_normal(atoms: Atoms, *, fmax: float = 0.01, steps: int = 100) -> None:
    """Relax the atoms, and the cell's height, along the normal of the layers only: what lies in the layers stays.

    Args:
        atoms: with a calculator that gives stress; changed in place.
        fmax: largest remaining force, eV/Å.
        steps: at most.

    Raises:
        RuntimeError: not at rest after these steps.
    """
    from ase.constraints import FixedLine
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    constraints = list(atoms.constraints)
    atoms.set_constraint([*constraints, FixedLine(list(range(len(atoms))), (0, 0, 1))])
    try:
        # ASE's filters stand in for atoms, but are not declared to
        filtered = FrechetCellFilter(atoms, mask=[0, 0, 1, 0, 0, 0])
        optimizer = BFGS(filtered, logfile=None)  # type: ignore[arg-type]
        if not optimizer.run(fmax=fmax, steps=steps):
            raise RuntimeError(f"the layers are not at rest after {steps} steps: forces stay above {fmax} eV/Å")
    finally:
        atoms.set_constraint(constraints)


def fault_energy(faulted: Atoms | None, perfect: Atoms | None) -> float:
    """γ = (E − N e) / S in mJ/m²; nan if one of the crystals is missing.

    Args:
        faulted: N atoms with one fault, whose first two vectors span its area S; with a calculator, as the next.
        perfect: the perfect crystal, of energy e per atom.
    """
    if faulted is None or perfect is None:
        return float("nan")
    area = np.linalg.norm(np.cross(*faulted.cell.array[:2]))
    energy = perfect.get_potential_energy() / len(perfect)
    return float((faulted.get_potential_energy() - len(faulted) * energy) / area * 16021.766)


def _places_by_letter(stacking: str) -> list[int]:
    """Place of every layer and of the one above the last, in units of p."""
    if len(stacking) < 2 or any(letter not in _PLACES for letter in stacking):
        raise ValueError(f"stacking is {stacking!r}; at least two letters A, B, C, or letters h and c, are expected")
    if any(stacking[i - 1] == stacking[i] for i in range(len(stacking))):
        raise ValueError(f"stacking is {stacking!r}; neighbouring layers must differ, across the cell's end too")
    # upright: the layer above the last is the first again
    return [_PLACES[letter] for letter in stacking] + [0]


def _places_by_kind(stacking: str) -> list[int]:
    if stacking.count("h") % 2:
        raise ValueError(f"stacking is {stacking!r}; the number of h must be even, else the crystal does not repeat")
    places, move = [0], 1
    for kind in stacking[1:] + stacking[:1]:
        places.append(places[-1] + move)
        move = -move if kind == "h" else move
    return places
