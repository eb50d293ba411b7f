"""The main path: structure → hidden features → DOS → μ → density → energies → forces and stress.

The grid is walked in blocks (``streaming``). The way out sums the hidden features (hence D and μ) and gives the
density; the global physics (``adjoint``) gives the adjoint of the LDOS, g(ε, r) = a(ε) + λ(r) b(ε); the way back pulls
it through network and descriptor. With the linear head d = W h + c it acts on the hidden features as Wᵀa + λ(r) Wᵀb, so
that no array grid × energy is ever built. Forces and stress are exact derivatives of the discrete sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import record_function

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.occupation import fermi_level
from ase_ldos.prediction.checkpointing import Journal
from ase_ldos.prediction.free_energy_gradient import Electrons, solve_physics
from ase_ldos.prediction.grid_pass import Stream
from ase_ldos.units import BOLTZMANN


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


def predict(
    model: LDOSModel,
    structure: Structure,
    want: Collection[str] = (),
    *,
    electronic_temperature: float | None = None,
    grid: Grid | None = None,
    chunk_size: int | None = None,
    fermi_guess: float | None = None,
    communicator: Communicator | None = None,
    checkpoint: Path | None = None,
    progress: bool = False,
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
        communicator: ranks that share the grid; each calls this with the same arguments and gets the same result.
        checkpoint: folder from which a killed calculation goes on, to the same numbers; it is not removed at the end.
        progress: show progress bars with the remaining time.

    Raises:
        ValueError: foreign elements, an electronic temperature that is not positive or beyond the energy window,
            too few states below the window's top, a checkpoint of another calculation.
        RankLostError: another rank has ended.
    """
    communicator = Communicator() if communicator is None else communicator
    chunk_size = DEFAULT_BLOCK if chunk_size is None else chunk_size
    temperature = model.metadata.electronic_temperature if electronic_temperature is None else electronic_temperature
    thermal_energy = BOLTZMANN * temperature
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing) if grid is None else grid
    # no rank without a block
    chunk_size = min(chunk_size, max(1, grid.n_points // communicator.size))
    charges = model.charges(structure.numbers)
    model = model.with_fused_scaler()
    journal = _journal(checkpoint, model, structure, grid, chunk_size, thermal_energy, communicator)
    stream = Stream(
        model,
        structure,
        grid,
        chunk_size,
        thermal_energy,
        communicator=communicator,
        journal=journal,
        progress=progress,
    )
    start = model.metadata.fermi_level if fermi_guess is None else fermi_guess
    weight, bias = (part.detach() for part in model.head)

    def find_level(hidden_sum: Tensor, n_points: int) -> float:
        dos = (weight @ hidden_sum + bias * n_points) * (grid.volume / n_points)
        return float(fermi_level(dos, model.energies, float(charges.sum()), thermal_energy, start))

    with torch.no_grad(), record_function("ase_ldos::density_of_states"):
        hidden_sum, level = stream.features(fermi_guess, find_level)
        ldos_sum = weight @ hidden_sum + bias * grid.n_points
    with torch.no_grad(), record_function("ase_ldos::density"):
        fields = stream.density(level)
    with record_function("ase_ldos::energies"):
        electrons = Electrons(ldos_sum, level, thermal_energy, charges)
        adjoint, density = solve_physics(
            model, structure, grid, electrons, fields, communicator, differentiate=bool(want)
        )
        del fields
    forces, stress = None, None
    if want:
        with record_function("ase_ldos::forces"):
            forces, stress = stream.pull_back(adjoint, strained="stress" in want)
    return Prediction(
        energies=adjoint.energies(len(structure)),
        fermi_level=level,
        energy_grid=model.energies,
        dos=ldos_sum * grid.voxel_volume,
        density=density.reshape(grid.shape),
        grid=grid,
        forces=forces if "forces" in want else None,
        stress=stress if "stress" in want else None,
    )


def predict_ldos(
    model: LDOSModel, structure: Structure, grid: Grid | None = None, *, chunk_size: int | None = None
) -> Tensor:
    """The whole LDOS, 1/(eV Å³), in the model's dtype, ``[nx, ny, nz, energy]``: the one large array there is."""
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing) if grid is None else grid
    weight, bias = (part.to(model.dtype) for part in model.head)
    ldos = torch.empty(grid.n_points, len(bias), dtype=model.dtype, device=model.device)
    with torch.no_grad():
        atom_state = model.encode_atoms(structure)
        for block in iterate_blocks(
            structure, grid, model.descriptor.cutoff, max_points=chunk_size or DEFAULT_BLOCK, dtype=model.dtype
        ):
            ldos[block.flat] = torch.addmm(bias, model.hidden(block, atom_state[block.owners]), weight.T)
    return ldos.reshape(*grid.shape, -1)


def _journal(
    folder: Path | None,
    model: LDOSModel,
    structure: Structure,
    grid: Grid,
    chunk_size: int,
    thermal_energy: float,
    communicator: Communicator,
) -> Journal:
    """The checkpoint of this very calculation, on this rank."""
    digest = hashlib.sha256(repr((grid.shape, chunk_size, thermal_energy, str(model.dtype))).encode())
    if folder is not None:
        for tensor in (structure.numbers, structure.positions, structure.cell, *model.state_dict().values()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Journal(folder, digest.hexdigest(), f"rank{communicator.rank}of{communicator.size}")
