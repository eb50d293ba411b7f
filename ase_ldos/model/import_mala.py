"""Models of MALA (``.zip``): SNAP columns through a feed-forward network."""

from __future__ import annotations

import collections
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.files import PathLike
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.networks.mlp import MLP


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
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("its scaler's attributes are no dictionary")
        self.__dict__.update(state)


class _Function:
    """A function that a pickle may call but not change: an attribute set on torch's own would stay for the process."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 (whatever the function takes and gives)
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("its scaler sets attributes of a function")


def _load_storage(content: bytes) -> Any:  # noqa: ANN401 (one of torch's storages)
    return torch.load(io.BytesIO(content), weights_only=True)


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows the four names that MALA's scalers need; every other one is an error."""

    ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012
        ("mala.datahandling.data_scaler", "DataScaler"): _Scaler,
        ("torch._utils", "_rebuild_tensor_v2"): _Function(torch._utils._rebuild_tensor_v2),
        ("torch.storage", "_load_from_bytes"): _Function(_load_storage),
        ("collections", "OrderedDict"): _Function(collections.OrderedDict),
    }

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"its scaler asks for {module}.{name}, which is not allowed")
        return self.ALLOWED[module, name]


def _read_scaler(content: bytes) -> dict[str, Any]:
    try:
        scaler = _RestrictedUnpickler(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise ValueError(f"its scaler file is refused: {error}") from error
    except (EOFError, TypeError, AttributeError, IndexError, RuntimeError, RecursionError, MemoryError) as error:
        raise ValueError(f"its scaler file is damaged: {type(error).__name__} {error}") from error
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
