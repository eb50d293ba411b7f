"""MALA's data (``.out.npy`` with ``.info.json``) and models (``.zip``).

MALA: J. A. Ellis et al., Phys. Rev. B 104, 035120 (2021). LDOS in 1/(eV Å³); the ``.in.npy`` holds the points'
coordinates (Å) and then the SNAP columns.
"""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_ldos.dataset.npz import Snapshot, snapshot_from_arrays
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.model.ldos_model import LDOSModel, ModelMetadata
from ase_ldos.networks.mlp import MLP

PathLike = str | os.PathLike[str]
#: Keys of ``info.json`` and ours.
_KEYS = {
    "total_energy_dft_calculation": "free_energy",
    "band_energy_dft_calculation": "band_energy",
    "entropy_contribution_dft_calculation": "smearing_TS",
    "one_electron_contribution": "one_electron",
    "hartree_contribution": "hartree",
    "xc_contribution": "xc",
    "ewald_contribution": "ewald",
    "fermi_energy_dft": "fermi_level",
    "temperature": "electronic_temperature",
    "electrons_per_atom": "valence",
    "ecutwfc": "ecutwfc_Ry",
    "atomic_forces_dft": "forces",
}


def read_mala_snapshot(info: PathLike, energies: np.ndarray) -> Snapshot:
    """Read ``NAME.info.json`` and the LDOS ``NAME.out.npy`` beside it.

    Args:
        info: the JSON file.
        energies: energy grid, eV, ``[energy]``: MALA keeps it in its parameters, as offset, spacing and size.

    Raises:
        ValueError: a file is missing or not of this kind, or the LDOS has another number of energies.
    """
    info = Path(info)
    if not info.name.endswith(".info.json"):
        raise ValueError(f"{info.name} is not the NAME.info.json of a MALA snapshot")
    name = info.name.removesuffix(".info.json")
    output = info.with_name(f"{name}.out.npy")
    try:
        table = json.loads(info.read_text())
        ldos = np.load(output, allow_pickle=False)
        atoms = table["atoms"]
        arrays = {key: np.asarray(atoms[key]) for key in ("numbers", "positions", "cell")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{info} and {output.name} are not a MALA snapshot: {error}") from error
    volume = abs(np.linalg.det(arrays["cell"]))
    arrays |= {ours: np.asarray(table[theirs], dtype=float) for theirs, ours in _KEYS.items() if theirs in table}
    arrays |= {
        "ldos": ldos,
        "ldos_scale": np.array(1.0),
        "energies": np.asarray(energies, dtype=float),
        "dos": ldos.mean(axis=(0, 1, 2), dtype=float) * volume,
    }
    return snapshot_from_arrays(name, arrays, str(info))


def write_mala_snapshot(folder: PathLike, snapshot: Snapshot, descriptor: Descriptor | None = None) -> None:
    """Write ``NAME.out.npy`` and ``NAME.info.json``, and with a descriptor also ``NAME.in.npy``.

    Raises:
        ValueError: the snapshot has no LDOS.
    """
    ldos = snapshot.ldos_values()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {ours: getattr(snapshot, ours) for ours in _KEYS.values()}
    table: dict[str, Any] = {
        theirs: np.asarray(values[ours]).tolist() for theirs, ours in _KEYS.items() if values[ours] is not None
    }
    shape = ldos.shape[:3]
    table |= {
        "number_of_electrons_exact": snapshot.n_electrons,
        "grid_dimensions": list(shape),
        "voxel": {"array": (snapshot.cell / np.array(shape)[:, None]).tolist()},
        "atoms": {
            "numbers": snapshot.numbers.tolist(),
            "positions": snapshot.positions.tolist(),
            "cell": snapshot.cell.tolist(),
            "pbc": [True, True, True],
        },
    }
    np.save(folder / f"{snapshot.name}.out.npy", ldos)
    if descriptor is not None:
        np.save(folder / f"{snapshot.name}.in.npy", _descriptor_columns(snapshot, descriptor))
    (folder / f"{snapshot.name}.info.json").write_text(json.dumps(table, indent=1))


def _descriptor_columns(snapshot: Snapshot, descriptor: Descriptor) -> np.ndarray:
    """Coordinates and features of every grid point, float32 ``[nx, ny, nz, 3 + feature]``."""
    structure = snapshot.structure
    grid = Grid(structure.cell, snapshot.shape or (1, 1, 1))
    columns = np.empty((grid.n_points, 3 + descriptor.n_features), dtype=np.float32)
    columns[:, :3] = grid.points().numpy()
    with torch.no_grad():
        for block in iterate_blocks(descriptor, structure, grid):
            columns[block.flat.numpy(), 3:] = descriptor(block.points, block.atoms, block.species).numpy()
    return columns.reshape(*grid.shape, -1)


def read_mala_model(path: PathLike) -> LDOSModel:
    """Load a MALA model: SNAP columns, feature-wise standardised, through a feed-forward network with one activation.

    Its pickled scalers are read with a list of four allowed names, none of which runs code of the file; tensors by
    ``torch.load(weights_only=True)``.

    Raises:
        ValueError: the file is no MALA model, or is one of a kind that this package has no equal to.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {member.split(".", 1)[1]: archive.read(member) for member in archive.namelist()}
        parameters, info = (json.loads(parts[key]) for key in ("params.json", "info.json"))
        inputs, outputs = (_read_scaler(parts[key]) for key in ("iscaler.pkl", "oscaler.pkl"))
        weights = torch.load(io.BytesIO(parts["network.pth"]), weights_only=True)
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a MALA model: {error}") from error
    symbols = sorted(info["pseudopotentials"], key=lambda symbol: atomic_numbers[symbol])
    _check_kind(path, parameters, symbols)
    targets = parameters["targets"]
    steps = np.arange(targets["ldos_gridsize"])
    mean, scale = _standardisation(path, inputs)
    minimum, width = _output_scale(path, outputs)
    metadata = ModelMetadata(
        name=path.stem,
        valence={symbol: float(info["electrons_per_atom"]) for symbol in symbols},
        electronic_temperature=float(info["temperature"]),
        grid_spacing=float(np.linalg.norm(info["voxel"]["array"], axis=1).max()),
        fermi_level=float(info["fermi_energy_dft"]),
        provenance={"source": "MALA", "file": path.name, "pseudopotentials": dict(info["pseudopotentials"])},
    )
    return LDOSModel(
        SNAP(
            tuple(atomic_numbers[symbol] for symbol in symbols),
            twojmax=parameters["descriptors"]["bispectrum_twojmax"],
            cutoff=parameters["descriptors"]["bispectrum_cutoff"],
            switch=bool(parameters["descriptors"]["bispectrum_switchflag"]),
        ),
        _network(path, parameters["network"], weights, minimum / width),
        torch.as_tensor(targets["ldos_gridoffset_ev"] + targets["ldos_gridspacing_ev"] * steps, dtype=torch.float64),
        metadata,
        mean=mean,
        projection=torch.diag(1 / scale),
        ldos_scale=width,
    ).eval()


class _Scaler:
    """The attributes of MALA's ``DataScaler``."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _load_storage(content: bytes) -> Any:  # noqa: ANN401 (one of torch's storages)
    return torch.load(io.BytesIO(content), weights_only=True)


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows the four names that MALA's scalers need; every other one is an error."""

    ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012
        ("mala.datahandling.data_scaler", "DataScaler"): _Scaler,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _load_storage,
        ("collections", "OrderedDict"): collections.OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"its scaler asks for {module}.{name}, which is not allowed")
        return self.ALLOWED[module, name]


