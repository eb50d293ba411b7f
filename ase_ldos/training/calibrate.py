"""The range of a model's training data, and the threshold of its warning; see ``ase_ldos.model.extrapolation``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols
from scipy.optimize import minimize_scalar
from tqdm import tqdm

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.extrapolation import atom_distances, atom_inputs, warning_threshold
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.training.evaluate import check_elements

logger = logging.getLogger(__name__)

#: Forces that differ from their labels by less than this, eV/Å, do not differ: no DFT label is as exact.
EXACT = 1e-5
#: The warning begins where forces are so many times as wrong as over all held-back atoms, unless told otherwise.
TOLERANCE = 2.0
#: Variances below this part of the largest count as this: directions in which the training set hardly differs.
VARIANCE_FLOOR = 1e-5


@standard_torch_state()
def calibrate(
    model: LDOSModel,
    training: Sequence[Snapshot],
    held_back: Sequence[Snapshot],
    *,
    force_error: float | None = None,
    progress: bool = True,
) -> None:
    """Find the range of the training data and the threshold, and store both in the model (save it afterwards).

    Args:
        model: trained on ``training``.
        training: structures whose atoms define mean and covariance.
        held_back: structures that define the threshold, by their forces if they have labels of them.
        force_error: accepted, eV/Å: the warning begins at the distance where forces are as wrong; default: where they
            are ``TOLERANCE`` times as wrong as over all held-back atoms.
        progress: show a bar.

    Raises:
        ValueError: no held-back or no training structures, an element of the model that the training structures lack,
            one that the model does not know, or a force error that is not positive, or for which there are no forces or
            only such that the model meets to ``EXACT``.
    """
    if not held_back:
        raise ValueError("no structure is held back; the threshold needs at least one")
    if not training:
        raise ValueError("every structure is held back; the range needs some to learn from")
    check_elements(model, (*training, *held_back))
    structures = [Structure.from_arrays(item.numbers, item.positions, item.cell) for item in (*training, *held_back)]
    bar = tqdm(structures[: len(training)], desc="training range", disable=not progress)
    inputs = torch.cat([atom_inputs(model, structure).cpu() for structure in bar])
    numbers = torch.cat([structure.numbers for structure in structures[: len(training)]])
    species = species_indices(numbers, model.descriptor.species)
    means, whitenings = [], []
    before = model.extrapolation_mean, model.extrapolation_whitening
    for index in range(len(model.descriptor.species)):
        own = inputs[species == index]
        if len(own) < 2 and before[0] is not None and before[1] is not None and index < len(before[0]):
            # a fine-tuned model: what it learned of this element it learned before, with the same inputs
            means.append(before[0][index].double())
            whitenings.append(before[1][index].double())
            continue
        if len(own) < 2:
            symbol = chemical_symbols[model.descriptor.species[index]]
            raise ValueError(f"the training data have {len(own)} atoms of {symbol}; its range needs 2 or more")
        means.append(own.mean(dim=0))
        variances, axes = torch.linalg.eigh(torch.cov(own.T))
        whitenings.append(axes / variances.clamp(min=VARIANCE_FLOOR * variances[-1]).sqrt())
    model.extrapolation_mean = torch.stack(means).to(model.mean)
    model.extrapolation_whitening = torch.stack(whitenings).to(model.mean)
    bar = tqdm(structures[len(training) :], desc="threshold", disable=not progress)
    distances = [atom_distances(model, structure).cpu().numpy() for structure in bar]
    largest = [float(own.max()) for own in distances]
    found = {"threshold": max(largest), "largest": max(largest), "median": float(np.median(largest))}
    found["structures"] = float(len(largest))
    found |= _force_error_law(model, distances, held_back, force_error, progress)
    model.metadata = replace(model.metadata, extrapolation=found)
    if "force_error" in found:
        threshold = warning_threshold(model.metadata, found["force_error"])
        model.metadata = replace(model.metadata, extrapolation=found | {"threshold": threshold})


def _force_error_law(
    model: LDOSModel,
    distances: Sequence[np.ndarray],
    held_back: Sequence[Snapshot],
    accepted: float | None,
    progress: bool,
) -> dict[str, float]:
    """How force errors grow with the distance, and which are accepted; empty where no labels tell."""
    labelled = [(own, item) for own, item in zip(distances, held_back, strict=True) if item.forces is not None]
    reason = "no held-back structure has forces, by which a force error could be told"
    if labelled:
        bar = tqdm(labelled, desc="force errors", disable=not progress)
        errors = np.concatenate([_force_errors(model, item) for _, item in bar])
        if float(np.abs(errors).max()) >= EXACT:
            scale, power = fit_force_error(np.concatenate([own for own, _ in labelled]), errors)
            usual = TOLERANCE * float(np.sqrt(np.mean(errors**2)))
            law = {"force_error_at_1": scale, "force_error_power": power}
            return law | {"force_error": usual if accepted is None else accepted}
        # labels that this model, or one that it was taught by exactly, made
        reason = (
            f"the forces of all {len(labelled)} held-back structures are those of their labels to {EXACT:g} eV/Å, as "
            "where a model made the labels; how force errors grow cannot be told from them"
        )
        logger.warning("%s, so the warning begins at the largest distance among them", reason)
    if accepted is not None:
        raise ValueError(reason)
    return {}


def _force_errors(model: LDOSModel, item: Snapshot) -> np.ndarray:
    """Predicted minus DFT's forces, eV/Å, ``[atom, 3]``."""
    assert item.forces is not None
    structure = Structure.from_arrays(item.numbers, item.positions, item.cell, device=model.device)
    temperature = item.electronic_temperature
    found = predict(model, structure, forces=True, grid_shape=item.shape, electronic_temperature=temperature)
    assert found.forces is not None
    return found.forces.cpu().numpy() - item.forces


def fit_force_error(distances: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """F₁ and p of σ_F(d) = F₁ d^p, those of the largest likelihood with p ≥ 0.

    At given p the best F₁ is √(mean of |ΔF|²/(3 d^2p)); −ln likelihood is 3 n (ln F₁ + p mean(ln d)) plus a constant.

    Args:
        distances: d, ``[atom]``.
        errors: ΔF, eV/Å, ``[atom, 3]``.
    """
    logarithms = np.log(np.maximum(distances, 1e-6))
    squares = np.maximum(np.mean(errors**2, axis=1), 1e-24)

    def scale(power: float) -> float:
        return float(np.sqrt(np.mean(squares * np.exp(-2 * power * logarithms))))

    def cost(power: float) -> float:
        return float(np.log(scale(power)) + power * logarithms.mean())

    power = float(minimize_scalar(cost, bounds=(0.0, 6.0), method="bounded").x)
    power = power if cost(power) < cost(0.0) and power > 1e-3 else 0.0
    return scale(power), power
