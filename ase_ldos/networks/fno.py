"""The Fourier neural operator: functions on a periodic grid in, functions on the same grid out, at any resolution.

Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, arXiv:2010.08895.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_ldos.networks.mlp import MLP


class FourierLayer(nn.Module):
    """v ↦ W v + F⁻¹(R F v): a pointwise linear map, and one for every long wave.

    R holds a complex matrix [input, output] for every wave with at most ``modes`` − 1 periods along each axis (and, as
    the functions are real, not its mirror image). Fourier coefficients do not depend on the number of grid points, so
    the layer is the same operator on every grid that carries its waves.

    Args:
        width: channels.
        modes: for each axis of the grid (one, two or three), how many waves are kept, the constant included.
        generator: source of the initial weights.
    """

    def __init__(self, width: int, modes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.modes = tuple(modes)
        # waves of both signs along all axes but the last
        shape = (*(2 * m - 1 for m in self.modes[:-1]), self.modes[-1])
        scale = 1 / math.sqrt(2 * width)
        self.spectral = nn.Parameter(scale * torch.randn(*shape, width, width, 2, generator=generator))
        self.pointwise = nn.Parameter(scale * torch.randn(width, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor) -> Tensor:
        """Values ``[..., *grid, width]`` to values of the same shape.

        Raises:
            ValueError: the grid is too coarse for the waves.
        """
        axes = tuple(range(-1 - len(self.modes), -1))
        sizes = [values.shape[axis] for axis in axes]
        if any(size < 2 * m for size, m in zip(sizes, self.modes, strict=True)):
            raise ValueError(f"{self.modes} waves need a grid of twice as many points along each axis, got {sizes}")
        waves = torch.fft.rfftn(values, dim=axes, norm="forward")
        kept = waves
        for axis, m in zip(axes[:-1], self.modes[:-1], strict=True):
            low, high = kept.narrow(axis, 0, m), kept.narrow(axis, kept.shape[axis] - m + 1, m - 1)
            kept = torch.cat((low, high), dim=axis)
        kept = kept.narrow(-2, 0, self.modes[-1])
        mapped = (kept[..., None, :] @ torch.view_as_complex(self.spectral))[..., 0, :]
        for axis, m in zip(axes[:-1], self.modes[:-1], strict=True):
            size = waves.shape[axis]
            gap = mapped.new_zeros(
                *(size - 2 * m + 1 if i == mapped.dim() + axis else n for i, n in enumerate(mapped.shape))
            )
            mapped = torch.cat((mapped.narrow(axis, 0, m), gap, mapped.narrow(axis, m, m - 1)), dim=axis)
        # the last axis is filled up with zeros by the transform itself
        back = torch.fft.irfftn(mapped, s=sizes, dim=axes, norm="forward")
        return back + values @ self.pointwise + self.bias


class FourierNeuralOperator(nn.Module):
    """Lift to ``width`` channels, Fourier layers with GELU between, and a pointwise network down to the outputs.

    Each layer adds to what it was given, v ← v + g(layer(v)), so that depth does no harm.

    Args:
        n_inputs: input functions.
        n_outputs: output functions.
        modes: waves kept along each axis of the grid; its length is the number of dimensions, 1 to 3.
        width: channels.
        n_layers: Fourier layers.
        generator: source of the initial weights; by default a new one with seed 0.

    Raises:
        ValueError: numbers that make no network.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        modes: Sequence[int] = (16,),
        width: int = 32,
        n_layers: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= len(modes) <= 3 or min(*modes, width, n_layers) < 1:
            raise ValueError(
                f"a Fourier neural operator has waves along 1 to 3 axes, channels and layers, got modes "
                f"{tuple(modes)}, width {width} and {n_layers} layers"
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.modes, self.width = tuple(modes), width
        self.lift = MLP(n_inputs, width, (width,), "gelu", generator=generator)
        self.layers = nn.ModuleList(FourierLayer(width, modes, generator) for _ in range(n_layers))
        self.project = MLP(width, n_outputs, (2 * width,), "gelu", generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[..., *grid, n_outputs]`` of inputs ``[..., *grid, n_inputs]``."""
        values = self.lift(inputs)
        for layer in self.layers:
            values = values + nn.functional.gelu(layer(values))
        return self.project(values)

    def settings(self) -> dict[str, Any]:
        """JSON-able keyword arguments that build the same network (with other weights) again."""
        return {
            "n_inputs": self.n_inputs,
            "n_outputs": self.n_outputs,
            "modes": list(self.modes),
            "width": self.width,
            "n_layers": len(self.layers),
        }
