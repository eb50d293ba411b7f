"""Fields of a crystal from the irreducible part of a k-mesh, made symmetric again.

pw.x with ``nosym = false`` calculates one k-point of each star. The sum of their states' densities lacks the other
members, which are images of these: the whole field is the mean over the crystal's operations g = {P | t},

    f_sym(x) = 1/N Σ_g f(P x + t),    x: fractional,

exact on a grid that resolves the densities and onto which every operation maps grid points to grid points. pw.x's own
may not be one: it has 32 x 32 x 30 points for beta-tin germanium, whose axes are equivalent.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from scipy.fft import next_fast_len

#: Lattices are the same within this part of the largest squared length.
_SAME = 1e-5
#: Part of a grid's spacing by which images of its points may miss others.
_WHOLE = 1e-3


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation of a crystal, x → P x + t in fractional coordinates.

    Attributes:
        rotation: P, int ``[3, 3]``.
        translation: t, ``[3]``.
    """

    rotation: np.ndarray
    translation: np.ndarray


def read_operations(save: Path) -> list[Operation]:
    """The operations with which pw.x reduced its k-mesh, from ``data-file-schema.xml``; the identity is one.

    Raises:
        ValueError: the file is missing or cut off.
    """
    path = Path(save) / "data-file-schema.xml"
    try:
        found = ET.parse(path).getroot().findall("output/symmetries/symmetry")  # noqa: S314 (written by our own pw.x)
    except (OSError, ET.ParseError) as error:
        raise ValueError(f"{path} is missing or cut off: {error}") from error
    operations = []
    for item in found:
        if item.findtext("info") != "crystal_symmetry":
            continue  # those of the lattice alone come after the crystal's
        rotation = np.array((item.findtext("rotation") or "").split(), dtype=float).reshape(3, 3)
        translation = np.array((item.findtext("fractional_translation") or "0 0 0").split(), dtype=float)
        operations.append(Operation(rotation.round().astype(int), translation))
    return operations or [Operation(np.eye(3, dtype=int), np.zeros(3))]


def check_operations(operations: list[Operation], numbers: np.ndarray, fractional: np.ndarray) -> list[Operation]:
    """The operations with the sign of t that maps the atoms onto atoms of their kind; programs differ in it.

    Args:
        operations: of a program.
        numbers: atomic numbers ``[atom]``.
        fractional: positions ``[atom, 3]``.

    Raises:
        ValueError: with neither sign.
    """
    checked = []
    for operation in operations:
        for sign in (1.0, -1.0):
            candidate = Operation(operation.rotation, sign * operation.translation)
            if _maps_atoms(candidate, numbers, fractional):
                checked.append(candidate)
                break
        else:
            raise ValueError(
                f"the operation {operation.rotation.tolist()}, {operation.translation.tolist()} of the program does "
                "not map the crystal onto itself; set nosym = true in the recipe's options"
            )
    return checked


def has_symmetry(atoms: Atoms) -> bool:
    """Whether a crystal has an operation beside the identity: a rotation, mirror, glide, inversion, or a translation.

    Where it has none but its lattice does, as a frame of dynamics in a supercell, pw.x with ``nosym = false`` finds up
    to twice the k-points that it takes with ``nosym = true``: it reduces the mesh by the lattice first and then puts
    back too many.
    """
    reduced, _ = minkowski_reduce(atoms.cell.array)
    entries = np.array(list(product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)  # enough for reduced cells
    metric = reduced @ reduced.T
    kept = np.abs(entries @ metric @ entries.transpose(0, 2, 1) - metric).max(axis=(1, 2)) < _SAME * metric.max()
    fractional = atoms.positions @ np.linalg.inv(reduced)
    kinds, counts = np.unique(atoms.numbers, return_counts=True)
    rare = np.flatnonzero(atoms.numbers == kinds[counts.argmin()])
    for matrix in entries[kept]:
        images = fractional @ matrix
        translations = fractional[rare] - images[rare[0]]
        if np.array_equal(matrix, np.eye(3)):
            translations = translations[1:]  # not the identity
        for translation in translations:
            if _maps_atoms(Operation(matrix.T, translation), atoms.numbers, fractional):
                return True
    return False


def symmetric_grid(operations: Sequence[Operation], shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The smallest grid, of not fewer points along any axis, that all operations map onto itself.

    Grid point k lies at x_i = k_i/n_i, its image at Σ_j P_ij k_j/n_j + t_i: P_ij n_i/n_j and n_i t_i have to be whole.

    Args:
        operations: of a crystal.
        shape: the least numbers of points.

    Raises:
        ValueError: there is none of up to twice as many points along each axis.
    """
    axes = [[n for n in range(least, 2 * least + 1) if next_fast_len(n, real=True) == n] for least in shape]
    rotations = np.array([operation.rotation for operation in operations])
    translations = np.array([operation.translation for operation in operations])
    for candidate in sorted(product(*axes), key=math.prod):
        sizes = np.array(candidate)
        steps, offsets = rotations * (sizes[:, None] / sizes), translations * sizes
        if np.abs(steps - steps.round()).max() < _WHOLE and np.abs(offsets - offsets.round()).max() < _WHOLE:
            return (candidate[0], candidate[1], candidate[2])
    raise ValueError(
        f"no grid up to twice as fine as {list(shape)} has the crystal's symmetry; set nosym = true in the recipe's "
        "options"
    )


def symmetrise(field: np.ndarray, operations: list[Operation]) -> np.ndarray:
    """Mean of a periodic field over operations.

    Args:
        field: ``[nx, ny, nz, ...]`` on a grid that they map onto itself.
        operations: the whole group.

    Raises:
        ValueError: an operation maps grid points between grid points.
    """
    shape = np.array(field.shape[:3])
    if len(operations) == 1:
        return field
    points = np.indices(tuple(shape)).reshape(3, -1) / shape[:, None]
    flat = field.reshape(int(shape.prod()), -1)
    total = np.zeros_like(flat)
    for operation in operations:
        images = (operation.rotation @ points + operation.translation[:, None]) * shape[:, None]
        indices = images.round()
        if np.abs(images - indices).max() > _WHOLE:
            raise ValueError(f"the grid {shape.tolist()} does not have the crystal's symmetry; see symmetric_grid")
        total += flat[np.ravel_multi_index(tuple(indices.astype(int) % shape[:, None]), tuple(shape))]
    return (total / len(operations)).reshape(field.shape)


def _maps_atoms(operation: Operation, numbers: np.ndarray, fractional: np.ndarray) -> bool:
    images = fractional @ operation.rotation.T + operation.translation
    difference = images[:, None] - fractional[None]
    near = np.abs(difference - difference.round()).max(axis=2) < 1e-4
    return bool((near & (numbers[:, None] == numbers[None])).any(axis=1).all())
