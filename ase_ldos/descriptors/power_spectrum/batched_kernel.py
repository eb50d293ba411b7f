"""The power spectrum of many equal blocks at once, and its adjoint: the formulas of ``kernel`` in few, large calls.

On a GPU the time of a small block is that of its calls, not of its arithmetic. Here blocks of one shape, whose points
are the same about their centres, share every call: products of matrices become batched ones, and the invariants are one
product per degree. Images are padded to one number per block, and nothing waits for the device: how many images each
radial function needs is known beforehand (``ImageGroup.counts``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ase_ldos.descriptors.power_spectrum.kernel import bell_height, padded
from ase_ldos.descriptors.solid_harmonics import degree_slices, gradient_tensor, solid_harmonics
from ase_ldos.geometry.image_table import ImageGroup


class BatchedPowerSpectrumKernel(torch.autograd.Function):
    """Features ``[block · grid, feature]`` of blocks; differentiable once, in points and atoms.

    Args:
        points: of each block about its centre, Å, ``[grid, 3]``.
        atoms: images about the centres, Å, ``[block, image, 3]``.
        translation: Tᵀ of the points, ``[grid, l'm', lm]``; its derivative is known, it is a constant here.
        scale: of the amplitudes, ``[channel, lm]``.
        groups: the images of each species.
        cutoff: Å.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: FunctionCtx,
        points: Tensor,
        atoms: Tensor,
        translation: Tensor,
        scale: Tensor,
        groups: Sequence[ImageGroup],
        cutoff: float,
    ) -> Tensor:
        channels, size = scale.shape
        n_radial = channels // len(groups)
        harmonics = padded(solid_harmonics(atoms, round(size**0.5) - 1))
        moments = points.new_empty(len(points), len(atoms), channels, harmonics.shape[2])
        bells: list[Tensor] = []
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        for index, group in enumerate(groups):
            height = bell_height(points, atoms[:, group.rows], cutoff)
            mine = harmonics[:, group.rows]
            bell = height.square().mul_(height)
            if keep:
                bells.append(height)
            for radial, count in enumerate(group.counts):
                if radial > 0:
                    bell = bell[..., :count].square()
                torch.bmm(bell, mine[:, :count], out=moments[:, :, index * n_radial + radial].transpose(0, 1))
                if keep:
                    bells.append(bell)
        scaled = torch.bmm(moments.flatten(1, 2)[..., :size], translation).unflatten(1, (-1, channels)).mul_(scale)
        ctx.save_for_backward(points, atoms, translation, scale, harmonics, scaled, *bells)
        ctx.groups, ctx.cutoff = groups, cutoff  # type: ignore[attr-defined]
        return _products(scaled)

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:  # noqa: D102
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the power spectrum is differentiable once; for create_graph=True call PowerSpectrum.reference"
            )
        points, atoms, translation, scale, harmonics, scaled, *bells = ctx.saved_tensors  # type: ignore[attr-defined]
        groups, cutoff = ctx.groups, ctx.cutoff  # type: ignore[attr-defined]
        n_channels, size = scale.shape
        by_amplitudes = _products_adjoint(scaled, slope).mul_(scale).flatten(1, 2)
        by_moments = padded(torch.bmm(by_amplitudes, translation.mT)).unflatten(1, (-1, n_channels))
        gradient = _gradients(size, points.dtype, points.device)
        by_points = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            turned = torch.matmul(by_amplitudes, gradient).unflatten(-1, (3, size))
            by_points = -(turned * (scaled / scale).flatten(1, 2)[:, :, None]).sum(dim=(1, 3))
        by_atoms = torch.empty_like(atoms)
        n_radial = n_channels // len(groups)
        ones = torch.ones_like(atoms[..., :1])
        for index, group in enumerate(groups):
            height, *powers = bells[index * (n_radial + 1) : (index + 1) * (n_radial + 1)]
            own = by_moments[:, :, index * n_radial : (index + 1) * n_radial].transpose(0, 1)
            mine, images = harmonics[:, group.rows], atoms[:, group.rows]
            by_height, by_harmonics = _bells_adjoint(height, powers, mine[..., :size], own)
            # h = 1 - |p - a|²/r_c²
            with_ones = torch.cat((points, torch.ones_like(points[:, :1])), dim=1).expand(len(atoms), -1, -1)
            pulled = torch.bmm(by_height.mT, with_ones)
            pull = pulled[..., :3] - images * pulled[..., 3:]
            turned = torch.matmul(by_harmonics[..., :size], gradient).unflatten(-1, (3, size))
            by_images = (turned * mine[:, :, None, :size]).sum(dim=-1)
            by_atoms[:, group.rows] = by_images.add_(pull, alpha=2 / cutoff**2)
            if by_points is not None:
                pulled = torch.bmm(by_height, torch.cat((images, ones[:, group.rows]), dim=2)).sum(dim=0)
                by_points += (pulled[:, :3] - points * pulled[:, 3:]) * (2 / cutoff**2)
        return by_points, by_atoms, None, None, None, None


