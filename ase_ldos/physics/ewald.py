"""Energy of the ions' charges in a neutralising background: Ewald's sum by torch-pme, of many ions on a mesh."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchpme import CoulombPotential, EwaldCalculator

from ase_ldos.geometry.neighbours import find_pairs
from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.particle_mesh_ewald import ParticleMesh
from ase_ldos.units import COULOMB

#: Number of atoms from which on the waves are summed on a mesh.
MESH_FROM = 250
#: Both sums stop where the Gaussian has fallen to exp(−_REACH²/2): 6e-13, so that a pair or wave that comes
#: or goes along a strain makes no step in the energy.
_REACH = 7.5


def ewald_energy(
    structure: Structure, charges: Tensor, *, mesh_from: int = MESH_FROM, device: torch.device | None = None
) -> Tensor:
    """E = ½ Σ_ij q_i q_j e²/r_ij over all periodic images, the background included, eV.

    Differentiable in positions and cell; with the mesh once. Few ions are always summed on the CPU: on a GPU the calls
    would take longer than the work.

    Args:
        structure: the ions.
        charges: valence charges, e, ``[atom]``.
        mesh_from: number of atoms from which on the waves are summed on a mesh.
        device: where to sum on a mesh; default is where the structure is, as the result is in any case.

    Raises:
        ValueError: charges and atoms differ in number.
    """
    if charges.shape != (len(structure),):
        raise ValueError(
            f"there are charges of shape {list(charges.shape)} for {len(structure)} atoms; one each is needed"
        )
    home = structure.positions.device
    positions, cell = (part.to("cpu", torch.float64) for part in (structure.positions, structure.cell))
    charges = charges.to("cpu", torch.float64)
    structure = Structure(structure.numbers, positions, cell)
    length = float(structure.volume.detach() / len(structure)) ** (1 / 3)
    if len(structure) >= mesh_from:
        # measured on beryllium: 1e-9 eV/atom and 1e-6 eV/Å from the plain sum
        smearing = 0.6 * length
        return ParticleMesh.apply(
            positions, cell, charges, smearing, _REACH * smearing, smearing / 3, home if device is None else device
        ).to(home)
    # equal work in both sums
    smearing = 0.4 * length * len(structure) ** (1 / 6)
    # torch-pme's waves end at π, not 2π, over this length
    wavelength = math.pi * smearing / _REACH
    calculator = EwaldCalculator(CoulombPotential(smearing=smearing, prefactor=COULOMB), lr_wavelength=wavelength)
    pairs = find_pairs(structure, _REACH * smearing)
    charge = charges[:, None]
    potentials = calculator.to(positions)(
        charges=charge,
        cell=cell,
        positions=positions,
        neighbor_indices=torch.stack((pairs.first, pairs.second), dim=1),
        neighbor_distances=pairs.distances,
    )
    return (charge * potentials).sum().to(home)
