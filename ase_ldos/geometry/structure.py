"""Atoms as plain tensors, checked once at the border."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

if TYPE_CHECKING:
    from ase import Atoms

#: Smallest volume per atom (Å³) that is taken for matter; below it a cell is a mistake.
MINIMUM_VOLUME_PER_ATOM = 1.0


@dataclass(frozen=True)
class Structure:
    """A periodic structure.

    Attributes:
        numbers: atomic numbers, int64 ``[atom]``.
        positions: Cartesian positions, Å, ``[atom, 3]``.
        cell: rows are the lattice vectors, Å, ``[3, 3]``.
    """

    numbers: Tensor
    positions: Tensor
    cell: Tensor

    @classmethod
    def from_atoms(
        cls, atoms: Atoms, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Structure:
        """Convert ASE atoms, checking that they are a periodic piece of matter.

        Raises:
            ValueError: no atoms, not periodic in all three directions, a singular cell, less than
                1 Å³ per atom, or positions or cell that are not finite.
        """
        cell = np.asarray(atoms.cell[:], dtype=float)
        check_atoms(atoms.get_positions(), cell, atoms.pbc)
        return cls.from_arrays(atoms.numbers, atoms.get_positions(), cell, dtype=dtype, device=device)

    @classmethod
    def from_arrays(
        cls,
        numbers: np.ndarray,
        positions: np.ndarray,
        cell: np.ndarray,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Structure:
        """Make tensors of arrays in the units of the class, without checks."""
        return cls(
            torch.as_tensor(np.array(numbers), dtype=torch.int64, device=device),
            torch.as_tensor(np.array(positions), dtype=dtype, device=device),
            torch.as_tensor(np.array(cell), dtype=dtype, device=device),
        )

    def __len__(self) -> int:
        return int(self.numbers.shape[0])

    def to(self, device: torch.device | str) -> Structure:
        """The structure on a device."""
        return Structure(self.numbers.to(device), self.positions.to(device), self.cell.to(device))

    @property
    def volume(self) -> Tensor:
        """Volume of the cell, Å³."""
        return torch.linalg.det(self.cell).abs()

    def strained(self, strain: Tensor) -> Structure:
        """Deform atoms and cell together: R → R (1 + ε), with ε the strain ``[3, 3]``, differentiably."""
        deformation = torch.eye(3, dtype=strain.dtype, device=strain.device) + strain
        return replace(self, positions=self.positions @ deformation, cell=self.cell @ deformation)


def check_atoms(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
    """Raise ``ValueError`` with one clear sentence if this is not a periodic piece of matter."""
    if len(positions) == 0:
        raise ValueError("the structure has no atoms; give at least one")
    if not np.all(pbc):
        raise ValueError(
            f"periodic boundary conditions are {np.asarray(pbc).tolist()}; all three must be True "
            "(for a slab use a periodic cell with vacuum)"
        )
    if not (np.all(np.isfinite(positions)) and np.all(np.isfinite(cell))):
        raise ValueError("positions or cell contain NaN or infinity; all coordinates must be finite")
    volume = abs(np.linalg.det(cell))
    lengths = np.linalg.norm(cell, axis=1)
    if volume < 1e-6 * max(1e-12, float(np.prod(lengths))) or volume == 0:
        raise ValueError(f"the cell is singular (volume {volume:.3g} Å³); three independent lattice vectors are needed")
    if volume / len(positions) < MINIMUM_VOLUME_PER_ATOM:
        raise ValueError(
            f"the cell has {volume / len(positions):.3g} Å³ per atom; at least {MINIMUM_VOLUME_PER_ATOM} is expected "
            "(are lengths in Å?)"
        )


def species_indices(numbers: Tensor, species: tuple[int, ...]) -> Tensor:
    """Place of each atom's number in ``species``, int64 ``[atom]``.

    Raises:
        ValueError: an atom's element is not among the species.
    """
    known = torch.tensor(species, device=numbers.device)
    match = numbers[:, None] == known[None, :]
    if not bool(match.any(dim=1).all()):
        foreign = sorted({chemical_symbols[int(n)] for n in numbers[~match.any(dim=1)]})
        names = ", ".join(chemical_symbols[n] for n in species)
        raise ValueError(f"the model knows {names}; the atoms contain {', '.join(foreign)}")
    return match.to(torch.int64).argmax(dim=1)
