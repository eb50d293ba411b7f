"""Pairs of atoms within a cutoff, by vesin, with distances that torch can differentiate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from vesin import NeighborList

from ase_ldos.structure import Structure


@dataclass(frozen=True)
class Pairs:
    """Each pair of atoms (or of an atom and an image) once.

    Attributes:
        first: atom i, int64 ``[pair]``.
        second: atom j, int64 ``[pair]``.
        vectors: R_j + S·cell − R_i, Å, ``[pair, 3]``, differentiable in positions and cell.
    """

    first: Tensor
    second: Tensor
    vectors: Tensor

    @property
    def distances(self) -> Tensor:
        """Lengths of the vectors, Å, ``[pair]``."""
        return self.vectors.norm(dim=-1)


def find_pairs(structure: Structure, cutoff: float, *, full: bool = False) -> Pairs:
    """Find all pairs closer than ``cutoff`` (Å); ``full`` lists each pair from both sides.

    Distances are built again in torch from i, j and the cell shifts, so that gradients reach positions and cell.
    """
    search = NeighborList(cutoff=cutoff, full_list=full)
    first, second, shifts = search.compute(
        points=structure.positions.detach().cpu().double().numpy(),
        box=structure.cell.detach().cpu().double().numpy(),
        periodic=True,
        quantities="ijS",
        copy=True,
    )
    device = structure.positions.device
    i = torch.as_tensor(first.astype("int64"), device=device)
    j = torch.as_tensor(second.astype("int64"), device=device)
    shift = torch.as_tensor(shifts.astype("float64"), device=device).to(structure.cell.dtype)
    vectors = structure.positions[j] - structure.positions[i] + shift @ structure.cell
    return Pairs(i, j, vectors)


def check_distances(structure: Structure, minimum: float) -> None:
    """Refuse atoms that lie on top of each other.

    Raises:
        ValueError: two atoms are closer than ``minimum`` (Å); the message names them and their distance.
    """
    pairs = find_pairs(structure, minimum)
    if len(pairs.first):
        closest = int(pairs.distances.argmin())
        raise ValueError(
            f"atoms {int(pairs.first[closest])} and {int(pairs.second[closest])} are "
            f"{float(pairs.distances[closest]):.3f} Å apart; the model knows no distances below {minimum} Å"
        )
