"""Electronic entropy and heat capacity of a density of states that stays as it is while electrons are heated.

Of metals at given places of the ions; D(ε) is then nearly independent of the electronic temperature. Source, with
values for metals: Z. Lin, L. V. Zhigilei and V. Celli, Phys. Rev. B 77, 075133 (2008).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ase_ldos.physics.occupation import occupation_weights
from ase_ldos.units import BOLTZMANN


def electronic_entropy(dos: Tensor, energies: Tensor, fermi_level: float, temperature: float) -> Tensor:
    """S = −k ∫ [f ln f + (1−f) ln(1−f)] D dε, eV/K.

    Args:
        dos: D, 1/eV, float64 ``[energy]``.
        energies: rising nodes, eV, ``[energy]``.
        fermi_level: μ, eV.
        temperature: of the electrons, K.
    """
    mu = torch.tensor(fermi_level, dtype=torch.float64, device=dos.device)
    return -(occupation_weights(energies, mu, BOLTZMANN * temperature).entropy @ dos) / temperature


def electronic_heat_capacity(dos: Tensor, energies: Tensor, fermi_level: float, temperature: float) -> Tensor:
    """C_e = (∂E_b/∂T)_N = ∂E_b/∂T − (∂E_b/∂μ) (∂N/∂T)/(∂N/∂μ) at a fixed D, eV/K; it equals T (∂S/∂T)_N.

    Arguments as of ``electronic_entropy``; μ is the Fermi level at this temperature.
    """
    with torch.enable_grad():
        mu = torch.tensor(fermi_level, dtype=torch.float64, device=dos.device, requires_grad=True)
        heat = torch.tensor(BOLTZMANN * temperature, dtype=torch.float64, device=dos.device, requires_grad=True)
        weights = occupation_weights(energies, mu, heat)
        number_slopes = torch.autograd.grad(weights.number @ dos.detach(), (mu, heat), retain_graph=True)
        band_slopes = torch.autograd.grad(weights.band @ dos.detach(), (mu, heat))
    return BOLTZMANN * (band_slopes[1] - band_slopes[0] * number_slopes[1] / number_slopes[0])
