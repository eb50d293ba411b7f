"""Two-temperature dynamics: exact limits, energy balance, equilibrium distribution, errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB
from thermal_models import heated

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.two_temperature import LaserPulse, TwoTemperatureMD

#: W/(m³ K) for a friction of 1/fs in 10 Å³ per atom.
PER_FS = 3 * kB / (10 * fs) / (units.J / (units.second * units.m**3))


class Einstein(Calculator):
    """Atoms tied to their places, electrons with S = γT: A = ½ k(T) Σ u² − ½ N γ T², k(T) = k₀ (1 − b T²)."""

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 - as ASE declares it
    discard_results_on_any_change = True

    def __init__(self, places: np.ndarray, gamma: float, softening: float = 0.0) -> None:
        super().__init__(electronic_temperature=1000.0)
        self.places, self.gamma, self.softening, self.stiffness = places, gamma, softening, 5.0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        T, n = self.parameters["electronic_temperature"], len(self.places)
        away = self.atoms.positions - self.places
        stiffness = self.stiffness * (1 - self.softening * T**2)
        energy = 0.5 * stiffness * float((away**2).sum()) - 0.5 * n * self.gamma * T**2
        self.results = {"energy": energy, "free_energy": energy, "forces": -stiffness * away}

    def get_quantity(self, name: str) -> float:  # noqa: ARG002
        T, n = self.parameters["electronic_temperature"], len(self.places)
        slope = n * self.gamma + self.stiffness * self.softening * float(
            ((self.atoms.positions - self.places) ** 2).sum()
        )
        return T * slope  # S and C = T dS/dT are the same


def crystal(n_atoms: int, gamma: float, softening: float = 0.0, seed: int = 1) -> Atoms:
    """Atoms at their places, 10 Å³ each, at rest but for a push."""
    generator = np.random.default_rng(seed)
    places = generator.uniform(0, 2, (n_atoms, 3))
    atoms = Atoms(f"Be{n_atoms}", positions=places, cell=np.diag([n_atoms * 2.5, 2, 2]), pbc=True)
    atoms.calc = Einstein(places, gamma, softening)
    atoms.set_momenta(generator.normal(size=(n_atoms, 3)) * np.sqrt(300 * kB * atoms.get_masses())[:, None])
    return atoms


def test_without_coupling_it_is_velocity_verlet() -> None:
    one, other = crystal(3, 1e-8), crystal(3, 1e-8)
    TwoTemperatureMD(one, fs, 5000.0).run(50)
    VelocityVerlet(other, fs).run(50)
    np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=1e-12)


def test_energy_and_entropy_are_kept_where_the_lattice_softens() -> None:
    """The electrons' temperature follows the ions; what is left of the energy falls with the square of the step."""

    def largest_error(step: float) -> tuple[float, float]:
        atoms = crystal(4, 1e-8, softening=1.5e-8)
        dynamics = TwoTemperatureMD(atoms, step * fs, 5000.0, tolerance=1e-6)
        start, temperatures, errors = dynamics.get_conserved_energy(), [], []
        entropy = dynamics.entropy
        for _ in dynamics.irun(round(100 / step)):
            errors.append(abs(dynamics.get_conserved_energy() - start))
            temperatures.append(dynamics.electronic_temperature)
            assert atoms.calc.get_quantity("electronic_entropy") == pytest.approx(entropy, rel=1e-5)
        assert dynamics.entropy == entropy
        return max(errors), float(np.ptp(temperatures))

    (coarse, swing), (fine, _) = largest_error(1.0), largest_error(0.5)
    assert swing > 50  # K: the electrons do work, or the test shows nothing
    assert fine / coarse == pytest.approx(0.25, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [1.5, 300.0])
