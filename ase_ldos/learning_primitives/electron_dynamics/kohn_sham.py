"""The Kohn-Sham equations on a line: potentials and energy of a density, and the ground state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import INTERACTIONS, Interaction, interaction_matrix


@dataclass(frozen=True)
class KohnShamSystem:
    """Electrons in an external potential, spins paired as far as possible.

    Attributes:
        grid: the points.
        external: v_ext, hartree, ``[..., N]``: one system or many at once.
        n_electrons: their number, a positive integer.
        interaction: a key of ``INTERACTIONS``.

    Raises:
        ValueError: a number of electrons that is no positive integer, too large for the grid or not for this
            interaction, a potential of another shape than the grid, an unknown interaction.
    """

    grid: Grid1D
    external: Tensor
    n_electrons: int = 2
    interaction: str = "exact_exchange"

    def __post_init__(self) -> None:
        number = self.n_electrons
        if isinstance(number, bool) or not 0 < number < 2 * self.grid.n_points or number != int(number):
            raise ValueError(
                f"the number of electrons must be a positive integer below {2 * self.grid.n_points} (two for each "
                f"point of the grid), got {number}"
            )
        if self.external.shape[-1:] != (self.grid.n_points,) or not torch.isfinite(self.external).all():
            raise ValueError(
                f"the external potential must have {self.grid.n_points} finite values on its last axis, got an array "
                f"{list(self.external.shape)}"
            )
        self.functional.check(int(number))

    @property
    def functional(self) -> Interaction:
        """Hartree, exchange and correlation."""
        return INTERACTIONS[self.interaction]

    @cached_property
    def occupations(self) -> Tensor:
        """Electrons in each orbital, 2 but for an odd last one, ``[orbital]``."""
        pairs, rest = divmod(int(self.n_electrons), 2)
        return torch.tensor([2.0] * pairs + [1.0] * rest, dtype=torch.float64)

    @cached_property
    def repulsion(self) -> Tensor:
        """See ``interaction_matrix``."""
        return interaction_matrix(self.grid)

    def density(self, orbitals: Tensor) -> Tensor:
        """N = Σ_i f_i |φ_i|², 1/bohr, ``[..., N]`` of orbitals ``[..., orbital, N]``."""
        return (self.occupations[:, None] * (orbitals.real.square() + orbitals.imag.square())).sum(dim=-2)

    def potential(self, density: Tensor) -> Tensor:
        """v_S[n] = v_ext + v_H + v_xc, hartree, ``[..., N]``."""
        return self.external + self.functional.potential(density, self.hartree(density))

    def hartree(self, density: Tensor) -> Tensor:
        """v_H(x) = ∫ n(x') w(x − x') dx', hartree, ``[..., N]``; zero for electrons that do not see each other."""
        return density @ self.repulsion if self.functional.repels else torch.zeros_like(density)

    def energy(self, orbitals: Tensor) -> Tensor:
        """E = Σ_i f_i ⟨φ_i|−½∂²|φ_i⟩ + ∫ n v_ext + E_H + E_xc, hartree, ``[...]``; without the laser's."""
        density = self.density(orbitals)
        waves = torch.fft.fft(orbitals, norm="ortho")
        kinetic = (self.grid.wave_numbers**2 / 2 * waves.abs().square()).sum(dim=-1) * self.grid.spacing
        local = density * self.external + self.functional.energy_density(density, self.hartree(density))
        return (self.occupations * kinetic).sum(dim=-1) + self.grid.integrate(local)


@dataclass(frozen=True)
class GroundState:
    """The state of lowest energy.

    Attributes:
        orbitals: the occupied ones, normalised, complex ``[..., orbital, N]``.
        levels: of all states of the grid, hartree, ``[..., N]``.
        states: all of them, real ``[..., state, N]``, the occupied ones first.
        density: 1/bohr, ``[..., N]``.
        n_iterations: until self-consistency.
    """

    orbitals: Tensor
    levels: Tensor
    states: Tensor
    density: Tensor
    n_iterations: int


def find_ground_state(
    system: KohnShamSystem, *, tolerance: float = 1e-11, mixing: float = 0.5, max_iterations: int = 300
) -> GroundState:
    """Diagonalise −½∂² + v_S[n] until n is that of its own lowest orbitals.

    Args:
        system: the electrons; many systems at once are possible.
        tolerance: largest change of the density, ∫ |Δn| dx.
        mixing: share of the new density in the next trial.
        max_iterations: diagonalisations.

    Raises:
        ValueError: the density still changes after ``max_iterations``.
    """
    n_orbitals = len(system.occupations)
    density = torch.zeros_like(system.external)
    for iteration in range(1, max_iterations + 1):
        hamiltonian = system.grid.kinetic_matrix + torch.diag_embed(system.potential(density))
        levels, vectors = torch.linalg.eigh(hamiltonian)
        states = vectors.mT / system.grid.spacing**0.5
        # the sign of an eigenvector is arbitrary; that of the larger lobe is made positive for the same answer anywhere
        sign = states.pow(3).sum(dim=-1, keepdim=True).sign()
        states = states * torch.where(sign == 0, 1.0, sign)
        orbitals = states[..., :n_orbitals, :].to(torch.complex128)
        new = system.density(orbitals)
        change = float(system.grid.integrate((new - density).abs()).max())
        if change < tolerance:
            return GroundState(orbitals, levels, states, new, iteration)
        density = new if iteration == 1 else torch.lerp(density, new, mixing)
    raise ValueError(
        f"the ground state is not found: the density still changes by {change:.2g} electrons after {max_iterations} "
        f"iterations; mix less than {mixing:g} of the new density"
    )