@cache
def _gradients(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """G of all three directions side by side, ``[lm, 3 · lm]``: (S̄ G_x)_j for every x by one product."""
    gradient = gradient_tensor(round(size**0.5) - 1)
    return gradient.permute(1, 0, 2).flatten(1).to(device, dtype).contiguous()


@cache
def _pairs(channels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the pairs in a flat matrix of channels, the pair of each place, and 2 on the diagonal, 1 elsewhere."""
    first, second = torch.triu_indices(channels, channels)
    whole = torch.empty(channels, channels, dtype=torch.int64)
    whole[first, second] = whole[second, first] = torch.arange(len(first))
    twice = 1.0 + torch.eye(channels)
    return (first * channels + second).to(device), whole.flatten().to(device), twice.flatten().to(device)


def _products(scaled: Tensor) -> Tensor:
    """Features ``[block · grid, feature]`` of amplitudes ``[grid, block, channel, lm]``."""
    n_points, n_blocks, channels, size = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    pairs = _pairs(channels, scaled.device)[0]
    flat = scaled.flatten(0, 1)
    matrices = scaled.new_empty(len(slices), len(flat), channels, channels)
    for degree, rows in enumerate(slices):
        part = flat[:, :, rows]
        torch.bmm(part, part.mT, out=matrices[degree])
    invariants = matrices.flatten(2)[:, :, pairs].unflatten(1, (n_points, n_blocks))
    features = scaled.new_empty(n_blocks, n_points, channels + len(slices) * len(pairs))
    features[..., :channels] = scaled[..., 0].transpose(0, 1)
    features[..., channels:].unflatten(2, (len(slices), -1)).copy_(invariants.permute(2, 1, 0, 3))
    return features.flatten(0, 1)


def _products_adjoint(scaled: Tensor, slope: Tensor) -> Tensor:
    """Derivatives in the amplitudes ``[grid, block, channel, lm]`` from those in the features."""
    n_points, n_blocks, channels, size = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    _, whole, twice = _pairs(channels, scaled.device)
    slope = slope.unflatten(0, (n_blocks, n_points))
    # x = Σ A A: Ā = (x̄ + x̄ᵀ) A
    by_pairs = slope[..., channels:].unflatten(2, (len(slices), -1)).permute(2, 1, 0, 3)
    matrices = by_pairs[..., whole].mul_(twice.to(slope)).unflatten(-1, (channels, channels)).flatten(1, 2)
    flat, result = scaled.flatten(0, 1), torch.empty_like(scaled)
    for degree, rows in enumerate(slices):
        torch.bmm(matrices[degree], flat[:, :, rows], out=result.flatten(0, 1)[:, :, rows])
    result[..., 0] += slope[..., :channels].transpose(0, 1)
    return result


def _bells_adjoint(
    height: Tensor, bells: Sequence[Tensor], harmonics: Tensor, by_moments: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives in the height ``[block, grid, image]`` and in the harmonics ``[block, image, lm]``, padded.

    Args:
        height: of the bells.
        bells: w_n, each of the images that it needs.
        harmonics: of the images, ``[block, image, lm]``.
        by_moments: ``[block, grid, radial, lm]``, padded.
    """
    size = harmonics.shape[2]
    by_harmonics = by_moments.new_zeros(*harmonics.shape[:2], by_moments.shape[3])
    by_bell = height[..., :0]
    for radial in range(len(bells) - 1, -1, -1):
        bell, inner, own = bells[radial], by_bell, by_moments[:, :, radial]
        by_bell = torch.bmm(own[..., :size], harmonics[:, : bell.shape[2]].mT)
        # w_n+1 = w_n², of the images that it needs
        narrower = inner.shape[2]
        by_bell[..., :narrower].addcmul_(inner, bell[..., :narrower], value=2)
        by_harmonics[:, : bell.shape[2]].baddbmm_(bell.mT, own)
    # w_0 = h³
    return by_bell.mul_(height).mul_(height).mul_(3), by_harmonics