def test_equilibrium_of_ions_and_electrons_is_the_exact_one(capacity: float) -> None:
    """Isolated: p(H) ∝ H^(3N−1) exp S(E − H)/k, 6N squares sharing H; a large reservoir gives Gibbs' distribution."""
    n_atoms, temperature = 2, 1000.0
    gamma = capacity * kB / temperature / n_atoms
    atoms = crystal(n_atoms, gamma)
    dynamics = TwoTemperatureMD(atoms, 2 * fs, temperature, coupling=0.1 * PER_FS, rng=np.random.default_rng(3))
    kinetic, potential = [], []
    for step, _ in enumerate(dynamics.irun(6000)):
        if step > 200:
            kinetic.append(atoms.get_kinetic_energy())
            electrons = -0.5 * n_atoms * gamma * atoms.calc.parameters["electronic_temperature"] ** 2
            potential.append(atoms.get_potential_energy() - electrons)
    total = dynamics.get_conserved_energy()
    ions = np.linspace(0, total, 20001)[1:-1]
    entropy = np.sqrt(2 * n_atoms * gamma * (total - ions)) / kB
    weight = np.exp((3 * n_atoms - 1) * np.log(ions) + entropy - entropy.max())
    weight /= weight[np.argmax(np.isfinite(weight)) :].max()
    mean = float(ions @ weight / weight.sum())
    spread = math.sqrt(float((ions - mean) ** 2 @ weight / weight.sum()))
    found = np.array(kinetic) + np.array(potential)
    blocks = found[: len(found) // 20 * 20].reshape(20, -1).mean(axis=1)
    error = float(blocks.std(ddof=1)) / math.sqrt(20)
    assert error < 0.05 * mean
    assert abs(found.mean() - mean) < 4 * error
    assert found.std() == pytest.approx(spread, rel=0.15)
    # equipartition between kinetic and potential energy
    assert np.mean(kinetic) == pytest.approx(np.mean(potential), rel=0.1)
    if capacity > 100:
        assert mean == pytest.approx(3 * n_atoms * kB * dynamics.electronic_temperature, rel=0.02)
        assert spread == pytest.approx(mean / math.sqrt(3 * n_atoms), rel=0.02)


def test_heat_flows_at_the_rate_of_the_coupling() -> None:
    """Q = g V (T − T_ions) per time, from electrons to ions at rest."""
    atoms = crystal(2000, 1e-3)
    atoms.set_momenta(np.zeros((2000, 3)))
    coupling = 1e-3 * PER_FS
    dynamics = TwoTemperatureMD(atoms, fs, 4000.0, coupling=lambda T: coupling * T / 4000, rng=np.random.default_rng(1))
    dynamics.run(1)
    expected = coupling * units.J / (units.second * units.m**3) * atoms.get_volume() * 4000 * fs
    assert dynamics.transferred == pytest.approx(expected, rel=0.05)
    assert dynamics.get_conserved_energy() == pytest.approx(
        -0.5 * 2000 * 1e-3 * 4000**2 + 2000 * 1e-3 * 4000**2, rel=1e-9
    )


def test_laser_and_loss_are_accounted_for() -> None:
    atoms = crystal(4, 2e-8)
    pulse = LaserPulse(energy=0.3, duration=40.0, centre=100.0)
    dynamics = TwoTemperatureMD(atoms, fs, 300.0, laser=pulse, loss=lambda T: 1e-7 * (T - 300))
    start = dynamics.get_conserved_energy()
    dynamics.run(200)
    assert dynamics.absorbed == pytest.approx(4 * 0.3, rel=1e-4)
    assert dynamics.lost > 0.01
    assert dynamics.get_conserved_energy() == pytest.approx(start, abs=1e-3)
    # γ(T² − 300²)/2 = absorbed − lost per atom, for electrons whose energy is their own
    heat = (dynamics.absorbed - dynamics.lost) / 4
    assert dynamics.electronic_temperature == pytest.approx(math.sqrt(300**2 + 2 * heat / 2e-8), rel=1e-3)


@pytest.mark.parametrize("learned", [False, True])
def test_energy_of_a_model_balances_while_electrons_are_heated(be_model: LDOSModel, learned: bool) -> None:
    """Also of one that has learned how its free energy changes with the temperature."""
    if learned:
        heated(be_model, 0.001)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.set_momenta(np.random.default_rng(1).normal(size=(2, 3)) * 0.3)
    atoms.calc = LDOSCalculator(be_model, device="cpu", grid_spacing=0.6)
    pulse = LaserPulse(energy=0.1, duration=4.0, centre=4.0)
    dynamics = TwoTemperatureMD(
        atoms, 0.5 * fs, 2000.0, laser=pulse, coupling=1e17, rng=np.random.default_rng(2), tolerance=1e-4
    )
    start = dynamics.get_conserved_energy()
    dynamics.run(16)
    assert dynamics.electronic_temperature > 3000
    assert dynamics.transferred != 0
    assert dynamics.get_conserved_energy() == pytest.approx(start, abs=2e-3)
    # the entropy that is followed is the free energy's slope
    T, h = atoms.calc.parameters["electronic_temperature"], 1.0
    energies = []
    for temperature in (T - h, T + h):
        atoms.calc.set(electronic_temperature=temperature)
        energies.append(atoms.get_potential_energy())
    assert dynamics.entropy == pytest.approx(-(energies[1] - energies[0]) / (2 * h), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coupling": -1.0}, "coupling is -1.0"),
        ({"electronic_temperature": -5.0}, "must be positive"),
        ({"laser": lambda _: math.nan}, "laser is nan"),
        ({"loss": lambda _: 1e3}, "takes more from the electrons"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    atoms = crystal(2, 1e-8)
    with pytest.raises(ValueError, match=message):
        TwoTemperatureMD(atoms, fs, **change).run(1)


@pytest.mark.parametrize(
    "spoil", [lambda atoms: atoms.set_constraint(FixAtoms([0])), lambda atoms: setattr(atoms, "calc", None)]
)
def test_atoms_that_cannot_be_driven_are_refused(spoil: Callable[[Atoms], None]) -> None:
    atoms = crystal(2, 1e-8)
    spoil(atoms)
    with pytest.raises(ValueError, match=r"constraints|no electrons"):
        TwoTemperatureMD(atoms, fs)


def test_a_pulse_without_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        LaserPulse(1.0, 0.0, 10.0)
