"""Local density of states by machine learning, as an ASE calculator.

The names below are the public ones. They are loaded on first use: importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.calculator.parallel import lead
    from ase_ldos.communicator import Communicator
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.dataset.snapshot import Snapshot
    from ase_ldos.geometry.grid import Grid
    from ase_ldos.geometry.structure import Structure
    from ase_ldos.labelling.run import label_structures
    from ase_ldos.model.distilled_calculator import DistilledCalculator
    from ase_ldos.model.extrapolation import ExtrapolationWarning
    from ase_ldos.model.ldos_model import LDOSModel
    from ase_ldos.model.model_file import list_models, load_model, save_model
    from ase_ldos.prediction.predict import Prediction, predict
    from ase_ldos.simulation.respa import RespaLDOS
    from ase_ldos.training.evaluate import evaluate_model
    from ase_ldos.training.train import train_model

__version__ = "0.1.0.dev0"
__all__ = [
    "Communicator",
    "DistilledCalculator",
    "ExtrapolationWarning",
    "Grid",
    "LDOSCalculator",
    "LDOSModel",
    "Prediction",
    "RespaLDOS",
    "Snapshot",
    "Structure",
    "evaluate_model",
    "label_structures",
    "lead",
    "list_models",
    "load_model",
    "load_snapshots",
    "predict",
    "save_model",
    "train_model",
]

_HOMES = {
    "Communicator": "ase_ldos.communicator",
    "DistilledCalculator": "ase_ldos.model.distilled_calculator",
    "ExtrapolationWarning": "ase_ldos.model.extrapolation",
    "Grid": "ase_ldos.geometry.grid",
    "LDOSCalculator": "ase_ldos.calculator.calculator",
    "LDOSModel": "ase_ldos.model.ldos_model",
    "Prediction": "ase_ldos.prediction.predict",
    "RespaLDOS": "ase_ldos.simulation.respa",
    "Snapshot": "ase_ldos.dataset.snapshot",
    "Structure": "ase_ldos.geometry.structure",
    "evaluate_model": "ase_ldos.training.evaluate",
    "label_structures": "ase_ldos.labelling.run",
    "lead": "ase_ldos.calculator.parallel",
    "list_models": "ase_ldos.model.model_file",
    "load_model": "ase_ldos.model.model_file",
    "load_snapshots": "ase_ldos.dataset.npz",
    "predict": "ase_ldos.prediction.predict",
    "save_model": "ase_ldos.model.model_file",
    "train_model": "ase_ldos.training.train",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'ase_ldos' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
