"""The power spectrum of many equal blocks at once, and its adjoint: the formulas of ``kernel`` in few, large calls.

On a GPU the time of a small block is that of its calls, not of its arithmetic. Here blocks of one shape, whose points
are the same about their centres, share every call: products of matrices become batched ones, and the invariants are one
product per degree. Images are padded to one number per block, and nothing waits for the device: how many images each
radial function needs is known beforehand (``ImageGroup.counts``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ase_ldos.descriptors.device_copies import DeviceCopies
from ase_ldos.descriptors.power_spectrum.kernel import bell_height, padded
from ase_ldos.descriptors.power_spectrum.triton_kernel import triton_moments
from ase_ldos.descriptors.solid_harmonics import degree_slices, gradient_tensor, solid_harmonics
from ase_ldos.geometry.image_table import ImageGroup


class ChannelPairs:
    """Pairs of channels whose products are features, as places in a matrix of all products.

    Args:
        pairs: the channels (i, j) of each feature of a degree with i ≤ j, none twice, ``[2, pair]``.
        channels: number of channels.
    """

    def __init__(self, pairs: Tensor, channels: int) -> None:
        first, second = pairs
        whole = torch.zeros(channels, channels, dtype=torch.int64)
        weight = torch.zeros(channels, channels, dtype=torch.float64)
        whole[first, second] = whole[second, first] = torch.arange(len(first))
        weight[first, second] = weight[second, first] = 1.0
        self.count = len(first)
        #: Of the pairs in the flat matrix.
        self.places = DeviceCopies(first * channels + second)
        #: The pair of each place of the flat matrix, any where there is none.
        self.whole = DeviceCopies(whole.flatten())
        #: ∂(A_i A_j) in A_i over A_j, by place: 2 on the diagonal, 0 where there is no pair.
        self.weight = DeviceCopies((weight + weight.diag().diag()).flatten())


class BatchedPowerSpectrumKernel(torch.autograd.Function):
    """Features ``[block · grid, feature]`` of blocks; differentiable once, in points and atoms.

    Args:
        points: of each block about its centre, Å, ``[grid, 3]``.
        atoms: images about the centres, Å, ``[block, image, 3]``.
        translation: Tᵀ of the points, ``[grid, l'm', lm]``; its derivative is known, it is a constant here.
        scale: of the amplitudes, ``[channel, lm]``.
        weights: of each species in the pseudo-species, ``[species, pseudo-species]``; None if each is one of its own.
        pairs: the channels whose products are features.
        groups: the images of each species.
        cutoff: Å.
        kernels: ``"torch"``, or ``"triton"`` for the moments; then bells are not kept but found again for derivatives.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: FunctionCtx,
        points: Tensor,
        atoms: Tensor,
        translation: Tensor,
        scale: Tensor,
        weights: Tensor | None,
        pairs: ChannelPairs,
        groups: Sequence[ImageGroup],
        cutoff: float,
        kernels: str,
    ) -> Tensor:
        channels, size = scale.shape
        n_radial = len(groups[0].counts)
        harmonics = padded(solid_harmonics(atoms, round(size**0.5) - 1))
        moments = points.new_empty(len(points), len(atoms), channels, harmonics.shape[2])
        if weights is not None:
            moments.zero_()
            one = points.new_empty(len(points), len(atoms), n_radial, harmonics.shape[2])
        bells: list[Tensor] = []
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        for index, group in enumerate(groups):
            own = moments[:, :, index * n_radial : (index + 1) * n_radial] if weights is None else one
            images, mine = atoms[:, group.rows], harmonics[:, group.rows]
            if kernels == "triton":
                triton_moments(points, images, mine, group.counts, cutoff, own)
            else:
                for radial, bell in enumerate(_bells(points, images, group.counts, cutoff), -1):
                    if radial >= 0:  # the height comes first
                        torch.bmm(bell, mine[:, : bell.shape[2]], out=own[:, :, radial].transpose(0, 1))
                    if keep:
                        bells.append(bell)
            if weights is not None:
                moments.unflatten(2, (-1, n_radial)).addcmul_(own[:, :, None], weights[index, :, None, None])
        scaled = torch.bmm(moments.flatten(1, 2)[..., :size], translation).unflatten(1, (-1, channels)).mul_(scale)
        ctx.save_for_backward(points, atoms, translation, scale, harmonics, scaled, *bells)
        ctx.weights, ctx.pairs, ctx.groups, ctx.cutoff = weights, pairs, groups, cutoff  # type: ignore[attr-defined]
        return _products(scaled, pairs)

    @staticmethod
    def backward(  # noqa: D102
        ctx: FunctionCtx, slope: Tensor
    ) -> tuple[Tensor | None, Tensor, None, None, None, None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the power spectrum is differentiable once; for create_graph=True call reference of the descriptor"
            )
        points, atoms, translation, scale, harmonics, scaled, *bells = ctx.saved_tensors  # type: ignore[attr-defined]
        weights, groups, cutoff = ctx.weights, ctx.groups, ctx.cutoff  # type: ignore[attr-defined]
        n_channels, size = scale.shape
        by_amplitudes = _products_adjoint(scaled, slope, ctx.pairs)  # type: ignore[attr-defined]
        by_amplitudes = by_amplitudes.mul_(scale).flatten(1, 2)
        by_moments = padded(torch.bmm(by_amplitudes, translation.mT)).unflatten(1, (-1, n_channels))
        gradient = _gradients(size, points.dtype, points.device)
        by_points = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            turned = torch.matmul(by_amplitudes, gradient).unflatten(-1, (3, size))
            by_points = -(turned * (scaled / scale).flatten(1, 2)[:, :, None]).sum(dim=(1, 3))
        by_atoms = torch.empty_like(atoms)
        n_radial = len(groups[0].counts)
        ones = torch.ones_like(atoms[..., :1])
        for index, group in enumerate(groups):
            if weights is None:
                own = by_moments[:, :, index * n_radial : (index + 1) * n_radial].transpose(0, 1)
            else:
                by_mixed = by_moments.unflatten(2, (-1, n_radial)).flatten(3)
                own = torch.matmul(weights[index], by_mixed).unflatten(2, (n_radial, -1)).transpose(0, 1)
            mine, images = harmonics[:, group.rows], atoms[:, group.rows]
            kept = bells[index * (n_radial + 1) : (index + 1) * (n_radial + 1)]
            height, *powers = kept or _bells(points, images, group.counts, cutoff)
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
        return by_points, by_atoms, None, None, None, None, None, None, None


