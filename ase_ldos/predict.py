"""The main path: structure → hidden features → DOS → μ → density → energies → forces and stress.

The grid is walked in blocks. Pass 1 sums the hidden features (hence D and μ) and gives the density; the global physics
gives the adjoint of the LDOS, g(ε, r) = a(ε) + λ(r) b(ε); pass 2 pulls it back through network and descriptor, block
by block. With the linear head d = W h + c it acts on the hidden features as Wᵀa + λ(r) Wᵀb, so that no array
grid × energy is ever built. Forces and stress are exact derivatives of the discrete sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.profiler import record_function

from ase_ldos.descriptors.blocks import DEFAULT_BLOCK, Block, iterate_blocks
from ase_ldos.energies.total import Energies, total_energies
from ase_ldos.grid import Grid
from ase_ldos.model import LDOSModel
from ase_ldos.occupation import fermi_level, occupation_weights
from ase_ldos.structure import Structure
from ase_ldos.units import BOLTZMANN

#: Hidden features are kept between the passes up to this many bytes, else evaluated again.
KEEP_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Prediction:
    """What a model says about a structure; tensors in eV, Å, e, float64.

    Attributes:
        energies: the terms of the free energy.
        fermi_level: μ, eV.
        energy_grid: nodes, eV, ``[energy]``.
        dos: D, 1/eV, ``[energy]``.
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: of the density.
        forces: −∂A/∂R, eV/Å, ``[atom, 3]``, if wanted.
        stress: (1/V) ∂A/∂ε, eV/Å³, ``[3, 3]``, tension positive, if wanted.
    """

    energies: Energies
    fermi_level: float
    energy_grid: Tensor
    dos: Tensor
    density: Tensor
    grid: Grid
    forces: Tensor | None = None
    stress: Tensor | None = None

    @property
    def free_energy(self) -> float:
        """A, eV."""
        return float(self.energies.free_energy)


@dataclass(frozen=True)
class _Adjoint:
    """Derivatives of A: in hidden features (Wᵀa and Wᵀb) and explicit ones in positions and strain."""

    constant: Tensor
    varying: Tensor
    potential: Tensor
    positions: Tensor
    strain: Tensor


def predict(
    model: LDOSModel,
    structure: Structure,
    want: Collection[str] = (),
    *,
    electronic_temperature: float | None = None,
    grid: Grid | None = None,
    chunk_size: int | None = None,
    fermi_guess: float | None = None,
) -> Prediction:
    """Predict energies, DOS and density of a structure, and what else is wanted.

    Args:
        model: on the device of the structure.
        structure: float64, checked (``Structure.from_atoms``).
        want: any of ``"forces"``, ``"stress"``; without them no backward is run.
        electronic_temperature: K; default is the model's.
        grid: where to evaluate; default is the model's spacing.
        chunk_size: grid points that are handled at once.
        fermi_guess: a Fermi level near the right one, eV, such as the last step's.

    Raises:
        ValueError: foreign elements, an electronic temperature that is not positive or beyond the energy window,
            too few states below the window's top.
    """
    chunk_size = DEFAULT_BLOCK if chunk_size is None else chunk_size
    temperature = model.metadata.electronic_temperature if electronic_temperature is None else electronic_temperature
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing) if grid is None else grid
    guess = model.metadata.fermi_level if fermi_guess is None else fermi_guess
    hidden = _Hidden(model, structure, grid, chunk_size)
    with torch.no_grad(), record_function("ase_ldos::density_of_states"):
        weight, bias = model.head
        ldos_sum = weight @ hidden.sum() + bias * grid.n_points
        thermal_energy = BOLTZMANN * temperature
        charges = model.charges(structure.numbers)
        n_electrons = float(charges.sum())
        level = fermi_level(ldos_sum * grid.voxel_volume, model.energies, n_electrons, thermal_energy, guess)
    with torch.no_grad(), record_function("ase_ldos::density"):
        density, response = hidden.project(*_number_weights(model.energies, level, thermal_energy))
    with record_function("ase_ldos::energies"):
        prediction, adjoint = _physics(
            model, structure, charges, grid, ldos_sum, density, response, thermal_energy, level, bool(want)
        )
    if adjoint is None:
        return prediction
    with record_function("ase_ldos::forces"):
        forces, stress = hidden.pull_back(adjoint, strained="stress" in want)
    return replace(prediction, forces=forces if "forces" in want else None, stress=stress if "stress" in want else None)


def predict_ldos(
    model: LDOSModel, structure: Structure, grid: Grid | None = None, *, chunk_size: int | None = None
) -> Tensor:
    """The whole LDOS, 1/(eV Å³), in the model's dtype, ``[nx, ny, nz, energy]``: the one large array there is."""
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing) if grid is None else grid
    weight, bias = (part.to(model.dtype) for part in model.head)
    ldos = torch.empty(grid.n_points, len(bias), dtype=model.dtype, device=model.device)
    with torch.no_grad():
        known = model.prepare(structure)
        for block in iterate_blocks(
            model.descriptor, structure, grid, max_points=chunk_size or DEFAULT_BLOCK, dtype=model.dtype
        ):
            ldos[block.flat] = torch.addmm(bias, model.hidden(block, known[block.owners]), weight.T)
    return ldos.reshape(*grid.shape, -1)


