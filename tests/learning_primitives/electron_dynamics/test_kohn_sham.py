"""Ground states and energies."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.learning_primitives.electron_dynamics.exact_solutions import oscillator_state
from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import ion_potential
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem, find_ground_state

GRID = Grid1D(16.0, 64)
OSCILLATOR = 0.5 * GRID.x**2


@pytest.mark.parametrize("n_electrons", [1, 2, 3, 4])
def test_independent_electrons_fill_the_oscillator(n_electrons: int) -> None:
    system = KohnShamSystem(GRID, OSCILLATOR, n_electrons, "independent")
    ground = find_ground_state(system)
    assert float(system.energy(ground.orbitals)) == pytest.approx([0.5, 1.0, 2.5, 4.0][n_electrons - 1], abs=1e-10)
    assert float(GRID.integrate(ground.density)) == pytest.approx(n_electrons, abs=1e-12)
    # to the zero-point of rounding: the sign of a state is arbitrary
    for level, orbital in enumerate(ground.orbitals):
        exact = oscillator_state(level, GRID.x)
        overlap = GRID.integrate(exact * orbital.real)
        torch.testing.assert_close(overlap * orbital.real, exact, rtol=0, atol=1e-9)


def test_helium_on_a_line() -> None:
    """Exact exchange is Hartree-Fock here: −2.2242 hartree; exactly −2.2383 (S. L. Haan et al., PRA 50, 378 (1994))."""
    grid = Grid1D(30.0, 128)
    system = KohnShamSystem(grid, ion_potential(grid.x, [0.0], [2.0]))
    ground = find_ground_state(system)
    assert float(system.energy(ground.orbitals)) == pytest.approx(-2.2242, abs=1e-4)
    lda = KohnShamSystem(grid, system.external, 2, "lda")
    assert float(lda.energy(find_ground_state(lda).orbitals)) == pytest.approx(-2.2383, rel=0.02)


def test_many_systems_at_once_are_each_alone() -> None:
    external = ion_potential(GRID.x, torch.tensor([[-1.0, 1.0], [-0.3, 0.6]]), torch.ones(2, 2))
    both = find_ground_state(KohnShamSystem(GRID, external))
    for row in range(2):
        alone = find_ground_state(KohnShamSystem(GRID, external[row]))
        torch.testing.assert_close(both.density[row], alone.density, rtol=0, atol=1e-10)


def test_bad_systems() -> None:
    for number in (2.5, 0, -2, True, float("nan")):
        with pytest.raises(ValueError, match="positive integer below 128"):
            KohnShamSystem(GRID, OSCILLATOR, number, "lda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two electrons in one orbital, not for 4"):
        KohnShamSystem(GRID, OSCILLATOR, 4)
    with pytest.raises(ValueError, match="64 finite values"):
        KohnShamSystem(GRID, OSCILLATOR[:-1])
    with pytest.raises(ValueError, match="64 finite values"):
        KohnShamSystem(GRID, OSCILLATOR / 0)
    with pytest.raises(ValueError, match="unknown interaction 'hybrid'; known: exact_exchange, independent, lda"):
        KohnShamSystem(GRID, OSCILLATOR, 2, "hybrid")
    with pytest.raises(ValueError, match=r"still changes by .* after 3"):
        find_ground_state(KohnShamSystem(GRID, OSCILLATOR), max_iterations=3)
