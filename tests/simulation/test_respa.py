"""Multiple time steps: order, reversibility, conservation, limits, the Gibbs distribution, resonance, restart."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLengths, FixConstraint
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.respa import RespaLDOS, half_trace
from ase_ldos.simulation.restart import load_run, save_run


class Springs(Calculator):
    """Each coordinate on a spring of its own about the origin, with an optional quartic part."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, stiffness: float, quartic: float = 0.0) -> None:
        super().__init__()
        self.stiffness, self.quartic = stiffness, quartic

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        x = self.atoms.positions
        self.results["energy"] = float((self.stiffness * x**2 / 2 + self.quartic * x**4 / 4).sum())
        self.results["forces"] = -self.stiffness * x - self.quartic * x**3


def oscillators(n: int, outer: Calculator, seed: int = 0) -> Atoms:
    """Atoms of mass 1, so that a stiffness of 1 is an angular frequency of 1."""
    random = np.random.default_rng(seed)
    atoms = Atoms(f"H{n}", positions=random.normal(size=(n, 3)), momenta=random.normal(size=(n, 3)))
    atoms.set_masses(np.ones(n))
    atoms.calc = outer
    return atoms


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_momenta(np.random.default_rng(3).normal(size=(4, 3)) * np.sqrt(600 * kB * atoms.get_masses())[:, None])
    atoms.calc = EMT()
    return atoms


def pair_potential() -> LennardJones:
    """A poor relation of EMT's copper."""
    return LennardJones(sigma=2.29, epsilon=0.4, rc=5.0, smooth=True)


def test_one_inner_step_is_velocity_verlet() -> None:
    ours, plain = copper(), copper()
    RespaLDOS(ours, 3 * fs, pair_potential(), 1).run(20)
    VelocityVerlet(plain, 3 * fs).run(20)
    assert np.abs(plain.positions - copper().positions).max() > 0.1
    np.testing.assert_allclose(ours.positions, plain.positions, atol=1e-12)
    np.testing.assert_allclose(ours.get_momenta(), plain.get_momenta(), atol=1e-11)


@pytest.mark.parametrize("constraint", [None, FixAtoms([0]), FixBondLengths([[0, 1]])])
def test_equal_potentials_are_velocity_verlet_with_short_steps(constraint: FixConstraint | None) -> None:
    ours, plain = copper(), copper()
    for atoms in (ours, plain):
        atoms.set_constraint(constraint)
        atoms.set_momenta(atoms.get_momenta())
    RespaLDOS(ours, 6 * fs, EMT(), 3).run(5)
    VelocityVerlet(plain, 2 * fs).run(15)
    np.testing.assert_allclose(ours.positions, plain.positions, atol=1e-8)
    np.testing.assert_allclose(ours.get_momenta(), plain.get_momenta(), atol=1e-7)


def test_time_reversal() -> None:
    atoms = copper()
    start, momenta = atoms.get_positions(), atoms.get_momenta()
    RespaLDOS(atoms, 4 * fs, pair_potential(), 4).run(15)
    assert np.abs(atoms.positions - start).max() > 0.1
    atoms.set_momenta(-atoms.get_momenta())
    RespaLDOS(atoms, 4 * fs, pair_potential(), 4).run(15)
    np.testing.assert_allclose(atoms.positions, start, atol=1e-9)
    np.testing.assert_allclose(-atoms.get_momenta(), momenta, atol=1e-8)


def test_second_order() -> None:
    """Half of both steps: a quarter of the error of places and of energies."""
    ends, errors = [], []
    for n_steps in (5, 10, 20, 640):
        atoms = copper()
        energy = atoms.get_total_energy()
        RespaLDOS(atoms, 20 / n_steps * fs, pair_potential(), 2).run(n_steps)
        ends.append(atoms.get_positions())
        errors.append(abs(atoms.get_total_energy() - energy))
    distances = [np.abs(end - ends[-1]).max() for end in ends[:-1]]
    assert distances[0] / distances[1] == pytest.approx(4, rel=0.15)
    assert distances[1] / distances[2] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


def test_energy_is_conserved_and_a_good_inner_potential_pays() -> None:
    """Errors stay bounded, and those of the long steps are in proportion to what the inner potential leaves."""

    def fluctuation(inner: Calculator, n_inner: int) -> float:
        atoms = oscillators(30, Springs(1.0, 0.1))
        dynamics = RespaLDOS(atoms, 0.4, inner, n_inner)
        energies: list[float] = []
        dynamics.attach(lambda: energies.append(dynamics.get_conserved_energy()))
        dynamics.run(600)
        first, last = np.mean(energies[:200]), np.mean(energies[-200:])
        assert abs(last - first) < 0.5 * np.std(energies)
        return float(np.std(energies))

    plain, rough, good = (
        fluctuation(Springs(0.0), 1),
        fluctuation(Springs(0.8, 0.1), 4),
        fluctuation(Springs(0.98, 0.1), 4),
    )
    assert rough < 0.4 * plain
    assert good < 0.5 * rough