@cache
def _gradients(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """G of all three directions side by side, ``[lm, 3 · lm]``: (S̄ G_x)_j for every x by one product."""
    gradient = gradient_tensor(round(size**0.5) - 1)
    return gradient.permute(1, 0, 2).flatten(1).to(device, dtype).contiguous()


def _bells(points: Tensor, images: Tensor, counts: Sequence[int], cutoff: float) -> Iterator[Tensor]:
    """The height, then the bells w_n, each of the images that its radial function needs, ``[block, grid, image]``."""
    height = bell_height(points, images, cutoff)
    yield height
    bell = height.square().mul_(height)
    for radial, count in enumerate(counts):
        if radial > 0:
            bell = bell[..., :count].square()
        yield bell


def _products(scaled: Tensor, pairs: ChannelPairs) -> Tensor:
    """Features ``[block · grid, feature]`` of amplitudes ``[grid, block, channel, lm]``."""
    n_points, n_blocks, channels, size = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    flat = scaled.flatten(0, 1)
    matrices = scaled.new_empty(len(slices), len(flat), channels, channels)
    for degree, rows in enumerate(slices):
        part = flat[:, :, rows]
        torch.bmm(part, part.mT, out=matrices[degree])
    invariants = matrices.flatten(2)[:, :, pairs.places.on(scaled.device)].unflatten(1, (n_points, n_blocks))
    features = scaled.new_empty(n_blocks, n_points, channels + len(slices) * pairs.count)
    features[..., :channels] = scaled[..., 0].transpose(0, 1)
    features[..., channels:].unflatten(2, (len(slices), -1)).copy_(invariants.permute(2, 1, 0, 3))
    return features.flatten(0, 1)


def _products_adjoint(scaled: Tensor, slope: Tensor, pairs: ChannelPairs) -> Tensor:
    """Derivatives in the amplitudes ``[grid, block, channel, lm]`` from those in the features."""
    n_points, n_blocks, channels, size = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    whole, weight = pairs.whole.on(scaled.device), pairs.weight.on(scaled.device, slope.dtype)
    slope = slope.unflatten(0, (n_blocks, n_points))
    # x = Σ A A: Ā = (x̄ + x̄ᵀ) A, with nothing where there is no pair
    by_pairs = slope[..., channels:].unflatten(2, (len(slices), -1)).permute(2, 1, 0, 3)
    matrices = by_pairs[..., whole].mul_(weight).unflatten(-1, (channels, channels)).flatten(1, 2)
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
