"""Elastic constants and zone-centre phonons of a crystal from stresses and forces of small deformations.

With strain ε and displacements u the energy is E = V/2 ε·C₀ε − u·Λε + u·Ku/2. Central differences of stress and
forces give C₀, Λ and K; at rest the atoms follow the strain, u = K⁻¹Λε, so that

    C = C₀ − Λᵀ K⁻¹ Λ / V

(Born, Huang, Dynamical Theory of Crystal Lattices, §§ 11, 12). The same cells serve a model and a DFT code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_strain
from ase.units import _amu, _e, _hbar

from ase_ldos.simulation.periodic_copy import periodic_copy
from ase_ldos.units import GIGAPASCAL

_COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")


@dataclass(frozen=True)
class ElasticResponse:
    """What the deformations of a crystal tell.

    Attributes:
        elastic: elastic constants C with the atoms at rest, GPa, ``[6, 6]`` in Voigt's order.
        clamped: the same with the atoms held at their places in the cell, C₀.
        force_constants: K, eV/Å², ``[3 atom, 3 atom]``.
        phonons: energies of the zone-centre phonons, meV, ``[3 atom]``, rising; imaginary ones are negative.
    """

    elastic: np.ndarray
    clamped: np.ndarray
    force_constants: np.ndarray
    phonons: np.ndarray

    @property
    def bulk_modulus(self) -> float:
        """Voigt's average, GPa: the answer to a uniform strain."""
        return float(self.elastic[:3, :3].mean())


def deformations(atoms: Atoms, *, strain: float = 0.01, displacement: float = 0.02) -> list[Atoms]:
    """Cells whose stresses and forces determine the elastic response.

    Every component of strain and every coordinate, in both directions; each cell's ``info["name"]`` tells which.

    Args:
        atoms: the crystal, without forces.
        strain: size of the strains (shears: of ε_yz + ε_zy).
        displacement: of one atom, Å.

    Raises:
        ValueError: a step that is not positive.
    """
    if not (strain > 0 and displacement > 0):
        raise ValueError(f"strain {strain} and displacement {displacement} Å must be positive")
    cells = []
    for i, component in enumerate(_COMPONENTS):
        for sign in (1, -1):
            deformation = voigt_6_to_full_3x3_strain(sign * strain * np.eye(6)[i])
            cells.append(periodic_copy(atoms, name=f"strain_{component}_{sign:+d}"))
            cells[-1].set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    # the last atom's force constants follow from those of the others: moving all atoms costs nothing
    for atom in range(max(1, len(atoms) - 1)):
        for axis in range(3):
            for sign in (1, -1):
                cells.append(periodic_copy(atoms, name=f"move_{atom}{'xyz'[axis]}_{sign:+d}"))
                cells[-1].positions[atom, axis] += sign * displacement
    return cells


def elastic_response(atoms: Atoms, results: Mapping[str, Atoms], prefix: str = "") -> ElasticResponse:
    """Elastic constants and zone-centre phonons of a crystal.

    Args:
        atoms: the crystal.
        results: the cells of :func:`deformations` by name, each able to tell its stress and forces.
        prefix: of the names.

    Raises:
        ValueError: a cell is missing.
    """
    names = {cell.info["name"] for cell in deformations(atoms)}
    missing = sorted(name for name in names if prefix + name not in results)
    if missing:
        raise ValueError(f"{len(missing)} deformed cells are missing, {prefix + missing[0]!r} for one")
    n, volume = 3 * len(atoms), atoms.get_volume()
    clamped, coupling, stiffness = np.zeros((6, 6)), np.zeros((n, 6)), np.zeros((n, n))
    for i, component in enumerate(_COMPONENTS):
        plus, minus = (results[f"{prefix}strain_{component}_{sign}"] for sign in ("+1", "-1"))
        step = plus.cell.array - minus.cell.array
        width = 2 * _strain_size(np.linalg.solve(atoms.cell.array, step) / 2, i)
        clamped[i] = (plus.get_stress() - minus.get_stress()) / width
        coupling[:, i] = (plus.get_forces() - minus.get_forces()).ravel() / width
    for atom in range(max(1, len(atoms) - 1)):
        for axis in range(3):
            plus, minus = (results[f"{prefix}move_{atom}{'xyz'[axis]}_{sign}"] for sign in ("+1", "-1"))
            width = plus.positions[atom, axis] - minus.positions[atom, axis]
            stiffness[:, 3 * atom + axis] = -(plus.get_forces() - minus.get_forces()).ravel() / width
    if len(atoms) > 1:
        for axis in range(3):
            stiffness[:, n - 3 + axis] = -stiffness[:, axis : n - 3 : 3].sum(axis=1)
    else:
        stiffness[:] = 0.0
    stiffness, clamped = (stiffness + stiffness.T) / 2, (clamped + clamped.T) / 2
    # a uniform translation has no stiffness: the pseudo-inverse leaves it out
    relaxed = clamped - coupling.T @ np.linalg.pinv(stiffness, rcond=1e-3, hermitian=True) @ coupling / volume
    return ElasticResponse(relaxed * GIGAPASCAL, clamped * GIGAPASCAL, stiffness, _phonons(stiffness, atoms))


def _strain_size(deformation: np.ndarray, component: int) -> float:
    """The one component of a small strain in Voigt's convention."""
    row, column = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[component]
    return float(deformation[row, column] if component < 3 else deformation[row, column] + deformation[column, row])


def _phonons(stiffness: np.ndarray, atoms: Atoms) -> np.ndarray:
    masses = np.repeat(atoms.get_masses(), 3)
    squares = np.linalg.eigvalsh(stiffness / np.sqrt(np.outer(masses, masses)))
    # eV/(Å² u) -> (rad/s)² -> meV
    factor = _hbar / _e * 1e3 * np.sqrt(_e / _amu) * 1e10
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) * factor)
