"""The global physics: from Σ_r d(ε, r) and n(r) to the free energy and its derivatives in all that went in.

The gradient of A in the LDOS is g(ε, r) = ∂A/∂d(ε, r) = a(ε) + λ(r) b(ε): b are the occupation weights,
λ(r) = ∂A/∂n(r), and a collects the rest. With the linear head d = W h + c it reaches the hidden features as
Wᵀa + λ(r) Wᵀb.

Electrons of another temperature T than the model's own, T₀, occupy the same states in another way. These states are
those of a potential that belongs to the density n₀ of the occupation at T₀, and E_b counts the interaction with n₀. So
what A takes off for that is taken at n₀ too,

    A(T) = E_b(T) − TS(T) − E_H[n₀] + E_xc[n₀ + n_core] − ∫ n₀ v_xc d³r + E_ion-ion,

the functional of Harris (Phys. Rev. B 31, 1770 (1985)) and Foulkes and Haydock (Phys. Rev. B 39, 12520 (1989)) with the
occupations of T: its error is of second order in the change of density that the states do not respond to, whereas with
the density at T in these terms it is of first order. Then −∂A/∂T at fixed atoms is S = −∫ k [f ln f + …] D dε, and
∂E/∂T = T ∂S/∂T the heat capacity, exactly. λ and b are of n₀.

A model that has learned what this leaves out (``model.thermal_correction``) adds ΔA(T), linear in Σ_r h(r), to the band
energy. It is one more constant part of the gradient in the hidden features, and its slopes in T are added to S and C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.density_functionals import DensityTerms, density_terms
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.free_energy import TERMS, Energies
from ase_ldos.physics.occupation import fermi_level, number_weights, occupation_weights
from ase_ldos.prediction.request import PredictionRequest


@dataclass(frozen=True)
class FreeEnergyGradient:
    """Terms of A, and its derivatives: in hidden features (Wᵀa and Wᵀb) and explicit ones in positions and strain.

    All but the potential is small and lies on the CPU: on a GPU each of these hundreds of operations on a few numbers
    would cost as much as a walk over a small grid.

    Attributes:
        terms: of A, in the order of ``free_energy.TERMS``, eV, ``[6]``.
        constant: Wᵀa, ``[hidden]``.
        varying: Wᵀb, ``[hidden]``.
        positions: ``[atom, 3]``.
        strain: ``[3, 3]``.
        potential: λ(r), ``[grid]``, on the model's device; empty if no derivatives are wanted.
        by_energy: a and b, ``[2, energy]``.
    """

    terms: Tensor
    constant: Tensor
    varying: Tensor
    positions: Tensor
    strain: Tensor
    potential: Tensor
    by_energy: Tensor

    @classmethod
    def empty(cls, model: LDOSModel, structure: Structure, n_points: int) -> FreeEnergyGradient:
        """Room for what rank 0 sends."""
        positions, n_hidden = structure.positions, model.network.n_features
        terms, constant, varying = (positions.new_zeros(n) for n in (len(TERMS), n_hidden, n_hidden))
        potential = positions.new_zeros(n_points, device=model.device)
        strain, by_energy = torch.zeros_like(structure.cell), positions.new_zeros(2, model.network.n_outputs)
        return cls(terms, constant, varying, torch.zeros_like(positions), strain, potential, by_energy)


@dataclass(frozen=True)
class Electrons:
    """What the walk over the grid has found, on the CPU.

    Attributes:
        ldos_sum: Σ_r d(ε, r), 1/(eV Å³), float64 ``[energy]``.
        fermi_levels: μ of the model's own occupation, and of the request's if that is another, eV.
        thermal_energies: kT of these, eV.
        charges: of the ions, e, ``[atom]``.
        hidden_sum: Σ_r h(r), float64 ``[hidden]``.
    """

    ldos_sum: Tensor
    fermi_levels: Sequence[float]
    thermal_energies: Sequence[float]
    charges: Tensor
    hidden_sum: Tensor


def find_gradient(
    model: LDOSModel,
    request: PredictionRequest,
    electrons: Electrons,
    fields: Tensor | None,
    communicator: Communicator,
) -> tuple[FreeEnergyGradient, Tensor]:
    """Energies, derivatives if wanted, and the density, float64 ``[grid]``, on all ranks.

    Rank 0, which has the fields n₀ and ∂n₀/∂μ, and n and ∂n/∂μ if these are others, ``[2 or 4, grid]``, does the work
    and sends what it found.
    """
    grid, structure, found = request.grid, request.structure, list[FreeEnergyGradient]()

    def work() -> None:
        assert fields is not None
        terms = density_terms(
            fields[0].reshape(grid.shape),
            grid,
            model.metadata.functional,
            differentiate=request.differentiates,
            core=model.core_density(structure, grid),
            block_points=request.thresholds.density_block,
            single_from=request.thresholds.single_from,
        )
        found.append(_differentiate(model, request, electrons, terms, fields[1]))

    communicator.run_on_root(work)
    density = torch.empty(grid.n_points, dtype=torch.float64, device=model.device)
    if fields is not None:
        density = fields[-2].double()
    if not found:
        n_points = grid.n_points if request.differentiates else 0
        found.append(FreeEnergyGradient.empty(model, structure, n_points))
    gradient = found[0]
    if communicator.size > 1:
        gradient = replace(gradient, potential=gradient.potential.double())
        for tensor in (*vars(gradient).values(), density):
            communicator.broadcast(tensor)
    return gradient, density


def _differentiate(
    model: LDOSModel, request: PredictionRequest, electrons: Electrons, terms: DensityTerms, response: Tensor
) -> FreeEnergyGradient:
    """Terms of A, and derivatives where the terms of the density have theirs; ``response`` is ∂n₀/∂μ ``[grid]``."""
    structure, shape, wanted = request.structure, request.grid_shape, request.differentiates
    thermal = model.thermal_correction
    temperature = request.electronic_temperature
    with torch.set_grad_enabled(wanted):
        strain = torch.zeros_like(structure.cell, requires_grad=wanted)
        leaf_sum = electrons.ldos_sum.detach().requires_grad_(wanted)
        leaf = replace(structure, positions=structure.positions.detach().requires_grad_(wanted))
        strained = leaf.strained(strain)
        grid = Grid(strained.cell, shape)
        dos = leaf_sum * grid.voxel_volume
        n_electrons, levels = float(electrons.charges.sum()), list[Tensor]()
        nodes = model.energies_on_cpu
        for start, kT in zip(electrons.fermi_levels, electrons.thermal_energies):
            levels.append(fermi_level(dos, nodes, n_electrons, kT, start))
        own, mu = levels[0], levels[-1]
        weights = occupation_weights(nodes, mu, request.thermal_energy)
        mesh_from = request.thresholds.mesh_from
        ewald = ewald_energy(strained, electrons.charges, mesh_from=mesh_from, device=model.device)
        energies = Energies.collect(dos, weights, terms.energies, ewald)
        # everything up to here counts energies as the network does; the sum over the electrons is DFT's
        energies = replace(energies, band=energies.band + n_electrons * model.energy_shift(strained))
        if thermal is not None:
            change = thermal.integrate(temperature, electrons.hidden_sum, grid.n_points, grid.voxel_volume)[0]
            energies = replace(energies, band=energies.band + change)
        free_energy = energies.free_energy
        if terms.potential is not None:
            # the density's terms are numbers here. n₀ moves with its μ, which moves with D: this term, zero in value,
            # carries that derivative exactly
            free_energy = free_energy + (own - own.detach()) * _dot(terms.potential, response)
        if terms.core_potential is not None:
            core = model.core_density(strained, grid)
            assert core is not None
            # the core charges move with their atoms
            moved = (core.flatten() - core.flatten().detach()) @ terms.core_potential.to(core)
            free_energy = free_energy + moved.to(free_energy)
    values = energies.terms()
    if terms.potential is None or terms.strain is None:
        return replace(FreeEnergyGradient.empty(model, structure, 0), terms=values)
    a, by_positions, by_strain = torch.autograd.grad(free_energy, (leaf_sum, leaf.positions, strain))
    head = model.head_on_cpu[0]
    number, _ = number_weights(nodes, electrons.fermi_levels[0], electrons.thermal_energies[0])
    by_strain, by_energy = by_strain + terms.strain, torch.stack((a, number))
    constant = a @ head
    if thermal is not None:
        constant = constant + thermal.at(temperature)[0, :-1] * grid.voxel_volume.detach()
    return FreeEnergyGradient(values, constant, number @ head, by_positions, by_strain, terms.potential, by_energy)


def _dot(first: Tensor, second: Tensor) -> float:
    """Σ first · second in float64, a million numbers at a time."""
    parts = zip(first.split(2**20), second.split(2**20))
    return float(torch.stack([one.double() @ other.double() for one, other in parts]).sum())
