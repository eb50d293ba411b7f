"""Snapshots made ready for training: inputs, their derivatives and labels as tensors, evaluated once.

The descriptor and the scaler do not change during training. So a step needs neither: the network's inputs at all grid
points and their derivatives in positions and strain are computed once, and forces are the product of the Jacobian
with ∂A/∂(inputs). The Jacobian is the bulk of the memory, (3 atoms + 6) · points · inputs numbers, so it is kept in
half precision: a force is a sum over some 10⁶ of them, in which their rounding averages out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from tqdm import tqdm

from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.protocol import FixedFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.gap import find_gap
from ase_ldos.physics.occupation import number_weights
from ase_ldos.training.input_files import InputFiles, input_key
from ase_ldos.units import BOLTZMANN

#: Points of a block while Jacobians are built: their moments in float64 should stay in the cache.
_JACOBIAN_BLOCK = 256


@dataclass(frozen=True)
class Labels:
    """What DFT says; ``None`` where it is not known.

    Attributes:
        free_energy: A, eV.
        forces: eV/Å, float64 ``[atom, 3]``.
        stress: eV/Å³, float64 ``[6]`` in Voigt order.
        density: e/Å³, float64 ``[grid]``.
        ldos: 1/(eV Å³), float32 ``[grid, energy]`` on the model's energies; NaN above those that DFT knows.
        dos: 1/eV, float64 ``[energy]``, NaN likewise.
        level_weights: w of N = Σ w D, the electrons below DFT's level: the middle of the gap where the DOS shows one,
            the Fermi level where not; float64 ``[energy]``.
        electrons: this number for DFT's own DOS, of the model's width.
    """

    free_energy: float | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None
    density: Tensor | None = None
    ldos: Tensor | None = None
    dos: Tensor | None = None
    level_weights: Tensor | None = None
    electrons: float | None = None

    def to(self, device: torch.device) -> Labels:
        """The labels on a device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)}
        return replace(self, **moved)


@dataclass(frozen=True)
class TrainingSnapshot:
    """One structure with everything that a training step needs.

    Attributes:
        name: of the snapshot.
        group: see ``Snapshot``.
        structure: the atoms.
        grid: of inputs and labels.
        inputs: the network's inputs, float32 ``[grid, input]``.
        jacobian: ∂inputs/∂(R, ε), ``[3 atom + 6, grid · input]``; ``None`` if forces are not trained on.
        n_electrons: valence electrons.
        temperature: electronic, K.
        ewald: energy of the ions, eV.
        ewald_slope: its derivatives in (R, ε), float64 ``[3 atom + 6]``.
        labels: what DFT says.
    """

    name: str
    group: str
    structure: Structure
    grid: Grid
    inputs: Tensor
    jacobian: Tensor | None
    n_electrons: float
    temperature: float
    ewald: float
    ewald_slope: Tensor
    labels: Labels

    def to(self, device: torch.device) -> TrainingSnapshot:
        """The snapshot on a device. All of them stay on the CPU, a step takes what it needs to the model's device."""
        if self.inputs.device == device:
            return self
        structure = self.structure.to(device)
        jacobian = None if self.jacobian is None else self.jacobian.to(device)
        return replace(
            self,
            structure=structure,
            grid=Grid(structure.cell, self.grid.shape),
            inputs=self.inputs.to(device),
            jacobian=jacobian,
            ewald_slope=self.ewald_slope.to(device),
            labels=self.labels.to(device),
        )


@dataclass(frozen=True)
class Scaler:
    """Principal components of the descriptor's features: inputs = (x − mean) · projection.

    Attributes:
        mean: float64 ``[feature]``.
        projection: float64 ``[feature, input]``.
    """

    mean: Tensor
    projection: Tensor


def snapshot_grid(snapshot: Snapshot, structure: Structure, spacing: float) -> Grid:
    """The grid of the snapshot's density or LDOS, or, without either, one of the given spacing (Å)."""
    if snapshot.shape is None:
        return Grid.with_spacing(structure.cell, spacing)
    return Grid(structure.cell, snapshot.shape)


