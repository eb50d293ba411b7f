"""The SE(3)-equivariant graph network: attention between atoms, then features of any point in space.

The steps of Fuchs et al., arXiv:2006.10503: neighbours and relative positions; equivariant kernels; queries, keys and
values; attention and aggregation. They run on the atoms alone and once per structure (``encode_atoms``). Points in
space are probes that only receive: their features are invariants of atom-centred expansions (``forward``), from which a
pointwise network gives the LDOS. So the cost of a point depends neither on the layers nor on the number of energies.

Where asked for, the features begin with those of the fixed power spectrum, which has no weights: then a trained
``PowerSpectrum`` model is this network with learned features that nobody reads, and training may start from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.solid_harmonics import MAXIMUM_DEGREE
from ase_ldos.geometry.grid_batches import BATCH_POINTS, BlockBatch
from ase_ldos.geometry.image_table import ImageGroup
from ase_ldos.geometry.neighbours import find_pairs
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.networks.se3_transformer.attention import AtomLayer, Edges
from ase_ldos.networks.se3_transformer.equivariant import DegreeNorm
from ase_ldos.networks.se3_transformer.readout import AtomCentredReadout


class SE3Transformer(nn.Module):
    """Invariant features of points among atoms, learned, with full E(3) symmetry (see the module).

    Args:
        species: atomic numbers it knows.
        cutoff: from a point to its atoms, Å.
        atom_cutoff: between atoms, Å.
        lmax: highest degree of features and harmonics, 0 to 4.
        channels: per degree.
        layers: of attention on the atoms; 0 leaves only the kind of each atom.
        heads: of the attention; a divisor of ``channels``.
        n_radial: radial functions of points.
        n_radial_atoms: radial functions of pairs of atoms.
        fields: see ``AtomCentredReadout``.
        moments: see ``AtomCentredReadout``.
        point_heads: heads of the attention at the point, a divisor of ``fields``; 0 leaves it out.
        spectrum_radial: radial functions of the fixed power spectrum; 0 leaves it out.
        spectrum_lmax: highest degree of the fixed power spectrum.
        generator: source of the initial weights; by default a new one with seed 0.

    Raises:
        ValueError: no or repeated species, cutoffs ≤ 0, lmax outside 0 … 4, numbers that are no positive integers
            or do not divide as they must.
    """

    KIND = "se3_transformer"
    batch_points = BATCH_POINTS
    waits = False

    def __init__(
        self,
        species: tuple[int, ...],
        *,
        cutoff: float = 5.0,
        atom_cutoff: float = 5.0,
        lmax: int = 2,
        channels: int = 32,
        layers: int = 2,
        heads: int = 4,
        n_radial: int = 5,
        n_radial_atoms: int = 8,
        fields: int = 32,
        moments: int = 1,
        point_heads: int = 0,
        spectrum_radial: int = 0,
        spectrum_lmax: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.species = tuple(int(number) for number in species)
        self.cutoff, self.atom_cutoff = float(cutoff), float(atom_cutoff)
        self._options = {
            "lmax": lmax,
            "channels": channels,
            "layers": layers,
            "heads": heads,
            "n_radial": n_radial,
            "n_radial_atoms": n_radial_atoms,
            "fields": fields,
            "moments": moments,
            "point_heads": point_heads,
            "spectrum_radial": spectrum_radial,
            "spectrum_lmax": spectrum_lmax,
        }
        self._check()
        self.spectrum = (
            PowerSpectrum(self.species, cutoff=self.cutoff, n_radial=spectrum_radial, lmax=spectrum_lmax)
            if spectrum_radial
            else None
        )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.embedding = nn.Parameter(torch.randn(len(self.species), channels, generator=generator))
        # the first layer starts from scalars: all other degrees are still zero
        self.layers = nn.ModuleList(
            AtomLayer(lmax if number else 0, lmax, channels, heads, n_radial_atoms, self.atom_cutoff, generator)
            for number in range(layers)
        )
        self.norm = DegreeNorm(lmax, channels)
        self.readout = AtomCentredReadout(
            lmax,
            channels,
            cutoff=self.cutoff,
            n_radial=n_radial,
            fields=fields,
            moments=moments,
            heads=point_heads,
            generator=generator,
        )

    def _check(self) -> None:
        """Refuse settings that make no network."""
        if not self.species or len(set(self.species)) != len(self.species):
            raise ValueError(f"species are {self.species}; give each atomic number once, at least one")
        if not min(self.cutoff, self.atom_cutoff) > 0:
            raise ValueError(
                f"cutoff and atom_cutoff are {self.cutoff} and {self.atom_cutoff} Å; both must be positive"
            )
        options = self._options
        for name in ("lmax", "spectrum_lmax"):
            if not 0 <= options[name] <= MAXIMUM_DEGREE:
                raise ValueError(f"{name} is {options[name]}; degrees from 0 to {MAXIMUM_DEGREE} are available")
        may_be_zero = ("lmax", "layers", "moments", "point_heads", "spectrum_radial", "spectrum_lmax")
        for name, value in options.items():
            least = 0 if name in may_be_zero else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
        for whole, part in (("channels", "heads"), ("fields", "point_heads")):
            if options[part] and options[whole] % options[part]:
                raise ValueError(f"{options[whole]} {whole} cannot be shared by {options[part]} {part}: no divisor")

    @property
    def n_features(self) -> int:
        """Number of features of one point."""
        return (0 if self.spectrum is None else self.spectrum.n_features) + self.n_learned

    @property
    def fixed(self) -> PowerSpectrum | None:
        """The power spectrum, whose features come first."""
        return self.spectrum

    @property
    def n_learned(self) -> int:
        """Number of features that depend on weights."""
        return self.readout.n_features

    def mean_features(self, numbers: Tensor, volume: Tensor) -> Tensor | None:
        """Means of the power spectrum's first features; see ``PointFeatures``."""
        return None if self.spectrum is None else self.spectrum.mean_features(numbers, volume)

    def settings(self) -> dict[str, Any]:
        """JSON-able settings from which ``make_point_features`` builds the same network with other weights."""
        return {
            "kind": self.KIND,
            "species": list(self.species),
            "cutoff": self.cutoff,
            "atom_cutoff": self.atom_cutoff,
            **self._options,
        }

    def encode_atoms(self, structure: Structure) -> Tensor:
        """All layers on the atoms: the state of each atom, ``[atom, 1 + coefficient]``: species index, coefficients.

        Differentiable in positions and cell as often as one likes.

        Raises:
            ValueError: foreign elements.
        """
        # where the weights are, whether or not the atoms are there too
        device = self.embedding.device
        species = species_indices(structure.numbers, self.species).to(device)
        pairs = find_pairs(structure, self.atom_cutoff, full=True).to(device)
        options = self._options
        edges = Edges.from_pairs(
            pairs, self.atom_cutoff, options["lmax"], options["n_radial_atoms"], self.embedding.dtype
        )
        features = self.embedding[species][:, None, :]
        for layer in self.layers:
            features = layer(features, edges)
        features = nn.functional.pad(features, (0, 0, 0, len(edges.harmonics.T) - features.shape[1]))
        return torch.cat((species[:, None].to(features), self.readout.coefficients(self.norm(features))), dim=1)

    def forward(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Features of points ``[grid, feature]``; see ``PointFeatures``."""
        learned = self.learned(points, atoms, atom_state)
        if self.spectrum is None:
            return learned
        return torch.cat((self.spectrum(points, atoms, atom_state[:, 0].long()), learned), dim=1)

    def of_batch(self, batch: BlockBatch, image_states: Tensor | None = None) -> Tensor:
        """Features of all points of a batch, ``[block · grid, feature]``; see ``BatchedFeatures``."""
        assert image_states is not None
        counts = [batch.atoms.shape[1]] * self._options["n_radial"]
        if len(batch.groups) == 1:
            # the nearest come first on the whole axis: narrow functions need no others
            (group,) = batch.groups
            counts = [group.counts[0], *group.counts[self._spectrum_counts :]]
        learned = self.readout.of_blocks(batch.points, batch.atoms, image_states[..., 1:], counts)
        if self.spectrum is None:
            return learned
        groups = tuple(ImageGroup(group.rows, group.counts[: self._spectrum_counts]) for group in batch.groups)
        return torch.cat((self.spectrum.of_batch(replace(batch, groups=groups)), learned), dim=1)

    def batch_radii(self, dtype: torch.dtype) -> tuple[float, ...]:
        """The cutoff, those of the power spectrum's other functions, then those of the readout's; see the protocol."""
        spectrum = (self.cutoff,) if self.spectrum is None else self.spectrum.batch_radii(dtype)
        return (*spectrum, *self.readout.supports[1:])

    @property
    def _spectrum_counts(self) -> int:
        """How many of ``batch_radii`` are the power spectrum's, or the cutoff alone."""
        return max(1, self._options["spectrum_radial"])

    def learned(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Those features that depend on weights; arguments as of ``forward``."""
        found: Tensor = self.readout(points, atoms, atom_state[:, 1:])
        return found
