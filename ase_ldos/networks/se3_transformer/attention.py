"""Equivariant attention between atoms that is smooth at the cutoff.

Keys and values on the pair (i, j) come from SE(3)-equivariant kernels (Fuchs et al., arXiv:2006.10503, eq. 8),

    k_ij = Σ_paths w^K_path(r_ij) C^path (h_j ⊗ S(r_ij / r_ij)),   v_ij likewise with w^V,

with w the output of a radial network. The kernels act on each channel alone; maps that mix channels stand before and
after them, where they cost one product per atom instead of one per pair. Weights of the attention are

    α_ij = f(r_ij) e^{a_ij} / (e^{a_0} + Σ_j f(r_ij) e^{a_ij}),   a_ij = τ(⟨q_i, k_ij⟩),   τ(a) = s tanh(a / s),

with the envelope f = (1 − r²/r_c²)³ and a learned null term a_0: an atom that comes in at the cutoff changes nothing,
nor does the softmax misbehave without neighbours. The bound s makes it safe without subtracting a maximum. Softmax
weights cannot count neighbours, so the sum of f v over the neighbours goes on beside that of α f v.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor, nn

from ase_ldos.descriptors.solid_harmonics import solid_harmonics
from ase_ldos.geometry.neighbours import Pairs
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.se3_transformer.aggregation import sum_at
from ase_ldos.networks.se3_transformer.clebsch_gordan import CouplingTable, coupling_table, paths
from ase_ldos.networks.se3_transformer.equivariant import DegreeLinear, DegreeNorm, GatedFeedForward

#: s of the attention's logits: e^s and sums of it stay far from the limits of float32.
BOUND = 10.0
#: Atoms per Å³ in condensed matter: fixes the scale of sums over neighbours, once and for all.
TYPICAL_DENSITY = 0.1


@dataclass(frozen=True)
class Edges:
    """What the layers need of all pairs of atoms; computed once for all of them.

    Attributes:
        first: the atom i that receives, int64 ``[pair]``.
        second: the atom j that sends, int64 ``[pair]``.
        harmonics: of the direction from i to j, ``[pair, lm]``.
        radial: sin(nπr/r_c) / (r/r_c) (Gasteiger et al., arXiv:2003.03123, eq. 7), ``[pair, n]``.
        envelope: f(r), ``[pair]``.
    """

    first: Tensor
    second: Tensor
    harmonics: Tensor
    radial: Tensor
    envelope: Tensor

    @classmethod
    def from_pairs(cls, pairs: Pairs, cutoff: float, lmax: int, n_radial: int, dtype: torch.dtype) -> Edges:
        """Evaluate all functions of the vectors (full list) in float64, then convert."""
        distance = pairs.distances
        x = (distance / cutoff)[:, None]
        order = pi * torch.arange(1, n_radial + 1, dtype=x.dtype, device=x.device)
        height = torch.relu(1 - x[:, 0] * x[:, 0])
        return cls(
            pairs.first,
            pairs.second,
            solid_harmonics(pairs.vectors / distance[:, None], lmax).to(dtype),
            (torch.sin(order * x) / x).to(dtype),
            (height * height * height).to(dtype),
        )


def typical_square(cutoff: float) -> float:
    """Σ_j f(r_ij)² of an atom in matter of typical density: ρ ∫ f² d³r = 0.0227 · 4π ρ r_c³."""
    return 0.0227 * 4 * pi * TYPICAL_DENSITY * cutoff**3


class EquivariantAttention(nn.Module):
    """Queries, keys and values; attention and aggregation (see the module's formulas).

    Args:
        lmax_in: highest degree of the features that come in.
        lmax: highest degree of those that go out.
        channels: of both.
        heads: groups of channels with their own weights.
        n_radial: of the radial functions.
        cutoff: Å.
        generator: source of the weights.
    """

    RADIAL_HIDDEN = 32

    def __init__(
        self,
        lmax_in: int,
        lmax: int,
        channels: int,
        heads: int,
        n_radial: int,
        cutoff: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.lmax_in, self.lmax, self.channels, self.heads = lmax_in, lmax, channels, heads
        n_paths = len(paths(lmax_in, lmax))
        self.source = DegreeLinear(lmax_in, channels, channels, generator)
        self.query = DegreeLinear(lmax_in, channels, channels, generator)
        self.kernel = MLP(n_radial, 2 * n_paths * channels, (self.RADIAL_HIDDEN,), generator=generator)
        self.null = nn.Parameter(torch.zeros(heads))
        self.mix = DegreeLinear(lmax, 2 * channels, channels, generator)
        self._count_scale = typical_square(cutoff) ** -0.5

    def forward(self, features: Tensor, edges: Edges) -> Tensor:
        """What the neighbours of every atom contribute.

        Args:
            features: ``[atom, lm of lmax_in, channel]``.
            edges: all pairs, each from both sides.

        Returns:
            ``[atom, lm, channel]``.
        """
        n_atoms = len(features)
        table = coupling_table(self.lmax_in, self.lmax, features.dtype, features.device)
        keys, values = self._keys_and_values(self.source(features), edges, table)
        weights = edges.envelope[:, None] * torch.exp(self._logits(self.query(features), keys, edges))
        total = torch.exp(bounded(self.null)) + sum_at(weights, edges.first, n_atoms)
        attention = (weights / total[edges.first]).repeat_interleave(self.channels // self.heads, dim=1)
        values = values * edges.envelope[:, None, None]
        attended = sum_at(attention[:, None, :] * values, edges.first, n_atoms)
        counted = sum_at(values, edges.first, n_atoms) * self._count_scale
        mixed: Tensor = self.mix(torch.cat((attended, counted), dim=-1))
        return mixed

    def _keys_and_values(self, source: Tensor, edges: Edges, table: CouplingTable) -> tuple[Tensor, Tensor]:
        """Equivariant kernels applied to the senders, ``[pair, lm, channel]`` each."""
        n_pairs, size = len(edges.first), (self.lmax_in + 1) ** 2
        kernel = (edges.harmonics @ table.tensor).reshape(n_pairs, len(table.path), size)
        products = torch.bmm(kernel, source[edges.second])
        radial = self.kernel(edges.radial).reshape(n_pairs, 2, table.n_paths, self.channels)
        keys, values = (table.gather @ (products * radial[:, part].index_select(1, table.path)) for part in (0, 1))
        return keys, values

    def _logits(self, queries: Tensor, keys: Tensor, edges: Edges) -> Tensor:
        """a_ij, ``[pair, head]``: scalar products over components and the channels of a head."""
        size = queries.shape[1]
        products = (queries[edges.first] * keys[:, :size]).sum(dim=1)
        width = self.channels // self.heads
        return bounded(products.reshape(-1, self.heads, width).sum(dim=-1) / (width * size) ** 0.5)


class AtomLayer(nn.Module):
    """Attention, then a gated feed-forward, each on normalised features and added to them.

    Args: see ``EquivariantAttention``.
    """

    def __init__(
        self,
        lmax_in: int,
        lmax: int,
        channels: int,
        heads: int,
        n_radial: int,
        cutoff: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.lmax_in, self.lmax = lmax_in, lmax
        self.attention_norm = DegreeNorm(lmax_in, channels)
        self.attention = EquivariantAttention(lmax_in, lmax, channels, heads, n_radial, cutoff, generator)
        self.norm = DegreeNorm(lmax, channels)
        self.feed_forward = GatedFeedForward(lmax, channels, generator)

    def forward(self, features: Tensor, edges: Edges) -> Tensor:
        """Features ``[atom, lm of lmax_in, channel]`` to ``[atom, lm, channel]``."""
        new_components = (self.lmax + 1) ** 2 - features.shape[1]
        kept = nn.functional.pad(features, (0, 0, 0, new_components))
        features = kept + self.attention(self.attention_norm(features), edges)
        fed: Tensor = features + self.feed_forward(self.norm(features))
        return fed


def bounded(values: Tensor) -> Tensor:
    """Logits that an exponential can take: s tanh(a / s)."""
    return BOUND * torch.tanh(values / BOUND)
