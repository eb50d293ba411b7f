"""One zero of energy for all densities and compositions: the constants c_a of ε' = ε − Σ_a c_a/Ω.

A plane-wave program counts energies from the cell's mean electrostatic potential, which every atom shifts by a constant
over the cell's volume Ω (for a superposition of neutral atoms, exactly by the integral of one atom's potential). So a
level of the electrons is taken to be

    y_s = Σ_a c_a/Ω_s + e_composition

with one constant e for each composition, which stays what the network learns: only densities of one and the same
composition are compared, c by least squares over snapshots. (With Σ_a x_a e_a in place of e, differences between
compositions, which are no shift of the zero, end up in c.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from ase.data import chemical_symbols

from ase_ldos.dataset.snapshot import Snapshot

#: What is aligned, by its name in the settings of a training.
LEVELS = ("none", "band_energy", "fermi_level")
#: Weight of c = 0 in the least squares, 1/Å⁶: an element at a single density says nothing of c.
_RIDGE = 1e-7


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
    groups: dict[str, list[np.ndarray]] = {}
    for snapshot in snapshots:
        level = level_of(snapshot, name)
        if level is None:
            continue
        volume = abs(np.linalg.det(snapshot.cell))
        counts = np.array([(snapshot.numbers == number).sum() for number in species], dtype=float)
        fixed = sum(known.get(chemical_symbols[int(number)], 0.0) for number in snapshot.numbers)
        numbers, amounts = np.unique(snapshot.numbers, return_counts=True)
        composition = f"{numbers} {amounts // np.gcd.reduce(amounts)}"
        groups.setdefault(composition, []).append(np.append(counts / volume, level - fixed / volume))
    if not groups:
        raise ValueError(f"no snapshot is labelled with {name}; alignment needs it (or set it to 'none')")
    rows = np.concatenate([np.array(rows) - np.mean(rows, axis=0) for rows in groups.values()])
    matrix, levels = rows[:, :-1], rows[:, -1]
    solution = np.linalg.solve(matrix.T @ matrix + _RIDGE * np.eye(len(species)), matrix.T @ levels)
    return {chemical_symbols[number]: float(c) for number, c in zip(species, solution)}