def _physics(
    model: LDOSModel,
    structure: Structure,
    charges: Tensor,
    grid: Grid,
    ldos_sum: Tensor,
    density: Tensor,
    response: Tensor,
    thermal_energy: float,
    level: Tensor,
    differentiate: bool,
) -> tuple[Prediction, _Adjoint | None]:
    """Energies from Σ_r d(ε, r) and n(r), and with ``differentiate`` their derivatives in all that went in."""
    with torch.set_grad_enabled(differentiate):
        strain = torch.zeros_like(structure.cell, requires_grad=differentiate)
        leaf_sum, leaf_density = (t.detach().requires_grad_(differentiate) for t in (ldos_sum, density))
        leaf = replace(structure, positions=structure.positions.detach().requires_grad_(differentiate))
        strained = leaf.strained(strain)
        moved = Grid(strained.cell, grid.shape)
        dos = leaf_sum * moved.voxel_volume
        mu = fermi_level(dos, model.energies, float(charges.sum()), thermal_energy, float(level))
        weights = occupation_weights(model.energies, mu, thermal_energy)
        energies = total_energies(
            band=weights.band @ dos,
            entropy_term=weights.entropy @ dos,
            # n moves with μ, which moves with D: the first-order term carries that derivative exactly
            density=(leaf_density + (mu - mu.detach()) * response).reshape(grid.shape),
            grid=moved,
            structure=strained,
            charges=charges,
            functional=model.metadata.functional,
            core_density=model.core_density(strained, moved),
        )
        free_energy = energies.free_energy
    prediction = Prediction(
        energies=replace(
            energies, **{name: value.detach() for name, value in vars(energies).items() if name != "n_atoms"}
        ),
        fermi_level=float(mu.detach()),
        energy_grid=model.energies,
        dos=dos.detach(),
        density=density.reshape(grid.shape),
        grid=grid,
    )
    if not differentiate:
        return prediction, None
    a, potential, by_positions, by_strain = torch.autograd.grad(
        free_energy, (leaf_sum, leaf_density, leaf.positions, strain)
    )
    weight, _ = model.head
    number = weights.number.detach()
    adjoint = _Adjoint(a @ weight.detach(), number @ weight.detach(), potential, by_positions, by_strain)
    return prediction, adjoint


def _number_weights(energies: Tensor, level: Tensor, thermal_energy: float) -> tuple[Tensor, Tensor]:
    """Weights of n(r) and of ∂n(r)/∂μ, ``[energy]`` each."""
    with torch.enable_grad():
        level = level.detach().requires_grad_()
        weights = occupation_weights(energies, level, thermal_energy).number
        # the derivative of a vector in a scalar by two backward sweeps
        probe = torch.zeros_like(weights, requires_grad=True)
        (slope,) = torch.autograd.grad(weights, level, probe, create_graph=True)
        (response,) = torch.autograd.grad(slope, probe)
    return weights.detach(), response


def hidden_bytes(model: LDOSModel, grid: Grid) -> int:
    """Memory of the hidden features of all points of a grid."""
    return grid.n_points * model.network.n_features * model.dtype.itemsize


