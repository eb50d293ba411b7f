"""The global physics: from Σ_r d(ε, r) and n(r) to the free energy and its derivatives in all that went in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.density_functionals import DensityTerms, density_terms
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.occupation import fermi_level, occupation_weights

_TERMS = ("band", "entropy_term", "hartree", "xc", "xc_potential", "ewald")


@dataclass(frozen=True)
class Adjoint:
    """Terms of A, and its derivatives: in hidden features (Wᵀa and Wᵀb) and explicit ones in positions and strain.

    Attributes:
        terms: band energy, −TS, E_H, E_xc, ∫ n v_xc, Ewald, eV, ``[6]``.
        constant: Wᵀa, ``[hidden]``.
        varying: Wᵀb, ``[hidden]``.
        positions: ``[atom, 3]``.
        strain: ``[3, 3]``.
        potential: λ(r), ``[grid]``; empty if no derivatives are wanted.
    """

    terms: Tensor
    constant: Tensor
    varying: Tensor
    positions: Tensor
    strain: Tensor
    potential: Tensor

    @classmethod
    def empty(cls, n_hidden: int, structure: Structure, n_points: int) -> Adjoint:
        """Room for what rank 0 spreads."""
        rows = (len(_TERMS), n_hidden, n_hidden)
        positions = structure.positions
        terms, constant, varying = (positions.new_zeros(n) for n in rows)
        potential = positions.new_zeros(n_points)
        return cls(terms, constant, varying, torch.zeros_like(positions), torch.zeros_like(structure.cell), potential)

    def energies(self, n_atoms: int) -> Energies:
        """The terms by name."""
        return Energies(**dict(zip(_TERMS, self.terms.unbind())), n_atoms=n_atoms)


@dataclass(frozen=True)
class Electrons:
    """What the walk over the grid has found.

    Attributes:
        ldos_sum: Σ_r d(ε, r), 1/(eV Å³), float64 ``[energy]``.
        level: μ, eV.
        thermal_energy: kT, eV.
        charges: of the ions, e, ``[atom]``.
    """

    ldos_sum: Tensor
    level: float
    thermal_energy: float
    charges: Tensor


def solve_physics(
    model: LDOSModel,
    structure: Structure,
    grid: Grid,
    electrons: Electrons,
    fields: Tensor | None,
    communicator: Communicator,
    *,
    differentiate: bool,
) -> tuple[Adjoint, Tensor]:
    """Energies, derivatives if wanted, and the density, float64 ``[grid]``.

    Rank 0, which has the fields n and ∂n/∂μ ``[2, grid]``, does the work and spreads what it found.
    """
    found: list[Adjoint] = []

    def work() -> None:
        assert fields is not None
        core = model.core_density(structure, grid)
        terms = density_terms(
            fields[0].reshape(grid.shape), grid, model.metadata.functional, differentiate=differentiate, core=core
        )
        found.append(_differentiate(model, structure, grid, electrons, terms, fields[1], differentiate))

    communicator.run_on_root(work)
    density = fields[0].double() if fields is not None else structure.positions.new_empty(grid.n_points)
    if not found:
        n_hidden = model.network.n_features
        found.append(Adjoint.empty(n_hidden, structure, grid.n_points if differentiate else 0))
    adjoint = found[0]
    if communicator.size > 1:
        adjoint = replace(adjoint, potential=adjoint.potential.double())
        for tensor in (*vars(adjoint).values(), density):
            communicator.broadcast(tensor)
    return adjoint, density


def _differentiate(
    model: LDOSModel,
    structure: Structure,
    grid: Grid,
    electrons: Electrons,
    terms: DensityTerms,
    response: Tensor,
    differentiate: bool,
) -> Adjoint:
    with torch.set_grad_enabled(differentiate):
        strain = torch.zeros_like(structure.cell, requires_grad=differentiate)
        leaf_sum = electrons.ldos_sum.detach().requires_grad_(differentiate)
        leaf = replace(structure, positions=structure.positions.detach().requires_grad_(differentiate))
        strained = leaf.strained(strain)
        dos = leaf_sum * Grid(strained.cell, grid.shape).voxel_volume
        n_electrons, thermal_energy = float(electrons.charges.sum()), electrons.thermal_energy
        mu = fermi_level(dos, model.energies, n_electrons, thermal_energy, electrons.level)
        weights = occupation_weights(model.energies, mu, thermal_energy)
        band, entropy_term = weights.band @ dos, weights.entropy @ dos
        ewald = ewald_energy(strained, electrons.charges)
        free_energy = band + entropy_term + ewald
        if terms.potential is not None:
            # n moves with μ, which moves with D: the first-order term carries that derivative exactly
            free_energy = free_energy + (mu - mu.detach()) * _dot(terms.potential, response)
        if terms.core_potential is not None:
            core = model.core_density(strained, Grid(strained.cell, grid.shape))
            assert core is not None
            # the core charges move with their atoms
            free_energy = free_energy + (core.flatten() - core.flatten().detach()) @ terms.core_potential.to(core)
    values = (band, entropy_term, terms.hartree, terms.xc, terms.xc_potential, ewald)
    total = torch.stack([value.detach() for value in values])
    if terms.potential is None or terms.strain is None:
        return replace(Adjoint.empty(model.network.n_features, structure, 0), terms=total)
    a, by_positions, by_strain = torch.autograd.grad(free_energy, (leaf_sum, leaf.positions, strain))
    head, number = model.head[0].detach(), weights.number.detach()
    return Adjoint(total, a @ head, number @ head, by_positions, by_strain + terms.strain, terms.potential)


def _dot(first: Tensor, second: Tensor) -> float:
    """Σ first · second in float64, piece by piece."""
    pieces = zip(first.split(2**20), second.split(2**20))
    return sum(float(one.double() @ other.double()) for one, other in pieces)
