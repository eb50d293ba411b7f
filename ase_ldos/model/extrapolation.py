"""How far the surroundings of atoms are from all that a model has learned: a distance, its threshold, a warning.

A network answers for any structure, also far from its training data, where the answer is a guess. What it knows of an
atom is its inputs x at the atom's place. Their mean m and covariance C over the atoms of the training structures give
Mahalanobis's distance (one m and C for each element)

    d = sqrt((x − m)ᵀ C⁻¹ (x − m) / n),    n: number of inputs,

about 1 for a typical training atom. How far off forces are at a distance is told by structures that were held back from
training and have DFT's forces: each component of the error is taken as Gaussian with the standard deviation

    σ_F(d) = F₁ d^p,

F₁ and p ≥ 0 those of the largest likelihood. The warning comes where σ_F passes a force error that the user accepts,
and at the latest beyond the largest d that was held back, where nothing is known. Looking takes one point per atom, of
some 500 grid points: 2 % of a prediction of 16 atoms.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.atom_blocks import iterate_atom_blocks
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.image_table import ImageTable
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.torch_state import standard_torch_state

#: A warning names at most so many atoms.
NAMED = 8


class ExtrapolationWarning(UserWarning):
    """Atoms have surroundings unlike any that the model has learned from; the message names them."""


class ExtrapolationWatch:
    """Warns of atoms beyond the threshold, once for the same set of atoms: once per run.

    Args:
        model: a model without calibration is never warned of.
        force_error: accepted, eV/Å; None: the threshold that was written by calibration.
    """

    def __init__(self, model: LDOSModel, force_error: float | None = None) -> None:
        self._model, self._force_error = model, force_error
        self._warned_of: Tensor | None = None

    def look(self, structure: Structure) -> None:
        """Warn (``ExtrapolationWarning``) if an atom is too far from the training data and nothing was said yet."""
        if not self._model.metadata.extrapolation:
            return
        if self._warned_of is not None and torch.equal(self._warned_of, structure.numbers):
            return
        distances = atom_distances(self._model, structure)
        threshold = warning_threshold(self._model.metadata, self._force_error)
        if bool((distances > threshold).any()):
            self._warned_of = structure.numbers
            text = describe(distances, structure, threshold, self._model.metadata)
            warnings.warn(text, ExtrapolationWarning, stacklevel=2)


def force_deviation(metadata: ModelMetadata, distances: Tensor) -> Tensor | None:
    """σ_F of atoms at distances ``[atom]`` from the training data, eV/Å; None if calibration had no forces."""
    ranges = metadata.extrapolation
    if "force_error_at_1" not in ranges:
        return None
    return ranges["force_error_at_1"] * distances ** ranges["force_error_power"]


def warning_threshold(metadata: ModelMetadata, force_error: float | None = None) -> float:
    """Distance beyond which atoms are warned of: where σ_F is ``force_error``, but none that nothing is known of.

    Args:
        metadata: of a calibrated model.
        force_error: accepted, eV/Å; None: what calibration was told.

    Raises:
        ValueError: a force error that is not positive, or of a model whose calibration had no forces.
    """
    ranges = metadata.extrapolation
    if force_error is None:
        return ranges["threshold"]
    force_error = float(force_error)
    if not 0 < force_error < np.inf:
        raise ValueError(f"the accepted force error is {force_error!r}; it must be a positive number of eV/Å")
    if "force_error_at_1" not in ranges:
        raise ValueError(
            f"the model {metadata.name!r} does not know how force errors grow with the distance from its training "
            "data; see `ase-ldos calibrate --help`"
        )
    power = ranges["force_error_power"]
    if power == 0:  # errors do not grow with the distance
        return ranges["largest"] if force_error > ranges["force_error_at_1"] else 0.0
    return min(ranges["largest"], float((force_error / ranges["force_error_at_1"]) ** (1 / power)))


def describe(distances: Tensor, structure: Structure, threshold: float, metadata: ModelMetadata) -> str:
    """The sentences of the warning: which atoms, where, how far.

    Args:
        distances: of the atoms, ``[atom]``.
        structure: the atoms.
        threshold: distance beyond which atoms are warned of.
        metadata: of the model.
    """
    order = torch.argsort(distances, descending=True)
    beyond = order[distances[order] > threshold].tolist()
    shown = ", ".join(map(str, beyond[:NAMED])) + (", ..." if len(beyond) > NAMED else "")
    centre = ", ".join(f"{x:.2f}" for x in structure.positions[beyond[0]].tolist())
    ranges, farthest = metadata.extrapolation, float(distances[beyond[0]])
    reach = ranges.get("largest", threshold)
    unlike = "unlike any" if farthest > reach else "far from those"
    deviation = force_deviation(metadata, distances[beyond[:1]])
    error = "" if deviation is None else _force_error_words(float(deviation[0]), farthest > reach)
    return (
        f"{len(beyond)} of {len(structure)} atoms have surroundings {unlike} that the model {metadata.name!r} has "
        f"learned from: atoms {shown}. The farthest is atom {beyond[0]} at ({centre}) Å with distance {farthest:.2f}"
        f"{error}; the warning begins at {threshold:.2f}, structures held back from training reach {reach:.2f}. "
        "Energies and forces may be wrong there; compare with DFT. This is said once per run; get_extrapolation() "
        "tells all atoms' distances."
    )


def _force_error_words(deviation: float, beyond: bool) -> str:
    """What the calibration says of the forces there."""
    words = f"{1000 * deviation:.0f} meV/Å"
    return f" (forces are off by {'more than ' if beyond else 'some '}{words} in each component)"


@standard_torch_state()
def atom_distances(model: LDOSModel, structure: Structure) -> Tensor:
    """Distance d of each atom's surroundings from the training data (see the module), float64 ``[atom]``, on the CPU.

    Raises:
        ValueError: the model carries no calibration, or foreign elements.
    """
    means, whitenings = model.extrapolation_mean, model.extrapolation_whitening
    if means is None or whitenings is None:
        raise ValueError(
            f"the model {model.metadata.name!r} does not know its training range; see `ase-ldos calibrate --help`"
        )
    species = species_indices(structure.numbers.cpu(), model.descriptor.species)
    shifted = atom_inputs(model, structure)
    distances = torch.empty(len(structure), dtype=torch.float64, device=model.device)
    for index, (mean, whitening) in enumerate(zip(means.double(), whitenings.double())):
        mine = (species == index).nonzero()[:, 0].to(model.device)
        if len(mine):
            distances[mine] = ((shifted[mine] - mean) @ whitening).square().mean(dim=1).sqrt()
    return distances.cpu()


@standard_torch_state()
def atom_inputs(model: LDOSModel, structure: Structure) -> Tensor:
    """The network's inputs at the atoms' places, float64 ``[atom, input]``, found box by box.

    A fixed descriptor is evaluated in float64: directions in which the training set hardly differs are scaled up so
    much that float32 would show the rounding of a box of this size. A graph network keeps its own number type.
    """
    dtype = model.dtype if model.descriptor.n_learned else torch.float64
    if model.device.type == "cuda" and isinstance(model.descriptor, BatchedFeatures):
        return _inputs_in_batches(model, model.descriptor, structure.to("cpu"), dtype)
    structure = structure.to(model.device)
    inputs = torch.empty(len(structure), model.network.n_inputs, dtype=torch.float64, device=model.device)
    with torch.no_grad():
        atom_state = model.encode_atoms(structure)
        for block in iterate_atom_blocks(structure, model.descriptor.cutoff, dtype=dtype):
            inputs[block.flat] = model.inputs(block, atom_state[block.owners]).double()
    return inputs


def _inputs_in_batches(
    model: LDOSModel, descriptor: BatchedFeatures, structure: Structure, dtype: torch.dtype
) -> Tensor:
    """The same on a GPU: each atom's place is a block of one point."""
    cell = structure.cell.double().numpy()
    fractional = structure.positions.double().numpy() @ np.linalg.inv(cell)
    table = ImageTable(
        structure,
        (fractional - np.floor(fractional)) @ cell,
        descriptor.batch_radii(dtype),
        kinds=species_indices(structure.numbers, descriptor.species).numpy(),
        n_kinds=len(descriptor.species),
        device=model.device,
    )
    point = torch.zeros(1, 3, dtype=dtype, device=model.device)
    parts = []
    with torch.no_grad():
        atom_state = model.encode_atoms(structure)
        for start in range(0, table.n_places, table.chunk):
            near = table.near(slice(start, start + table.chunk), dtype)
            flat = torch.arange(start, start + len(near.owners), device=model.device)
            states = atom_state[near.owners] if atom_state.is_floating_point() else None
            parts.append(model.inputs(BlockBatch(flat, point, near.vectors, near.owners, near.groups), states))
    return torch.cat(parts).double()
