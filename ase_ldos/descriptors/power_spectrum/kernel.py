"""The power spectrum of a block and its adjoint as matrix products, without a tape of small operations.

Forward, with bells w_n, harmonics S(a) of the images and the translation T of each point (see ``power_spectrum``):

    M_n = w_n S,   A = T M,   x = Σ_m A A

Backward is the same backwards. A derivative in a point p needs no derivative of T: with ∂S_i/∂r_x = Σ_j G_xij S_j,

    Ā = (x̄ + x̄ᵀ) A,   M̄ = Tᵀ Ā,   w̄_n = M̄_n Sᵀ + 2 w_n w̄_n+1,   S̄ = Σ_n w_nᵀ M̄_n,   p̄_x ∋ −Ā · G_x A
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ase_ldos.descriptors.solid_harmonics import degree_slices, gradient_tensor, solid_harmonics
from ase_ldos.torch_state import ieee_products

Rows = Sequence[slice | Tensor]


class PowerSpectrumKernel(torch.autograd.Function):
    """Features ``[feature, grid]`` of points; differentiable once, in points and atoms.

    Args:
        points: Å, ``[grid, 3]``.
        atoms: images, Å, ``[image, 3]``.
        translation: Tᵀ of the points, ``[grid, l'm', lm]``; its derivative is known, it is a constant here.
        scale: of the amplitudes, ``[channel, lm]``.
        rows: the images of each species.
        cutoff: Å.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: FunctionCtx, points: Tensor, atoms: Tensor, translation: Tensor, scale: Tensor, rows: Rows, cutoff: float
    ) -> Tensor:
        channels, size = scale.shape
        n_radial = channels // len(rows)
        harmonics = solid_harmonics(atoms, round(size**0.5) - 1)
        with_zeros = padded(harmonics)
        moments = points.new_empty(len(points), channels, with_zeros.shape[1])
        bells: list[Tensor] = []
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        for index, mine in enumerate(rows):
            height = bell_height(points, atoms[mine], cutoff)
            bell = height.square().mul_(height)
            if keep:
                bells.append(height)
            mine_harmonics = with_zeros[mine]
            for radial, count in enumerate(image_counts(height, n_radial, size)):
                if radial > 0:
                    bell = bell[:, :count].square()
                torch.mm(bell, mine_harmonics[: bell.shape[1]], out=moments[:, index * n_radial + radial])
                if keep:
                    bells.append(bell)
        amplitudes = torch.bmm(moments[..., :size], translation)
        scaled = torch.empty(channels, size, len(points), dtype=points.dtype, device=points.device)
        # as one transposition of a matrix, which is faster than a permutation of three axes
        scaled.view(-1, len(points)).copy_(amplitudes.view(len(points), -1).T).mul_(scale.reshape(-1, 1))
        ctx.save_for_backward(points, atoms, translation, scale, harmonics, scaled, *bells)
        ctx.rows, ctx.cutoff = rows, cutoff  # type: ignore[attr-defined]
        return _products(scaled)

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:  # noqa: D102
        if torch.is_grad_enabled():
            # not once_differentiable: it lets a slope without graph pass, and a second derivative would vanish silently
            raise RuntimeError(
                "the power spectrum is differentiable once; for create_graph=True call PowerSpectrum.reference"
            )
        points, atoms, translation, scale, harmonics, scaled, *bells = ctx.saved_tensors  # type: ignore[attr-defined]
        rows, cutoff = ctx.rows, ctx.cutoff  # type: ignore[attr-defined]
        by_scaled = _products_adjoint(scaled, slope)
        by_amplitudes = (by_scaled * scale[..., None]).permute(2, 0, 1).contiguous()
        by_moments = padded(torch.bmm(by_amplitudes, translation.mT))
        gradient = gradient_tensor(round(scale.shape[1] ** 0.5) - 1).to(points)
        by_points = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            amplitudes = (scaled / scale[..., None]).permute(2, 0, 1).contiguous()
            parts = [(torch.matmul(by_amplitudes, part) * amplitudes).sum(dim=(1, 2)) for part in gradient]
            by_points = -torch.stack(parts, dim=-1)
        by_atoms = torch.empty_like(atoms)
        per_species = len(bells) // len(rows)
        n_radial = per_species - 1
        for index, mine in enumerate(rows):
            height, *powers = bells[index * per_species : (index + 1) * per_species]
            mine_moments = by_moments[:, index * n_radial : (index + 1) * n_radial]
            by_height, by_harmonics = bells_adjoint(height, powers, harmonics[mine], mine_moments)
            images = atoms[mine]
            # h = 1 - |p - a|²/r_c²
            pull = by_height.T @ points - images * by_height.sum(dim=0)[:, None]
            turned = torch.stack([((by_harmonics @ part) * harmonics[mine]).sum(dim=1) for part in gradient], dim=-1)
            by_atoms[mine] = pull * (2 / cutoff**2) + turned
            if by_points is not None:
                by_points += (by_height @ images - points * by_height.sum(dim=1)[:, None]) * (2 / cutoff**2)
        return by_points, by_atoms, None, None, None, None


