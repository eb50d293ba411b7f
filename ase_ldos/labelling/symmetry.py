"""The symmetry that pw.x used to leave k-points out, put back into fields that are summed over the k-points it kept.

A sum over the irreducible k-points alone, f(r) = Σ_k w_k |ψ_k(r)|², lacks the stars of these points; the mean over the
operations of the crystal, f(g r), is the sum over the whole mesh. On pw.x's own grid, which it chooses so that all
operations map it onto itself, that is a mean over permutations of the points, without interpolation.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: Largest deviation of a rotated atom or grid point from its image, in lattice vectors.
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Operation:
    """A map of the crystal onto itself, x → W x + t in fractions of the lattice vectors.

    Attributes:
        rotation: W, ``[3, 3]``.
        translation: t, ``[3]``.
    """

    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, fractions: np.ndarray) -> np.ndarray:
        """Images of points ``[point, 3]``."""
        return fractions @ self.rotation.T + self.translation


def read_operations(save: Path) -> list[Operation]:
    """Operations that pw.x used, from ``data-file-schema.xml``; one if it was told not to look for symmetry.

    How rotation and translation are stored is settled by the images of the atoms, which the file holds too.

    Raises:
        ValueError: no reading of the file maps the atoms as it says.
    """
    path = Path(save) / "data-file-schema.xml"
    output = ET.parse(path).getroot().find("output")  # noqa: S314 (written by our own pw.x)
    assert output is not None
    cell = np.array([_numbers(output, f"atomic_structure/cell/a{i}") for i in (1, 2, 3)])
    atoms = output.findall("atomic_structure/atomic_positions/atom")
    fractions = np.array([np.array((atom.text or "").split(), dtype=float) for atom in atoms]) @ np.linalg.inv(cell)
    entries = [
        (
            _numbers(entry, "rotation").reshape(3, 3),
            _numbers(entry, "fractional_translation"),
            _numbers(entry, "equivalent_atoms").astype(int) - 1,
        )
        for entry in output.findall("symmetries/symmetry")
        if entry.findtext("info") == "crystal_symmetry"
    ]
    for turned in (False, True):
        for sign in (-1.0, 1.0):
            found = [Operation(np.rint(w.T if turned else w), sign * t) for w, t, _ in entries]
            if all(_maps(operation, fractions, images) for operation, (_, _, images) in zip(found, entries)):
                return found
    raise ValueError(f"the symmetry operations in {path} do not map the atoms as the file says")


def symmetrised(field: np.ndarray, operations: Sequence[Operation]) -> np.ndarray:
    """Mean over the operations of a field on pw.x's own grid, ``[value, nx, ny, nz]``, of the same shape.

    Raises:
        ValueError: an operation does not map the grid onto itself.
    """
    shape = np.array(field.shape[1:])
    points = np.stack(np.unravel_index(np.arange(shape.prod()), shape), axis=1)
    flat = field.reshape(len(field), -1)
    total = np.zeros_like(flat)
    for operation in operations:
        images = operation(points / shape) * shape
        nearest = np.rint(images)
        if np.abs(images - nearest).max() > TOLERANCE * shape.max():
            raise ValueError(f"the grid {'x'.join(map(str, shape))} is not mapped onto itself by the crystal's symmetry")
        places = np.ravel_multi_index(tuple((nearest.astype(int) % shape).T), tuple(shape))
        total += flat[:, places]
    return (total / len(operations)).reshape(field.shape)


def _maps(operation: Operation, fractions: np.ndarray, images: np.ndarray) -> bool:
    difference = operation(fractions) - fractions[images]
    return bool(np.abs(difference - np.rint(difference)).max() < TOLERANCE)


def _numbers(element: ET.Element, tag: str) -> np.ndarray:
    return np.array((element.findtext(tag) or "").split(), dtype=float)
