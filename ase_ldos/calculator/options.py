"""What an ``LDOSCalculator`` is made of, checked: its model and its parameters."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from ase.calculators.calculator import CalculatorSetupError

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.power_spectrum.triton_kernel import check_triton
from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.devices import find_device
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.prediction.batch_graphs import BatchGraphs
from ase_ldos.torch_state import standard_torch_state


@standard_torch_state()
def prepare_model(
    model: str | Path | LDOSModel, device: str | torch.device, dtype: str | torch.dtype | None, kernels: str = "torch"
) -> LDOSModel:
    """The calculator's own model where and how it is wanted.

    Raises:
        CalculatorSetupError: there is no such model, or the device, number type or kernels are not available.
    """
    if isinstance(model, LDOSModel):
        own = copy.deepcopy(model)
    else:
        try:
            own = load_model(model)
        except (OSError, ValueError) as error:
            raise CalculatorSetupError(str(error)) from error
    number_type = own.dtype if dtype is None else _find_dtype(dtype)
    try:
        own = own.to(device=find_device(device), dtype=number_type)
    except ValueError as error:
        raise CalculatorSetupError(str(error)) from error
    except (RuntimeError, AssertionError) as error:
        raise CalculatorSetupError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
    _choose_kernels(own, kernels)
    return own.eval().requires_grad_(False)


def _choose_kernels(model: LDOSModel, kernels: str) -> None:
    if kernels not in ("torch", "triton"):
        raise CalculatorSetupError(f"kernels is {kernels!r}; it must be torch or triton")
    descriptor = model.descriptor
    if isinstance(descriptor, PowerSpectrum | CompressedPowerSpectrum):
        descriptor.kernels = kernels
    elif kernels == "triton":
        raise CalculatorSetupError('kernels="triton" is for models with a power spectrum; this one has other features')
    if kernels == "triton":
        try:
            check_triton(model.device)
        except ValueError as error:
            raise CalculatorSetupError(str(error)) from error


def make_graphs(model: LDOSModel) -> BatchGraphs:
    """Recordings of a model's batches, still without any.

    Raises:
        CalculatorSetupError: the model is on no GPU, or its descriptor knows no batches.
    """
    if model.device.type != "cuda":
        raise CalculatorSetupError(f"cuda_graphs=True needs a CUDA device; the model is on {model.device}")
    if not isinstance(model.descriptor, BatchedFeatures) or model.descriptor.waits:
        raise CalculatorSetupError(
            "cuda_graphs=True is for descriptors of fixed shapes in batches; this one has others"
        )
    return BatchGraphs()


def _find_dtype(dtype: str | torch.dtype) -> torch.dtype:
    found = {str(known).removeprefix("torch."): known for known in (torch.float32, torch.float64)}
    name = str(dtype).removeprefix("torch.")
    if name not in found:
        raise CalculatorSetupError(f"dtype is {dtype!r}; it must be float32 or float64")
    return found[name]


def check_parameter(name: str, value: object) -> float | int:
    """The value as a plain number.

    Raises:
        CalculatorSetupError: an unknown name or a value out of range.
    """
    units = {"electronic_temperature": " K", "grid_spacing": " Å", "chunk_size": " grid points"}
    if name in ("cutoff", "atom_cutoff", "lmax"):
        raise CalculatorSetupError(
            f"{name!r} cannot be set: a model keeps what it was trained with; take another model"
        )
    if name not in units:
        raise CalculatorSetupError(
            f"{name!r} cannot be set; {', '.join(units)} can, for anything else make a new LDOSCalculator"
        )
    number = 0.0
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
    if not 0 < number < np.inf:
        raise CalculatorSetupError(f"{name} is {value!r}; it must be a positive number of{units[name]}")
    if name != "chunk_size":
        return number
    if number != int(number):
        raise CalculatorSetupError(f"chunk_size is {value!r}; it must be a whole number of grid points")
    return int(number)