def all_features(descriptor: FixedFeatures, structure: Structure, grid: Grid) -> Tensor:
    """Features of all grid points, float64 ``[grid, feature]``."""
    features = torch.empty(grid.n_points, descriptor.n_features, dtype=torch.float64)
    with torch.no_grad():
        atom_state = descriptor.encode_atoms(structure)
        for block in iterate_blocks(structure, grid, descriptor.cutoff):
            features[block.flat] = descriptor(block.points, block.atoms, atom_state[block.owners])
    return features


def fit_scaler(
    descriptor: FixedFeatures,
    snapshots: Sequence[Snapshot],
    n_inputs: int,
    *,
    floor: float = 1e-4,
    spacing: float = 0.25,
    progress: bool = True,
) -> Scaler:
    """Principal components of the standardised features, each divided by √(variance + floor).

    Features of neighbouring bells are nearly collinear; without the floor the whitening would blow up directions
    that hold nothing but rounding.

    Raises:
        ValueError: more inputs than features, or no snapshots.
    """
    if not snapshots or not 0 < n_inputs <= descriptor.n_features:
        raise ValueError(
            f"{len(snapshots)} snapshots and {n_inputs} inputs; needed are at least one snapshot and between 1 and "
            f"{descriptor.n_features} inputs"
        )
    count, total = 0, torch.zeros(descriptor.n_features, dtype=torch.float64)
    square = torch.zeros(descriptor.n_features, descriptor.n_features, dtype=torch.float64)
    for snapshot in tqdm(snapshots, desc="scaler", disable=not progress):
        structure = snapshot.structure
        features = all_features(descriptor, structure, snapshot_grid(snapshot, structure, spacing))
        count, total, square = count + len(features), total + features.sum(0), square + features.T @ features
    mean = total / count
    covariance = square / count - torch.outer(mean, mean)
    width = covariance.diagonal().clamp(min=1e-30).sqrt()
    variance, vectors = torch.linalg.eigh(covariance / torch.outer(width, width))
    variance, vectors = variance.flip(0)[:n_inputs], vectors.flip(1)[:, :n_inputs]
    return Scaler(mean, vectors / (variance.clamp(min=0) + floor).sqrt() / width[:, None])


def prepare_snapshot(
    snapshot: Snapshot,
    descriptor: FixedFeatures | None,
    scaler: Scaler,
    charges: dict[int, float],
    *,
    energies: np.ndarray,
    broadening: float,
    level_constants: Mapping[str, float] | None = None,
    spacing: float = 0.25,
    jacobian: torch.dtype | None = torch.float16,
    files: InputFiles | None = None,
) -> TrainingSnapshot:
    """Evaluate inputs, Jacobian and Ewald terms of a snapshot, and bring its labels onto the model's energies.

    Args:
        snapshot: structure and labels.
        descriptor: fixed features of the model; ``None`` if all are learned, which gives zero inputs.
        scaler: of these features.
        charges: valence charge by atomic number.
        energies: the model's nodes, eV.
        broadening: σ of the model's LDOS, eV; the data must not be broader.
        level_constants: of the model, eV Å³: labels are brought onto ``energies`` + Σ_a c_a/Ω.
        spacing: of the grid where the snapshot has none, Å.
        jacobian: its precision; ``None`` leaves it out, and with it forces and stress.
        files: where inputs and Jacobian are looked for and kept; ``None``: in memory alone.

    Raises:
        ValueError: data broader than the model's broadening, elements without charge.
    """
    structure = snapshot.structure
    grid = snapshot_grid(snapshot, structure, spacing)
    make = partial(_inputs, descriptor, scaler, structure, grid, jacobian)
    if files is None or descriptor is None:
        inputs, slopes = make()
    else:
        inputs, slopes = files.get(
            input_key(descriptor, scaler.mean, scaler.projection, structure, grid, jacobian), make
        )
    unknown = sorted({int(n) for n in snapshot.numbers} - charges.keys())
    if unknown:
        raise ValueError(f"{snapshot.name}: atomic number {unknown[0]} has no valence charge in the settings")
    charge = torch.tensor([charges[int(n)] for n in snapshot.numbers], dtype=torch.float64)
    ewald, ewald_slope = _ewald(structure, charge)
    symbols = (chemical_symbols[int(number)] for number in snapshot.numbers)
    shift = sum((level_constants or {}).get(symbol, 0.0) for symbol in symbols) / float(structure.volume)
    return TrainingSnapshot(
        name=snapshot.name,
        group=snapshot.group,
        structure=structure,
        grid=grid,
        inputs=inputs,
        jacobian=slopes,
        n_electrons=float(charge.sum()),
        temperature=_temperature(snapshot),
        ewald=ewald,
        ewald_slope=ewald_slope,
        labels=_with_electrons(
            _labels(snapshot, energies + shift, broadening), snapshot, energies + shift, broadening, float(charge.sum())
        ),
    )


