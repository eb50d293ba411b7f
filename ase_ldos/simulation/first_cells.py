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

from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.simulation.primitive_cell import nearest_distance, reduced_lattice
from ase_ldos.simulation.sampling import harmonically_rattled, strained

#: Relative changes of volume.
VOLUMES = (-0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12)
#: Strains that keep part of the symmetry.
STRAIN = 0.03
#: Displacements of one atom, in nearest distances.
DISPLACEMENTS = (0.03, 0.06)
#: Rattled cells: least and greatest σ of ``harmonically_rattled``, in nearest distances. Silicon takes up 0.15 eV/atom
#: at 0.035, the potential energy of a crystal at 1200 K; closely packed metals melt near 0.05.
RATTLE = (0.01, 0.045)
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
    supercells: Sequence[Atoms],
    number: int,
    rng: np.random.Generator,
    *,
    prefix: str,
    volume: tuple[float, float] = (-0.06, 0.06),
    strain: float = 0.02,
    rattle: tuple[float, float] = RATTLE,
    vacancies: bool = False,
) -> list[Atoms]:
    """Strained supercells with atoms displaced as in thermal motion, every other one as large as is labelled.

    Args:
        crystals: primitive cells at rest, taken in turn.
        supercells: of each the largest one to be labelled; the others have 2 to 8 atoms.
        number: how many.
        rng: source of random numbers.
        prefix: of the names, after the number of atoms.
        volume: least and greatest relative change.
        strain: largest component.
        rattle: least and greatest σ of ``harmonically_rattled``, in nearest distances.
        vacancies: whether to take an atom out of each cell, all of them of the largest size then.
    """
    cells = []
    for i in range(number):
        crystal, largest = crystals[i % len(crystals)], supercells[i % len(crystals)]
        turn, odd = divmod(i // len(crystals), 2)
        multiples = [m for m in (1, 2, 4, 8) if 2 <= m * len(crystal) <= 8 and m * len(crystal) < len(largest)]
        cell = compact_supercell(crystal, multiples[turn % len(multiples)]) if odd and multiples else largest
        if vacancies:
            cell = largest.copy()
            if len(cell) > 4:
                del cell[int(rng.integers(len(cell)))]
        sigma = rng.uniform(*rattle) * nearest_distance(crystal)
        deformed = strained(cell, rng, strain=strain, volume=volume)
        for narrower in range(20):  # the widest displacements cannot always keep the atoms apart
            try:
                moved = harmonically_rattled(
                    deformed, sigma * 0.9**narrower, rng, minimum_distance=CLOSEST * nearest_distance(crystal)
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
    """The supercell of so many primitive cells whose shortest lattice vectors are longest.

    Args:
        crystal: primitive cell.
        multiple: number of cells.
    """
    best, longest = np.eye(3, dtype=int), (0.0, 0.0, 0.0)
    for matrix in _sublattices(multiple):
        x, y, z = np.sort(np.linalg.norm(reduced_lattice(matrix @ crystal.cell.array), axis=1)).round(6).tolist()
        if (x, y, z) > longest:
            best, longest = matrix, (x, y, z)
    cell = make_supercell(crystal, best)
    cell.set_cell(reduced_lattice(cell.cell.array))
    cell.wrap(eps=1e-6)
    return periodic_copy(cell)


def supercell_beyond(crystal: Atoms, distance: float, *, largest: int) -> Atoms:
    """The smallest supercell in which no atom is closer to its own images than a distance.

    Surroundings in which images move along with an atom are none that a larger crystal has: a model that has seen no
    others knows nothing of their motion against each other.

    Args:
        crystal: primitive cell.
        distance: Å.
        largest: number of atoms; where no cell of so many suffices, the most compact one of about so many.
    """
    most = max(1, largest // len(crystal))
    for multiple in range(1, most + 1):
        # a lattice with vectors of this length has at least this volume (Gauss: none is denser than fcc)
        if multiple < most and multiple * crystal.get_volume() < distance**3 / np.sqrt(2):
            continue
        cell = compact_supercell(crystal, multiple)
        if np.linalg.norm(cell.cell.array, axis=1).min() >= distance:
            break
    return cell


def _sublattices(multiple: int) -> Iterator[np.ndarray]:
    """One matrix for each sublattice of this index: Hermite's normal forms."""
    for a in range(1, multiple + 1):
        if multiple % a:
            continue
        for b in range(1, multiple // a + 1):
            if (multiple // a) % b:
                continue
            c = multiple // (a * b)
            for x, y, z in np.ndindex(b, c, c):
                yield np.array([[a, x, y], [0, b, z], [0, 0, c]])


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
