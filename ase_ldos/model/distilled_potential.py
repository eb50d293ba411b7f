"""A cheap potential of the atoms alone, distilled from a model: energy, forces and stress without electrons.

The energy is a sum over the atoms of a polynomial of second degree in what surrounds them,

    E = Σ_i [e_s + w_s·z_i + Σ_{a≤b≤q} W_s,ab z_ia z_ib],    z = (x − m) P,    s: element of atom i,

with x the power spectrum at the atom's place and z its principal components, of which the first q also enter in
products. It is linear in its coefficients, which ``ase_ldos.training.distill`` finds by least squares from energies,
forces and stresses of the model itself. Forces and stress are exact derivatives. One point for each atom takes the
place of the model's some 500 grid points per atom.

Source of the quadratic form: Wood and Thompson, J. Chem. Phys. 148, 241721 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.atom_blocks import iterate_atom_blocks
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.torch_state import standard_torch_state

#: Tensors of a potential, as the model file names them.
TENSORS = ("mean", "projection", "constants", "linear", "quadratic")


@dataclass(frozen=True)
class DistilledPotential:
    """Descriptor, principal components and coefficients (see the module); all tensors float64.

    Attributes:
        descriptor: of the surroundings of an atom; its species are the model's.
        mean: m, ``[feature]``.
        projection: P, ``[feature, component]``.
        constants: e_s, eV, ``[species]``.
        linear: w_s, eV, ``[species, component]``.
        quadratic: W_s for a ≤ b, row by row, eV, ``[species, q (q + 1) / 2]``.
        errors: against the model on structures of its own dynamics that were held back: ``energy`` in meV/atom,
            ``forces`` in meV/Å, ``stress`` in GPa, ``typical_forces`` in meV/Å, number of ``structures``.
        provenance: of what it was distilled; for people.

    Raises:
        ValueError: shapes that do not fit together.
    """

    descriptor: PowerSpectrum
    mean: Tensor
    projection: Tensor
    constants: Tensor
    linear: Tensor
    quadratic: Tensor
    errors: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit together."""
        n_species, n_components = len(self.descriptor.species), self.projection.shape[-1]
        wanted = {
            "mean": (self.descriptor.n_features,),
            "projection": (self.descriptor.n_features, n_components),
            "constants": (n_species,),
            "linear": (n_species, n_components),
            "quadratic": (n_species, self.n_products * (self.n_products + 1) // 2),
        }
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} of the distilled potential has the shape {list(getattr(self, name).shape)}; "
                    f"{list(shape)} is expected"
                )
        if self.n_products > n_components:
            raise ValueError(f"the distilled potential has products of {self.n_products} of {n_components} components")

    @property
    def error_words(self) -> str:
        """How far it is from the model, for people."""
        found = self.errors
        return (
            f"{found['energy']:.2f} meV/atom, {found['forces']:.1f} meV/Å (of {found['typical_forces']:.0f}) and "
            f"{found['stress']:.2f} GPa"
        )

    @property
    def n_products(self) -> int:
        """q, the number of components that enter in products."""
        return round(((8 * self.quadratic.shape[-1] + 1) ** 0.5 - 1) / 2)

    @standard_torch_state()
    def evaluate(self, structure: Structure, *, stress: bool = False) -> tuple[float, Tensor, Tensor | None]:
        """Energy, eV, forces, eV/Å, ``[atom, 3]``, and, if wanted, stress, eV/Å³, ``[3, 3]``, tension positive.

        Args:
            structure: float64, on the CPU.
            stress: give it.

        Raises:
            ValueError: an element that the potential does not know.
        """
        species = species_indices(structure.numbers, self.descriptor.species)
        energy = float(self.constants[species].sum())
        by_atoms = torch.zeros_like(structure.positions)
        virial = torch.zeros_like(structure.cell)
        for block in iterate_atom_blocks(structure, self.descriptor.cutoff):
            points, atoms = block.points.requires_grad_(), block.atoms.requires_grad_()
            features = self.descriptor(points, atoms, species[block.owners])
            energies, slopes = self._polynomial(features.detach(), species[block.flat])
            by_points, by_images = torch.autograd.grad(features, (points, atoms), slopes)
            energy += float(energies.sum())
            by_atoms.index_add_(0, block.flat, by_points)
            by_atoms.index_add_(0, block.owners, by_images)
            if stress:
                virial += points.detach().T @ by_points + atoms.detach().T @ by_images
        found = (virial + virial.T) / (2 * structure.volume) if stress else None
        return energy, -by_atoms, found

    def _polynomial(self, features: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Energies of atoms without their constants, eV, ``[atom]``, and derivatives in x, ``[atom, feature]``."""
        components = (features - self.mean) @ self.projection
        slopes = self.linear[species]
        energies = (components * slopes).sum(dim=1)
        q = self.n_products
        if q:
            first, second = torch.triu_indices(q, q).unbind()
            weights = self.quadratic.new_zeros(len(self.quadratic), q, q)
            weights[:, first, second] = self.quadratic
            leading = components[:, :q]
            turned = (leading[:, None] @ (weights + weights.mT)[species])[:, 0]
            energies = energies + (leading * turned).sum(dim=1) / 2
            slopes = torch.cat((slopes[:, :q] + turned, slopes[:, q:]), dim=1)
        return energies, slopes @ self.projection.T

    def header(self) -> dict[str, Any]:
        """What a model file keeps beside the tensors; JSON-able."""
        return {"descriptor": self.descriptor.settings(), "errors": self.errors, "provenance": self.provenance}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in ``TENSORS``."""
        return {name: getattr(self, name).contiguous() for name in TENSORS}

    @classmethod
    def of(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> DistilledPotential:
        """The inverse of ``header`` and ``tensors``.

        Raises:
            ValueError: another descriptor than the power spectrum, or shapes that do not fit together.
        """
        settings = dict(header["descriptor"])
        if settings.pop("kind") != "power_spectrum":
            raise ValueError(f"the distilled potential has the descriptor {header['descriptor']['kind']!r}")
        descriptor = PowerSpectrum(tuple(settings.pop("species")), **settings)
        values = {name: tensors[name].to(torch.float64) for name in TENSORS}
        return cls(descriptor, **values, errors=header["errors"], provenance=header["provenance"])