@pytest.mark.parametrize("inner", [1.0, 0.8])
def test_gibbs_distribution(inner: float) -> None:
    """Places and momenta of harmonic oscillators have the variances of the outer potential, kT/k and m kT."""
    kT, n = 0.7, 3000
    atoms = oscillators(n, Springs(1.0), seed=5)
    random = np.random.default_rng(6)
    dynamics = RespaLDOS(atoms, 0.3, Springs(inner), 3, temperature_K=kT / kB, friction=1.0, rng=random)
    energy = dynamics.get_conserved_energy()
    squares: list[tuple[float, float]] = []
    dynamics.run(32)
    dynamics.attach(lambda: squares.append((atoms.positions.var(), atoms.get_momenta().var())), 8)
    dynamics.run(160)
    places, momenta = np.mean(squares, axis=0)
    # 9000 oscillators at 20 nearly independent times: a standard error of 0.35 %
    assert places == pytest.approx(kT, rel=0.01)
    assert momenta == pytest.approx(kT, rel=0.01)
    # but for the errors of the steps, heat is all that has come in, and there was much of it
    drift = dynamics.get_conserved_energy() - energy
    assert abs(drift) < 0.1 * n * kT
    assert abs(dynamics.heat) > n * kT


def test_resonance() -> None:
    """The half trace tells where the motion is bounded."""
    inner, outer = 0.9, 1.0
    at = np.linspace(0.05, 8, 400)
    traces = np.array([half_trace(step, outer, inner) for step in at])
    assert abs(half_trace(1e-4, outer, inner) - 1) < 1e-7
    unstable = at[np.abs(traces) > 1]
    assert unstable.min() == pytest.approx(np.pi / outer, rel=0.1)
    for step in (2.9, float(unstable.min()) + 0.1, 4.2):
        atoms = oscillators(1, Springs(outer**2))
        # exact inner motion in the limit of many steps
        RespaLDOS(atoms, step, Springs(inner**2), 40).run(80)
        grows = bool(np.abs(atoms.positions).max() > 30)
        assert grows == (abs(half_trace(step, outer, inner)) > 1)
    # plain velocity Verlet in the limit of a vanishing inner potential
    assert half_trace(1.9, 1.0, 1e-6) == pytest.approx(1 - 1.9**2 / 2, abs=1e-9)


def test_resumes_with_identical_numbers(tmp_path: Path) -> None:
    def make() -> RespaLDOS:
        atoms, random = oscillators(4, Springs(1.0, 0.1)), np.random.default_rng(4)
        return RespaLDOS(atoms, 0.4, Springs(0.9), 3, temperature_K=500, friction=0.2, rng=random)

    whole, first, second = make(), make(), make()
    whole.run(6)
    first.run(2)
    save_run(tmp_path / "run.npz", first, {})
    load_run(tmp_path / "run.npz", second)
    second.run(4)
    assert second.nsteps == 6
    assert np.array_equal(second.atoms.positions, whole.atoms.positions)
    assert np.array_equal(second.atoms.get_momenta(), whole.atoms.get_momenta())
    assert second.heat == whole.heat != 0


def test_resumes_with_a_model_and_its_potential(be_model: LDOSModel, tmp_path: Path) -> None:
    """To the last digit: neither calculator remembers where the atoms were before."""
    descriptor = PowerSpectrum((4,), cutoff=4.0, n_radial=2, lmax=1)
    sizes = (descriptor.n_features, (descriptor.n_features, 2), 1, (1, 2), (1, 0))
    random = torch.Generator().manual_seed(2)
    coefficients = [0.01 * torch.randn(size, generator=random, dtype=torch.float64) for size in sizes]
    potential = DistilledPotential(descriptor, *coefficients)

    def make() -> RespaLDOS:
        atoms = bulk("Be", "hcp", a=2.27, c=3.57)
        atoms.set_momenta(np.random.default_rng(1).normal(size=(2, 3)) * 0.3)
        atoms.calc = LDOSCalculator(be_model, device="cpu", grid_spacing=0.6)
        return RespaLDOS(atoms, 2 * fs, DistilledCalculator(potential), 2)

    whole, first, second = make(), make(), make()
    whole.run(3)
    first.run(1)
    save_run(tmp_path / "run.npz", first, {})
    load_run(tmp_path / "run.npz", second)
    second.run(2)
    assert np.array_equal(second.atoms.positions, whole.atoms.positions)
    assert np.array_equal(second.atoms.get_momenta(), whole.atoms.get_momenta())
    assert not np.array_equal(first.atoms.positions, whole.atoms.positions)


def test_bad_arguments_are_named() -> None:
    atoms = copper()
    with pytest.raises(ValueError, match="whole number of inner steps"):
        RespaLDOS(atoms, fs, EMT(), 0)
    with pytest.raises(ValueError, match="both temperature_K and friction"):
        RespaLDOS(atoms, fs, EMT(), temperature_K=300)
    with pytest.raises(ValueError, match="must be positive"):
        RespaLDOS(atoms, fs, EMT(), temperature_K=300, friction=-1.0)
    with pytest.raises(ValueError, match="the same object"):
        RespaLDOS(atoms, fs, atoms.calc)
    atoms.calc = None
    with pytest.raises(ValueError, match="no calculator"):
        RespaLDOS(atoms, fs, EMT())