def prepare_snapshots(
    snapshots: Iterable[Snapshot],
    descriptor: FixedFeatures | None,
    scaler: Scaler,
    charges: dict[int, float],
    *,
    progress: bool = True,
    files: InputFiles | None = None,
    **options: Any,  # noqa: ANN401 - those of prepare_snapshot
) -> list[TrainingSnapshot]:
    """``prepare_snapshot`` of each, with a progress bar; ``options`` are its other keyword arguments."""
    waiting = list(snapshots)
    places = range(len(waiting)) if files is None else files.order(len(waiting))
    prepared = {
        place: prepare_snapshot(waiting[place], descriptor, scaler, charges, files=files, **options)
        for place in tqdm(places, desc="descriptors", disable=not progress)
    }
    return [prepared[place] for place in range(len(waiting))]


class JacobianProduct(torch.autograd.Function):
    """J x for a J in low precision that is never widened as a whole, differentiable once, in x.

    Args:
        jacobian: J, ``[row, column]``; a constant.
        vector: x, ``[column]``; the product is in its precision.
    """

    #: Columns that are widened at once; with some 50 rows they fit into the cache.
    COLUMNS = 16384

    @staticmethod
    def forward(ctx: FunctionCtx, jacobian: Tensor, vector: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(jacobian)
        parts = zip(jacobian.split(JacobianProduct.COLUMNS, dim=1), vector.split(JacobianProduct.COLUMNS))
        return torch.stack([part.to(vector) @ piece for part, piece in parts]).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[None, Tensor]:  # noqa: D102
        (jacobian,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, torch.cat([slope @ part.to(slope) for part in jacobian.split(JacobianProduct.COLUMNS, dim=1)])


def voigt(matrix: Tensor) -> Tensor:
    """Components xx yy zz yz xz xy of a symmetric matrix ``[3, 3]``."""
    return matrix.flatten()[[0, 4, 8, 5, 2, 1]]


def _inputs(
    descriptor: FixedFeatures | None, scaler: Scaler, structure: Structure, grid: Grid, jacobian: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    n_inputs = scaler.projection.shape[1]
    inputs = torch.empty(grid.n_points, n_inputs)
    slopes = None
    if jacobian is not None:
        slopes = torch.empty(3 * len(structure) + 6, grid.n_points, n_inputs, dtype=jacobian)
    if descriptor is None:
        return inputs, None if slopes is None else slopes.flatten(1)
    with torch.no_grad():
        atom_state = descriptor.encode_atoms(structure)
        for block in iterate_blocks(structure, grid, descriptor.cutoff, max_points=_JACOBIAN_BLOCK):
            features = descriptor(block.points, block.atoms, atom_state[block.owners])
            inputs[block.flat] = ((features - scaler.mean) @ scaler.projection).float()
            if slopes is not None:
                part = descriptor.jacobian(block, atom_state[block.owners], len(structure)) @ scaler.projection
                slopes[:, block.flat] = part.permute(1, 0, 2).to(jacobian)
    return inputs, None if slopes is None else slopes.flatten(1)


def _ewald(structure: Structure, charges: Tensor) -> tuple[float, Tensor]:
    """Energy of the ions and its derivatives in (R, ε)."""
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    positions = structure.positions.clone().requires_grad_()
    energy = ewald_energy(replace(structure, positions=positions).strained(strain), charges)
    by_positions, by_strain = torch.autograd.grad(energy, (positions, strain))
    return float(energy.detach()), torch.cat((by_positions.flatten(), voigt((by_strain + by_strain.T) / 2)))


def _labels(snapshot: Snapshot, energies: np.ndarray, broadening: float) -> Labels:
    def widened(values: np.ndarray | None) -> Tensor | None:
        if values is None or snapshot.energies is None:
            return None
        found, known = on_model_energies(snapshot, values, energies, broadening)
        label = torch.full((*found.shape[:-1], len(energies)), torch.nan, dtype=torch.as_tensor(found).dtype)
        label[..., :known] = torch.as_tensor(found)
        return label

    ldos = widened(snapshot.ldos)
    if ldos is not None:
        ldos = ldos.reshape(-1, len(energies)) * float(snapshot.ldos_scale or 1.0)
    dos = widened(snapshot.dos)
    as_double = lambda array: None if array is None else torch.tensor(np.asarray(array, dtype=float))  # noqa: E731
    density, stress = as_double(snapshot.density), as_double(snapshot.stress)
    return Labels(
        free_energy=None if snapshot.free_energy is None else float(snapshot.free_energy),
        forces=as_double(snapshot.forces),
        stress=None if stress is None else voigt(stress),
        density=None if density is None else density.flatten(),
        ldos=ldos,
        dos=None if dos is None else dos.double(),
    )


def _temperature(snapshot: Snapshot) -> float:
    return 300.0 if snapshot.electronic_temperature is None else float(snapshot.electronic_temperature)


def _with_electrons(
    labels: Labels, snapshot: Snapshot, energies: np.ndarray, broadening: float, n_electrons: float
) -> Labels:
    """The labels with the number of electrons below DFT's level, where its DOS is known beyond that level."""
    if labels.dos is None:
        return labels
    known = int(labels.dos.isfinite().sum())
    counted = count_electrons(labels.dos[:known], torch.as_tensor(energies), snapshot, broadening, n_electrons)
    return labels if counted is None else replace(labels, level_weights=counted[0], electrons=counted[1])


def count_electrons(
    dos: Tensor, energies: Tensor, snapshot: Snapshot, broadening: float, n_electrons: float
) -> tuple[Tensor, float] | None:
    """Electrons below DFT's level: the middle of the gap where its DOS shows one, the Fermi level where not.

    The number follows the states smoothly, where the level itself jumps with them: ∂μ/∂N = 1/D(μ).

    Args:
        dos: DFT's, of width ``broadening``, 1/eV, ``[known]``.
        energies: nodes of the energy grid, of which the DOS knows the first, eV, ``[energy]``.
        snapshot: whose DOS this is.
        broadening: eV.
        n_electrons: valence electrons.

    Returns:
        Weights w of N = Σ w D, ``[energy]``, and N; None where the DOS ends too close to the level.
    """
    nodes = energies[: len(dos)]
    try:
        gap = find_gap(dos, nodes, n_electrons, len(snapshot), broadening)
    except ValueError:  # the known energies end among the states about the last electron
        return None
    level = snapshot.fermi_level if snapshot.fermi_level_dense is None else snapshot.fermi_level_dense
    if gap.resolved or level is None:
        level = gap.middle
    kT = BOLTZMANN * _temperature(snapshot)
    if level + 10 * kT > float(nodes[-1]):
        return None
    weights = number_weights(energies, level, kT)[0]
    return weights, float(weights[: len(dos)] @ dos)
