"""A model on disk: one safetensors file whose header holds everything but the tensors as JSON; no pickle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ase_ldos.checkpoint import write_tensors
from ase_ldos.files import PathLike, reading
from ase_ldos.model.distilled_potential import TENSORS, DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.thermal_correction import ThermalCorrection
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import make_point_features
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.torch_state import standard_torch_state

FORMAT = "ase-ldos model"
VERSION = 2
#: Of a file that holds a distilled potential as well.
VERSION_DISTILLED = 3
_DISTILLED = "distilled."
#: Of a file that holds a change of the free energy with the electronic temperature as well.
VERSION_THERMAL = 4
_THERMAL = "thermal_correction.weights"
#: Widest layer of a network that is read.
WIDEST = 65536
#: One folder for each model that comes with the package: its file, its card, how it was made.
BUNDLED = Path(__file__).parents[1] / "models"
#: Names in files of version 1, and today's.
_RENAMED_METADATA = {"smearing": "broadening", "novelty": "extrapolation"}
#: Tensors that a model has only once it is calibrated.
_OPTIONAL = {"extrapolation_mean", "extrapolation_whitening", "uncertainty_hidden", "uncertainty_energies"}
_RENAMED_TENSORS = {"novelty_mean": "extrapolation_mean", "novelty_whitening": "extrapolation_whitening"}


def save_model(model: LDOSModel, path: PathLike) -> None:
    """Write a model file; it appears complete or not at all."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "descriptor": model.descriptor.settings(),
        "network": model.network.settings(),
        "ldos_scale": model.ldos_scale,
        "metadata": asdict(model.metadata),
    }
    tensors = {name: value.contiguous().cpu() for name, value in model.state_dict().items()}
    # not a buffer of the model: energies stay float64 whatever the network's number type
    tensors["energies"] = model.energies.cpu()
    if model.distilled is not None:
        # an older version of the package, which would stumble over the tensors, is told by the number
        header |= {"version": VERSION_DISTILLED, "distilled": model.distilled.header()}
        tensors |= {f"{_DISTILLED}{name}": value for name, value in model.distilled.tensors().items()}
    if model.thermal_correction is not None:
        header |= {"version": VERSION_THERMAL, "thermal_correction": model.thermal_correction.header()}
        tensors[_THERMAL] = model.thermal_correction.weights.contiguous()
    write_tensors(Path(path), tensors, {"ase_ldos": json.dumps(header)})


@standard_torch_state()
def load_model(name: PathLike) -> LDOSModel:
    """Read a bundled model by its name (``"be"``) or a model file by its path.

    Raises:
        FileNotFoundError: neither a bundled model nor a file.
        ValueError: the file is damaged, not a model of this package, or of another version.
    """
    path = find_model(name)
    with reading(path, "a model of ase-ldos"):
        tensors, header = _read(path)
        _check(tensors, header)
        dtype = tensors["mean"].dtype
        known = {item.name for item in fields(ModelMetadata)}
        table = {key: value for key, value in header["metadata"].items() if key in known}
        cores = {symbol: CoreCharge.from_table(core) for symbol, core in table.pop("core_charges", {}).items()}
        model = LDOSModel(
            make_point_features(header["descriptor"]),
            MLP(**header["network"]).to(dtype),
            tensors.pop("energies"),
            ModelMetadata(**table, core_charges=cores),
            mean=tensors["mean"],
            projection=tensors["projection"],
            ldos_scale=header["ldos_scale"],
        ).to(dtype=dtype)
        for name in _OPTIONAL & set(tensors):
            setattr(model, name, tensors[name])
        if "distilled" in header:
            held = {name: tensors.pop(f"{_DISTILLED}{name}") for name in TENSORS}
            model.distilled = DistilledPotential.of(header["distilled"], held)
        if "thermal_correction" in header:
            weights = tensors.pop(_THERMAL).to(torch.float64)
            if weights.shape[1:] != (model.network.n_features + 1,):
                raise ValueError(f"the weights of its change with temperature have the shape {list(weights.shape)}")
            model.thermal_correction = ThermalCorrection(weights, **header["thermal_correction"])
        model.load_state_dict(tensors)
        return model.eval()


def list_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/model.safetensors"))


def find_model(name: PathLike) -> Path:
    """The file behind a bundled model's name or a path.

    Raises:
        FileNotFoundError: there is neither; the message lists the bundled models.
    """
    if isinstance(name, str) and name in list_models():
        return BUNDLED / name / "model.safetensors"
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no model file {name} and no bundled model of that name ({', '.join(list_models())})")
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a model file in today's names."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads((file.metadata() or {}).get("ase_ldos", "{}"))
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a model of ase-ldos")
    if header.get("version") == 1:
        metadata = dict(header.get("metadata", {}))
        header["metadata"] = {_RENAMED_METADATA.get(key, key): value for key, value in metadata.items()}
        return {_RENAMED_TENSORS.get(key, key): value for key, value in tensors.items()}, header
    if header.get("version") not in (VERSION, VERSION_DISTILLED, VERSION_THERMAL):
        raise ValueError(
            f"{path} has model format {header.get('version')}; this version of ase-ldos reads 1 to {VERSION_THERMAL}"
        )
    return tensors, header


def _check(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Refuse numbers that are not finite, and layers that the file does not hold before memory is taken for them.

    Raises:
        ValueError: the message says which.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"its tensor {name!r} has values that are not finite numbers")
    network, scale = header["network"], header["ldos_scale"]
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < math.inf:
        raise ValueError(f"its ldos_scale is {scale!r}; it must be a positive number")
    widths = [network["n_inputs"], *network["hidden"], network["n_outputs"]]
    if not all(isinstance(width, int) and 0 < width <= WIDEST for width in widths):
        raise ValueError(f"its layers have the widths {widths}; integers up to {WIDEST} are expected")
    held = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("network."))
    wanted = sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths[:-1]))
    if wanted > held:
        raise ValueError(f"its layers need {wanted} weights, the file holds {held}")
