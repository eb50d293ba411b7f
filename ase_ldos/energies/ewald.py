"""Energy of the ions' charges in a neutralising background, by torch-pme."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchpme import CoulombPotential, EwaldCalculator, PMECalculator

from ase_ldos.neighbours import find_pairs
from ase_ldos.structure import Structure
from ase_ldos.units import COULOMB

#: Number of atoms from which on the mesh (PME) is used.
MESH_FROM = 250
#: Both sums stop where the Gaussian has fallen to exp(−_REACH²/2): 6e-13, so that a pair or wave that comes
#: or goes along a strain makes no step in the energy.
_REACH = 7.5


def ewald_energy(structure: Structure, charges: Tensor) -> Tensor:
    """E = ½ Σ_ij q_i q_j e²/r_ij over all periodic images, the background included, eV.

    Args:
        structure: the ions.
        charges: valence charges, e, ``[atom]``.

    Raises:
        ValueError: charges and atoms differ in number.
    """
    if charges.shape != (len(structure),):
        raise ValueError(
            f"there are charges of shape {list(charges.shape)} for {len(structure)} atoms; one each is needed"
        )
    positions, cell = structure.positions.to(torch.float64), structure.cell.to(torch.float64)
    structure = Structure(structure.numbers, positions, cell)
    calculator, cutoff = _calculator(structure)
    pairs = find_pairs(structure, cutoff)
    charge = charges.to(torch.float64)[:, None]
    potentials = calculator(
        charges=charge,
        cell=cell,
        positions=positions,
        neighbor_indices=torch.stack((pairs.first, pairs.second), dim=1),
        neighbor_distances=pairs.distances,
    )
    return (charge * potentials).sum()


def _calculator(structure: Structure) -> tuple[EwaldCalculator | PMECalculator, float]:
    """The sum that suits the number of atoms, and its cutoff in real space, Å."""
    n_atoms = len(structure)
    length = float(structure.volume.detach() / n_atoms) ** (1 / 3)
    if n_atoms < MESH_FROM:
        # equal work in both sums
        smearing = 0.4 * length * n_atoms ** (1 / 6)
        calculator = EwaldCalculator(
            CoulombPotential(smearing=smearing, prefactor=COULOMB),
            # torch-pme's waves end at π, not 2π, over this length
            lr_wavelength=math.pi * smearing / _REACH,
        )
    else:
        # measured on beryllium: 1e-8 eV/atom and 3e-6 eV/Å from the plain Ewald sum
        smearing = 0.8 * length
        calculator = PMECalculator(
            CoulombPotential(smearing=smearing, prefactor=COULOMB),
            mesh_spacing=smearing / 3,
            interpolation_nodes=7,
        )
    return calculator.to(structure.positions), _REACH * smearing
