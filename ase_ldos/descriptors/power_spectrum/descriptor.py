"""The smooth power spectrum: rotation-invariant products of atom-centred density projections, by matrix products.

Amplitudes at a point r, for species s, radial function n and solid harmonic lm:

    A_snlm(r) = Σ_a∈s g_n(|R_a − r|²) S_lm(R_a − r),   g_n(d²) = max(0, 1 − d²/r_c²)^(3·2^n)

g_n is an even-tempered set of bell functions, Gaussians of width σ_n ≈ r_c / √(6·2^n) with compact support, twice
differentiable everywhere; each one is the square of the one before, so no exponential is needed. Features are

    x = [A_sn00, Σ_m A_(sn)lm A_(s'n')lm for (sn) ≤ (s'n'), l = 0 … l_max]

(the power spectrum of Bartók, Kondor, Csányi, Phys. Rev. B 87, 184115 (2013), eq. 24, about grid points). With the
addition theorem S_lm(R − r) = Σ T_lm,l'm'(−r) S_l'm'(R) the sum over atoms is the matrix product
[grid × atom][atom × lm], which BLAS does at full speed.
"""

from __future__ import annotations

import math
import weakref
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from ase_ldos.descriptors.device_copies import DeviceCopies
from ase_ldos.descriptors.power_spectrum.batched_kernel import BatchedPowerSpectrumKernel, ChannelPairs
from ase_ldos.descriptors.power_spectrum.jacobian import power_spectrum_jacobian
from ase_ldos.descriptors.power_spectrum.kernel import PowerSpectrumKernel, bell_height, least_heights
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.solid_harmonics import degree_slices, solid_harmonics, translation_matrix, translation_tensor
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block

#: The narrowest bell of so many functions is far below any grid's spacing.
MAXIMUM_RADIAL = 16


