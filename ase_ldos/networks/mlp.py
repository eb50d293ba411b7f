"""The multi-layer perceptron: features of a point in, any number of outputs of that point out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "softplus": nn.functional.softplus,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
"""Activations by name. All but ``relu`` (kept for foreign models) are smooth, as forces and their training need."""


class MLP(nn.Module):
    """Hidden layers and a linear head: y = W_h [φ(x), x] + b_h with φ = g(W_L … g(W_1 x + b_1) … + b_L).

    The head is linear, so any sum over points of y is the head applied to the sum of ``features``: the array
    [grid, output] need not be built. The second part of the head's input, x itself, is there only with ``skip``
    (or without hidden layers); then the columns of the head that belong to φ start at zero and training starts from
    a linear model, see ``set_linear``.

    Weights are drawn from ``generator``: hidden layers uniformly with variance 2 / fan-in (He et al. 2015, eq. 10;
    for tanh 1 / fan-in), head with 1 / fan-in, biases zero.

    Args:
        n_inputs: length of the input's last axis.
        n_outputs: length of the output's last axis.
        hidden: widths of the hidden layers; none gives a linear map.
        activation: a key of ``ACTIVATIONS``.
        skip: add the linear map input → output.
        generator: source of the initial weights; by default a new one with seed 0.

    Raises:
        ValueError: a width below 1 or an unknown activation.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        hidden: Sequence[int] = (128, 128),
        activation: str = "silu",
        skip: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = (n_inputs, *hidden, n_outputs)
        if any(isinstance(width, bool) or not isinstance(width, int) or width < 1 for width in widths):
            raise ValueError(f"layer widths must be positive integers, got inputs, hidden, outputs = {widths}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}")
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.hidden, self.activation, self.skip = tuple(hidden), activation, bool(skip)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        gain = 1.0 if activation == "tanh" else 2.0**0.5
        self.layers = nn.ModuleList(_linear(n_in, n_out, gain, generator) for n_in, n_out in pairwise(widths[:-1]))
        self._passes_inputs = self.skip or not self.hidden
        n_hidden = self.hidden[-1] if self.hidden else 0
        self.head = _linear(n_hidden + n_inputs * self._passes_inputs, n_outputs, 1.0, generator)
        if self._passes_inputs and self.hidden:
            with torch.no_grad():
                self.head.weight[:, :n_hidden] = 0.0

    @property
    def n_features(self) -> int:
        """Length of the axis that the head sums over."""
        return self.head.in_features

    def features(self, inputs: Tensor, out: Tensor | None = None) -> Tensor:
        """What the head acts on, ``[..., n_features]``: last hidden layer, with ``skip`` followed by the inputs.

        Args:
            inputs: ``[..., n_inputs]``.
            out: where to put it, without a graph; by default into a new array.

        Raises:
            ValueError: the last axis of ``inputs`` is not ``n_inputs`` long.
        """
        if inputs.shape[-1:] != (self.n_inputs,):
            raise ValueError(f"the network takes {self.n_inputs} features per point, got an array {list(inputs.shape)}")
        activation = ACTIVATIONS[self.activation]
        values = inputs
        for layer in self.layers:
            values = activation(layer(values))
        parts = (values, inputs) if self._passes_inputs and self.layers else (values,)
        return values if out is None and len(parts) == 1 else torch.cat(parts, dim=-1, out=out)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[..., n_outputs]`` of inputs ``[..., n_inputs]``."""
        return self.head(self.features(inputs))

    def set_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Make the output exactly W x + b (from least squares, say); training then starts from there.

        Args:
            weight: W, ``[n_outputs, n_inputs]``.
            bias: b, ``[n_outputs]``.

        Raises:
            ValueError: there is no linear part, or a shape does not match.
        """
        if not self._passes_inputs:
            raise ValueError("the network has no linear part to set: build it with skip=True")
        shapes = (tuple(weight.shape), tuple(bias.shape))
        right = ((self.n_outputs, self.n_inputs), (self.n_outputs,))
        if shapes != right:
            raise ValueError(
                f"weight and bias must have shapes {right[0]} and {right[1]}, got {shapes[0]}, {shapes[1]}"
            )
        with torch.no_grad():
            self.head.weight[:, : -self.n_inputs] = 0.0
            self.head.weight[:, -self.n_inputs :] = weight.to(self.head.weight)
            self.head.bias.copy_(bias)

    def settings(self) -> dict[str, Any]:
        """JSON-able keyword arguments that build the same network (with other weights) again."""
        return {
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "skip": self.skip,
        }


def _linear(n_in: int, n_out: int, gain: float, generator: torch.Generator) -> nn.Linear:
    """A linear layer with uniform weights of variance gain² / n_in, drawn from ``generator`` alone."""
    # skip_init: nn.Linear would draw from, and so advance, torch's global generator
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = gain * (3.0 / n_in) ** 0.5
    with torch.no_grad():
        weight = torch.rand(n_out, n_in, generator=generator, device=generator.device, dtype=torch.float64)
        layer.weight.copy_((2 * weight - 1) * bound)
        layer.bias.zero_()
    return layer
