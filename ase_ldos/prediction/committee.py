"""Standard deviations from several predictions of one structure: samples of a model's last layer, or other models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from ase_ldos.communicator import Communicator
from ase_ldos.model.last_layer import check_calibrated, sample_models
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.deviations import Uncertainty
from ase_ldos.prediction.predict import Prediction, fulfil_request
from ase_ldos.prediction.request import PredictionRequest
from ase_ldos.torch_state import standard_torch_state


@standard_torch_state()
def sampled_force_deviations(
    model: LDOSModel,
    request: PredictionRequest,
    n_samples: int,
    *,
    seed: int = 0,
    communicator: Communicator | None = None,
    progress: bool = False,
) -> Tensor:
    """Standard deviation of each force component over samples of the last layer, eV/Å, float64 ``[atom, 3]``.

    Each sample is a whole prediction with forces, through all of the physics, and costs as much.

    Args:
        model: calibrated.
        request: of the structure; what it wants besides forces is left out.
        n_samples: at least 2; the relative error of each deviation is about 1/√(2 (n_samples − 1)).
        seed: of the samples.
        communicator: as of ``predict``.
        progress: show a bar.

    Raises:
        ValueError: too few samples, or a model without calibrated forces.
    """
    check_calibrated(model)
    if n_samples < 2:
        raise ValueError(f"{n_samples} samples have no standard deviation; take 2 or more")
    if "forces" not in model.metadata.uncertainty:
        raise ValueError(f"the model {model.metadata.name!r} was calibrated without forces; see `ase-ldos calibrate`")
    scale = model.metadata.uncertainty["forces"]
    request = replace(request, forces=True, stress=False, uncertainty=False)
    samples = sample_models(model, n_samples, scale=SMALL, seed=seed)
    bar = tqdm(samples, "samples", total=n_samples, delay=2, disable=not progress)
    forces = [fulfil_request(sample, request, communicator=communicator).forces for sample in bar]
    return torch.stack([force for force in forces if force is not None]).std(dim=0) * (scale / SMALL)


#: Samples deviate by this part of the raw posterior, and what they find is scaled up: forces respond linearly.
SMALL = 0.3


def committee_deviations(predictions: Sequence[Prediction]) -> Uncertainty:
    """Standard deviations over the predictions of several models, not calibrated: they share what all get wrong.

    Args:
        predictions: of one structure on one grid and energy grid, at least two.

    Raises:
        ValueError: fewer than two, or grids that differ.
    """
    if len(predictions) < 2:
        raise ValueError(f"a committee of {len(predictions)} has no standard deviation; take 2 or more models")
    first = predictions[0]
    if any(item.density.shape != first.density.shape or item.dos.shape != first.dos.shape for item in predictions):
        raise ValueError("the predictions of a committee must share their grid and their energies")
    forces = [item.forces for item in predictions if item.forces is not None]
    return Uncertainty(
        free_energy=_deviation([item.free_energy for item in predictions]),
        fermi_level=_deviation([item.fermi_level for item in predictions]),
        dos=torch.stack([item.dos for item in predictions]).std(dim=0),
        density=torch.stack([item.density for item in predictions]).std(dim=0),
        forces=torch.stack(forces).std(dim=0) if len(forces) == len(predictions) else None,
    )


def _deviation(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).std())