class PowerSpectrum(Descriptor):
    """Power spectrum of the atoms around grid points (see the module's formula).

    Args:
        species: atomic numbers, one channel each.
        cutoff: r_c, Å.
        n_radial: number of radial functions; the narrowest has a width of about r_c / √(6·2^(n_radial − 1)).
        lmax: highest degree, 0 to 4.

    Attributes:
        kernels: what evaluates batches: ``"torch"``, or ``"triton"`` on a GPU. Nothing but speed depends on it.

    Raises:
        ValueError: no or repeated species, cutoff ≤ 0, n_radial outside 1 … 16, lmax outside 0 … 4.
    """

    kernels: str = "torch"

    def __init__(self, species: tuple[int, ...], *, cutoff: float = 6.0, n_radial: int = 6, lmax: int = 4) -> None:
        if not species or len(set(species)) != len(species):
            raise ValueError(f"species are {species}; give each atomic number once, at least one")
        if not 0 < cutoff < math.inf:
            raise ValueError(f"cutoff is {cutoff} Å; it must be positive")
        if n_radial != int(n_radial) or not 1 <= n_radial <= MAXIMUM_RADIAL:
            raise ValueError(f"n_radial is {n_radial}; it must be a whole number from 1 to {MAXIMUM_RADIAL}")
        if lmax != int(lmax):
            raise ValueError(f"lmax is {lmax}; it must be a whole number")
        self.species = tuple(int(number) for number in species)
        self.cutoff = float(cutoff)
        self.n_radial = int(n_radial)
        self.lmax = int(lmax)
        self._slices = degree_slices(self.lmax)
        translation_tensor(self.lmax)  # checks lmax, and is solved for here rather than within the first prediction
        channels = len(self.species) * self.n_radial
        self.pairs = torch.triu_indices(channels, channels)
        self.amplitude_scale = self._amplitude_scale()
        self._scale = DeviceCopies(self.amplitude_scale)
        self._pairs = ChannelPairs(self.pairs, channels)
        self._known: list[tuple[weakref.ref[Tensor], int, Tensor]] = []

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept for the latest points: it can be neither pickled nor of use elsewhere."""
        return {**vars(self), "_known": []}

    @property
    def n_features(self) -> int:
        """Number of features of one point."""
        channels = len(self.species) * self.n_radial
        return channels + (self.lmax + 1) * channels * (channels + 1) // 2

    def settings(self) -> dict[str, Any]:
        """JSON-able settings."""
        return {
            "kind": "power_spectrum",
            "species": list(self.species),
            "cutoff": self.cutoff,
            "n_radial": self.n_radial,
            "lmax": self.lmax,
        }

    def _amplitude_scale(self) -> Tensor:
        """Factors that bring all amplitudes to the same order, ``[channel, lm]``: width^-l and the bell's volume."""
        widths = torch.tensor([self.cutoff / sqrt(6 * 2**n) for n in range(self.n_radial)], dtype=torch.float64)
        degrees = torch.cat([torch.full((2 * degree + 1,), degree) for degree in range(self.lmax + 1)])
        scale = widths[:, None] ** (-degrees[None, :] - 1.5)
        return scale.repeat(len(self.species), 1)

    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Features ``[grid, feature]``; see ``PointFeatures``. Differentiable once; for more, see ``reference``."""
        single = len(self.species) == 1
        rows = [slice(None)] if single else [atom_state == index for index in range(len(self.species))]
        scale = self._scale.like(points)
        features: Tensor = PowerSpectrumKernel.apply(points, atoms, self.shifts(points), scale, rows, self.cutoff)
        return features.T

    def of_batch(self, batch: BlockBatch, image_states: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Features of all points of a batch, ``[block · grid, feature]``; see ``PointFeatures``."""
        points = batch.points
        scale, shifts = self._scale.like(points), self.shifts(points)
        found: Tensor = BatchedPowerSpectrumKernel.apply(
            points, batch.atoms, shifts, scale, None, self._pairs, batch.groups, self.cutoff, self.kernels
        )
        return found

    def batch_radii(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Distances beyond which the radial functions do not count, the widest first; see ``PointFeatures``."""
        heights = least_heights(self.n_radial, (self.lmax + 1) ** 2, dtype)
        return (self.cutoff, *(self.cutoff * math.sqrt(max(0.0, 1 - height)) for height in heights))

    def reference(self, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        """The same features step by step, through torch's own derivatives: slower, for tests and higher derivatives."""
        return self.invariants(self.amplitudes(points, atoms, species))

    @property
    def n_channels(self) -> int:
        """Number of amplitudes with l = 0, the first features of a point."""
        return len(self.species) * self.n_radial

    def mean_features(self, numbers: Tensor, volume: Tensor) -> Tensor:
        """Means over all space of the first features, A_sn00: N_s/V ∫ g_n d³r, float64 ``[channel]``."""
        powers = [3 * 2**n for n in range(self.n_radial)]
        # ∫ (1 − r²/r_c²)^k d³r = 2π r_c³ B(3/2, k + 1)
        beta = [math.exp(math.lgamma(1.5) + math.lgamma(k + 1) - math.lgamma(k + 2.5)) for k in powers]
        integrals = torch.tensor([2 * math.pi * self.cutoff**3 * value for value in beta], dtype=torch.float64)
        counts = torch.tensor([int((numbers == number).sum()) for number in self.species], dtype=torch.float64)
        return (counts[:, None] * integrals).flatten() / float(volume) * self.amplitude_scale[:, 0]

    def jacobian(self, block: Block, atom_state: Tensor, n_atoms: int) -> Tensor:
        """Derivatives of every point's features in closed form; see ``power_spectrum_jacobian``."""
        return power_spectrum_jacobian(self, block, atom_state, n_atoms)

    def invariants(self, amplitudes: Tensor) -> Tensor:
        """Features ``[grid, feature]`` of amplitudes ``[grid, channel, lm]``."""
        blocks = [amplitudes[:, :, 0]]
        first, second = self.pairs.to(amplitudes.device)
        for rows in self._slices:
            part = amplitudes[:, :, rows]
            products = part @ part.mT if part.shape[-1] > 1 else part * part.mT
            blocks.append(products[:, first, second])
        return torch.cat(blocks, dim=-1)

    def amplitudes(self, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        """Scaled A_snlm at the points, ``[grid, channel, lm]`` with channel = (s, n)."""
        harmonics = solid_harmonics(atoms, self.lmax)
        moments = []
        for index in range(len(self.species)):
            mine = slice(None) if len(self.species) == 1 else species == index
            bell = bell_height(points, atoms[mine], self.cutoff) ** 3
            for _ in range(self.n_radial):
                moments.append(bell @ harmonics[mine])
                bell = bell * bell
        return torch.stack(moments, dim=1) @ self.translation(points).mT * self.amplitude_scale.to(points)

    def translation(self, points: Tensor) -> Tensor:
        """T(−r) that moves harmonics about the centre to the points, ``[grid, lm, l'm']``."""
        size = (self.lmax + 1) ** 2
        tensor = translation_matrix(self.lmax, points.dtype, points.device)
        return (solid_harmonics(-points, self.lmax) @ tensor).reshape(-1, size, size)

    @torch.no_grad()
    def shifts(self, points: Tensor) -> Tensor:
        """The transposed translation of the points, kept while they are: blocks of one shape share their points."""
        if points.requires_grad:  # leaves of a derivative are nobody else's
            return self.translation(points).mT.contiguous()
        for known, version, shifts in self._known:
            if known() is points and version == points._version:
                return shifts
        shifts = self.translation(points).mT.contiguous()
        self._known = [(weakref.ref(points), points._version, shifts), *self._known[:3]]
        return shifts