def image_counts(height: Tensor, n_radial: int, size: int) -> list[int]:
    """How many of the images, the nearest first, each radial function needs; the widest takes all."""
    everything = height.shape[1]
    if everything == 0:
        return [0] * n_radial
    numbers = torch.arange(1, everything + 1, device=height.device)
    limits = height.new_tensor(least_heights(n_radial, size, height.dtype))
    seen = height.amax(dim=0) > limits[:, None]
    return [everything, *torch.where(seen, numbers, 0).amax(dim=1).tolist()]


@cache
def least_heights(n_radial: int, size: int, dtype: torch.dtype) -> list[float]:
    """Heights below which the amplitudes of all but the widest radial function are below rounding.

    w_n (d/σ_n)^l ≤ w_n (r_c/σ_n)^l_max, with r_c/σ_n = √(6·2^n).
    """
    lmax = round(size**0.5) - 1
    tiny = math.log(torch.finfo(dtype).eps / 16)
    return [math.exp((tiny - 0.5 * lmax * math.log(6 * 2**n)) / (3 * 2**n)) for n in range(1, n_radial)]


def padded(values: Tensor) -> Tensor:
    """Zeros behind the last axis up to a multiple of eight numbers, which products of matrices are faster with."""
    return torch.nn.functional.pad(values, (0, -values.shape[-1] % 8))


def bell_height(points: Tensor, atoms: Tensor, cutoff: float) -> Tensor:
    """max(0, 1 − d²/r_c²), ``[grid, image]``, or of blocks with the same points ``[block, grid, image]``.

    The terms of the product cancel, so it is made in IEEE arithmetic whatever the process allows a GPU to do.
    """
    scaled, others = points / cutoff, atoms / cutoff
    # 1 - |p|² + 2 p·a - |a|² as one matrix product
    left = torch.cat((2 * scaled, 1 - scaled.square().sum(-1, keepdim=True), torch.ones_like(scaled[:, :1])), dim=1)
    right = torch.cat((others, torch.ones_like(others[..., :1]), -others.square().sum(-1, keepdim=True)), dim=-1)
    if not points.is_cuda:
        return (left @ right.mT).relu_()
    with ieee_products():
        product = left @ right.mT if right.dim() == 2 else torch.bmm(left.expand(len(right), -1, -1), right.mT)
    return product.relu_()


def _products(scaled: Tensor) -> Tensor:
    """Features ``[feature, grid]`` of amplitudes ``[channel, lm, grid]``, the grid last so that all loops run on it."""
    channels, size, n_points = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    pairs = channels * (channels + 1) // 2
    features = scaled.new_empty(channels + len(slices) * pairs, n_points)
    features[:channels] = scaled[:, 0]
    invariants = features[channels:].view(len(slices), pairs, n_points)
    start = 0
    for channel in range(channels):
        products = scaled[channel] * scaled[channel:]
        for degree, part in enumerate(slices):
            torch.sum(products[:, part], dim=1, out=invariants[degree, start : start + channels - channel])
        start += channels - channel
    return features


def _products_adjoint(scaled: Tensor, slope: Tensor) -> Tensor:
    """Derivatives in the amplitudes ``[channel, lm, grid]`` from those in the features."""
    channels, size, n_points = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    pairs = channels * (channels + 1) // 2
    result = torch.zeros_like(scaled)
    result[:, 0] = slope[:channels]
    by_invariants = slope[channels:].view(len(slices), pairs, n_points)
    start = 0
    for channel in range(channels):
        for degree, part in enumerate(slices):
            weights = by_invariants[degree, start : start + channels - channel, None]
            result[channel, part] += (weights * scaled[channel:, part]).sum(dim=0)
            result[channel:, part].addcmul_(weights, scaled[channel, part])
        start += channels - channel
    return result


def bells_adjoint(
    height: Tensor, bells: Sequence[Tensor], harmonics: Tensor, by_moments: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives in the height ``[grid, image]`` and in the harmonics ``[image, lm]``."""
    last, size = len(bells) - 1, harmonics.shape[1]
    turned = harmonics.T
    by_harmonics = by_moments.new_zeros(len(harmonics), by_moments.shape[2])
    by_bell = by_moments.new_zeros(len(height), 0)
    for radial in range(last, -1, -1):
        bell, narrower = bells[radial], by_bell.shape[1]
        # w_n+1 = w_n², of the images that it needs
        inner = by_bell
        by_bell = by_moments[:, radial, :size] @ turned[:, : bell.shape[1]]
        by_bell[:, :narrower].addcmul_(inner, bell[:, :narrower], value=2)
        by_harmonics[: bell.shape[1]].addmm_(bell.T, by_moments[:, radial])
    # w_0 = h³
    return by_bell.mul_(height).mul_(height).mul_(3), by_harmonics[:, :size]
