"""A snapshot and a model in MALA's file formats, with contents that have closed forms.

The grid has 4 × 4 × 6 points, the energies are −5, −2.5, … 20 eV, and the LDOS is a cosine along the first lattice
vector times a straight line in energy, so that D(ε) = SLOPE (ε + 5). Names, shapes and types of all parts are those
that MALA 1.3 writes, among them scalers pickled as objects of a class that is not installed here.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

SHAPE = (4, 4, 6)
OFFSET, SPACING, SIZE = -5.0, 2.5, 11
ENERGIES = OFFSET + SPACING * np.arange(SIZE)
#: Of the density of states, 1/eV².
SLOPE = 0.04
TEMPERATURE, N_ELECTRONS = 300.0, 4.0
#: Settings of the model's SNAP.
TWOJMAX, CUTOFF = 2, 3.0
#: Sizes of the model's layers: inputs, hidden, energies.
SIZES = (5, 4, SIZE)
TOTAL_MINIMUM, TOTAL_MAXIMUM = 0.01, 0.09


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.26, c=3.57)
    atoms.rattle(0.1, seed=6)
    return atoms


def ldos() -> np.ndarray:
    """[1 + cos(2π i / n)/2] SLOPE (ε + 5)/V, 1/(eV Å³)."""
    wave = 1 + 0.5 * np.cos(2 * math.pi * np.arange(SHAPE[0]) / SHAPE[0])
    line = SLOPE * (ENERGIES - OFFSET) / beryllium().get_volume()
    return np.broadcast_to(wave[:, None, None, None] * line, (*SHAPE, SIZE)).astype(np.float32)


def table() -> dict[str, object]:
    """What stands in the JSON file of a snapshot, and of a model."""
    atoms = beryllium()
    return {
        "fermi_energy_dft": 8.5,
        "temperature": TEMPERATURE,
        "number_of_electrons_exact": N_ELECTRONS,
        "band_energy_dft_calculation": 12.0,
        "total_energy_dft_calculation": -73.0,
        "grid_dimensions": list(SHAPE),
        "electrons_per_atom": 2.0,
        "ecutwfc": 40.0,
        "pseudopotentials": {"Be": "Be.UPF"},
        "entropy_contribution_dft_calculation": -0.5,
        "one_electron_contribution": 55.25,
        "hartree_contribution": 0.25,
        "xc_contribution": -44.5,
        "ewald_contribution": -83.5,
        "voxel": {"array": (atoms.cell.array / np.array(SHAPE)[:, None]).tolist()},
        "atoms": {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.tolist(),
            "pbc": [True, True, True],
        },
        "atomic_forces_dft": [[0.5, 0.25, -0.125], [-0.5, -0.25, 0.125]],
    }


def write_snapshot(folder: Path, name: str = "Be_snapshot0") -> Path:
    """Write ``NAME.info.json`` and ``NAME.out.npy``; returns the first."""
    np.save(folder / f"{name}.out.npy", ldos())
    path = folder / f"{name}.info.json"
    path.write_text(json.dumps(table()))
    return path


def weights() -> dict[str, torch.Tensor]:
    """The network's, float32: linear, ReLU, linear."""
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.randn(b, a, generator=generator) / a**0.5 for a, b in pairwise(SIZES))
    return {
        "layers.0.weight": first,
        "layers.0.bias": torch.linspace(-0.5, 0.5, SIZES[1]),
        "layers.2.weight": second,
        "layers.2.bias": torch.linspace(0.2, 0.8, SIZES[2]),
    }


def input_scaling() -> tuple[torch.Tensor, torch.Tensor]:
    """Means and deviations of the features, float32; one feature does not vary."""
    means = torch.tensor([60.0, 20.0, 30.0, 25.0, 20.0])
    return means, torch.tensor([20.0, 10.0, 0.0, 12.0, 8.0])


def evaluate(features: np.ndarray) -> np.ndarray:
    """The model by its definition: LDOS ``[point, energy]`` of SNAP features ``[point, feature]``."""
    means, deviations = (part.double().numpy() for part in input_scaling())
    varies = deviations > 0
    x = np.where(varies, (features - means) / np.where(varies, deviations, 1.0), 0.0)
    part = {name: value.double().numpy() for name, value in weights().items()}
    hidden = np.maximum(x @ part["layers.0.weight"].T + part["layers.0.bias"], 0)
    return TOTAL_MINIMUM + (TOTAL_MAXIMUM - TOTAL_MINIMUM) * (
        hidden @ part["layers.2.weight"].T + part["layers.2.bias"]
    )


def pickled_scaler(typestring: str, **values: torch.Tensor) -> bytes:
    """A scaler as MALA pickles it: an object of ``mala.datahandling.data_scaler.DataScaler``."""
    empty, zero = torch.empty(0), torch.tensor(0)
    state: dict[str, object] = {
        "use_ddp": False,
        "typestring": typestring,
        "scale_standard": "standard" in typestring,
        "scale_normal": "normal" in typestring,
        "feature_wise": "feature-wise" in typestring,
        "cantransform": True,
        "means": empty,
        "stds": empty,
        "maxs": empty,
        "mins": empty,
        "total_mean": zero,
        "total_std": zero,
        "total_max": torch.tensor(float("-inf")),
        "total_min": torch.tensor(float("inf")),
        "total_data_count": 0,
    }
    stand_in = ModuleType("mala.datahandling.data_scaler")
    kind = type("DataScaler", (), {"__module__": stand_in.__name__})
    stand_in.DataScaler = kind  # type: ignore[attr-defined]
    parents = {name: ModuleType(name) for name in ("mala", "mala.datahandling")}
    before = {name: sys.modules.get(name) for name in (*parents, stand_in.__name__)}
    sys.modules.update(parents | {stand_in.__name__: stand_in})
    try:
        scaler = kind()
        vars(scaler).update(state | values)
        return pickle.dumps(scaler)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def parameters() -> dict[str, dict[str, object]]:
    """Those of MALA's parameters that say what the model is."""
    return {
        "descriptors": {
            "descriptor_type": "Bispectrum",
            "bispectrum_twojmax": TWOJMAX,
            "bispectrum_cutoff": CUTOFF,
            "bispectrum_switchflag": 1,
            "descriptors_contain_xyz": True,
        },
        "network": {"nn_type": "feed-forward", "layer_sizes": list(SIZES), "layer_activations": ["ReLU"]},
        "targets": {
            "target_type": "LDOS",
            "ldos_gridoffset_ev": OFFSET,
            "ldos_gridspacing_ev": SPACING,
            "ldos_gridsize": SIZE,
        },
    }


def write_model(folder: Path, name: str = "Be_model", **members: bytes) -> Path:
    """Write ``NAME.zip``; members (``params``, ``info``, ``network``, ``iscaler``, ``oscaler``) may be replaced."""
    means, deviations = input_scaling()
    network = io.BytesIO()
    torch.save(weights(), network)
    limits = {"total_min": torch.tensor(TOTAL_MINIMUM), "total_max": torch.tensor(TOTAL_MAXIMUM)}
    content = {
        "network.pth": network.getvalue(),
        "iscaler.pkl": pickled_scaler("feature-wise-standard", means=means[None], stds=deviations[None]),
        "oscaler.pkl": pickled_scaler("normal", **limits),
        "params.json": json.dumps(parameters()).encode(),
        "info.json": json.dumps(table()).encode(),
    }
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in content.items():
            archive.writestr(f"{name}.{member}", members.get(member.partition(".")[0], data))
    return path
