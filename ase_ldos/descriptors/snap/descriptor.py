"""SNAP: the bispectrum of the atoms around a point, in the convention of LAMMPS' ``compute sna/grid``.

A neighbour at displacement d, r = |d| < r_c, is mapped onto the unit sphere in four dimensions,

    u = (cos χ, sin χ d / r),   χ = rfac0 π r / r_c,

where it weighs w f_c(r), f_c = (cos(π r / r_c) + 1) / 2; the point itself stands at the pole χ = 0 with weight 1.
LAMMPS expands this density in Wigner matrices, U_j = 1 + Σ w f_c D^j, and forms
B_{j1 j2 j} = Σ conj(U_j) (C C U_j1 U_j2) with Clebsch-Gordan coefficients C. The sphere is the group SU(2), and an
integral of three Wigner matrices over it is a product of two Clebsch-Gordan coefficients, so that

    B_{j1 j2 j} = (j + 1) ⟨f_j1 f_j2 f_j⟩,   f_j(g) = P_j(1·g) + Σ w f_c(r) P_j(u·g),

with the average over the sphere and P_j the Chebyshev polynomials of the second kind (labels j are twice the angular
momentum). f_j is the density's component of degree j, and a quadrature averages the product exactly. There is no
recursion and no table of coefficients: nearly all the work is matrix products.

A. P. Bartók, M. C. Payne, R. Kondor, G. Csányi, Phys. Rev. Lett. 104, 136403 (2010); A. P. Thompson, L. P. Swiler,
C. R. Trott, S. M. Foiles, G. J. Tucker, J. Comput. Phys. 285, 316 (2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial, isfinite, pi
from typing import Any

import torch
from torch import Tensor

from ase_ldos.descriptors.device_copies import DeviceCopies
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.snap.bispectrum import Bispectrum, bispectrum_triples
from ase_ldos.descriptors.snap.hypersphere import HarmonicBasis, harmonic_basis, rotation_quadrature
from ase_ldos.descriptors.snap.sphere_polynomials import polynomial_factors
from ase_ldos.descriptors.snap.triple_integrals import TripleIntegrals
from ase_ldos.geometry.grid_batches import BlockBatch

#: Terms of the series of cos and sin up to π/2; the next one is below 1e-17.
SERIES_TERMS = 12


class SNAP(Descriptor):
    """Bispectrum components of the atoms around grid points (see the module's formula).

    The columns come in LAMMPS' order, ``triples`` names them. One difference: LAMMPS leaves out an atom that lies
    exactly on the point; here it counts with its full weight, which is the limit from all sides.

    Args:
        species: atomic numbers.
        twojmax: 2 J, the highest label j.
        cutoff: r_c, Å.
        weights: w of each species; 1 by default.
        switch: whether f_c is used (LAMMPS' switchflag 1); without it f_c = 1, and features jump at the cutoff.
        rfac0: fraction of the half circle of χ that the cutoff is mapped to.

    Raises:
        ValueError: no or repeated species, cutoff ≤ 0, twojmax < 0, not one finite weight for each species, rfac0
            outside 0 … 1.
    """

    #: Functions of each pair of a point and a neighbour are kept for derivatives: some 5 GB.
    batch_points = 2**16
    #: The number of neighbours is read.
    waits = True

    def __init__(
        self,
        species: tuple[int, ...],
        *,
        twojmax: int = 10,
        cutoff: float = 4.67637,
        weights: Sequence[float] | None = None,
        switch: bool = True,
        rfac0: float = 0.99363,
    ) -> None:
        if not species or len(set(species)) != len(species):
            raise ValueError(f"species are {species}; give each atomic number once, at least one")
        if not (cutoff > 0 and isfinite(cutoff)):
            raise ValueError(f"cutoff is {cutoff} Å; it must be positive and finite")
        if twojmax != int(twojmax) or twojmax < 0:
            raise ValueError(f"twojmax is {twojmax}; it must be a whole number, 0 or more")
        if not 0 < rfac0 <= 1:
            raise ValueError(f"rfac0 is {rfac0}; it must lie above 0 and not above 1")
        weights = [1.0] * len(species) if weights is None else list(weights)
        if len(weights) != len(species) or not all(isfinite(weight) for weight in weights):
            raise ValueError(f"weights are {weights} for species {tuple(species)}; give one finite weight for each")
        self.species = tuple(int(number) for number in species)
        self.twojmax = int(twojmax)
        self.cutoff = float(cutoff)
        self.weights = tuple(float(weight) for weight in weights)
        self.switch = bool(switch)
        self.rfac0 = float(rfac0)
        self._species_weights = DeviceCopies(torch.tensor(self.weights, dtype=torch.float64))
        self.triples = bispectrum_triples(self.twojmax)
        quadrature = rotation_quadrature(3 * self.twojmax)
        self._basis, values = harmonic_basis(self.twojmax, quadrature)
        self._integrals = TripleIntegrals.of(self.triples, self._basis, values, quadrature)
        self._converted: dict[tuple[torch.dtype, torch.device], tuple[HarmonicBasis, TripleIntegrals]] = {}

    @property
    def n_features(self) -> int:
        """Number of features of one point."""
        return len(self.triples)

    def settings(self) -> dict[str, Any]:
        """JSON-able settings."""
        return {
            "kind": "snap",
            "species": list(self.species),
            "twojmax": self.twojmax,
            "cutoff": self.cutoff,
            "weights": list(self.weights),
            "switch": self.switch,
            "rfac0": self.rfac0,
        }

    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Features ``[grid, feature]``; see ``PointFeatures``. Differentiable any number of times.

        Raises:
            ValueError: shapes do not fit, or a species index is not one of this descriptor's.
        """
        self._check(points, atoms, atom_state)
        return self._of_blocks(points, atoms[None], self._species_weights.like(points)[atom_state][None])

    def of_batch(self, batch: BlockBatch, image_states: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Features of all points of a batch, ``[block · grid, feature]``; see ``BatchedFeatures``. Waits once."""
        weights = self._species_weights.like(batch.points)
        rows = [
            weights[index : index + 1].expand(group.rows.stop - group.rows.start)
            for index, group in enumerate(batch.groups)
        ]
        return self._of_blocks(batch.points, batch.atoms, torch.cat(rows).expand(batch.n_blocks, -1))

    def batch_radii(self, dtype: torch.dtype) -> tuple[float, ...]:  # noqa: ARG002
        """The cutoff alone; see ``BatchedFeatures``."""
        return (self.cutoff,)

    def _of_blocks(self, points: Tensor, atoms: Tensor, weights: Tensor) -> Tensor:
        """Features ``[block · grid, feature]`` of blocks with the same points.

        Args:
            points: about the centre of each block, Å, ``[grid, 3]``.
            atoms: images about the centres, Å, ``[block, image, 3]``.
            weights: w of the images, ``[block, image]``.
        """
        basis, integrals = self._constants(points)
        coefficients = basis.coefficients(self._moments(points, atoms, weights)) + basis.pole
        features: Tensor = Bispectrum.apply(coefficients, integrals)
        return features

    def _check(self, points: Tensor, atoms: Tensor, species: Tensor) -> None:
        if points.ndim != 2 or points.shape[1] != 3 or atoms.ndim != 2 or atoms.shape[1] != 3:
            raise ValueError(
                f"points {list(points.shape)} and atoms {list(atoms.shape)} must be [grid, 3] and [image, 3]"
            )
        if species.shape != atoms.shape[:1]:
            raise ValueError(f"species {list(species.shape)} must be [image] like atoms {list(atoms.shape)}")
        if len(species) and (species.min() < 0 or species.max() >= len(self.species)):
            raise ValueError(
                f"species indices run from {int(species.min())} to {int(species.max())}; "
                f"with {len(self.species)} species they must lie in 0 … {len(self.species) - 1}"
            )

    def _constants(self, like: Tensor) -> tuple[HarmonicBasis, TripleIntegrals]:
        """The basis and the integrals in the dtype and on the device of ``like``, converted once."""
        key = (like.dtype, like.device)
        if key not in self._converted:
            self._converted[key] = (self._basis.to(like), self._integrals.to(like))
        return self._converted[key]

    def _moments(self, points: Tensor, atoms: Tensor, weights: Tensor) -> Tensor:
        """Sums of the polynomials over the neighbours, weighted by w f_c, ``[block · grid, k m · n]``."""
        neighbours = nearest(points.detach(), atoms.detach(), self.cutoff)
        first = atoms.shape[1] * torch.arange(len(atoms), device=atoms.device)
        flat, shape = (neighbours + first[:, None, None]).flatten(), (len(atoms) * len(points), neighbours.shape[2])
        rows = atoms.flatten(0, 1)
        # on a GPU the derivative of index_select adds in whatever order, that of an index in the same every time
        taken = rows[flat].T if rows.is_cuda else rows.T.index_select(1, flat)
        displacements = taken.reshape(3, *shape) - points.repeat(len(atoms), 1).T[:, :, None]
        squared = (displacements * displacements).sum(dim=0)
        inside = squared < self.cutoff**2
        weight = weights.flatten()[flat].view(shape) * inside
        scaled = torch.where(inside, squared * (pi / (2 * self.cutoff)) ** 2, 0)
        if self.switch:
            weight = weight * cosine_of_root(scaled) ** 2
        half = self.rfac0**2 * scaled
        cosine, sine = cosine_of_root(half), sine_of_root(half)
        x, y, z = (self.rfac0 * pi / self.cutoff) * sine * cosine * displacements
        first, second = polynomial_factors((2 * cosine * cosine - 1, z), (x, y), weight, self.twojmax)
        return torch.bmm(first.transpose(0, 1), second.permute(1, 2, 0)).flatten(1)


def nearest(points: Tensor, atoms: Tensor, cutoff: float) -> Tensor:
    """The nearest atoms of each point: as many as the fullest point has within ``cutoff``, of others farther ones too.

    Args:
        points: of each block, Å, ``[grid, 3]``.
        atoms: Å, ``[block, image, 3]``.
        cutoff: Å.

    Returns:
        int64 ``[block, grid, neighbour]``.
    """
    if not len(points) or not atoms.shape[1]:
        return torch.empty(len(atoms), len(points), 0, dtype=torch.int64, device=points.device)
    offset = (points * points).sum(-1)[:, None] + (atoms * atoms).sum(-1)[:, None]
    squared = torch.baddbmm(offset, points.expand(len(atoms), -1, -1), atoms.mT, alpha=-2)
    # the shell leaves room for the rounding of squares of coordinates
    most = int((squared < (1.001 * cutoff) ** 2).sum(dim=2).max())
    return squared.topk(most, dim=2, largest=False, sorted=False).indices


def cosine_of_root(squared: Tensor) -> Tensor:
    """Cosine: cos √s for 0 ≤ s ≤ (π/2)² as its series in s, which has all derivatives at 0."""
    return _series(squared, [(-1) ** k / factorial(2 * k) for k in range(SERIES_TERMS)])


def sine_of_root(squared: Tensor) -> Tensor:
    """Sine: sin √s / √s for 0 ≤ s ≤ (π/2)² as its series in s, which has all derivatives at 0."""
    return _series(squared, [(-1) ** k / factorial(2 * k + 1) for k in range(SERIES_TERMS)])


def _series(x: Tensor, terms: list[float]) -> Tensor:
    value = torch.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        value = value * x + term
    return value