def _read_scaler(content: bytes) -> dict[str, Any]:
    scaler = _RestrictedUnpickler(io.BytesIO(content)).load()
    if not isinstance(scaler, _Scaler):
        raise ValueError("its scaler file holds no scaler")
    return vars(scaler)


def _check_kind(path: Path, parameters: dict[str, Any], symbols: list[str]) -> None:
    found = {
        "target type": (parameters["targets"]["target_type"], "LDOS"),
        "descriptor": (parameters["descriptors"]["descriptor_type"], "Bispectrum"),
        "network": (parameters["network"]["nn_type"], "feed-forward"),
        "number of elements": (len(symbols), 1),
        "number of activations": (len(set(parameters["network"]["layer_activations"])), 1),
    }
    for what, (value, expected) in found.items():
        if value != expected:
            raise ValueError(f"{path} has {what} {value!r}; only {expected!r} can be converted")


def _standardisation(path: Path, scaler: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if scaler["typestring"] != "feature-wise-standard":
        raise ValueError(f"{path} scales its inputs by {scaler['typestring']!r}; 'feature-wise-standard' is known")
    scale = scaler["stds"].double().flatten()
    # MALA divides by the deviation and puts zero where that is zero
    return scaler["means"].double().flatten(), torch.where(scale > 0, scale, torch.inf)


def _output_scale(path: Path, scaler: dict[str, Any]) -> tuple[float, float]:
    """Minimum and width: d = minimum + width · output."""
    if scaler["typestring"] == "None":
        return 0.0, 1.0
    if scaler["typestring"] not in ("normal", "minmax"):
        raise ValueError(f"{path} scales its outputs by {scaler['typestring']!r}; 'normal' and 'None' are known")
    return float(scaler["total_min"]), float(scaler["total_max"] - scaler["total_min"])


def _network(path: Path, settings: dict[str, Any], weights: dict[str, Tensor], shift: float) -> MLP:
    sizes = settings["layer_sizes"]
    activation = settings["layer_activations"][0].lower()
    network = MLP(sizes[0], sizes[-1], tuple(sizes[1:-1]), activation).double()
    names = [f"layers.{i}" for i in range(len(network.layers))] + ["head"]
    theirs = sorted({name.rsplit(".", 1)[0] for name in weights}, key=lambda name: int(name.split(".")[1]))
    if len(theirs) != len(names):
        raise ValueError(f"{path} has {len(theirs)} linear layers for the sizes {sizes}")
    pairs = zip(names, theirs, strict=True)
    state = {f"{a}.{kind}": weights[f"{b}.{kind}"].double() for a, b in pairs for kind in ("weight", "bias")}
    state["head.bias"] = state["head.bias"] + shift
    network.load_state_dict(state)
    return network
