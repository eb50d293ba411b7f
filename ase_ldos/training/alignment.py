"""One zero of energy for all densities and compositions: the constants c_a of ε' = ε − Σ_a c_a/Ω.

A plane-wave program counts energies from the cell's mean electrostatic potential, which every atom shifts by a constant
over the cell's volume Ω (for a superposition of neutral atoms, exactly by the integral of one atom's potential). So a
level of the electrons is taken to be

    y_s = Σ_a c_a/Ω_s + Σ_a x_a e_a

with x_a the share of element a among the atoms: c by least squares over snapshots, e stays what the network learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from ase.data import chemical_symbols

from ase_ldos.dataset.snapshot import Snapshot

#: What is aligned, by its name in the settings of a training.
LEVELS = ("none", "band_energy", "fermi_level")
#: Weight of c = 0 in the least squares, in units of 1/Å⁶: an element at a single density says nothing of c.
_RIDGE = 1e-8


def level_of(snapshot: Snapshot, name: str) -> float | None:
    """Mean band energy of an electron or Fermi level, eV; ``None`` where it is not labelled."""
    if name == "fermi_level":
        return snapshot.fermi_level if snapshot.fermi_level_dense is None else snapshot.fermi_level_dense
    if snapshot.band_energy is None or snapshot.n_electrons is None:
        return None
    return snapshot.band_energy / snapshot.n_electrons


def fit_level_constants(
    snapshots: Iterable[Snapshot], species: tuple[int, ...], name: str, known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Constants c_a by least squares, eV Å³, by chemical symbol; nothing for ``"none"``.

    Args:
        snapshots: with the labels that ``level_of`` needs, of several densities.
        species: atomic numbers.
        name: one of ``LEVELS``.
        known: constants of other elements, which stay as they are.

    Raises:
        ValueError: an unknown name, or no snapshot has the level.
    """
    if name not in LEVELS:
        raise ValueError(f"alignment is {name!r}; it must be one of {', '.join(LEVELS)}")
    known = {} if known is None else known
    if name == "none" or not species:
        return {}
    snapshots, rows, levels = list(snapshots), [], []
    # shares of all elements that are there: those whose constants are known have levels too
    elements = sorted({int(number) for snapshot in snapshots for number in snapshot.numbers} | set(species))
    for snapshot in snapshots:
        level = level_of(snapshot, name)
        if level is None:
            continue
        counts = np.array([(snapshot.numbers == number).sum() for number in species], dtype=float)
        volume = abs(np.linalg.det(snapshot.cell))
        shares = [(snapshot.numbers == number).sum() / len(snapshot) for number in elements]
        rows.append(np.concatenate((counts / volume, shares)))
        fixed = sum(known.get(chemical_symbols[int(number)], 0.0) for number in snapshot.numbers)
        levels.append(level - fixed / volume)
    if not rows:
        raise ValueError(f"no snapshot is labelled with {name}; alignment needs it (or set it to 'none')")
    matrix = np.array(rows)
    # with the ridge on c alone, in units in which c and e are of one size
    ridge = np.diag([_RIDGE] * len(species) + [0.0] * len(elements))
    solution = np.linalg.pinv(matrix.T @ matrix + ridge) @ (matrix.T @ np.array(levels))
    return {chemical_symbols[number]: float(c) for number, c in zip(species, solution)}
