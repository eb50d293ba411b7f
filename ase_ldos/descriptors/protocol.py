"""What describes the surroundings of a point, and what a model, a prediction and a training ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ase_ldos.geometry.grid_batches import BATCH_POINTS, BlockBatch
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.geometry.structure import Structure, species_indices

#: Components of the strain in the order of Voigt.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


class PointFeatures(Protocol):
    """A map from the atoms around a point to numbers that do not change when atoms and point are rotated.

    It knows nothing of periodicity or blocks: it is given points and all atoms (images included) that may lie within
    ``cutoff`` of any of them, in coordinates about a common centre, and works in their dtype.

    The features come in two parts: first those without weights (``fixed``), which training evaluates once, with their
    derivatives; then those that depend on weights. A descriptor has the first alone, a graph network may have both.

    Attributes:
        cutoff: Å; atoms farther away have no influence.
        species: atomic numbers it knows; an atom's species index is its place here.
    """

    cutoff: float
    species: tuple[int, ...]

    @property
    def n_features(self) -> int:
        """Number of features of one point."""
        ...

    @property
    def fixed(self) -> FixedFeatures | None:
        """The features without weights, which come first; ``None`` where all are learned."""
        ...

    @property
    def n_learned(self) -> int:
        """Number of features that depend on weights; they come last."""
        ...

    def encode_atoms(self, structure: Structure) -> Tensor:
        """What the points need to know of each atom, found once per structure: the atoms' state, ``[atom, ...]``.

        Integers where it does not depend on where the atoms are (species indices), else floating-point numbers that
        are differentiable in positions and cell.

        Raises:
            ValueError: an atom's element is not among the species.
        """
        ...

    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Evaluate the features, differentiable at least once in points, atoms and a floating-point state.

        Args:
            points: Å, ``[grid, 3]``.
            atoms: all that may be near one of the points, Å, ``[image, 3]``.
            atom_state: of these images, ``encode_atoms(structure)[owners]``.

        Returns:
            ``[grid, feature]``.
        """
        ...

    def learned(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """The learned features alone, differentiable twice, ``[grid, n_learned]``; arguments as of the call."""
        ...

    def mean_features(self, numbers: Tensor, volume: Tensor) -> Tensor | None:
        """Means over all space of the first features, in closed form.

        Args:
            numbers: atomic numbers, ``[atom]``.
            volume: of the cell, Å³.

        Returns:
            float64 ``[n]``, of the first n features; ``None`` where no mean is known.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able settings, ``kind`` and ``species`` among them, from which it is built again."""
        ...


@runtime_checkable
class BatchedFeatures(PointFeatures, Protocol):
    """Features that can be evaluated in many equal blocks at once, as a GPU likes it.

    Without this, blocks are evaluated one by one. Weights may be on another device than the structure whose atoms are
    encoded: it stays on the CPU, where neighbours are found.

    Attributes:
        batch_points: grid points of the largest batch.
        waits: whether the host must read what the device finds, so that no CUDA graph can hold it.
    """

    batch_points: int
    waits: bool

    def of_batch(self, batch: BlockBatch, image_states: Tensor | None = None) -> Tensor:
        """Features of all points of a batch, ``[block · grid, feature]``.

        Args:
            batch: whose groups of images are the species.
            image_states: of the images where an atom's state is floating-point numbers, ``[block, image, ...]``; None
                where it is the species, which the groups tell.
        """
        ...

    def batch_radii(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Distances, Å, for which a batch says how many images are that near; the first, the largest, is the cutoff."""
        ...


class FixedFeatures(PointFeatures, Protocol):
    """Features without weights: their derivatives can be evaluated once and kept."""

    def jacobian(self, block: Block, atom_state: Tensor, n_atoms: int) -> Tensor:
        """∂x/∂R and ∂x/∂ε at the points of a block.

        Args:
            block: points and images, float64.
            atom_state: of the images.
            n_atoms: number of atoms that own the images.

        Returns:
            ``[grid, 3 atom + 6, feature]``, 1/Å and 1 (Voigt order xx yy zz yz xz xy, engineering shear).
        """
        ...


class Descriptor(ABC):
    """Base of descriptors: a subclass gives ``cutoff``, ``species``, ``n_features``, ``settings`` and ``__call__``.

    An atom's state is its species index, means are unknown, and the Jacobian comes from automatic differentiation,
    which asks for features that are differentiable twice. A subclass that knows better overrides these.
    """

    cutoff: float
    species: tuple[int, ...]
    batch_points: int = BATCH_POINTS
    waits: bool = False

    @property
    @abstractmethod
    def n_features(self) -> int:
        """Number of features of one point."""

    @property
    def fixed(self) -> FixedFeatures:
        """All of it."""
        return self

    @property
    def n_learned(self) -> int:
        """Nothing is learned."""
        return 0

    def encode_atoms(self, structure: Structure) -> Tensor:
        """Species indices, int64 ``[atom]``; see ``PointFeatures``."""
        return species_indices(structure.numbers, self.species)

    @abstractmethod
    def __call__(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:
        """Features ``[grid, feature]``; see ``PointFeatures``."""

    def learned(self, points: Tensor, atoms: Tensor, atom_state: Tensor) -> Tensor:  # noqa: ARG002
        """No features, ``[grid, 0]``."""
        return points.new_zeros(len(points), 0)

    def mean_features(self, numbers: Tensor, volume: Tensor) -> Tensor | None:  # noqa: ARG002
        """Unknown; see ``PointFeatures``."""
        return None

    def jacobian(self, block: Block, atom_state: Tensor, n_atoms: int) -> Tensor:
        """Derivatives of every point's features by automatic differentiation; see ``autograd_jacobian``."""
        return autograd_jacobian(self, block, atom_state, n_atoms)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-able settings; see ``PointFeatures``."""


def autograd_jacobian(features: PointFeatures, block: Block, atom_state: Tensor, n_atoms: int) -> Tensor:
    """∂x/∂R and ∂x/∂ε of each point by two passes backwards; arguments and result as of ``FixedFeatures.jacobian``.

    With weights u of all features at all points, g = ∂(Σ u x)/∂(R, ε) is linear in u, so the row of the Jacobian that
    belongs to one coordinate is the derivative of that component of g in u: one pass for each of the 3 N + 6.
    """
    with torch.enable_grad():
        displacements = block.atoms.new_zeros(n_atoms, 3, requires_grad=True)
        strain = block.atoms.new_zeros(6, requires_grad=True)
        deformation = block.atoms.new_zeros(3, 3)
        for component, (row, column) in zip(strain.unbind(), VOIGT):
            unit = torch.zeros_like(deformation)
            unit[row, column] += 0.5
            unit[column, row] += 0.5
            deformation = deformation + component * unit
        atoms, points = block.atoms + displacements[block.owners], block.points
        values = features(points + points @ deformation, atoms + atoms @ deformation, atom_state)
        weights = torch.ones_like(values, requires_grad=True)
        slopes = torch.autograd.grad(
            values, (displacements, strain), weights, create_graph=True, allow_unused=True, materialize_grads=True
        )
        # a block that no atom is near has features without a graph
        rows = [
            torch.autograd.grad(slope, weights, retain_graph=True)[0]
            if slope.requires_grad
            else torch.zeros_like(values)
            for slope in torch.cat([part.flatten() for part in slopes]).unbind()
        ]
    return torch.stack(rows, dim=1).detach()
