"""The way out over the grid: block by block, the sums of hidden features from which D and μ come, and the density.

The density needs μ, and μ needs the whole grid. There are two strategies (``choose_strategy``): on small grids the
hidden features are kept until μ is known; on large ones the density is found at several Fermi levels about a guess in
the same walk, and interpolated to μ. Each rank of a communicator walks over its share of the blocks.

There are two densities where the electrons are of another temperature than the model's own (see
``free_energy_gradient``): that of the states' own occupation, which the energy's double counting needs, and theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.buffers import empty_in_huge_pages, sum_rows
from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.occupation import fermi_level, number_weights
from ase_ldos.prediction.batch_graphs import BatchGraphs
from ase_ldos.prediction.checkpointing import PredictionCheckpoint, checksum
from ase_ldos.prediction.fermi_level_interpolation import FermiLevelInterpolation
from ase_ldos.prediction.grid_walk import GridWalk
from ase_ldos.prediction.request import PredictionRequest
from ase_ldos.units import BOLTZMANN

#: Is told of each block of a walk over the grid: the walk's name, how many blocks are done, and of how many. What it
#: raises ends the prediction.
BlockObserver = Callable[[str, int, int], None]


def hidden_bytes(model: LDOSModel, grid: Grid) -> int:
    """Memory of the hidden features of all points of a grid."""
    return grid.n_points * model.network.n_features * model.dtype.itemsize


class GridEvaluator:
    """Hidden features of a request's grid, block by block, and what is linear in their sum.

    Args:
        model: with its scaler fused.
        request: structure, grid, size of the blocks, electronic temperature.
        communicator: shares the blocks.
        checkpoint: keeps the sums.
        progress: show a progress bar with the remaining time, or tell this of each block, on rank 0.
        graphs: of batches, kept from step to step; see ``batch_graphs``.

    Attributes:
        walk: over the grid.
        ranges: of all blocks.
        own_ranges: of the blocks of this rank.
        atom_state: of the atoms, see ``PointFeatures``.
        charges: valence charges, e, ``[atom]``, on the CPU as all that is small.
    """

    def __init__(
        self,
        model: LDOSModel,
        request: PredictionRequest,
        *,
        communicator: Communicator,
        checkpoint: PredictionCheckpoint,
        progress: bool | BlockObserver = False,
        graphs: BatchGraphs | None = None,
    ) -> None:
        self.model, self.request, self.structure, self.grid = model, request, request.structure, request.grid
        self.communicator, self.checkpoint = communicator, checkpoint
        self._shows_bar = progress is True and communicator.is_root
        self._observer = progress if callable(progress) and communicator.is_root else None
        self.walk = GridWalk(model, request.structure, request.grid, request.chunk_size, graphs)
        self.ranges, self.atom_state = self.walk.ranges, self.walk.atom_state
        self.own_ranges = communicator.partition(self.ranges)
        self.charges = model.charges(self.structure.numbers)
        self._energies = model.energies_on_cpu
        self._weight, self._bias = model.head_on_cpu

    def blocks(
        self, name: str, done: int = 0, ranges: Sequence[BlockRange] | None = None
    ) -> Iterator[tuple[int, Block | BlockBatch]]:
        """Blocks of this rank from the ``done``-th on, and how many are done with each.

        Args:
            name: on the progress bar.
            done: number of blocks that were done before.
            ranges: the blocks; default is all of this rank.
        """
        ranges = self.own_ranges if ranges is None else ranges
        if done >= len(ranges):
            return
        with tqdm(
            desc=name, total=len(ranges), initial=done, unit="block", delay=2, disable=not self._shows_bar
        ) as bar:
            for block in self.walk.blocks(ranges, done):
                done += block.n_blocks
                yield done, block
                bar.update(block.n_blocks)
                if self._observer is not None:
                    self._observer(name, done, len(ranges))

    def hidden(self, block: Block | BlockBatch, out: Tensor | None = None) -> Tensor:
        """Hidden features of a block's points, ``[grid, hidden]``."""
        return self.walk.hidden(block, out)

    def empty_sum(self) -> Tensor:
        """Zeros for a sum of hidden features, float64 ``[hidden]``."""
        return torch.zeros(self.model.network.n_features, dtype=torch.float64, device=self.model.device)

    def ldos_sum(self, hidden_sum: Tensor) -> Tensor:
        """Σ_r d(ε, r) over the whole grid from Σ_r h(r), 1/(eV Å³), ``[energy]``, on the CPU."""
        return self._weight @ hidden_sum.cpu() + self._bias * self.grid.n_points

    def dos(self, hidden_sum: Tensor) -> Tensor:
        """D(ε) from Σ_r h(r), 1/eV, ``[energy]``."""
        return self.ldos_sum(hidden_sum) * self.grid.voxel_volume

    @property
    def thermal_energies(self) -> tuple[float, ...]:
        """Values of kT whose densities are needed, eV: the model's own, and the request's if that is another."""
        own, wanted = BOLTZMANN * self.model.metadata.electronic_temperature, self.request.thermal_energy
        return (own,) if own == wanted else (own, wanted)

    @property
    def fermi_guess(self) -> float | None:
        """That of the request, counted as the network counts energies, eV."""
        guess = self.request.fermi_guess
        return None if guess is None else guess - float(self.model.energy_shift(self.structure))

    def find_fermi_levels(self, hidden_sum: Tensor) -> list[float]:
        """μ at each of ``thermal_energies`` from Σ_r h(r), counted as the network counts energies, eV."""
        guess = self.fermi_guess
        start = self.model.metadata.fermi_level if guess is None else guess
        n_electrons, dos = float(self.charges.sum()), self.dos(hidden_sum)
        return [float(fermi_level(dos, self._energies, n_electrons, kT, start)) for kT in self.thermal_energies]

    def project(self, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Weights of the energies as weights of the hidden features: Σ_ε w d = row · h + constant.

        Returns:
            rows ``[weight, hidden]`` and constants ``[weight, 1]``, in the model's number type on its device.
        """
        stacked = torch.stack(tuple(weights))
        packed = torch.cat((stacked @ self._weight, (stacked @ self._bias)[:, None]), dim=1)
        packed = packed.to(self.model.device, self.model.dtype)
        return packed[:, :-1], packed[:, -1:]


class DensityStrategy(Protocol):
    """How the density is found although it needs a Fermi level that only the whole grid tells."""

    def sum_hidden(self) -> tuple[Tensor, list[float]]:
        """Σ_r h(r) over the whole grid, float64 ``[hidden]``, and μ at each of ``thermal_energies``, eV."""
        ...

    def density(self, fermi_levels: Sequence[float]) -> Tensor:
        """Fields at the points of this rank's blocks, ``[2 or 4, own grid]``; once, after ``sum_hidden``.

        n(r) and ∂n(r)/∂μ of the model's own occupation, then those of the request's if that is another.
        """
        ...


def choose_strategy(evaluator: GridEvaluator) -> DensityStrategy:
    """Keep hidden features where they fit into memory; interpolate in μ where not, or where a checkpoint is kept."""
    request = evaluator.request
    fits = hidden_bytes(evaluator.model, evaluator.grid) <= request.thresholds.keep_bytes
    return KeptFeatures(evaluator) if fits and evaluator.checkpoint.folder is None else InterpolatedDensity(evaluator)


class KeptFeatures:
    """Keep the hidden features of all points of this rank until μ is known."""

    def __init__(self, evaluator: GridEvaluator) -> None:
        self._evaluator = evaluator
        self._kept = torch.empty(0)

    def sum_hidden(self) -> tuple[Tensor, list[float]]:
        """One walk; see ``DensityStrategy``."""
        evaluator, place = self._evaluator, 0
        total = evaluator.empty_sum()
        n_points = sum(block.n_points for block in evaluator.own_ranges)
        self._kept = empty_in_huge_pages((n_points, len(total)), evaluator.model.dtype, evaluator.model.device)
        for _, block in evaluator.blocks("density of states"):
            hidden = evaluator.hidden(block, self._kept[place : place + len(block.flat)])
            total += sum_rows(hidden)
            place += len(hidden)
        total = evaluator.communicator.all_reduce(total).cpu()
        return total, evaluator.find_fermi_levels(total)

    def density(self, fermi_levels: Sequence[float]) -> Tensor:
        """A matrix product, after which the features are gone."""
        evaluator, energies = self._evaluator, self._evaluator.model.energies_on_cpu
        pairs = [number_weights(energies, mu, kT) for mu, kT in zip(fermi_levels, evaluator.thermal_energies)]
        rows, constants = evaluator.project([row for pair in pairs for row in pair])
        fields, self._kept = torch.addmm(constants, rows, self._kept.T), torch.empty(0)
        return fields


class InterpolatedDensity:
    """Find the density at Fermi levels about a guess, then interpolate; repeat where the guess was too far off.

    The guess is that of the request, such as the last step's of a run, or comes from a sample of the blocks.
    """

    def __init__(self, evaluator: GridEvaluator) -> None:
        self._evaluator = evaluator
        self._sampled: dict[BlockRange, Tensor] = {}
        self._interpolations: list[FermiLevelInterpolation] = []

    def sum_hidden(self) -> tuple[Tensor, list[float]]:
        """One or two walks, one of which may resume from a checkpoint; see ``DensityStrategy``."""
        evaluator = self._evaluator
        # the ranks were not interrupted at the same moment: those of rank 0 count
        unknown = torch.full((len(evaluator.thermal_energies),), math.nan, dtype=torch.float64)
        begun = evaluator.checkpoint.stage("sums").get("guesses", unknown).clone()
        evaluator.communicator.broadcast(begun)
        if not bool(begun.isnan().any()):
            guesses = begun.tolist()
        elif evaluator.fermi_guess is not None:
            guesses = [evaluator.fermi_guess] * len(begun)
        else:
            guesses = evaluator.find_fermi_levels(self._sample())
        total, interpolations = self._walk(guesses)
        levels, dos = evaluator.find_fermi_levels(total), evaluator.dos(total)
        most = evaluator.request.thresholds.misplaced
        if any(item.misplaced(level, dos) > most for item, level in zip(interpolations, levels)):
            total, interpolations = self._walk(levels)
        self._interpolations, self._sampled = interpolations, {}
        return total, levels

    def density(self, fermi_levels: Sequence[float]) -> Tensor:
        """The interpolation at μ."""
        return torch.cat([item.at(level) for item, level in zip(self._interpolations, fermi_levels, strict=True)])

    def _walk(self, guesses: Sequence[float]) -> tuple[Tensor, list[FermiLevelInterpolation]]:
        """Σ h and the densities at Fermi levels about the guesses, one for each of ``thermal_energies``."""
        evaluator, energies = self._evaluator, self._evaluator.model.energies_on_cpu
        pairs = zip(guesses, evaluator.thermal_energies, strict=True)
        interpolations = [FermiLevelInterpolation(guess, energies, kT) for guess, kT in pairs]
        rows, constants = evaluator.project([row for item in interpolations for row in item.weights])
        counts = [block.n_points for block in evaluator.own_ranges]
        guessed = torch.tensor(list(guesses), dtype=torch.float64)
        checkpoint = evaluator.checkpoint
        state = checkpoint.stage("sums")
        begun = "guesses" in state and bool(torch.equal(state["guesses"], guessed))
        checksums: list[int] = state["checksums"].tolist() if begun else []
        shape, dtype, device = (len(rows), sum(counts)), evaluator.model.dtype, evaluator.model.device
        fields, resumes = checkpoint.field("fields", shape, dtype, device, counts=counts, checksums=checksums)
        for item, part in zip(interpolations, fields.chunk(len(interpolations))):
            item.fields = part
        if not resumes:
            checksums = []
        total = state["total"].to(device) if resumes else evaluator.empty_sum()
        done = len(checksums)
        place = sum(counts[:done])

        def write(finished: int, *, always: bool = False) -> None:
            """Blocks that were finished since the last time get their checksums where they are kept: on the CPU."""
            if checkpoint.folder is None or not (always or checkpoint.is_due()):
                return
            if fields.device.type == "cpu":
                start = sum(counts[: len(checksums)])
                for count in counts[len(checksums) : finished]:
                    checksums.append(checksum(fields[:, start : start + count]))
                    start += count
            kept = {"guesses": guessed, "total": total, "checksums": torch.tensor(checksums, dtype=torch.int64)}
            checkpoint.write("sums", kept, always=True)

        # a state of an earlier walk must not speak of the field that this one overwrites
        write(done, always=True)
        for finished, block in evaluator.blocks("density of states", done):
            sampled = self._sampled.get(evaluator.own_ranges[finished - 1]) if block.n_blocks == 1 else None
            hidden = evaluator.hidden(block) if sampled is None else sampled
            total += sum_rows(hidden)
            fields[:, place : place + len(hidden)] = rows @ hidden.T + constants
            place += len(hidden)
            write(finished)
        write(len(evaluator.own_ranges), always=True)
        return evaluator.communicator.all_reduce(total.clone()).cpu(), interpolations

    def _sample(self) -> Tensor:
        """Σ h over the grid as estimated from some blocks, spread evenly."""
        evaluator, model, thresholds = self._evaluator, self._evaluator.model, self._evaluator.request.thresholds
        step = max(1, min(thresholds.sample_step, len(evaluator.ranges) // thresholds.sample_minimum))
        # an odd step: an even one would meet the same planes of blocks again and again
        chosen = evaluator.ranges[:: 2 * (step // 2) + 1]
        numbers = {block: number for number, block in enumerate(chosen)}
        own = [block for block in evaluator.own_ranges if block in numbers]
        # the walk over the whole grid need not evaluate these again
        spare = thresholds.keep_bytes // (model.network.n_features * model.dtype.itemsize)
        means = evaluator.empty_sum().repeat(len(chosen), 1)
        for finished, block in evaluator.blocks("sample", ranges=own):
            hidden = evaluator.hidden(block)
            places = own[finished - block.n_blocks : finished]
            first = numbers[places[0]]  # those of a rank follow one another
            if block.n_blocks > 1:
                blockwise = hidden.unflatten(0, (block.n_blocks, -1))
                means[first : first + block.n_blocks] = blockwise.mean(dim=1, dtype=torch.float64)
                continue
            means[first] = sum_rows(hidden) / len(hidden)
            spare -= len(hidden)
            if spare >= 0:
                self._sampled[places[0]] = hidden
        means = evaluator.communicator.all_reduce(means).cpu()
        counts = torch.tensor([block.n_points for block in chosen], dtype=torch.float64)
        mean = counts @ means / counts.sum()
        exact = model.descriptor.mean_features(evaluator.structure.numbers, evaluator.grid.volume)
        shows_inputs = model.network.skip or not model.network.hidden
        if exact is not None and shows_inputs and step > 1:
            # Some features have a mean over all space in closed form, so that for these it is known how far the sample
            # is off: a crystal's planes may be met too often. A regression over the blocks tells how the means of all
            # hidden features go along with these, and what follows from it is taken off. With the fused scaler the
            # hidden features of a network that shows its inputs to the head end with the descriptor's own.
            exact = exact.to(mean)
            columns = means[:, -model.descriptor.n_features :][:, : len(exact)]
            seen = counts @ columns / counts.sum()
            mean = mean + (exact - seen) @ _regression(columns, means, model.dtype)
        return mean * evaluator.grid.n_points


def _regression(known: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Slopes of ``values`` in ``known`` over the rows, by least squares, ``[known, value]``.

    Directions in which the known columns differ by no more than the rounding of ``dtype`` have no slope: blocks of a
    crystal may all be equal. So the threshold is that of the columns themselves, not of what is left of them.

    Args:
        known: float64 ``[row, known]``.
        values: float64 ``[row, value]``.
        dtype: in which both were found.
    """
    left, singular, right = torch.linalg.svd(known - known.mean(dim=0), full_matrices=False)
    noise = 100 * torch.finfo(dtype).eps * known.norm()
    inverse = torch.where(singular > noise, 1 / singular.clamp(min=noise), 0.0)
    return right.T @ (inverse[:, None] * (left.T @ (values - values.mean(dim=0))))
