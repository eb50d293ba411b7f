"""Models whose free energy changes with the temperature of the electrons in a known way."""

from __future__ import annotations

import torch

from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.thermal_correction import FUNCTIONS, ThermalCorrection

#: K, up to which ``heated`` models go.
HIGHEST = 15000.0


def heated(model: LDOSModel, size: float = 0.01) -> LDOSModel:
    """The model with a random correction, ``size`` in eV/Å³ for features of order one."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(FUNCTIONS, model.network.n_features + 1, generator=generator, dtype=torch.float64)
    own = model.metadata.electronic_temperature
    model.thermal_correction = ThermalCorrection(size * weights, own=own, highest=HIGHEST)
    return model
