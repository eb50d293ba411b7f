"""States above a model's energy window, continued as those of free electrons, for hotter electrons than it is made for.

Far above the Fermi level of a simple metal the density of states grows as √(ε − ε₀) does. The LDOS is continued in the
same way at each point,

    d(ε, r) = √(ε − ε₀) · mean over the top of the window of d(ε', r)/√(ε' − ε₀),        ε > top,

which is linear in the LDOS, so that it is a few more rows of the network's linear head: forces, stress and entropy stay
exact derivatives, and nothing else changes. What it is worth is measured by ``tests/benchmarks/hot_electrons.py``; it
is no substitute for labels that reach higher.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.networks.mlp import MLP


def with_free_states(model: LDOSModel, highest: float, *, averaged: float = 2.0) -> LDOSModel:
    """The model with states of free electrons from the top of its window up to ``highest``.

    Args:
        model: stays as it is; the new one shares its descriptor, but not what was learned of the temperature, which
            belongs to the states within the window.
        highest: the new top, eV. Ten times kT above the Fermi level is enough for electrons of temperature T.
        averaged: width of the part below the old top that is continued, eV; ε₀ is the bottom of the window.

    Raises:
        ValueError: the new top is not above the old one, or no node of the window is averaged.
    """
    energies = model.energies
    top, spacing = float(energies[-1]), float(energies[-1] - energies[-2])
    n_new = round((highest - top) / spacing)
    if n_new < 1:
        raise ValueError(f"the model's states reach {top:g} eV already; {highest:g} eV is not above that")
    source = (energies > top - averaged) & (energies > energies[0])
    if not bool(source.any()):
        raise ValueError(
            f"averaged is {averaged} eV; it must hold at least one node of the window, {spacing:g} eV apart"
        )
    added = top + spacing * torch.arange(1, n_new + 1, dtype=torch.float64, device=energies.device)
    bottom = energies[0]
    scale = source / (energies - bottom).clamp(min=spacing).sqrt() / source.sum()
    continuation = (added - bottom).sqrt()[:, None] * scale  # [new energy, energy]
    settings = model.network.settings() | {"n_outputs": len(energies) + n_new}
    network = MLP(**settings).to(device=model.device, dtype=model.dtype)
    state = model.network.state_dict()
    with torch.no_grad():
        for name in ("head.weight", "head.bias"):
            old = state[name].double()
            state[name] = torch.cat((old, continuation @ old)).to(model.dtype)
    network.load_state_dict(state)
    metadata = replace(model.metadata, name=f"{model.metadata.name} with free states to {float(added[-1]):g} eV")
    extended = LDOSModel(
        model.descriptor,
        network,
        torch.cat((energies, added)),
        metadata,
        mean=model.mean,
        projection=model.projection,
        ldos_scale=model.ldos_scale,
    )
    extended.extrapolation_mean = model.extrapolation_mean
    extended.extrapolation_whitening = model.extrapolation_whitening
    extended.distilled = model.distilled
    return extended.to(device=model.device, dtype=model.dtype).eval().requires_grad_(False)