class _Hidden:
    """The hidden features of all points of a grid, block by block: kept where they fit, else evaluated again."""

    def __init__(self, model: LDOSModel, structure: Structure, grid: Grid, chunk_size: int) -> None:
        self.model, self.structure, self.grid, self.chunk_size = model, structure, grid, chunk_size
        self._kept: list[Tensor] | None = [] if hidden_bytes(model, grid) <= KEEP_BYTES else None
        with torch.no_grad(), record_function("ase_ldos::atoms"):
            self._known = model.prepare(structure)

    def blocks(self) -> Iterator[Block]:
        return iterate_blocks(
            self.model.descriptor, self.structure, self.grid, max_points=self.chunk_size, dtype=self.model.dtype
        )

    def sum(self) -> Tensor:
        """Σ_r h(r), float64 ``[hidden]``."""
        total = torch.zeros(self.model.network.n_features, dtype=torch.float64, device=self.model.device)
        for block in self.blocks():
            hidden = self.model.hidden(block, self._known[block.owners])
            total += hidden.sum(dim=0, dtype=torch.float64)
            if self._kept is not None:
                self._kept.append(hidden)
        return total

    def project(self, *weights: Tensor) -> list[Tensor]:
        """Σ_ε w(ε) d(ε, r) for each w ``[energy]``, float64 ``[grid]``."""
        weight, bias = self.model.head
        columns = torch.stack([w @ weight for w in weights], dim=-1)
        constants = torch.stack([w @ bias for w in weights])
        result = torch.empty(self.grid.n_points, len(weights), dtype=torch.float64, device=self.model.device)
        if self._kept is not None:
            for flat, hidden in zip(self.grid.blocks(self.chunk_size), self._kept):
                result[flat] = hidden.double() @ columns + constants
        else:
            for block in self.blocks():
                hidden = self.model.hidden(block, self._known[block.owners])
                result[block.flat] = hidden.double() @ columns + constants
        return list(result.unbind(-1))

    def pull_back(self, adjoint: _Adjoint, *, strained: bool) -> tuple[Tensor, Tensor]:
        """Forces ``[atom, 3]`` and stress ``[3, 3]`` (only explicit terms unless ``strained``)."""
        gradient, virial = adjoint.positions.clone(), adjoint.strain.clone()
        by_known = torch.zeros_like(self._known) if self._known.is_floating_point() else None
        for block in self.blocks():
            pull = adjoint.constant + adjoint.potential[block.flat, None] * adjoint.varying
            by_atoms, by_points, by_images = self._pull_back_block(block, pull, strained)
            gradient.index_add_(0, block.owners, by_atoms)
            virial += block.atoms.detach().double().T @ by_atoms
            if by_points is not None:
                virial += block.points.detach().double().T @ by_points
            if by_known is not None and by_images is not None:
                by_known.index_add_(0, block.owners, by_images)
        if by_known is not None:
            by_positions, by_strain = self._pull_back_atoms(by_known)
            gradient, virial = gradient + by_positions, virial + by_strain
        stress = (virial + virial.T) / (2 * self.grid.volume)
        return -gradient, stress

    def _pull_back_block(
        self, block: Block, pull: Tensor, strained: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Derivatives of Σ pull · h in the images, the points (if ``strained``) and what is known (if learned)."""
        known = self._known[block.owners]
        wanted = (True, strained, known.is_floating_point())
        leaves = [leaf.requires_grad_() for leaf, want in zip((block.atoms, block.points, known), wanted) if want]
        with torch.enable_grad():
            hidden = self.model.hidden(block, known)
            found = iter(torch.autograd.grad(hidden, leaves, pull.to(hidden)))
        by_atoms, by_points, by_known = (next(found) if want else None for want in wanted)
        assert by_atoms is not None
        return by_atoms.double(), None if by_points is None else by_points.double(), by_known

    def _pull_back_atoms(self, by_known: Tensor) -> tuple[Tensor, Tensor]:
        """Through the layers on the atoms, once for all blocks: derivatives in positions and strain."""
        with torch.enable_grad():
            strain = torch.zeros_like(self.structure.cell, requires_grad=True)
            positions = self.structure.positions.detach().requires_grad_()
            known = self.model.prepare(replace(self.structure, positions=positions).strained(strain))
            if not known.requires_grad:  # no layers: nothing depends on where the atoms are
                return torch.zeros_like(positions), torch.zeros_like(strain)
            by_positions, by_strain = torch.autograd.grad(
                known, (positions, strain), by_known, allow_unused=True, materialize_grads=True
            )
        return by_positions, by_strain
