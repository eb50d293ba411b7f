"""Constants and conversion factors: the one place where they live.

The package works in eV, Å, e and K. Source: CODATA 2018 through ``ase.units``, the values Quantum ESPRESSO uses.
"""

from __future__ import annotations

from ase.units import create_units

_codata = create_units("2018")

BOHR: float = _codata["Bohr"]  #: Å
HARTREE: float = _codata["Hartree"]  #: eV
RYDBERG: float = _codata["Rydberg"]  #: eV
BOLTZMANN: float = _codata["kB"]  #: eV/K
GIGAPASCAL: float = 1 / _codata["GPa"]  #: 1 eV/Å³ in GPa
COULOMB: float = HARTREE * BOHR  #: e²/(4π ε0) in eV Å
ELECTRONVOLT: float = 1 / _codata["J"]  #: 1 eV in J
