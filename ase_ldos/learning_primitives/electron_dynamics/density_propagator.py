"""A learned propagator: density and laser of the past and the near future in, the next densities out.

Of a system that starts in its ground state, density and field so far determine all that follows (E. Runge, E. K. U.
Gross, Phys. Rev. Lett. 52, 997 (1984)), without orbitals. A Fourier neural operator learns this map from trajectories
of the reference solver and is then applied to its own output (K. Shah, A. Cangi, arXiv:2407.09628 and
arXiv:2508.16554). It takes steps of many atomic units of time, where the solver takes hundredths.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.interaction import ion_potential
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem, find_ground_state
from ase_ldos.learning_primitives.electron_dynamics.laser import Pulse
from ase_ldos.learning_primitives.electron_dynamics.propagation import largest_time_step, propagate
from ase_ldos.networks.fno import FourierNeuralOperator
from ase_ldos.training.history import History
from ase_ldos.training.loop import fit


@dataclass(frozen=True)
class DensityTrajectories:
    """Densities in equal steps of time, from the ground state on; atomic units.

    Attributes:
        grid: the points.
        interval: time from one density to the next.
        ground: of the ground states, ``[B, N]``.
        density: at times interval, 2 interval, ..., ``[B, T, N]``.
        field: E at times 0, interval, ..., T interval, ``[B, T + 1]``.
    """

    grid: Grid1D
    interval: float
    ground: Tensor
    density: Tensor
    field: Tensor

    def __getitem__(self, chosen: Tensor | slice) -> DensityTrajectories:
        """Those of these indices."""
        return DensityTrajectories(
            self.grid, self.interval, self.ground[chosen], self.density[chosen], self.field[chosen]
        )

    def thinned(self, every: int) -> DensityTrajectories:
        """The same on a grid with every so many-th point, that at x = 0 among them.

        Raises:
            ValueError: the points that are left do not make a grid.
        """
        if every < 1 or self.grid.n_points // 2 % every:
            raise ValueError(f"{self.grid.n_points} points, the middle one kept, cannot be thinned {every}-fold")
        grid = Grid1D(self.grid.length, self.grid.n_points // every)
        return DensityTrajectories(grid, self.interval, self.ground[:, ::every], self.density[..., ::every], self.field)

    def mirrored(self) -> DensityTrajectories:
        """X → −x and E → −E: as true as the original."""

        def mirror(values: Tensor) -> Tensor:
            return values.flip(-1).roll(1, dims=-1)  # the first point, −L/2, is its own mirror image

        return DensityTrajectories(self.grid, self.interval, mirror(self.ground), mirror(self.density), -self.field)


def simulate_diatomics(
    grid: Grid1D,
    bond_lengths: Tensor,
    pulse: Pulse,
    *,
    n_intervals: int,
    interval: float = 0.5,
    time_step: float | None = None,
    edge_tolerance: float = 0.02,
) -> DensityTrajectories:
    """Two electrons of molecules of two hydrogen-like ions in laser fields, by the reference solver.

    Args:
        grid: the points.
        bond_lengths: distances of the two ions, bohr, ``[B]``.
        pulse: the lasers, with tensors ``[B]``.
        n_intervals: densities to record.
        interval: time from one to the next.
        time_step: of the solver, at most; by default the longest that the grid allows, or 0.05.
        edge_tolerance: see ``propagate``.
    """
    positions = torch.stack((-bond_lengths / 2, bond_lengths / 2), dim=-1)
    system = KohnShamSystem(grid, ion_potential(grid.x, positions, torch.ones_like(positions)))
    ground = find_ground_state(system)
    longest = min(0.05, largest_time_step(grid)) if time_step is None else time_step
    every = math.ceil(interval / longest - 1e-9)
    run = propagate(
        system,
        ground.orbitals,
        time_step=interval / every,
        n_steps=every * n_intervals,
        field=pulse,
        record_every=every,
        edge_tolerance=edge_tolerance,
    )
    field = torch.stack([pulse(time) for time in run.times.tolist()], dim=-1)
    return DensityTrajectories(grid, interval, ground.density, run.density[1:].movedim(0, 1), field)


def random_pulses(n: int, horizon: float, generator: torch.Generator, area: tuple[float, float] = (0.1, 0.6)) -> Pulse:
    """Pulses of random frequency, duration, start, phase and strength that end by ``horizon``.

    Frequencies are 0.2 ... 0.5 hartree, on both sides of the first excitation. The strength is drawn as the area of the
    envelope, Aτ/2: what a resonant pulse does to the molecule depends on it and not on the duration.
    """
    draw = torch.rand(5, n, generator=generator, dtype=torch.float64)
    duration = horizon * (0.4 + 0.6 * draw[0])
    strength = area[0] + (area[1] - area[0]) * draw[1]
    return Pulse(
        amplitude=2 * strength / duration,
        frequency=0.2 + 0.3 * draw[2],
        duration=duration,
        start=(horizon - duration) * draw[3],
        phase=2 * math.pi * draw[4],
    )


def density_error(density: Tensor, reference: Tensor) -> Tensor:
    """‖n − n_ref‖ / ‖n_ref‖ over the last axis, in the root of the square."""
    return torch.linalg.vector_norm(density - reference, dim=-1) / torch.linalg.vector_norm(reference, dim=-1)


class DensityPropagator(nn.Module):
    """Blocks of densities: from the last m densities, and the field in the next block, to the next m densities.

    Inputs at every point are n − n_0 at the m times of the last block, n_0, and for the m + 1 times of the next block
    E and E ∂n/∂x, by which a field changes the density at first (∂²n/∂t² = −∂(n E)/∂x + ...). Outputs are the changes
    against the last density, corrected by a multiple of n_0 such that the number of electrons stays, exactly.

    Args:
        block: m.
        interval: time between densities, atomic units.
        modes: waves of the Fourier layers.
        width: channels.
        n_layers: Fourier layers.
        generator: source of the initial weights.
    """

    density_scale: Tensor
    field_scale: Tensor
    error_growth: Tensor

    def __init__(
        self,
        block: int = 8,
        interval: float = 0.5,
        *,
        modes: int = 16,
        width: int = 32,
        n_layers: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.block, self.interval = block, interval
        n_inputs = block + 1 + 2 * (block + 1)
        self.operator = FourierNeuralOperator(n_inputs, block, (modes,), width, n_layers, generator)
        with torch.no_grad():
            self.operator.project.head.weight *= 0.1  # training starts near "the density stays"
        # typical sizes of density changes and of fields: what the network sees and gives is of order one
        self.register_buffer("density_scale", torch.tensor(0.02))
        self.register_buffer("field_scale", torch.tensor(0.03))
        #: error after each block, measured on held-back trajectories over the trained horizon, ``[block]``
        self.register_buffer("error_growth", torch.zeros(0))

    def forward(self, history: Tensor, ground: Tensor, field: Tensor, grid: Grid1D) -> Tensor:
        """The next block.

        Args:
            history: last m densities, ``[B, m, N]``.
            ground: n_0, ``[B, N]``.
            field: E from the time of the last density to the end of the next block, ``[B, m + 1]``.
            grid: any that carries the waves.

        Returns:
            ``[B, m, N]``.
        """
        last, strength = history[:, -1], field / self.field_scale
        slope = grid.differentiate(last)
        spread = strength[:, None, :].expand(-1, grid.n_points, -1)
        inputs = torch.cat(
            (
                ((history - ground[:, None]) / self.density_scale).mT,
                ground[..., None],
                spread,
                spread * slope[..., None],
            ),
            dim=-1,
        )
        change = self.density_scale * self.operator(inputs).mT
        share = ground / ground.sum(dim=-1, keepdim=True)
        return last[:, None] + change - change.sum(dim=-1, keepdim=True) * share[:, None]

    def roll_out(self, ground: Tensor, field: Tensor, grid: Grid1D, history: Tensor | None = None) -> Tensor:
        """Apply the propagator to its own output, block after block.

        Args:
            ground: n_0, ``[B, N]``.
            field: E at the time of the last known density and at every interval after it, ``[B, T + 1]``, T a multiple
                of m.
            grid: of the densities.
            history: last m densities, ``[B, m, N]``; by default the ground state.

        Returns:
            ``[B, T, N]``.

        Raises:
            ValueError: a field that is not given for whole blocks.
        """
        n_blocks, rest = divmod(field.shape[-1] - 1, self.block)
        if rest or n_blocks < 1:
            raise ValueError(
                f"the field must be given at 1 + a multiple of {self.block} times, got {field.shape[-1]}: one value at "
                "the last known density, and one for every density to come"
            )
        trained = len(self.error_growth)
        if trained and n_blocks > trained:
            first, last = float(self.error_growth[0]), float(self.error_growth[-1])
            warnings.warn(
                f"asked for {n_blocks * self.block * self.interval:g} atomic units of time, trained for "
                f"{trained * self.block * self.interval:g}: over these, the error of the density grew from {first:.2%} "
                f"to {last:.2%}, and it goes on growing",
                stacklevel=2,
            )
        history = ground[:, None].expand(-1, self.block, -1) if history is None else history
        blocks = []
        for index in range(n_blocks):
            begin = index * self.block
            history = self(history, ground, field[:, begin : begin + self.block + 1], grid)
            blocks.append(history)
        return torch.cat(blocks, dim=1)


def train_propagator(
    model: DensityPropagator,
    data: DensityTrajectories,
    held_back: DensityTrajectories,
    *,
    epochs: int = 40,
    batch_size: int = 16,
    unroll: int = 4,
    learning_rate: float = 1e-2,
    generator: torch.Generator | None = None,
    progress: bool = False,
    time_limit: float | None = None,
) -> History:
    """Minimise ∫ |n − n_ref|² dx over ``unroll`` blocks of the network's own, from a random block on.

    Half of the trajectories of a batch are replaced by their mirror images. The error growth over the horizon of the
    data is measured on ``held_back`` at the end and kept in the model, for its warning.

    Args:
        model: trained in place.
        data: trajectories of T densities, T a multiple of the block.
        held_back: to choose the best weights.
        epochs: of all trajectories each.
        batch_size: trajectories per step.
        unroll: blocks.
        learning_rate: largest, of AdamW with one cycle.
        generator: source of all randomness; by default a new one with seed 0.
        progress: show a progress bar.
        time_limit: s, see ``fit``.

    Returns:
        The history: ``error`` of held-back trajectories over the whole horizon.

    Raises:
        ValueError: an interval other than the model's, or a length that is no multiple of the block.
    """
    n_blocks, rest = divmod(data.density.shape[1], model.block)
    if rest or data.interval != model.interval or held_back.density.shape[1] != data.density.shape[1]:
        raise ValueError(
            f"trajectories must have a multiple of {model.block} densities in intervals of {model.interval:g}, got "
            f"{data.density.shape[1]} and {held_back.density.shape[1]} in intervals of {data.interval:g}"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    dtype = next(model.parameters()).dtype
    unroll = min(unroll, n_blocks)
    sides = (data, data.mirrored())
    ground = torch.stack([side.ground for side in sides]).to(dtype)
    field = torch.stack([side.field for side in sides]).to(dtype)
    density = torch.stack([side.density for side in sides]).to(dtype)
    density = torch.cat((ground[:, :, None].expand(-1, -1, model.block, -1), density), dim=2)

    def batches(_epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for chosen in torch.randperm(len(data.ground), generator=generator).split(batch_size):
            first = int(torch.randint(n_blocks - unroll + 1, (), generator=generator)) * model.block
            last = first + unroll * model.block
            side = torch.randint(2, (len(chosen),), generator=generator)
            yield (
                density[side, chosen, first : last + model.block],
                ground[side, chosen],
                field[side, chosen, first : last + 1],
            )

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        assert isinstance(network, DensityPropagator)
        reference, start, laser = batch
        found = network.roll_out(start, laser, data.grid, reference[:, : network.block])
        square = (found - reference[:, network.block :]).square().sum(dim=-1)
        return (square / start.square().sum(dim=-1, keepdim=True)).mean()

    def validate(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, DensityPropagator)
        return {"error": float(block_errors(network, held_back).mean())}

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
    n_steps = epochs * math.ceil(len(data.ground) / batch_size)
    history = fit(
        model,
        batches,
        loss,
        optimizer,
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=n_steps),
        validate=validate,
        monitor="error",
        validate_every=5,
        max_gradient_norm=1.0,
        generator=generator,
        progress=progress,
        time_limit=time_limit,
    )
    model.error_growth = block_errors(model, held_back)
    return history


@torch.no_grad()
def block_errors(model: DensityPropagator, data: DensityTrajectories) -> Tensor:
    """Mean ``density_error`` in each block of trajectories from the ground state on, ``[block]``."""
    dtype = next(model.parameters()).dtype
    found = model.roll_out(data.ground.to(dtype), data.field.to(dtype), data.grid)
    return density_error(found, data.density.to(dtype)).mean(dim=0).unflatten(0, (-1, model.block)).mean(dim=1)
