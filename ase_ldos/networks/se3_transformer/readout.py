"""From atoms to any point: atom-centred expansions, and invariants of them.

Fields, linear in the expansion, with coefficients c that turn with the atom's surroundings:

    φ_k(r) = Σ_i Σ_nlm c_i[nlm,k] g_n(|r − R_i|) S_lm((r − R_i) / r_n)

Moments, with invariant coefficients w, and their products (a power spectrum whose channels are learned):

    A_nqlm(r) = Σ_i w_i[nq] g_n(|r − R_i|) S_lm((R_i − r) / r_n),    x_l(nq)(n'q')(r) = Σ_m A_nqlm A_n'q'lm

g_n(d) = (1 − d²/r_n²)⁴ inside r_n = r_c 2^(−n/2), zero outside: Gaussians of width about r_n / √8 with compact support,
three times differentiable. An output of degree 0 needs no Clebsch-Gordan product at the point: with the addition
theorem S_lm(r − R) = Σ T_lm,l'm'(−R) S_l'm'(r) all sums over atoms are matrix products [grid × image][image × column],
and a narrow g_n takes only the atoms near the block.

Attention at the point, where asked for, weighs the terms of the fields once more by
α_i(r) = g_0 e^{a_i(r)} / (e^{a_0} + Σ_j g_0 e^{a_j(r)}), with the logit a_i(r) a bounded field of atom i alone. The
attended fields stand beside the plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor, nn

from ase_ldos.descriptors.device_copies import DeviceCopies
from ase_ldos.descriptors.solid_harmonics import (
    degree_slices,
    solid_harmonics,
    translation_matrix,
    translation_tensor,
)
from ase_ldos.networks.se3_transformer.attention import TYPICAL_DENSITY, bounded
from ase_ldos.networks.se3_transformer.equivariant import DegreeLinear, degree_of


class AtomCentredReadout(nn.Module):
    """Coefficients of the atoms, and features of points made of them (see the module's formulas).

    Args:
        lmax: highest degree.
        channels: of the atoms' features.
        cutoff: r_c, Å.
        n_radial: number of radial functions.
        fields: number of φ.
        moments: number of A per radial function; 0 leaves them out.
        heads: of the attention at the point; 0 leaves it out.
        generator: source of the weights.
    """

    def __init__(
        self,
        lmax: int,
        channels: int,
        *,
        cutoff: float,
        n_radial: int,
        fields: int,
        moments: int,
        heads: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.lmax, self.n_radial, self.fields, self.moments, self.heads = lmax, n_radial, fields, moments, heads
        self.size = (lmax + 1) ** 2
        self.supports = [cutoff * 2 ** (-n / 2) for n in range(n_radial)]
        self.turning = DegreeLinear(lmax, channels, n_radial * (fields + heads), generator)
        self.invariant = DegreeLinear(0, channels, n_radial * moments, generator) if moments else None
        self.null = nn.Parameter(torch.zeros(heads)) if heads else None
        self._pairs = DeviceCopies(torch.triu_indices(n_radial * moments, n_radial * moments))
        supports = torch.tensor(self.supports, dtype=torch.float64)
        # ρ ∫ g_n² d³r with ∫ (1 − x²)⁸ x² dx = 0.01595
        typical = (4 * pi * TYPICAL_DENSITY * 0.01595 * supports**3).sqrt()
        degrees = degree_of(lmax, supports.device)
        self._scale = DeviceCopies((cutoff / supports) ** degrees[:, None] / typical)
        translation_tensor(lmax)  # solved for here rather than within the first prediction

    @property
    def n_features(self) -> int:
        """Features of one point."""
        fields = self.fields * (2 if self.heads else 1)
        return fields + (self.lmax + 1) * self._pairs.values.shape[1]

    def coefficients(self, features: Tensor) -> Tensor:
        """All coefficients of the atoms from their features ``[atom, lm, channel]``: ``[atom, coefficient]``."""
        parts = [self.turning(features).flatten(1)]
        if self.invariant is not None:
            parts.append(self.invariant(features[:, :1]).flatten(1))
        return torch.cat(parts, dim=1)

    def forward(self, points: Tensor, atoms: Tensor, coefficients: Tensor) -> Tensor:
        """Features of points; all coordinates about a common centre near the points.

        Args:
            points: Å, ``[grid, 3]``.
            atoms: images that may be near a point, Å, ``[image, 3]``.
            coefficients: of these images, ``[image, coefficient]``.

        Returns:
            ``[grid, feature]``.
        """
        with torch.no_grad():
            distance, order = atoms.norm(dim=1).sort()
            reach = points.norm(dim=1).max() + 1e-3
            counts = [int(torch.searchsorted(distance, support + reach)) for support in self.supports]
        return self.of_blocks(points, atoms[order][None], coefficients[order][None], counts)

    def of_blocks(self, points: Tensor, atoms: Tensor, coefficients: Tensor, counts: Sequence[int]) -> Tensor:
        """Features of the points of blocks of one shape; coordinates about the centre of each block.

        Args:
            points: the same for all blocks, Å, ``[grid, 3]``.
            atoms: images that may be near a point, Å, ``[block, image, 3]``.
            coefficients: of these images, ``[block, image, coefficient]``.
            counts: how many of the images, the first ones, may be within the support of each radial function.

        Returns:
            ``[block · grid, feature]``.
        """
        bells = self._bells(points, atoms, counts)
        polynomials = self._polynomials(atoms.flatten(0, 1), coefficients.flatten(0, 1)).unflatten(1, atoms.shape[:2])
        fields, logits = polynomials[..., : self.fields].flatten(3), polynomials[..., self.fields :]
        harmonics = solid_harmonics(points / self.supports[0], self.lmax)
        sums = [_sum_over_images(bells, fields)]
        if self.heads:
            sums.append(self._attended(bells, fields, self._attention(harmonics, bells, logits)))
        found = [torch.einsum("pj,bpjk->bpk", harmonics, part.unflatten(2, (self.size, -1))) for part in sums]
        if self.moments:
            found.append(self._products(points, bells, atoms, coefficients))
        return torch.cat(found, dim=2).flatten(0, 1)

    def _bells(self, points: Tensor, atoms: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """g_n between all points and the first ``counts[n]`` atoms, ``[block, grid, image]`` each."""
        scaled, others = points / self.supports[0], atoms / self.supports[0]
        # −|p − a|² as one matrix product; the rank-one parts are added to it in place of extra passes
        offset = -(scaled * scaled).sum(-1)[:, None] - (others * others).sum(-1)[:, None]
        square = torch.baddbmm(offset, scaled.expand(len(others), -1, -1), others.mT, alpha=2)
        bells = []
        for support, count in zip(self.supports, counts):
            height = torch.relu(1 + square[..., :count] * (self.supports[0] / support) ** 2)
            height = height * height
            bells.append(height * height)
        return bells

    def _scales(self, like: Tensor) -> Tensor:
        """(r_c / r_n)^l over the typical size of a sum of g_n over atoms, ``[lm, n]``."""
        return self._scale.like(like)

    def _polynomials(self, atoms: Tensor, coefficients: Tensor) -> Tensor:
        """Σ_lm c_i[nlm,·] S_lm(r − R_i) as polynomials in r about the centre, ``[n, image, lm, field + head]``."""
        turning = coefficients[:, : self.turning.n_out * self.size]
        turning = turning.reshape(len(atoms), self.size, self.n_radial, self.fields + self.heads)
        scale = self._scales(coefficients) / (self.n_radial * self.size) ** 0.5
        centred = torch.bmm(self._translation(atoms).mT, (turning * scale[:, :, None]).flatten(2))
        return centred.reshape(turning.shape).permute(2, 0, 1, 3).contiguous()

    def _translation(self, places: Tensor) -> Tensor:
        """T(−R) of S_lm(r − R) = Σ T_lm,l'm' S_l'm'(r) in units of r_c, ``[place, lm, l'm']``."""
        tensor = translation_matrix(self.lmax, places.dtype, places.device)
        return (solid_harmonics(-places / self.supports[0], self.lmax) @ tensor).unflatten(1, (self.size, self.size))

    def _attention(self, harmonics: Tensor, bells: list[Tensor], logits: Tensor) -> Tensor:
        """Weights α of the module's formula, ``[head, block, grid, image]``."""
        assert self.null is not None
        widest = bells[0]
        found = []
        for head in range(self.heads):
            terms = [
                nn.functional.pad(
                    bell * (harmonics @ part[:, : bell.shape[2], :, head].mT), (0, widest.shape[2] - bell.shape[2])
                )
                for bell, part in zip(bells, logits)
            ]
            weights = widest * torch.exp(bounded(torch.stack(terms).sum(dim=0)))
            found.append(weights / (torch.exp(bounded(self.null[head])) + weights.sum(dim=2, keepdim=True)))
        return torch.stack(found)

    def _attended(self, bells: list[Tensor], fields: Tensor, attention: Tensor) -> Tensor:
        """Sums over atoms weighted by the attention of each field's head, ``[block, grid, lm · field]``."""
        per_head = fields.unflatten(3, (self.size, self.heads, -1))
        sums = []
        for head, weights in enumerate(attention):
            weighted = [bell * weights[..., : bell.shape[2]] for bell in bells]
            sums.append(_sum_over_images(weighted, per_head[..., head, :].flatten(3)).unflatten(2, (self.size, -1)))
        return torch.cat(sums, dim=3).flatten(2)

    def _products(self, points: Tensor, bells: list[Tensor], atoms: Tensor, coefficients: Tensor) -> Tensor:
        """Products x of the module's formula, ``[block, grid, product]``."""
        weights = coefficients[..., -self.n_radial * self.moments :].unflatten(2, (self.n_radial, 1, self.moments))
        harmonics = solid_harmonics(atoms / self.supports[0], self.lmax)
        columns = (harmonics[:, :, None, :, None] * weights).permute(2, 0, 1, 3, 4).flatten(3)
        sums = [torch.bmm(bell, part[:, : bell.shape[2]]) for bell, part in zip(bells, columns)]
        centred = torch.stack(sums, dim=2).unflatten(3, (self.size, self.moments))
        moments = self._translation(points)[:, None] @ centred * self._scales(points).T[:, :, None]
        channels = moments.transpose(2, 3).flatten(3)
        first, second = self._pairs.on(points.device)
        products = [channels[:, :, rows].mT @ channels[:, :, rows] for rows in degree_slices(self.lmax)]
        return torch.cat([part[..., first, second] for part in products], dim=2)


def _sum_over_images(bells: Sequence[Tensor], parts: Tensor) -> Tensor:
    """Σ over radial functions and images of g_n and what belongs to the image, ``[block, grid, column]``.

    Args:
        bells: g_n of the first images, ``[block, grid, image]`` each.
        parts: ``[n, block, image, column]``.
    """
    first, *others = [(bell, part[:, : bell.shape[2]]) for bell, part in zip(bells, parts)]
    total = torch.bmm(*first)
    for bell, part in others:
        total = torch.baddbmm(total, bell, part)
    return total
