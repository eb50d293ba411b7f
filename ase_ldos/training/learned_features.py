"""Features that are learned: evaluated anew in every step, beside the fixed ones that were prepared once.

A graph network may begin its features with a fixed power spectrum. That part is prepared like that of any other model,
with its Jacobian (``training.batches``); the rest depends on weights, and its forces come by automatic differentiation
through readout and atom layers. So both kinds of models share losses, loop and physics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.networks.mlp import MLP
from ase_ldos.training.precompute import Scaler, snapshot_grid

#: Points of a block: fewer mean more calls than work, more mean that each point meets more atoms in vain.
BLOCK = 1024


def fixed_scaler(model: LDOSModel) -> Scaler:
    """The scaler of the fixed features alone.

    Raises:
        ValueError: an input that depends on features of both kinds.
    """
    features = model.descriptor
    n_fixed, n_inputs = features.n_features - features.n_learned, model.network.n_inputs - features.n_learned
    if n_inputs < 0 or model.projection[:n_fixed, n_inputs:].any() or model.projection[n_fixed:, :n_inputs].any():
        raise ValueError("the inputs of this model mix fixed and learned features; only separate ones can be trained")
    return Scaler(model.mean[:n_fixed].double(), model.projection[:n_fixed, :n_inputs].double())


def whole_scaler(
    features: PointFeatures, fixed: Scaler, snapshots: Sequence[Snapshot], spacing: float = 0.25
) -> Scaler:
    """The scaler of all features: learned ones are centred and divided by their width under the initial weights."""
    if not features.n_learned:
        return fixed
    parts = []
    with torch.no_grad():
        for snapshot in snapshots:
            structure = snapshot.structure
            atom_state = features.encode_atoms(structure)
            for block in _blocks(features, structure, snapshot_grid(snapshot, structure, spacing), atom_state.dtype):
                parts.append(features.learned(block.points, block.atoms, atom_state[block.owners]).double())
    values = torch.cat(parts)
    width = values.std(dim=0).clamp(min=1e-6)
    projection = torch.block_diag(fixed.projection, torch.diag(1 / width))
    return Scaler(torch.cat((fixed.mean, values.mean(dim=0))), projection)


def graft(start: MLP, network: MLP) -> None:
    """Let a network with more inputs compute what ``start`` computes: the weights of inputs that come last are zero.

    Args:
        start: the smaller network, of the same hidden layers and outputs.
        network: the larger one, which is set.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            old = start.get_parameter(name)
            parameter.zero_()
            parameter[tuple(slice(size) for size in old.shape)] = old.to(parameter)


def complete_inputs(model: LDOSModel, fixed: Tensor, structure: Structure, grid: Grid) -> Tensor:
    """The network's inputs at all points of a grid, ``[grid, input]``, differentiable in structure and grid.

    Args:
        model: a fixed descriptor's inputs are complete already.
        fixed: inputs of the fixed features, ``[grid, fixed input]``.
        structure: the atoms.
        grid: of the points.
    """
    features = model.descriptor
    if not features.n_learned:
        return fixed
    atom_state = model.encode_atoms(structure)
    blocks = list(_blocks(features, structure, grid, model.dtype))
    learned = torch.cat([_learned_inputs(model, block, atom_state[block.owners]) for block in blocks])
    order = torch.cat([block.flat for block in blocks]).argsort()
    return torch.cat((fixed, learned[order]), dim=1)


def complete_inputs_at(model: LDOSModel, fixed: Tensor, structure: Structure, grid: Grid, flat: Tensor) -> Tensor:
    """The same at points scattered over the grid.

    Args:
        model: as above.
        fixed: inputs of the fixed features at these points, ``[point, fixed input]``.
        structure: the atoms.
        grid: of the points.
        flat: numbers of the points, int64 ``[point]``.
    """
    features = model.descriptor
    if not features.n_learned:
        return fixed
    points = grid.points(flat)
    centre = points.mean(dim=0)
    reach = features.cutoff + float((points - centre).norm(dim=1).max()) + 1e-6
    images = Images(structure, reach)
    near = images.near(centre, reach)
    owners = images.atoms[near]
    atoms = images.positions[near]
    block = Block(flat, (points - centre).to(model.dtype), (atoms - centre).to(model.dtype), owners)
    return torch.cat((fixed, _learned_inputs(model, block, model.encode_atoms(structure)[owners])), dim=1)


def _blocks(features: PointFeatures, structure: Structure, grid: Grid, dtype: torch.dtype) -> Iterator[Block]:
    return iterate_blocks(structure, grid, features.cutoff, max_points=BLOCK, dtype=dtype)


def _learned_inputs(model: LDOSModel, block: Block, atom_state: Tensor) -> Tensor:
    learned = model.descriptor.learned(block.points, block.atoms, atom_state)
    n_learned = model.descriptor.n_learned
    return (learned - model.mean[-n_learned:]) @ model.projection[-n_learned:, -n_learned:]
