"""Local density of states by machine learning, as an ASE calculator.

The names below are loaded on first use: importing the package does not import torch. The function ``predict`` is
not among them, because the name belongs to its module: ``from ase_ldos.prediction.predict import predict``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.model.ldos_model import LDOSModel
    from ase_ldos.prediction.predict import Prediction

__version__ = "0.1.0.dev0"
__all__ = ["LDOSCalculator", "LDOSModel", "Prediction"]

_HOMES = {
    "LDOSCalculator": "ase_ldos.calculator.calculator",
    "LDOSModel": "ase_ldos.model.ldos_model",
    "Prediction": "ase_ldos.prediction.predict",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ase_ldos' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
