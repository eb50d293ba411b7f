"""Momenta drawn for the start of dynamics."""

from __future__ import annotations

import numpy as np
from ase import Atoms, units


def draw_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator, *, exact: bool = False) -> None:
    """Give atoms Maxwell and Boltzmann's momenta, the centre of mass at rest.

    Args:
        atoms: they are changed.
        temperature: K.
        rng: source of random numbers.
        exact: scale the momenta, so that the kinetic temperature is this one and not only on average near it. A single
            atom, which only moves with the centre of mass, stays at rest.
    """
    masses = atoms.get_masses()[:, None]
    momenta = rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * temperature * masses)
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    if exact and len(atoms) > 1 and temperature > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / atoms.get_temperature()))
