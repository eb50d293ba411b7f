"""A physics-informed network: orbitals as a function of place and time that satisfies the Kohn-Sham equation.

Nothing is propagated and nothing is labelled. A network gives φ(x, t), its derivatives follow in closed form, and what
is minimised is how badly the equation is violated (M. Raissi, P. Perdikaris, G. E. Karniadakis, J. Comput. Phys. 378,
686 (2019); for Schrödinger's equation K. Shah, P. Stiller, N. Hoffmann, A. Cangi, arXiv:2210.12522). Three things make
it accurate:

* The initial condition is exact, φ = e^(−i ε t) [φ_0(x) + t b(x) N(x, t)], and so is the boundary, b(±L/2) = 0: only
  the equation is left to be learned, there are no weights between losses to tune. The phase of the mean energy ε is
  taken out, which makes what is left slow.
* The loss is an integral with small variance: all points of a grid in x, on which the Hartree potential can be had as
  well, at random times, one in each of equal slices of the duration.
* SOAP, the optimiser of the LDOS models: the loss of a differential equation is as badly conditioned as theirs.

The residual bounds the error. Without interaction, the equation is linear and its solutions keep their norm, therefore
‖φ − φ_exact‖(t) ≤ ∫_0^t ‖r‖ dt'.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ase_ldos.learning_primitives.electron_dynamics.interaction import INTERACTIONS
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem
from ase_ldos.learning_primitives.electron_dynamics.propagation import Field
from ase_ldos.networks.mlp import MLP
from ase_ldos.training.history import History
from ase_ldos.training.loop import fit
from ase_ldos.training.soap import SOAP


@dataclass(frozen=True)
class Jet:
    """A function and the derivatives that the equation asks for, each ``[..., output]``.

    Attributes:
        value: f.
        x: ∂f/∂x.
        t: ∂f/∂t.
        xx: ∂²f/∂x².
    """

    value: Tensor
    x: Tensor
    t: Tensor
    xx: Tensor


def propagate_jet(network: MLP, inputs: Tensor, x_scale: float, t_scale: float) -> Jet:
    """Send value and derivatives through a tanh network in one pass.

    A layer z = W h + b maps derivatives as z' = W h'; h = tanh z has h' = s z' and h'' = s z'' − 2 h s z'², s = 1 − h².

    Args:
        network: with activation tanh; its first input is x/x_scale, its second t/t_scale.
        inputs: ``[..., n_inputs]``.
        x_scale: bohr.
        t_scale: atomic unit of time.
    """
    value, d_x, d_t = inputs, torch.zeros_like(inputs), torch.zeros_like(inputs)
    d_x[..., 0], d_t[..., 1] = 1 / x_scale, 1 / t_scale
    stack = torch.stack((value, d_x, d_t, torch.zeros_like(inputs)))
    for layer in network.layers:
        assert isinstance(layer, nn.Linear)
        z = stack @ layer.weight.T
        h = torch.tanh(z[0] + layer.bias)
        slope = 1 - h.square()
        stack = torch.stack((h, slope * z[1], slope * z[2], slope * (z[3] - 2 * h * z[1].square())))
    y = stack @ network.head.weight.T
    return Jet(y[0] + network.head.bias, y[1], y[2], y[3])


@dataclass(frozen=True)
class Start:
    """A system and its orbitals at time 0, for one or many values of the parameters.

    Attributes:
        system: external potential ``[..., N]``.
        orbitals: φ_0, ``[..., orbital, N]``.
    """

    system: KohnShamSystem
    orbitals: Tensor


class OrbitalNetwork(nn.Module):
    """Orbitals φ(x, t; p) of a system, or of a family of systems with parameters p.

    Args:
        start: gives system and initial orbitals of parameters ``[S, p]``; called with ``[S, 0]`` if there are none.
        duration: times 0 ... duration are learned.
        parameters: lowest and highest value of each parameter.
        hidden: widths of the hidden layers.
        field: laser E(t) of a tensor of times.
        generator: source of the initial weights.

    Raises:
        ValueError: a duration or a range of a parameter that is not positive, or an interaction without gradients.
    """

    def __init__(
        self,
        start: Callable[[Tensor], Start],
        duration: float,
        *,
        parameters: Sequence[tuple[float, float]] = (),
        hidden: Sequence[int] = (48, 48, 48),
        field: Field | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 < duration < math.inf or any(not low < high for low, high in parameters):
            raise ValueError(f"duration and parameter ranges must be positive, got {duration} and {parameters}")
        self.start, self.duration, self.field = start, float(duration), field
        self.ranges = torch.tensor(parameters, dtype=torch.float64).reshape(-1, 2)
        self._middle = self._prepare(self.ranges.mean(dim=1)[None])
        interaction = self._middle.start.system.interaction
        if not INTERACTIONS[interaction].differentiable:
            raise ValueError(f"no gradients are known here for the interaction {interaction!r}; take another")
        self.grid, n_orbitals = self._middle.start.system.grid, self._middle.initial.shape[-2]
        self.network = MLP(2 + len(parameters), 2 * n_orbitals, hidden, "tanh", generator=generator).double()
        with torch.no_grad():
            self.network.head.weight *= 0.1  # training starts near the initial state at rest

    @torch.no_grad()
    def orbitals(self, times: Tensor, parameters: Tensor | None = None) -> Tensor:
        """φ on the grid, complex ``[S, orbital, N]``.

        Args:
            times: ``[S]``.
            parameters: ``[S, p]``; not needed if there are none.

        Raises:
            ValueError: parameters of another shape.
        """
        parameters = self._checked(times, parameters)
        latest = times.argmax()
        if times[latest] > self.duration * (1 + 1e-12):
            self._warn(float(times[latest]), parameters[latest : latest + 1])
        constants, value, _, _ = self._parts(times, parameters)
        return torch.exp(-1j * constants.energy * times[:, None])[..., None] * value

    def density(self, times: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Density on the grid, 1/bohr, ``[S, N]``."""
        orbitals = self.orbitals(times, parameters)
        return self._prepare(self._checked(times, parameters)).start.system.density(orbitals)

    def residual(self, times: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Residual r = (i ∂/∂t + ½ ∂² − v_S[n] + x E(t)) φ times e^(i ε t), complex ``[S, orbital, N]``."""
        constants, value, rate, curvature = self._parts(times, self._checked(times, parameters))
        system = constants.start.system
        potential = system.potential(system.density(value))
        if self.field is not None:
            potential = potential - self.grid.x * self.field(times)[:, None]
        shifted = potential[:, None] - constants.energy[..., None]
        return 1j * rate + curvature / 2 - shifted * value

    @torch.no_grad()
    def error_bound(self, times: Tensor, parameters: Tensor | None = None) -> Tensor:
        """∫_0^t ‖r‖ dt' at each of ascending times (trapezoidal rule), ``[S]``."""
        norm = self.grid.integrate(self.residual(times, parameters).abs().square().sum(dim=-2)).sqrt()
        steps = torch.diff(times, prepend=times.new_zeros(1))
        before = torch.cat((norm[:1], norm[:-1]))
        return torch.cumsum(steps * (norm + before) / 2, dim=0)

    def _warn(self, time: float, parameters: Tensor) -> None:
        ends = torch.tensor([self.duration, time], dtype=torch.float64)
        residual = self.residual(ends, parameters.expand(2, -1))
        known, there = self.grid.integrate(residual.abs().square().sum(dim=-2)).sqrt().tolist()
        warnings.warn(
            f"asked for time {time:g}, trained up to {self.duration:g}: the equation is violated by {known:.3g} at "
            f"{self.duration:g}, by {there:.3g} at {time:g}, and the error grows as the integral of that",
            stacklevel=3,
        )

    def _parts(self, times: Tensor, parameters: Tensor) -> tuple[_Constants, Tensor, Tensor, Tensor]:
        """φ_0, and of χ = φ_0 + t b N: χ, ∂χ/∂t and ∂²χ/∂x², complex ``[S, orbital, N]``."""
        constants = self._prepare(parameters) if parameters.shape[1] else self._middle
        x, half = self.grid.x, self.grid.length / 2
        n_times, n_points = len(times), len(x)
        middle, radius = self.ranges.mean(dim=1), (self.ranges[:, 1] - self.ranges[:, 0]) / 2
        columns = [
            (x / half).expand(n_times, -1),
            (2 * times / self.duration - 1)[:, None].expand(-1, n_points),
            *((parameters - middle) / radius).T[:, :, None].expand(-1, -1, n_points),
        ]
        n = propagate_jet(self.network, torch.stack(columns, dim=-1), half, self.duration / 2)
        n = Jet(*(_as_orbitals(part) for part in (n.value, n.x, n.t, n.xx)))
        b, b_x, b_xx = 1 - (x / half) ** 2, -2 * x / half**2, -2 / half**2
        t = times[:, None, None]
        value = constants.initial + t * b * n.value
        curvature = constants.curvature + t * (b_xx * n.value + 2 * b_x * n.x + b * n.xx)
        return constants, value, b * (n.value + t * n.t), curvature

    def _checked(self, times: Tensor, parameters: Tensor | None) -> Tensor:
        parameters = times.new_zeros(len(times), 0) if parameters is None else parameters
        if parameters.shape != (len(times), len(self.ranges)):
            raise ValueError(
                f"{len(times)} times need parameters [{len(times)}, {len(self.ranges)}], got {list(parameters.shape)}"
            )
        return parameters

    def _prepare(self, parameters: Tensor) -> _Constants:
        start = self.start(parameters)
        grid, system = start.system.grid, start.system
        curvature = grid.differentiate(start.orbitals, 2)
        pushed = -curvature / 2 + system.potential(system.density(start.orbitals))[..., None, :] * start.orbitals
        return _Constants(start, start.orbitals, curvature, grid.integrate((start.orbitals.conj() * pushed).real))


@dataclass(frozen=True)
class _Constants:
    """What the ansatz needs of a start: φ_0, ∂²φ_0/∂x² and ε."""

    start: Start
    initial: Tensor
    curvature: Tensor
    energy: Tensor


def _as_orbitals(outputs: Tensor) -> Tensor:
    """Outputs u_1, v_1, u_2, v_2, ... ``[S, N, 2 orbital]`` as φ = u + i v, ``[S, orbital, N]``."""
    return torch.view_as_complex(outputs.unflatten(-1, (-1, 2)).contiguous()).mT


def train_orbitals(
    model: OrbitalNetwork,
    *,
    epochs: int = 40,
    steps: int = 50,
    n_times: int = 24,
    learning_rate: float = 1e-2,
    causality: float = 0.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
    time_limit: float | None = None,
) -> History:
    """Minimise the mean over time of ∫ |r|² dx.

    With ``causality`` ε > 0, a time counts as exp(−ε ∫_0^t ‖r‖² dt'): what comes later is learned when what was
    earlier is known (S. Wang, S. Sankaran, P. Perdikaris, Comput. Methods Appl. Mech. Eng. 421, 116813 (2024)).

    Args:
        model: trained in place.
        epochs: of ``steps`` optimiser steps each.
        steps: with a new draw of times and parameters each.
        n_times: times per step.
        learning_rate: of SOAP; it falls to zero as half a cosine.
        causality: ε.
        generator: source of times and parameters; by default a new one with seed 0.
        progress: show a progress bar.
        time_limit: s, see ``fit``.

    Returns:
        The history of ``residual``, the root of the loss.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def batches(_epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            share = (torch.arange(n_times) + torch.rand(n_times, generator=generator, dtype=torch.float64)) / n_times
            draw = torch.rand(n_times, len(model.ranges), generator=generator, dtype=torch.float64)
            yield share * model.duration, model.ranges[:, 0] + draw * (model.ranges[:, 1] - model.ranges[:, 0])

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(network, OrbitalNetwork)
        square = network.grid.integrate(network.residual(*batch).abs().square().sum(dim=-2))
        past = torch.cumsum(square.detach(), dim=0) - square.detach()
        weight = torch.exp(-causality * past * network.duration / n_times)
        return (weight * square).mean(), {"residual": float(square.detach().mean().sqrt())}

    optimizer = SOAP(model.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    return fit(
        model,
        batches,
        loss,
        optimizer,
        epochs=epochs,
        scheduler=scheduler,
        generator=generator,
        progress=progress,
        time_limit=time_limit,
    )
