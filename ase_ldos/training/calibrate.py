"""The range of a model's training data, and the threshold of its warning; see ``ase_ldos.model.extrapolation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import chemical_symbols
from tqdm import tqdm

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.extrapolation import atom_distances, atom_inputs
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.training.evaluate import check_elements

#: Variances below this part of the largest count as this: directions in which the training set hardly differs.
VARIANCE_FLOOR = 1e-5


@standard_torch_state()
def calibrate(
    model: LDOSModel, training: Sequence[Snapshot], held_back: Sequence[Snapshot], *, progress: bool = True
) -> None:
    """Find the range of the training data and the threshold, and store both in the model (save it afterwards).

    Args:
        model: trained on ``training``.
        training: structures whose atoms define mean and covariance.
        held_back: structures that define the threshold.
        progress: show a bar.

    Raises:
        ValueError: no held-back or no training structures, an element of the model that the training structures lack,
            or one that the model does not know.
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
    largest = [float(atom_distances(model, structure).max()) for structure in bar]
    found = {"threshold": max(largest), "median": float(np.median(largest)), "structures": float(len(largest))}
    model.metadata = replace(model.metadata, extrapolation=found)
