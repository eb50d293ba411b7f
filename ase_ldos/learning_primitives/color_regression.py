"""A multi-layer perceptron computes colours: RGB in, RGB or CMYK out.

The exercise of naming colours has right answers only by majority. Here every answer is known: the identity, which a
network with fewer hidden units than inputs cannot learn, and the conversion to the inks of a printer, whose kinks (the
maximum of three numbers, and a division that blows up at black) show where a smooth network has to work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ase_ldos.networks.mlp import MLP
from ase_ldos.registry import Registry
from ase_ldos.training.history import History
from ase_ldos.training.loop import fit


def rgb_to_cmyk(rgb: Tensor) -> Tensor:
    """Cyan, magenta, yellow and black ink of RGB values 0 ... 1, ``[..., 4]``.

    K = 1 − max(R, G, B), C = (1 − R − K) / (1 − K), M and Y likewise from G and B; black is K = 1 alone. The plain
    conversion, without the colour profile of any printer.

    Raises:
        ValueError: values outside 0 ... 1, or not three of them.
    """
    if rgb.shape[-1:] != (3,) or not ((rgb >= 0) & (rgb <= 1)).all():
        raise ValueError(f"RGB values must be [..., 3] between 0 and 1, got an array {list(rgb.shape)} or others")
    light = rgb.amax(dim=-1, keepdim=True)
    inks = torch.where(light > 0, (light - rgb) / light.clamp_min(torch.finfo(rgb.dtype).tiny), 0.0)
    return torch.cat((inks, 1 - light), dim=-1)


def cmyk_to_rgb(cmyk: Tensor) -> Tensor:
    """RGB of inks 0 ... 1, (1 − C) (1 − K) and so on, ``[..., 3]``: the way back.

    Raises:
        ValueError: not four inks.
    """
    if cmyk.shape[-1:] != (4,):
        raise ValueError(f"inks must be [..., 4], got an array {list(cmyk.shape)}")
    return (1 - cmyk[..., :3]) * (1 - cmyk[..., 3:])


#: What a network can learn of a colour: function of RGB ``[N, 3]``, and the number of values.
TARGETS: Registry[tuple[Callable[[Tensor], Tensor], int]] = Registry(
    "target", parts={"rgb": (torch.Tensor.clone, 3), "cmyk": (rgb_to_cmyk, 4)}
)


class ColorRegressor(nn.Module):
    """An MLP from RGB to the values of a target.

    Args:
        target: a key of ``TARGETS``.
        hidden: widths of the hidden layers.
        activation: of the hidden layers, see ``MLP``.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        target: str,
        hidden: Sequence[int] = (32, 32),
        activation: str = "silu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.function, n_values = TARGETS[target]
        self.network = MLP(3, n_values, hidden, activation, generator=generator)

    def forward(self, rgb: Tensor) -> Tensor:
        """Values ``[N, value]`` of colours ``[N, 3]``; they may lie a little outside 0 ... 1."""
        return self.network(2 * rgb - 1)

    @torch.no_grad()
    def errors(self, rgb: Tensor) -> Tensor:
        """Root mean square error of each value over colours ``[N, 3]``, ``[value]``."""
        return (self(rgb) - self.function(rgb)).square().mean(dim=0).sqrt()


def train_regressor(
    target: str,
    *,
    hidden: Sequence[int] = (32, 32),
    activation: str = "silu",
    epochs: int = 30,
    steps: int = 100,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> tuple[ColorRegressor, History]:
    """Learn a target from colours drawn evenly from the cube, new ones in every step.

    Args:
        target: ``rgb``, the identity, or ``cmyk``.
        hidden: widths of the hidden layers.
        activation: see ``MLP``.
        epochs: of ``steps`` steps each.
        steps: optimiser steps per epoch.
        batch_size: colours per step.
        learning_rate: largest, of Adam with one cycle.
        generator: source of weights and colours; by default a new one with seed 0.
        progress: show a progress bar.

    Returns:
        The network and the history: ``error`` is the root mean square over a grid of 9 × 9 × 9 colours.

    Raises:
        ValueError: an unknown target or activation, numbers that make no training.
    """
    if min(steps, batch_size) < 1 or not learning_rate > 0:
        raise ValueError(
            f"steps and batch_size must be at least 1 and the learning rate positive, got {steps}, {batch_size} and "
            f"{learning_rate}"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    model = ColorRegressor(target, hidden, activation, generator)
    axis = torch.linspace(0, 1, 9)
    cube = torch.cartesian_prod(axis, axis, axis)

    def batches(_epoch: int) -> Iterator[Tensor]:
        for _ in range(steps):
            yield torch.rand(batch_size, 3, generator=generator)

    def validate(_model: nn.Module) -> dict[str, float]:
        return {"error": float(model.errors(cube).square().mean().sqrt())}

    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    history = fit(
        model,
        batches,
        lambda network, rgb: nn.functional.mse_loss(network(rgb), model.function(rgb)),
        optimizer,
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps),
        validate=validate,
        monitor="error",
        generator=generator,
        progress=progress,
    )
    return model, history
