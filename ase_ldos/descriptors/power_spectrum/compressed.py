"""A power spectrum whose length does not grow with the number of elements: densities of a few pseudo-species.

Every element is a few numbers w_c(Z), and the amplitudes are those of densities weighted with them,

    A_cnlm(r) = Σ_a w_c(Z_a) g_n(|R_a − r|²) S_lm(R_a − r)

(element-radial compression of J. P. Darby, J. R. Kermode and G. Csányi, npj Comput. Mater. 8, 166 (2022)). Of the
products those within a channel are kept, and between channels those of one radial function, a choice of that paper too:

    x = [A_cn00, Σ_m A_cnlm A_cn'lm for n ≤ n', Σ_m A_cnlm A_c'nlm for c < c']

With one channel and weights of one this is the power spectrum of one element, feature by feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ase_ldos.descriptors.device_copies import DeviceCopies
from ase_ldos.descriptors.power_spectrum.batched_kernel import BatchedPowerSpectrumKernel, ChannelPairs
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.power_spectrum.jacobian import amplitude_derivatives, product_derivatives
from ase_ldos.descriptors.power_spectrum.kernel import bell_height, bells_adjoint, image_counts, padded
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.solid_harmonics import degree_slices, gradient_tensor, solid_harmonics
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block

#: More channels than this have no use: so many numbers tell all elements apart.
MAXIMUM_CHANNELS = 8


class CompressedPowerSpectrum(Descriptor):
    """Power spectrum of pseudo-species around grid points (see the module's formula).

    Args:
        species: atomic numbers.
        channels: by chemical symbol the weights w_c of each of the species, as many numbers for all.
        cutoff: r_c, Å.
        n_radial: number of radial functions.
        lmax: highest degree, 0 to 4.

    Attributes:
        kernels: what evaluates batches: ``"torch"``, or ``"triton"`` on a GPU. Nothing but speed depends on it.

    Raises:
        ValueError: an element without weights, weights that differ in number or are not finite, two elements with the
            same weights, or what ``PowerSpectrum`` refuses.
    """

    kernels: str = "torch"

    def __init__(
        self,
        species: tuple[int, ...],
        *,
        channels: Mapping[str, Sequence[float]],
        cutoff: float = 6.0,
        n_radial: int = 6,
        lmax: int = 4,
    ) -> None:
        # checks the rest, and gives radial functions, translations and their scale
        self._base = PowerSpectrum(species[:1], cutoff=cutoff, n_radial=n_radial, lmax=lmax)
        self.species = PowerSpectrum(species, cutoff=cutoff, n_radial=n_radial, lmax=0).species
        self.cutoff, self.n_radial, self.lmax = self._base.cutoff, self._base.n_radial, self._base.lmax
        self.channels = {chemical_symbols[number]: _weights(channels, number) for number in self.species}
        rows = list(self.channels.values())
        sizes = sorted({len(row) for row in rows})
        if len(sizes) > 1 or not 0 < sizes[0] <= MAXIMUM_CHANNELS:
            raise ValueError(
                f"channels have {', '.join(map(str, sizes))} weights; every element needs the same number, 1 to "
                f"{MAXIMUM_CHANNELS}"
            )
        twins = [symbol for symbol, row in self.channels.items() if rows.count(row) > 1]
        if twins:
            raise ValueError(f"channels give {' and '.join(twins[:2])} the same weights; nothing would tell them apart")
        #: w, float64 ``[species, channel]``.
        self.weights = torch.tensor(rows, dtype=torch.float64)
        count = sizes[0]
        within = [
            (c * self.n_radial + n, c * self.n_radial + other)
            for n in range(self.n_radial)
            for c in range(count)
            for other in range(n, self.n_radial)
        ]
        across = [
            (c * self.n_radial + n, other * self.n_radial + n)
            for c in range(count)
            for other in range(c + 1, count)
            for n in range(self.n_radial)
        ]
        #: Channels (pseudo-species and radial function) of every product, ``[2, pair]``.
        self.pairs = torch.tensor(within + across, dtype=torch.int64).T
        self.amplitude_scale = self._base.amplitude_scale.repeat(count, 1)
        self._scale, self._weights = DeviceCopies(self.amplitude_scale), DeviceCopies(self.weights)
        self._pairs = ChannelPairs(self.pairs, count * self.n_radial)

    @property
    def n_channels(self) -> int:
        """Number of amplitudes with l = 0, the first features of a point."""
        return len(self.amplitude_scale)

    @property
    def n_features(self) -> int:
        """Number of features of one point, the same for any number of elements."""
        return self.n_channels + (self.lmax + 1) * self.pairs.shape[1]

    def settings(self) -> dict[str, Any]:
        """JSON-able settings."""
        return {
            "kind": "compressed_power_spectrum",
            "species": list(self.species),
            "channels": self.channels,
            "cutoff": self.cutoff,
            "n_radial": self.n_radial,
            "lmax": self.lmax,
        }

    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Features ``[grid, feature]``; see ``PointFeatures``. Differentiable once; for more, see ``reference``."""
        weights, scale = self._weights.like(points)[atom_state], self._scale.like(points)
        shifts = self._base.shifts(points)
        features: Tensor = CompressedKernel.apply(points, atoms, shifts, scale, weights, self.cutoff)
        return features.T

    def of_batch(self, batch: BlockBatch, image_states: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Features of all points of a batch, ``[block · grid, feature]``; see ``BatchedFeatures``."""
        points = batch.points
        scale, weights, shifts = self._scale.like(points), self._weights.like(points), self._base.shifts(points)
        found: Tensor = BatchedPowerSpectrumKernel.apply(
            points, batch.atoms, shifts, scale, weights, self._pairs, batch.groups, self.cutoff, self.kernels
        )
        return found

    def batch_radii(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Distances beyond which the radial functions do not count, as of one element; see ``BatchedFeatures``."""
        return self._base.batch_radii(dtype)

    def reference(self, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        """The same features step by step, through torch's own derivatives: slower, for tests and higher derivatives."""
        amplitudes = self.amplitudes(points, atoms, species)
        first, second = self.pairs.to(points.device)
        parts = [amplitudes[:, first, rows] * amplitudes[:, second, rows] for rows in degree_slices(self.lmax)]
        return torch.cat([amplitudes[:, :, 0], *(part.sum(dim=-1) for part in parts)], dim=-1)

    def amplitudes(self, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        """Scaled A_cnlm at the points, ``[grid, channel, lm]`` with channel = (c, n)."""
        harmonics = solid_harmonics(atoms, self.lmax)
        columns = self.weights.to(points)[species][:, :, None] * harmonics[:, None]
        bell, moments = bell_height(points, atoms, self.cutoff) ** 3, []
        for _ in range(self.n_radial):
            moments.append((bell @ columns.flatten(1)).unflatten(1, columns.shape[1:]))
            bell = bell * bell
        stacked = torch.stack(moments, dim=2).flatten(1, 2)
        return stacked @ self._base.translation(points).mT * self.amplitude_scale.to(points)

    def translation(self, points: Tensor) -> Tensor:
        """T(−r) that moves harmonics about the centre to the points, ``[grid, lm, l'm']``."""
        return self._base.translation(points)

    def mean_features(self, numbers: Tensor, volume: Tensor) -> Tensor:
        """Means over all space of the first features, A_cn00, float64 ``[channel]``."""
        means = []
        for number, row in zip(self.species, self.weights):
            count = int((numbers == number).sum())
            one = self._base.mean_features(torch.full((count,), self._base.species[0]), volume)
            means.append((row[:, None] * one).flatten())
        return torch.stack(means).sum(dim=0)

    def jacobian(self, block: Block, atom_state: Tensor, n_atoms: int) -> Tensor:
        """Derivatives of every point's features in closed form; see ``power_spectrum_jacobian``."""
        # of each element's own densities where the block has it, which the channels mix with constant weights
        tangents = amplitude_derivatives(self._base, block, torch.zeros_like(atom_state), n_atoms, strain=False)
        weights = self.weights.to(tangents)
        mixed = tangents.new_zeros(*tangents.shape[:2], weights.shape[1], *tangents.shape[2:])
        owners = torch.zeros(n_atoms, dtype=torch.int64)
        owners[block.owners] = atom_state
        mixed[:, : 3 * n_atoms] = (
            tangents[:, : 3 * n_atoms, None] * weights[owners].repeat_interleave(3, dim=0)[:, :, None, None]
        )
        for index in atom_state.unique().tolist():
            mine = atom_state == index
            part = Block(block.flat, block.points, block.atoms[mine], block.owners[mine])
            strain = amplitude_derivatives(self._base, part, torch.zeros_like(part.owners), 0)
            mixed[:, 3 * n_atoms :] += strain[:, :, None] * weights[index][:, None, None]
        amplitudes = self.amplitudes(block.points, block.atoms, atom_state)
        return product_derivatives(mixed.flatten(2, 3), amplitudes, self.pairs, self.lmax)


class CompressedKernel(torch.autograd.Function):
    """Features ``[feature, grid]`` of points; differentiable once, in points and atoms, as ``PowerSpectrumKernel``.

    Args:
        points: Å, ``[grid, 3]``.
        atoms: images, Å, ``[image, 3]``.
        translation: Tᵀ of the points, ``[grid, l'm', lm]``.
        scale: of the amplitudes, ``[channel, lm]``.
        weights: of the images, ``[image, pseudo-species]``.
        cutoff: Å.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: FunctionCtx,
        points: Tensor,
        atoms: Tensor,
        translation: Tensor,
        scale: Tensor,
        weights: Tensor,
        cutoff: float,
    ) -> Tensor:
        size, count = scale.shape[1], weights.shape[1]
        n_radial = len(scale) // count
        harmonics = solid_harmonics(atoms, round(size**0.5) - 1)
        # all pseudo-species side by side: their sums over images are one product of matrices
        columns = padded((weights[:, :, None] * harmonics[:, None]).flatten(1))
        moments = points.new_empty(n_radial, len(points), columns.shape[1])
        keep = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        height = bell_height(points, atoms, cutoff)
        bell = height.square().mul_(height)
        bells = [height] if keep else []
        for radial, n_images in enumerate(image_counts(height, n_radial, size)):
            if radial > 0:
                bell = bell[:, :n_images].square()
            torch.mm(bell, columns[: bell.shape[1]], out=moments[radial])
            if keep:
                bells.append(bell)
        stacked = moments[..., : count * size].unflatten(2, (count, size)).permute(1, 2, 0, 3)
        amplitudes = torch.bmm(stacked.flatten(1, 2), translation)
        scaled = torch.empty(len(scale), size, len(points), dtype=points.dtype, device=points.device)
        # as one transposition of a matrix, which is faster than a permutation of three axes
        scaled.view(-1, len(points)).copy_(amplitudes.view(len(points), -1).T).mul_(scale.reshape(-1, 1))
        ctx.save_for_backward(points, atoms, translation, scale, harmonics, weights, scaled, *bells)
        ctx.cutoff = cutoff  # type: ignore[attr-defined]
        return _products(scaled.view(count, n_radial, size, -1))

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:  # noqa: D102
        if torch.is_grad_enabled():
            # not once_differentiable: it lets a slope without graph pass, and a second derivative would vanish silently
            raise RuntimeError(
                "the power spectrum is differentiable once; for create_graph=True call reference of the descriptor"
            )
        points, atoms, translation, scale, harmonics, weights, scaled, height, *powers = ctx.saved_tensors  # type: ignore[attr-defined]
        cutoff, size, count = ctx.cutoff, scale.shape[1], weights.shape[1]  # type: ignore[attr-defined]
        n_radial = len(powers)
        by_scaled = _products_adjoint(scaled.view(count, n_radial, size, -1), slope).flatten(0, 1)
        by_amplitudes = (by_scaled * scale[..., None]).permute(2, 0, 1).contiguous()
        by_moments = torch.bmm(by_amplitudes, translation.mT).unflatten(1, (count, n_radial)).transpose(1, 2)
        columns = padded((weights[:, :, None] * harmonics[:, None]).flatten(1))
        by_height, by_columns = bells_adjoint(height, powers, columns, padded(by_moments.flatten(2)))
        by_harmonics = (by_columns[:, : count * size].unflatten(1, (count, size)) * weights[:, :, None]).sum(dim=1)
        gradient = gradient_tensor(round(size**0.5) - 1).to(points)
        # h = 1 - |p - a|²/r_c²
        pull = by_height.T @ points - atoms * by_height.sum(dim=0)[:, None]
        turned = torch.stack([((by_harmonics @ part) * harmonics).sum(dim=1) for part in gradient], dim=-1)
        by_points = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            amplitudes = (scaled / scale[..., None]).permute(2, 0, 1).contiguous()
            parts = [(torch.matmul(by_amplitudes, part) * amplitudes).sum(dim=(1, 2)) for part in gradient]
            by_points = -torch.stack(parts, dim=-1)
            by_points += (by_height @ atoms - points * by_height.sum(dim=1)[:, None]) * (2 / cutoff**2)
        return by_points, pull * (2 / cutoff**2) + turned, None, None, None, None


def _products(scaled: Tensor) -> Tensor:
    """Features ``[feature, grid]`` of amplitudes ``[pseudo-species, radial, lm, grid]``, in the order of ``pairs``."""
    count, n_radial, size, n_points = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    n_first = count * n_radial
    pairs = count * n_radial * (n_radial + 1) // 2 + n_radial * count * (count - 1) // 2
    features = scaled.new_empty(n_first + len(slices) * pairs, n_points)
    features[:n_first] = scaled[:, :, 0].flatten(0, 1)
    invariants = features[n_first:].view(len(slices), pairs, n_points)
    for start, _, left, right in _factors(scaled):
        products = (left * right).flatten(0, 1)
        for degree, part in enumerate(slices):
            torch.sum(products[:, part], dim=1, out=invariants[degree, start : start + len(products)])
    return features


def _products_adjoint(scaled: Tensor, slope: Tensor) -> Tensor:
    """Derivatives in the amplitudes ``[pseudo-species, radial, lm, grid]`` from those in the features."""
    count, n_radial, size, n_points = scaled.shape
    slices = degree_slices(round(size**0.5) - 1)
    n_first = count * n_radial
    result = torch.zeros_like(scaled)
    result[:, :, 0] = slope[:n_first].view(count, n_radial, n_points)
    by_invariants = slope[n_first:].view(len(slices), -1, n_points)
    for (start, axis, left, right), (_, _, by_left, by_right) in zip(_factors(scaled), _factors(result)):
        shape = right.shape[:2]
        for degree, part in enumerate(slices):
            weights = by_invariants[degree, start : start + math.prod(shape)].view(*shape, 1, n_points)
            by_left[:, :, part] += (weights * right[:, :, part]).sum(dim=axis, keepdim=True)
            by_right[:, :, part].addcmul_(weights, left[:, :, part])
    return result


def _factors(values: Tensor) -> list[tuple[int, int, Tensor, Tensor]]:
    """Views of amplitudes whose products are features.

    Returns:
        Number of the first pair, axis along which one factor meets many partners, that factor, its partners.
    """
    count, n_radial = values.shape[:2]
    found, start = [], 0
    for n in range(n_radial):
        found.append((start, 1, values[:, n : n + 1], values[:, n:]))
        start += count * (n_radial - n)
    for c in range(count - 1):
        found.append((start, 0, values[c : c + 1], values[c + 1 :]))
        start += (count - 1 - c) * n_radial
    return found


def _weights(channels: Mapping[str, Sequence[float]], number: int) -> list[float]:
    symbol = chemical_symbols[number]
    if not isinstance(channels, Mapping) or symbol not in channels:
        known = ", ".join(channels) if isinstance(channels, Mapping) and channels else "nothing"
        raise ValueError(f"channels have no weights of {symbol}; they have {known}")
    foreign = [name for name in channels if name not in atomic_numbers]
    if foreign:
        raise ValueError(f"channels name {foreign[0]!r}, which is no chemical element")
    row = list(channels[symbol])
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in row):
        raise ValueError(f"channels of {symbol} are {row}; finite numbers are expected")
    return [float(value) for value in row]
