"""Molecular dynamics of ions in electrons that have a temperature of their own: two-temperature molecular dynamics.

Forces are those of the electrons' free energy A(R, T) at their present temperature, F = −∂A/∂R. With the entropy
S = −∂A/∂T of the same function, the energy of the electrons in the field of the ions is E = A + TS, and

    dE/dt = −F · v + T dS/dt,        T dS/dt = P_laser − P_loss − Q.

So S is the variable that is integrated: moving ions leave it alone (dS = 0: the electrons follow adiabatically, and
their temperature changes with the ions' places), heat changes it, and T is solved for from S(R, T) at each step. What
the ions get by the forces is then taken from E exactly, at any heat capacity, which an equation C dT/dt = … with a
given C does not promise. This holds of models that have learned how A changes with T (``model.thermal_correction``)
as well, whose S and C are slopes of the whole A.

Q is the heat that goes from electrons to ions by the electron-phonon coupling g (Finnis, Agnew and Foreman, Phys. Rev.
B 44, 567 (1991); Duffy and Rutherford, J. Phys.: Condens. Matter 19, 016207 (2007)): ions feel a friction
γ = g V / (3 N k) and random forces of the electrons' temperature, so that on average Q = g V (T − T_ions). What a kick
gives to the ions is taken from the electrons, kick by kick. As their heat capacity is finite, T depends on the kick
itself; each kick is therefore a Metropolis step, accepted with the ratio of exp(S/k) times that of the proposals, and
the equilibrium of the isolated system is the exact one, exp[S(E_total − H_ions)/k]. In a large reservoir all are
accepted, and this is Langevin dynamics.

Reference for the splitting (half kick, half drift, bath, half drift, half kick): B. Leimkuhler and C. Matthews, Appl.
Math. Res. Express 2013, 34 (2013). Without coupling it is velocity Verlet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics

#: eV/(Å³ K) in an ASE time unit, for 1 W/(m³ K).
_COUPLING_UNIT = units.J / (units.second * units.m**3)
#: Points and weights of Gauss and Legendre on [0, 1], for the laser's energy within a step.
_POINTS, _WEIGHTS = (0.5 * (1 + math.sqrt(0.6) * np.array([-1, 0, 1])), np.array([5, 8, 5]) / 18)
#: Most evaluations of the forces within a step.
_MOST_SOLVES = 8


@dataclass(frozen=True)
class LaserPulse:
    """Power that a Gaussian pulse brings to the electrons, eV/(atom fs), a function of the time in fs.

    Attributes:
        energy: absorbed in all, eV/atom.
        duration: full width at half maximum, fs.
        centre: time of the maximum, fs.

    Raises:
        ValueError: a duration that is not positive, an energy that is negative.
    """

    energy: float
    duration: float
    centre: float

    def __post_init__(self) -> None:
        """Refuse what is no pulse."""
        if not self.duration > 0 or not self.energy >= 0:
            raise ValueError(
                f"a pulse of {self.energy} eV/atom in {self.duration} fs: the energy must not be negative and the "
                "duration must be positive"
            )

    def __call__(self, time: float) -> float:
        """The power at a time, fs."""
        sigma = self.duration / math.sqrt(8 * math.log(2))
        return self.energy * math.exp(-0.5 * ((time - self.centre) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class _Electrons:
    """Electrons about a state, their heat capacity taken proportional to T, as in a metal.

    Attributes:
        temperature: K.
        slope: C/T, eV/K².
    """

    temperature: float
    slope: float

    def heated(self, energy: float) -> _Electrons | None:
        """The state after a gain of energy, eV; None if there is not so much to lose."""
        square = self.temperature**2 + 2 * energy / self.slope
        return _Electrons(math.sqrt(square), self.slope) if square > 0 else None


class TwoTemperatureMD(MolecularDynamics):
    """Ions by molecular dynamics, electrons by their entropy, heat between the two; see the module for the equations.

    The temperature of the ions counts three degrees of freedom for each atom: the centre of mass gets kicks too.

    Args:
        atoms: with a calculator that has ``set(electronic_temperature=…)`` (K) and ``get_quantity`` of
            ``"electronic_entropy"`` (eV/K) and ``"electronic_heat_capacity"`` (eV/K), such as ``LDOSCalculator``;
            without constraints.
        timestep: in ASE's units.
        electronic_temperature: of the electrons at the start, K; default: that of the calculator.
        coupling: g, W/(m³ K), a number or a function of the electrons' temperature (K). Lin, Zhigilei and Celli, Phys.
            Rev. B 77, 075133 (2008), give values.
        laser: power absorbed by the electrons, eV/(atom fs), a function of the time in fs: ``LaserPulse``.
        loss: power that leaves the electrons for good, eV/(atom fs), a function of their temperature (K).
        tolerance: largest relative change of T at which forces are evaluated anew within a step.
        rng: of the kicks.
        **kwargs: of ASE's ``MolecularDynamics``: ``trajectory``, ``logfile``, ``loginterval``.

    Attributes:
        electronic_temperature: T, K, now.
        entropy: S, eV/K.
        absorbed: energy taken from the laser since the start, eV.
        lost: energy given away by ``loss``, eV.
        transferred: heat from electrons to ions, eV.

    Raises:
        ValueError: constraints, a calculator that cannot be driven, or a number that makes no sense.
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        electronic_temperature: float | None = None,
        *,
        coupling: float | Callable[[float], float] = 0.0,
        laser: Callable[[float], float] | None = None,
        loss: Callable[[float], float] | None = None,
        tolerance: float = 1e-3,
        rng: np.random.Generator | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if atoms.constraints:
            raise ValueError("the atoms have constraints; two-temperature dynamics knows none, so remove them")
        if not hasattr(atoms.calc, "get_quantity"):
            raise ValueError(
                "the atoms' calculator has no electrons whose temperature could be set; give them an LDOSCalculator"
            )
        if electronic_temperature is None:
            electronic_temperature = atoms.calc.parameters["electronic_temperature"]
        temperature = float(electronic_temperature)
        if not 0 < temperature < math.inf or not tolerance > 0 or not timestep > 0:
            raise ValueError(
                f"electronic_temperature is {temperature} K, timestep {timestep}, tolerance {tolerance}; all must be "
                "positive"
            )
        self._coupling, self._laser, self._loss = coupling, laser, loss
        self._check_power("coupling", self._coupling_at(temperature), "W/(m³ K)")
        self.rng = np.random.default_rng() if rng is None else rng
        self.tolerance = float(tolerance)
        self.electronic_temperature = self._evaluated_at = temperature
        self.absorbed = self.lost = self.transferred = 0.0
        self.entropy, self._drift = math.nan, 0.0
        super().__init__(atoms, timestep, **kwargs)

    @property
    def heat_capacity(self) -> float:
        """C of the electrons at fixed ions, eV/K."""
        self._start()
        return float(self.atoms.calc.get_quantity("electronic_heat_capacity"))

    @property
    def electronic_energy(self) -> float:
        """E = A + TS of the electrons in the field of the ions, and of these in that of each other, eV."""
        self._start()
        missing = self.entropy - self._evaluated_entropy()
        square = missing**2 * self._evaluated_at / (2 * self.heat_capacity)
        return float(self.atoms.get_potential_energy()) + self._evaluated_at * self.entropy + square

    def get_conserved_energy(self) -> float:
        """Kinetic energy of the ions + E − absorbed + lost, eV: a constant of the exact motion."""
        return float(self.atoms.get_kinetic_energy()) + self.electronic_energy - self.absorbed + self.lost

    def irun(self, steps: int = 50) -> Iterator[bool]:
        """Run as a generator; see ASE's ``MolecularDynamics.irun``."""
        self._start()
        yield from super().irun(steps)

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """One step; returns the forces at its end, eV/Å."""
        self._start()
        atoms, half = self.atoms, 0.5 * self.dt
        if forces is None:
            forces = atoms.get_forces()
        momenta = atoms.get_momenta() + half * forces
        positions = atoms.get_positions() + half * momenta / self.masses
        before = self.electronic_temperature
        # half of what the ions' motion changes, as in the last step, lies before the heat
        middle = max(before + 0.5 * self._drift, 0.5 * before)
        electrons = _Electrons(middle, self.heat_capacity / self.electronic_temperature)
        momenta, heated = self._exchange(momenta, electrons)
        self.entropy += electrons.slope * (heated.temperature - middle)
        atoms.set_positions(positions + half * momenta / self.masses)
        atoms.set_momenta(momenta)
        gain = heated.temperature - middle
        self._solve(max(before + gain + self._drift, 0.5 * heated.temperature))
        self._drift = self.electronic_temperature - before - gain
        forces = atoms.get_forces()
        atoms.set_momenta(momenta + half * forces)
        return np.asarray(forces)

    def _start(self) -> None:
        """Set the calculator's temperature, and take the entropy from it where none is known yet."""
        self.atoms.calc.set(electronic_temperature=self._evaluated_at)
        if math.isnan(self.entropy):
            self.entropy = self._evaluated_entropy()

    def _evaluated_entropy(self) -> float:
        """−∂A/∂T at the temperature of the last forces, eV/K."""
        self.atoms.get_forces()
        return float(self.atoms.calc.get_quantity("electronic_entropy"))

    def _solve(self, guess: float) -> None:
        """Find T with S(R, T) = S, and the forces at a T as near to it as the tolerance says.

        Raises:
            RuntimeError: T does not settle.
        """
        for _ in range(_MOST_SOLVES):
            self._evaluated_at = guess
            self.atoms.calc.set(electronic_temperature=guess)
            missing = self.entropy - self._evaluated_entropy()
            change = missing * guess / float(self.atoms.calc.get_quantity("electronic_heat_capacity"))
            self.electronic_temperature = guess + change
            if abs(change) <= self.tolerance * guess:
                return
            guess = max(guess + change, 0.5 * guess)
        raise RuntimeError(
            f"step {self.nsteps}: the electronic temperature does not settle near {guess:.0f} K; take a smaller "
            "timestep"
        )

    def _exchange(self, momenta: np.ndarray, electrons: _Electrons) -> tuple[np.ndarray, _Electrons]:
        """Heat of laser and loss before and after a kick of the bath; momenta and electrons after it."""
        n_atoms, duration = len(self.atoms), self.dt / units.fs
        start = self.nsteps * duration
        for part in (0.0, 0.5):
            electrons = self._heat(electrons, start + part * duration, 0.5 * duration, n_atoms)
            if part == 0.0:
                momenta, electrons = self._kick(momenta, electrons)
        return momenta, electrons

    def _heat(self, electrons: _Electrons, start: float, duration: float, n_atoms: int) -> _Electrons:
        """Electrons after some fs in which the laser gives and the loss takes."""
        gain = loss = 0.0
        if self._laser is not None:
            powers = [self._laser(start + point * duration) for point in _POINTS]
            for power in powers:
                self._check_power("laser", power, "eV/(atom fs)")
            gain = float(_WEIGHTS @ powers) * duration * n_atoms
        if self._loss is not None:
            power = self._loss(electrons.temperature)
            if not math.isfinite(power):
                raise ValueError(f"the loss at {electrons.temperature:.0f} K is {power}; a number is expected")
            loss = power * duration * n_atoms
        heated = electrons.heated(gain - loss)
        if heated is None:
            raise ValueError(f"the loss takes more from the electrons at {electrons.temperature:.0f} K than they have")
        self.absorbed += gain
        self.lost += loss
        return heated

    def _kick(self, momenta: np.ndarray, electrons: _Electrons) -> tuple[np.ndarray, _Electrons]:
        """Friction and random forces for a step, paid for by the electrons; a Metropolis step."""
        if not callable(self._coupling) and self._coupling == 0:
            return momenta, electrons
        damping, variance = self._bath(electrons.temperature)
        noise = self.rng.standard_normal(momenta.shape)
        chance = self.rng.random()
        moved = damping * momenta + np.sqrt(variance * self.masses) * noise
        heat = float(((moved**2 - momenta**2) / (2 * self.masses)).sum())
        after = electrons.heated(-heat)
        if after is None:
            return momenta, electrons
        back_damping, back_variance = self._bath(after.temperature)
        if variance > 0 and back_variance > 0:
            there = 0.5 * float((noise**2).sum()) + 0.5 * momenta.size * math.log(variance)
            back = ((momenta - back_damping * moved) ** 2 / self.masses).sum() / back_variance
            back = 0.5 * float(back) + 0.5 * momenta.size * math.log(back_variance)
            entropy = electrons.slope * (after.temperature - electrons.temperature) / units.kB
            if chance >= math.exp(min(0.0, entropy + there - back)):
                return momenta, electrons
        self.transferred += heat
        return moved, after

    def _bath(self, temperature: float) -> tuple[float, float]:
        """Factor of the momenta in a step, and the random momenta's variance over the mass, eV."""
        friction = self._coupling_at(temperature) * _COUPLING_UNIT * self.atoms.get_volume()
        friction /= 3 * len(self.atoms) * units.kB
        return math.exp(-friction * self.dt), -math.expm1(-2 * friction * self.dt) * units.kB * temperature

    def _coupling_at(self, temperature: float) -> float:
        coupling = self._coupling
        value = float(coupling(temperature)) if callable(coupling) else float(coupling)
        self._check_power("coupling", value, "W/(m³ K)")
        return value

    @staticmethod
    def _check_power(name: str, value: float, unit: str) -> None:
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; a number of {unit} that is not negative is expected")
