"""The way back over the grid: the gradient of A in the hidden features, through network and descriptor to the atoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ase_ldos.geometry.buffers import add_rows
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.deviations import DeviationSums
from ase_ldos.prediction.free_energy_gradient import FreeEnergyGradient
from ase_ldos.prediction.grid_pass import GridEvaluator


def pull_back(
    evaluator: GridEvaluator,
    gradient: FreeEnergyGradient,
    *,
    strained: bool,
    deviations: DeviationSums | None = None,
) -> tuple[Tensor, Tensor]:
    """Forces −∂A/∂R, eV/Å, ``[atom, 3]``, and stress (1/V) ∂A/∂ε, eV/Å³, ``[3, 3]``, on the CPU.

    ∂A/∂h(r) = Wᵀa + λ(r) Wᵀb is made block by block; what the images of atoms get is added to their atoms, and where
    the features depend on layers on the atoms, what their states get is collected and pulled through these once.

    Args:
        evaluator: of the same request as the gradient.
        gradient: of the free energy.
        strained: follow points too; without it the stress holds only part of its terms and is of no use.
        deviations: is shown the hidden features of each block on the way.
    """
    stage = "strained forces" if strained else "forces"
    checkpoint, atom_state = evaluator.checkpoint, evaluator.atom_state
    state = checkpoint.stage(stage)
    device, model = evaluator.model.device, evaluator.model
    by_atoms = torch.zeros_like(gradient.positions, device=device)
    virial = torch.zeros_like(gradient.strain, device=device)
    by_state = torch.zeros_like(atom_state) if atom_state.is_floating_point() else torch.zeros(0)
    sums = {"gradient": by_atoms, "virial": virial, "by_state": by_state}
    if state:
        for name, target in sums.items():
            target.copy_(state[name])
    constant, varying = torch.stack((gradient.constant, gradient.varying)).to(device, model.dtype).unbind()
    for done, block in evaluator.blocks("forces", int(state.get("done", 0))):
        pull = torch.addcmul(constant, gradient.potential[block.flat, None].to(constant), varying)
        hidden, by_images, by_points, by_image_states = _pull_back_block(evaluator, block, pull, strained)
        if deviations is not None:
            deviations.add(block, hidden)
        add_rows(by_atoms, block.owners.flatten(), by_images)
        virial += block.atoms.flatten(end_dim=-2).double().T @ by_images
        if by_points is not None:
            virial += block.points.double().T @ by_points
        if by_image_states is not None:
            add_rows(by_state, block.owners.flatten(), by_image_states.flatten(end_dim=-2))
        checkpoint.write(stage, {"done": done, **sums})
    for total in sums.values():
        evaluator.communicator.all_reduce(total)
    # one transfer
    both = torch.cat((by_atoms, virial)).cpu()
    by_positions, by_strain = _pull_back_atom_state(evaluator, by_state)
    by_atoms = both[:-3] + gradient.positions + by_positions.cpu()
    virial = both[-3:] + gradient.strain + by_strain.cpu()
    return -by_atoms, (virial + virial.T) / (2 * evaluator.grid.volume)


def _pull_back_block(
    evaluator: GridEvaluator, block: Block | BlockBatch, pull: Tensor, strained: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """h, and derivatives of Σ pull · h in images, points (if ``strained``) and the images' states (if learned)."""
    walk = evaluator.walk
    if walk.graphs is not None and isinstance(block, BlockBatch):
        found = walk.run_graph(("derivatives", strained), _RECORDED[strained], block, (pull,))
    else:
        found = _derivatives(evaluator.model, block, walk.image_states(block), pull, strained)
    hidden, by_images, *others = found
    by_points = others.pop(0) if strained else None
    return hidden, by_images, by_points, others[0] if others else None


def _derivatives(
    model: LDOSModel, block: Block | BlockBatch, atom_state: Tensor | None, pull: Tensor, strained: bool
) -> tuple[Tensor, ...]:
    """The same, as far as they are wanted, from the images' states."""
    learned = atom_state is not None and atom_state.is_floating_point()
    atoms, points = block.atoms.detach().requires_grad_(), block.points.detach()
    leaves = [atoms]
    if strained:
        leaves.append(points.requires_grad_())
    if atom_state is not None and learned:
        atom_state = atom_state.detach().requires_grad_()
        leaves.append(atom_state)
    with torch.enable_grad():
        # points without a gradient are left the tensor that blocks of one shape share: a descriptor may know it
        moved = replace(block, atoms=atoms, points=points if strained else block.points)
        hidden = model.hidden(moved, atom_state)
    by_images, *others = torch.autograd.grad(hidden, leaves, pull)
    if strained:
        others[0] = others[0].double()
    return hidden.detach(), by_images.flatten(end_dim=-2).double(), *others


def _recorded(strained: bool) -> Callable[[LDOSModel, BlockBatch, Tensor | None, Tensor], tuple[Tensor, ...]]:
    """``_derivatives`` as a recording takes it: image states before what else there is."""

    def work(model: LDOSModel, batch: BlockBatch, atom_state: Tensor | None, pull: Tensor) -> tuple[Tensor, ...]:
        return _derivatives(model, batch, atom_state, pull, strained)

    return work


#: What is recorded, by whether points are followed too.
_RECORDED = {strained: _recorded(strained) for strained in (False, True)}


def _pull_back_atom_state(evaluator: GridEvaluator, by_state: Tensor) -> tuple[Tensor, Tensor]:
    """Through the layers on the atoms, once for all blocks: derivatives in positions and strain."""
    structure = evaluator.walk.structure
    if not len(by_state):
        return torch.zeros_like(structure.positions), torch.zeros_like(structure.cell)
    with torch.enable_grad():
        strain = torch.zeros_like(structure.cell, requires_grad=True)
        positions = structure.positions.detach().requires_grad_()
        atom_state = evaluator.model.encode_atoms(replace(structure, positions=positions).strained(strain))
        if not atom_state.requires_grad:  # no layers: nothing depends on where the atoms are
            return torch.zeros_like(positions), torch.zeros_like(strain)
        by_positions, by_strain = torch.autograd.grad(
            atom_state, (positions, strain), by_state, allow_unused=True, materialize_grads=True
        )
    return by_positions, by_strain
