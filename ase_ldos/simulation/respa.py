"""Multiple time steps: a cheap potential in the short steps, the expensive one in the long steps (r-RESPA).

With the forces F of the expensive (outer) potential and f of the cheap (inner) one, a step of length Δ is

    p += (Δ/2) (F − f);   n inner steps of δ = Δ/n by f alone;   p += (Δ/2) (F − f),

which is symmetric in time and symplectic, and conserves an energy that differs from the outer potential's, with its
kinetic energy, by terms of second order: in δ for f, in Δ for the small rest F − f alone. So the long steps make no
error but that of the integrator: averages are those of the outer potential, whatever the inner one is. Inner steps are
velocity Verlet's or, with a thermostat, those of Langevin's equation in the order BAOAB, with the noise in the middle
of the drift.

How long can Δ be? For an oscillator of frequency Ω (outer potential) and ω (inner one) a step with exact inner motion
is a matrix of half trace

    cos ωΔ − (Ω² − ω²) Δ sin ωΔ / (2ω),

and the motion is bounded while that lies within −1 … 1: ``half_trace``. Beyond errors of the inner potential, the first
resonance is at ωΔ = π, half a period of the fastest vibration; the better the inner potential, the narrower it is.

Sources: Tuckerman, Berne and Martyna, J. Chem. Phys. 97, 1990 (1992); for the order of the thermostat Leimkuhler and
Matthews, J. Chem. Phys. 138, 174102 (2013), and Lagardère, Aviat and Piquemal, J. Phys. Chem. Lett. 10, 2593 (2019).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics
from ase.units import kB


class RespaLDOS(MolecularDynamics):
    """Molecular dynamics with outer steps by the atoms' own calculator and inner steps by a cheap one (see the module).

    ``atoms.calc``, usually an ``LDOSCalculator``, is asked once per step, the inner calculator ``n_inner`` times. Any
    two ASE calculators will do; the ensemble is that of the first. Energies, observers and steps are those of outer
    steps. A run is resumed by ``simulation.restart`` with identical numbers, if ``rng`` is given.

    Args:
        atoms: with the expensive calculator.
        timestep: Δ, of an outer step, in ASE's unit of time: 6 to 10 ``ase.units.fs`` for the bundled models.
        inner: the cheap calculator, usually a ``DistilledCalculator``.
        n_inner: inner steps in an outer one.
        temperature_K: of a Langevin thermostat; without it, energy is conserved.
        friction: of the thermostat, in inverse units of time of ASE, such as ``0.01 / ase.units.fs``.
        rng: source of the thermostat's random numbers.
        **kwargs: trajectory, logfile, loginterval, as of ASE's drivers.

    Attributes:
        heat: energy that the thermostat has brought in, eV; total energy minus heat is conserved.

    Raises:
        ValueError: no calculator, a number of inner steps that is none, or half a thermostat.
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        inner: Calculator,
        n_inner: int = 8,
        *,
        temperature_K: float | None = None,
        friction: float | None = None,
        rng: np.random.Generator | None = None,
        **kwargs: Any,  # noqa: ANN401 - as ASE's drivers take them
    ) -> None:
        if atoms.calc is None:
            raise ValueError("the atoms have no calculator; give them the one of the outer steps")
        if inner is atoms.calc:
            raise ValueError(
                "inner and outer calculator are the same object; give two, so that both keep their results"
            )
        if isinstance(n_inner, bool) or n_inner != int(n_inner) or n_inner < 1:
            raise ValueError(f"n_inner is {n_inner}; it must be a whole number of inner steps, at least 1")
        if (temperature_K is None) != (friction is None):
            raise ValueError("a thermostat needs both temperature_K and friction; energy is conserved without either")
        if temperature_K is not None and friction is not None and not (temperature_K >= 0 and friction > 0):
            raise ValueError(
                f"temperature_K is {temperature_K} and friction {friction}; the first must not be negative, the second "
                "must be positive"
            )
        self.n_inner, self.heat = int(n_inner), 0.0
        self.temperature, self.friction = 0.0 if temperature_K is None else temperature_K, friction or 0.0
        if friction is not None:
            self.rng = np.random.default_rng() if rng is None else rng
        super().__init__(atoms, timestep, **kwargs)
        # the inner calculator keeps results of atoms of its own
        self._inner = atoms.copy()
        self._inner.calc = inner

    def todict(self) -> dict[str, Any]:
        """What a trajectory notes of the driver."""
        return {**super().todict(), "n_inner": self.n_inner, "temperature_K": self.temperature}

    def get_conserved_energy(self) -> float:
        """Total energy without what the thermostat has brought in, eV; it changes by errors of the integrator alone."""
        return float(self.atoms.get_total_energy()) - self.heat

    def step(self) -> None:
        """One outer step."""
        atoms, inner = self.atoms, self._inner
        inner.set_cell(atoms.cell)
        inner.set_positions(atoms.get_positions(), apply_constraint=False)
        inner.set_momenta(atoms.get_momenta(), apply_constraint=False)
        self._kick_by_rest()
        for _ in range(self.n_inner):
            self._inner_step(self.dt / self.n_inner)
        atoms.set_positions(inner.get_positions(), apply_constraint=False)
        self._kick_by_rest()
        atoms.set_momenta(inner.get_momenta(), apply_constraint=False)

    def _kick_by_rest(self) -> None:
        """Half an outer step by F − f."""
        rest = self.atoms.get_forces(md=True) - self._inner.get_forces(md=True)
        self._inner.set_momenta(self._inner.get_momenta() + 0.5 * self.dt * rest)

    def _inner_step(self, timestep: float) -> None:
        """Velocity Verlet, or with a thermostat BAOAB, by f; constraints as ASE's velocity Verlet handles them."""
        inner = self._inner
        inner.set_momenta(inner.get_momenta() + 0.5 * timestep * inner.get_forces(md=True))
        if self.friction:
            self._drift(timestep / 2)
            self._thermostat(timestep)
            self._drift(timestep / 2)
        else:
            self._drift(timestep)
        inner.set_momenta(inner.get_momenta() + 0.5 * timestep * inner.get_forces(md=True))

    def _drift(self, timestep: float) -> None:
        inner = self._inner
        before, momenta = inner.get_positions(), inner.get_momenta()
        inner.set_positions(before + timestep * momenta / self.masses)
        if inner.constraints:
            momenta = (inner.get_positions() - before) * self.masses / timestep
            inner.set_momenta(momenta, apply_constraint=False)

    def _thermostat(self, timestep: float) -> None:
        """Friction and noise of a time step, exactly; the energy that they bring is added to ``heat``."""
        inner, before = self._inner, self._inner.get_kinetic_energy()
        kept = math.exp(-self.friction * timestep)
        spread = np.sqrt(self.masses * kB * self.temperature * (1 - kept**2))
        noise = self.rng.standard_normal((len(inner), 3))
        inner.set_momenta(kept * inner.get_momenta() + spread * noise)
        self.heat += float(inner.get_kinetic_energy() - before)


def half_trace(timestep: float, outer: float, inner: float) -> float:
    """Half the trace of a step's matrix for a harmonic oscillator: bounded motion lies within −1 … 1 (see the module).

    Args:
        timestep: Δ, of the outer step.
        outer: angular frequency Ω by the outer potential, in inverse units of the time step.
        inner: ω by the inner one, above zero.
    """
    angle = inner * timestep
    return math.cos(angle) - (outer**2 - inner**2) * timestep * math.sin(angle) / (2 * inner)
