"""Sums over the grid, block by block: hidden features and density on the way out, forces and stress on the way back.

The density needs μ, and μ needs the whole grid. On small grids the hidden features are kept until μ is known. On large
ones the density is found at several levels about a guess of μ in the same walk, and interpolated to μ; the guess comes
from the last step of a run or from a sample of the blocks, and where it was too far off the walk is repeated.
Each rank of a communicator walks over its share of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.buffers import empty_in_huge_pages, sum_rows
from ase_ldos.geometry.grid import Box, Grid
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.occupation import number_weights
from ase_ldos.prediction.checkpointing import Journal
from ase_ldos.prediction.fermi_level_interpolation import LevelInterpolation
from ase_ldos.prediction.free_energy_gradient import Adjoint

#: Hidden features are kept until μ is known up to this many bytes.
KEEP_BYTES = 512 * 2**20
#: Largest part of the electrons that the interpolation may misplace.
_TOLERANCE = 1e-7
#: One block in so many is a sample, but no fewer than this.
_SAMPLE_STEP, _SAMPLE_MINIMUM = 24, 64

#: Finds μ from Σ_r h(r) of so many points.
FindLevel = Callable[[Tensor, int], float]


def hidden_bytes(model: LDOSModel, grid: Grid) -> int:
    """Memory of the hidden features of all points of a grid."""
    return grid.n_points * model.network.n_features * model.dtype.itemsize


class Stream:
    """A structure's grid, walked over in blocks (see the module).

    Args:
        model: of the hidden features.
        structure: the atoms.
        grid: the points.
        chunk_size: points of a block.
        thermal_energy: kT, eV.
        communicator: shares the blocks.
        journal: keeps the sums.
        progress: show a progress bar with the remaining time.
    """

    def __init__(
        self,
        model: LDOSModel,
        structure: Structure,
        grid: Grid,
        chunk_size: int,
        thermal_energy: float,
        *,
        communicator: Communicator,
        journal: Journal,
        progress: bool = False,
    ) -> None:
        self.model, self.structure, self.grid, self.thermal_energy = model, structure, grid, thermal_energy
        self.communicator, self.journal, self._progress = communicator, journal, progress and communicator.is_root
        self._all_boxes = grid.boxes(chunk_size)
        self.boxes = communicator.partition(self._all_boxes)
        self._keeps = journal.folder is None and hidden_bytes(model, grid) <= KEEP_BYTES
        self._kept: Tensor | None = None
        self._sampled: dict[Box, Tensor] = {}
        with torch.no_grad():
            self._atom_state = model.encode_atoms(structure)
            weight, bias = model.head
            self._weight, self._bias = weight.detach(), bias.detach()

    def features(self, guess: float | None, find_level: FindLevel) -> tuple[Tensor, float]:
        """Σ_r h(r) over the whole grid, float64 ``[hidden]``, and μ; after this ``density`` can be asked for."""
        if self._keeps:
            total = self._keep()
            return total, find_level(total, self.grid.n_points)
        # the ranks were not killed at the same moment: that of the lead counts
        begun = torch.tensor([self.journal.stage("sums").get("guess", math.nan)], dtype=torch.float64)
        self.communicator.broadcast(begun)
        guess = guess if bool(begun.isnan()) else float(begun)
        if guess is None:
            guess = find_level(*self._sample())
        total, interpolation = self._interpolate(guess)
        level = find_level(total, self.grid.n_points)
        if interpolation.misplaced(level, self._dos(total)) > _TOLERANCE:
            total, interpolation = self._interpolate(level)
        self._interpolation, self._sampled = interpolation, {}
        return total, level

    def density(self, level: float) -> Tensor | None:
        """n(r) and ∂n(r)/∂μ at μ, ``[2, grid]``, on rank 0; None on the others."""
        if self._kept is not None:
            rows, constants = self._rows(number_weights(self.model.energies, level, self.thermal_energy))
            mine, self._kept = torch.addmm(constants, rows, self._kept.T), None
        else:
            mine = self._interpolation.at(level)
        return self._assemble(mine)

    def pull_back(self, adjoint: Adjoint, *, strained: bool) -> tuple[Tensor, Tensor]:
        """Forces ``[atom, 3]`` and stress ``[3, 3]`` (only explicit terms unless ``strained``)."""
        state = self.journal.stage("strained forces" if strained else "forces")
        gradient = torch.zeros_like(adjoint.positions)
        virial = torch.zeros_like(adjoint.strain)
        by_state = torch.zeros_like(self._atom_state) if self._atom_state.is_floating_point() else torch.zeros(0)
        for target, name in ((gradient, "gradient"), (virial, "virial"), (by_state, "by_state")):
            if state:
                target.copy_(state[name])
        constant, varying = (part.to(self.model.dtype) for part in (adjoint.constant, adjoint.varying))
        potential = adjoint.potential
        for done, block in self._walk("forces", int(state.get("done", 0))):
            pull = torch.addcmul(constant, potential[block.flat, None].to(constant), varying)
            by_atoms, by_points, by_images = self._pull_back_block(block, pull, strained)
            gradient.index_add_(0, block.owners, by_atoms)
            virial += block.atoms.double().T @ by_atoms
            if by_points is not None:
                virial += block.points.double().T @ by_points
            if by_images is not None:
                by_state.index_add_(0, block.owners, by_images)
            self.journal.write(
                "strained forces" if strained else "forces",
                {"done": done, "gradient": gradient, "virial": virial, "by_state": by_state},
            )
        for sums in (gradient, virial, by_state):
            self.communicator.all_reduce(sums)
        gradient, virial = gradient + adjoint.positions, virial + adjoint.strain
        if len(by_state):
            by_positions, by_strain = self._pull_back_atoms(by_state)
            gradient, virial = gradient + by_positions, virial + by_strain
        stress = (virial + virial.T) / (2 * self.grid.volume)
        return -gradient, stress

    def _walk(self, name: str, done: int = 0, boxes: Sequence[Box] | None = None) -> Iterator[tuple[int, Block]]:
        """Blocks of this rank from the ``done``-th on, and how many are done with each."""
        boxes = self.boxes if boxes is None else boxes
        if done >= len(boxes):
            return
        blocks = iterate_blocks(
            self.structure, self.grid, self.model.descriptor.cutoff, dtype=self.model.dtype, boxes=boxes[done:]
        )
        bar = tqdm(blocks, name, total=len(boxes), initial=done, unit="block", delay=2, disable=not self._progress)
        yield from enumerate(bar, start=done + 1)

    def _hidden(self, block: Block, out: Tensor | None = None) -> Tensor:
        return self.model.hidden(block, self._atom_state[block.owners], out)

    def _empty_sum(self) -> Tensor:
        return torch.zeros(self.model.network.n_features, dtype=torch.float64, device=self.model.device)

    def _keep(self) -> Tensor:
        total, place = self._empty_sum(), 0
        n_points = sum(math.prod(box.shape) for box in self.boxes)
        self._kept = empty_in_huge_pages((n_points, len(total)), self.model.dtype, self.model.device)
        for _, block in self._walk("density of states"):
            hidden = self._hidden(block, self._kept[place : place + len(block.flat)])
            total += sum_rows(hidden)
            place += len(hidden)
        return self.communicator.all_reduce(total)

    def _sample(self) -> tuple[Tensor, int]:
        """Σ h over the grid as estimated from some blocks, spread evenly, and the number of points of the grid."""
        step = max(1, min(_SAMPLE_STEP, len(self._all_boxes) // _SAMPLE_MINIMUM))
        chosen = self._all_boxes[:: 2 * (step // 2) + 1]
        numbers = {box: number for number, box in enumerate(chosen)}
        mine = [box for box in self.boxes if box in numbers]
        # the walk over the whole grid need not evaluate these again
        spare = KEEP_BYTES // (self.model.network.n_features * self.model.dtype.itemsize)
        means = self._empty_sum().repeat(len(chosen), 1)
        for box, (_, block) in zip(mine, self._walk("sample", boxes=mine)):
            hidden = self._hidden(block)
            means[numbers[box]] = sum_rows(hidden) / len(hidden)
            spare -= len(hidden)
            if spare >= 0:
                self._sampled[box] = hidden
        self.communicator.all_reduce(means)
        counts = torch.tensor([math.prod(box.shape) for box in chosen], dtype=torch.float64, device=means.device)
        mean = counts @ means / counts.sum()
        descriptor = self.model.descriptor
        known = descriptor.mean_features(self.structure.numbers, self.grid.volume)
        if known is not None and step > 1:
            # some features have a known mean: what the sample has too much of them it has too much of everything;
            # with the fused scaler the hidden features end with the descriptor's own
            known = known.to(mean)
            columns = means[:, -descriptor.n_features :][:, : len(known)]
            seen = counts @ columns / counts.sum()
            slope = torch.linalg.lstsq(columns - seen, means - mean).solution
            mean = mean + (known - seen) @ slope
        return mean * self.grid.n_points, self.grid.n_points

    def _interpolate(self, guess: float) -> tuple[Tensor, LevelInterpolation]:
        """Σ h and the densities at levels about the guess."""
        interpolation = LevelInterpolation(guess, self.model.energies, self.thermal_energy)
        rows, constants = self._rows(interpolation.weights)
        counts = [math.prod(box.shape) for box in self.boxes]
        shape = (len(interpolation.weights), sum(counts))
        fields = self.journal.field("fields", shape, self.model.dtype, self.model.device)
        interpolation.fields = fields
        state = self.journal.stage("sums")
        goes_on = state.get("guess") == guess
        total = state["total"].to(self._weight.device) if goes_on else self._empty_sum()
        done = int(state["done"]) if goes_on else 0
        place = sum(counts[:done])
        for finished, block in self._walk("density of states", done):
            known = self._sampled.get(self.boxes[finished - 1])
            hidden = self._hidden(block) if known is None else known
            total += sum_rows(hidden)
            fields[:, place : place + len(hidden)] = rows @ hidden.T + constants
            place += len(hidden)
            self.journal.write("sums", {"guess": guess, "done": finished, "total": total})
        self.journal.write("sums", {"guess": guess, "done": len(self.boxes), "total": total}, always=True)
        return self.communicator.all_reduce(total.clone()), interpolation

    def _dos(self, total: Tensor) -> Tensor:
        return (self._weight @ total + self._bias * self.grid.n_points) * self.grid.voxel_volume

    def _rows(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Weights of the energies as weights of the hidden features, ``[weight, hidden]``, and constants."""
        stacked = torch.stack(tuple(weights))
        rows, constants = stacked @ self._weight, (stacked @ self._bias)[:, None]
        return rows.to(self.model.dtype), constants.to(self.model.dtype)

    def _assemble(self, mine: Tensor) -> Tensor | None:
        """Fields of all ranks, packed block after block, as fields on the grid, float64."""
        if not self.communicator.is_root:
            self.communicator.send(mine)
            return None
        result = torch.empty(len(mine), *self.grid.shape, dtype=mine.dtype, device=mine.device)
        for rank in range(self.communicator.size):
            boxes = self.communicator.partition(self._all_boxes, rank)
            part = mine
            if rank > 0:
                size = sum(math.prod(box.shape) for box in boxes)
                part = self.communicator.receive(
                    torch.empty(len(mine), size, dtype=mine.dtype, device=mine.device), rank
                )
            place = 0
            for box in boxes:
                count = math.prod(box.shape)
                i, j, k = (slice(first, first + n) for first, n in zip(box.first, box.shape))
                result[:, i, j, k] = part[:, place : place + count].unflatten(1, box.shape)
                place += count
        return result.flatten(1)

    def _pull_back_block(
        self, block: Block, pull: Tensor, strained: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Derivatives of Σ pull · h in the images, the points (if ``strained``) and what is known (if learned)."""
        atom_state = self._atom_state[block.owners]
        atoms, points = block.atoms.detach().requires_grad_(), block.points.detach()
        leaves = [atoms]
        if strained:
            leaves.append(points.requires_grad_())
        if atom_state.is_floating_point():
            leaves.append(atom_state.requires_grad_())
        with torch.enable_grad():
            hidden = self.model.hidden(
                replace(block, atoms=atoms, points=points if strained else block.points), atom_state
            )
        found = list(torch.autograd.grad(hidden, leaves, pull))
        by_state = found.pop() if atom_state.is_floating_point() else None
        return found[0].double(), found[1].double() if strained else None, by_state

    def _pull_back_atoms(self, by_state: Tensor) -> tuple[Tensor, Tensor]:
        """Through the layers on the atoms, once for all blocks: derivatives in positions and strain."""
        with torch.enable_grad():
            strain = torch.zeros_like(self.structure.cell, requires_grad=True)
            positions = self.structure.positions.detach().requires_grad_()
            atom_state = self.model.encode_atoms(replace(self.structure, positions=positions).strained(strain))
            if not atom_state.requires_grad:  # no layers: nothing depends on where the atoms are
                return torch.zeros_like(positions), torch.zeros_like(strain)
            by_positions, by_strain = torch.autograd.grad(
                atom_state, (positions, strain), by_state, allow_unused=True, materialize_grads=True
            )
        return by_positions, by_strain
