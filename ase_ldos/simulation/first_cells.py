"""The first cells to label of a new material: what costs little and says much.

Symmetric cells (volumes, strains, one displaced atom) take few k-points; rattled supercells of a few primitive cells
show atoms what dynamics will. Names tell the number of atoms first (``n4_...``): cells of one size share the error of
their k-meshes, see ``Snapshot.group``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.geometry import minkowski_reduce

from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.simulation.primitive_cell import nearest_distance
from ase_ldos.simulation.sampling import rattled, strained

#: Relative changes of volume.
VOLUMES = (-0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12)
#: Strains that keep part of the symmetry.
STRAIN = 0.03
#: Displacements of one atom, in nearest distances.
DISPLACEMENTS = (0.03, 0.06)
#: Rattled cells: least and greatest standard deviation in each direction, in nearest distances. Independent
#: displacements cost more than thermal ones of that size: in silicon 0.06 costs 0.5 eV/atom, 0.035 some 0.15 eV/atom,
#: which is what a crystal takes up at 1000 K. Crystals melt where thermal ones reach some 0.07 (Lindemann).
RATTLE = (0.008, 0.035)
#: Lattice vectors of cells by those of primitive ones: itself, and see ``near_cubic_supercell``.
_BASES = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((-1, 1, 1), (1, -1, 1), (1, 1, -1)),
    ((0, 1, 1), (1, 0, 1), (1, 1, 0)),
    ((1, 0, 0), (1, 2, 0), (0, 0, 1)),
)
#: No two atoms of a rattled cell are closer than this, in nearest distances.
CLOSEST = 0.75


def symmetric_cells(crystals: Sequence[Atoms]) -> list[Atoms]:
    """Volumes, strains and displaced atoms of crystals; each has a part of its crystal's symmetry.

    Args:
        crystals: primitive cells at rest.
    """
    cells = []
    for place, crystal in enumerate(crystals):
        for kind, cell in _deformed(crystal):
            cells.append(periodic_copy(cell, name=f"n{len(cell)}_c{place}-{kind}"))
    return cells


def is_symmetric_cell(name: str) -> bool:
    """Whether a name is that of a cell by ``symmetric_cells`` or ``surface_cells``."""
    return re.match(r"n\d+_c\d+-", name) is not None


def _deformed(crystal: Atoms) -> Iterator[tuple[str, Atoms]]:
    for change in VOLUMES:
        yield f"volume{100 * change:+.0f}", _with_cell(crystal, crystal.cell.array * (1 + change) ** (1 / 3))
    along, shear = np.diag([-0.5, -0.5, 1.0]), (np.ones((3, 3)) - np.eye(3)) / 2
    for kind, tensor in (("stretch", along), ("shear", shear)):
        for sign in (-1, 1):
            deformation = np.eye(3) + sign * STRAIN * tensor
            deformation /= np.linalg.det(deformation) ** (1 / 3)
            yield f"{kind}{sign:+d}", _with_cell(crystal, crystal.cell.array @ deformation)
    # a crystal of one atom moves against its neighbour in a cell of two
    cell = crystal if len(crystal) > 1 else crystal.repeat((2, 1, 1))
    distance = nearest_distance(crystal)
    vectors = cell.get_distances(0, list(range(1, len(cell))), mic=True, vector=True)
    nearest = vectors[np.linalg.norm(vectors, axis=1).argmin()]
    across = np.cross(nearest, [0.0, 0.0, 1.0] if abs(nearest[2]) < 0.9 * np.linalg.norm(nearest) else [1.0, 0.0, 0.0])
    for axis, direction in (("along", nearest), ("across", across)):
        for size in DISPLACEMENTS:
            for sign in (-1, 1) if axis == "along" else (1,):
                moved = periodic_copy(cell)
                moved.positions[0] += sign * size * distance * direction / np.linalg.norm(direction)
                yield f"{axis}{sign * 100 * size:+.0f}", moved


def rattled_cells(
    crystals: Sequence[Atoms],
    number: int,
    rng: np.random.Generator,
    *,
    prefix: str,
    largest: int = 8,
    volume: tuple[float, float] = (-0.06, 0.06),
    strain: float = 0.02,
    rattle: tuple[float, float] = RATTLE,
    vacancies: bool = False,
) -> list[Atoms]:
    """Strained supercells of a few primitive cells with rattled atoms.

    Args:
        crystals: primitive cells at rest, taken in turn.
        number: how many.
        rng: source of random numbers.
        prefix: of the names, after the number of atoms.
        largest: number of atoms of a cell.
        volume: least and greatest relative change.
        strain: largest component.
        rattle: least and greatest standard deviation of a displacement, in nearest distances.
        vacancies: whether to take an atom out of each cell of more than four.

    Raises:
        ValueError: a primitive cell has more atoms than ``largest``.
    """
    cells = []
    for i in range(number):
        crystal = crystals[i % len(crystals)]
        if len(crystal) > largest:
            raise ValueError(
                f"a primitive cell has {len(crystal)} atoms, the largest cell {largest}; allow larger ones"
            )
        multiples = [m for m in (1, 2, 3, 4) if m * len(crystal) <= largest]
        cell = compact_supercell(crystal, multiples[(i // len(crystals)) % len(multiples)])
        if vacancies:
            cell = compact_supercell(crystal, max(1, largest // len(crystal)))
            if len(cell) > 4:
                del cell[int(rng.integers(len(cell)))]
        sigma = rng.uniform(*rattle) * nearest_distance(crystal)
        for narrower in range(20):  # the widest rattles cannot always keep the atoms apart
            try:
                moved = rattled(
                    strained(cell, rng, strain=strain, volume=volume),
                    sigma * 0.9**narrower,
                    rng,
                    minimum_distance=CLOSEST * nearest_distance(crystal),
                )
                break
            except ValueError:
                continue
        else:
            raise ValueError(f"a rattled cell of {crystal.get_chemical_formula()} finds no places for its atoms")
        cells.append(periodic_copy(moved, name=f"n{len(moved)}_{prefix}-{i:02d}"))
    return cells


def surface_cells(crystals: Sequence[Atoms], *, largest: int = 8, vacuum: float = 4.0) -> list[Atoms]:
    """Slabs cut along the lattice planes (100), (110) and (111) of primitive cells.

    Args:
        crystals: primitive cells at rest.
        largest: number of atoms of a slab.
        vacuum: on either side, Å.
    """
    from ase.build import surface

    cells = []
    for place, crystal in enumerate(crystals):
        for plane in ((1, 0, 0), (1, 1, 0), (1, 1, 1)):
            one = surface(crystal, plane, 1, vacuum=vacuum)
            layers = max(1, largest // len(one))
            slab = surface(crystal, plane, layers, vacuum=vacuum)
            slab.pbc = True
            cells.append(periodic_copy(slab, name=f"n{len(slab)}_c{place}-slab{''.join(map(str, plane))}"))
    return cells


def compact_supercell(crystal: Atoms, multiple: int) -> Atoms:
    """The supercell of so many primitive cells whose shortest lattice vectors are longest, among repeats along axes.

    Args:
        crystal: primitive cell.
        multiple: number of cells.
    """
    best, longest = crystal, (0.0, 0.0, 0.0)
    for n in range(1, multiple + 1):
        for m in range(1, multiple + 1):
            if multiple % (n * m):
                continue
            cell = crystal.repeat((n, m, multiple // (n * m)))
            reduced, _ = minkowski_reduce(cell.cell.array)
            x, y, z = np.sort(np.linalg.norm(reduced, axis=1)).round(6).tolist()
            if (x, y, z) > longest:
                best, longest = cell, (x, y, z)
    return periodic_copy(best)


def near_cubic_supercell(crystal: Atoms, atoms: int) -> Atoms:
    """The supercell of about so many atoms that is most like a cube.

    Repeats n1 × n2 × n3 of the primitive cell and of the cells that make the primitive ones of face- and body-centred
    cubic crystals cubic, and a hexagonal one rectangular.
    """
    best, score = (crystal, np.ones(3, dtype=int)), math.inf
    for base in _BASES:
        unit = make_supercell(crystal, base)
        most = math.ceil(1.3 * atoms / len(unit))
        for repeats in np.ndindex(*(min(most, 12),) * 3):
            numbers = np.array(repeats) + 1
            size = int(numbers.prod()) * len(unit)
            if size > max(1.3 * atoms, len(crystal)):
                continue
            stretches = np.linalg.svd(unit.cell.array * numbers[:, None], compute_uv=False)
            found = float(np.ptp(np.log(stretches))) + 3 * abs(math.log(size / atoms))
            if found < score - 1e-9:
                best, score = (unit, numbers), found
    unit, numbers = best
    return periodic_copy(unit.repeat(numbers.tolist()))


def _with_cell(atoms: Atoms, cell: np.ndarray) -> Atoms:
    new = periodic_copy(atoms)
    new.set_cell(cell, scale_atoms=True)
    return new
