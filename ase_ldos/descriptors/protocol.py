"""What every descriptor offers."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Descriptor(Protocol):
    """A map from the atoms around a point to numbers that do not change when atoms and point are rotated.

    A descriptor knows nothing of periodicity or blocks: it is given points and all atoms (images included) that
    may lie within ``cutoff`` of any of them, in coordinates about a common centre, and works in their dtype.

    Attributes:
        cutoff: Å; atoms farther away have no influence.
        species: atomic numbers it knows; an atom's species index is its place here.
        n_features: length of the feature axis.
    """

    cutoff: float
    species: tuple[int, ...]

    @property
    def n_features(self) -> int:
        """Number of features of one point."""
        ...

    def __call__(self, points: Tensor, atoms: Tensor, species: Tensor) -> Tensor:
        """Evaluate the features, differentiable at least once in points and atoms.

        Args:
            points: Å, ``[grid, 3]``.
            atoms: all that may be near one of the points, Å, ``[image, 3]``.
            species: their species indices, int64 ``[image]``.

        Returns:
            ``[grid, feature]``.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able settings from which ``descriptors.make_descriptor`` builds the same descriptor again."""
        ...
