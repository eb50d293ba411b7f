"""Equivariant building blocks on features ``[atom, lm, channel]``: linear maps, normalisation, gates.

A feature of degree l turns like the solid harmonics of that degree. So linear maps mix channels, never components;
nonlinear factors are functions of invariants alone.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ase_ldos.networks.mlp import MLP


@cache
def degree_of(lmax: int, device: torch.device) -> Tensor:
    """Degree l of each component lm, int64 ``[(lmax + 1)²]``."""
    return torch.tensor([degree for degree in range(lmax + 1) for _ in range(2 * degree + 1)], device=device)


@cache
def _shares(lmax: int, channels: int, device: torch.device) -> Tensor:
    """What each square counts in the mean over degrees, components and channels, float32 ``[(lmax + 1)²]``."""
    return 1.0 / ((2 * degree_of(lmax, device) + 1) * (lmax + 1) * channels).float()


class DegreeLinear(nn.Module):
    """y_lm = x_lm W_l, and for l = 0 a bias: one matrix per degree.

    Args:
        lmax: highest degree.
        n_in: channels in.
        n_out: channels out.
        generator: source of the weights, uniform with variance 1 / n_in.
    """

    def __init__(self, lmax: int, n_in: int, n_out: int, generator: torch.Generator) -> None:
        super().__init__()
        self.lmax, self.n_in, self.n_out = lmax, n_in, n_out
        bound = (3.0 / n_in) ** 0.5
        # one matrix per parameter, not one tensor for all degrees: optimisers like SOAP precondition matrices
        self.weights = nn.ParameterList(
            (2 * torch.rand(n_in, n_out, generator=generator, dtype=torch.float64).float() - 1) * bound
            for _ in range(lmax + 1)
        )
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, values: Tensor) -> Tensor:
        """Map ``[atom, lm, n_in]`` to ``[atom, lm, n_out]``."""
        weights = torch.stack(list(self.weights))[degree_of(self.lmax, values.device)]
        mixed = torch.einsum("amc,mcd->amd", values, weights)
        return torch.cat((mixed[:, :1] + self.bias, mixed[:, 1:]), dim=1)


class DegreeNorm(nn.Module):
    """x_lmc g_lc / √(ε + ⟨x²⟩), the mean square taken over all degrees (each with equal weight) and channels.

    All degrees share one norm. A norm of each degree alone would divide by what vanishes in a perfect crystal, where
    features of degree 1 to 3 are zero by symmetry: forces would be rough about every equilibrium.

    Args:
        lmax: highest degree.
        channels: of the features.
    """

    EPSILON = 1e-5

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.gain = nn.Parameter(torch.ones(lmax + 1, channels))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise ``[atom, lm, channel]``."""
        degree = degree_of(self.lmax, values.device)
        share = _shares(self.lmax, values.shape[-1], values.device)
        square = (values.square().sum(dim=-1) * share.to(values)).sum(dim=-1)
        return values * self.gain[degree] * (square + self.EPSILON).rsqrt()[:, None, None]


class GatedFeedForward(nn.Module):
    """Linear, gate, linear: scalars pass SiLU; degrees l > 0 are multiplied by logistic functions of the scalars.

    Args:
        lmax: highest degree.
        channels: of the features.
        generator: source of the weights.
    """

    def __init__(self, lmax: int, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.lmax, self.channels = lmax, channels
        self.first = DegreeLinear(lmax, channels, channels, generator)
        self.gates = MLP(channels, lmax * channels, hidden=(), generator=generator) if lmax else None
        self.second = DegreeLinear(lmax, channels, channels, generator)

    def forward(self, values: Tensor) -> Tensor:
        """Map ``[atom, lm, channel]`` to the same shape."""
        mixed = self.first(values)
        scalars = mixed[:, :1]
        bent = [nn.functional.silu(scalars)]
        if self.gates is not None:
            gates = torch.sigmoid(self.gates(scalars[:, 0])).reshape(-1, self.lmax, self.channels)
            bent.append(mixed[:, 1:] * gates[:, degree_of(self.lmax, values.device)[1:] - 1])
        return self.second(torch.cat(bent, dim=1))
