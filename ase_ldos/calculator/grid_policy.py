"""One grid for a whole run.

The grid of the sums over space is part of the energy whose derivatives the forces are. So it is chosen once, from the
target spacing and with sizes that suit an FFT, and then kept while atoms and cell move: molecular dynamics at constant
volume conserves its energy. Two things make a new grid:

* other atoms (another number or other elements),
* a lattice vector whose spacing has left 0.85 … 1.1 of what it was when the grid was chosen.

With the second, a message is logged (logger ``ase_ldos.calculator.grid_policy``, level INFO) and the energy jumps by
the difference of the two grids' discretisation errors; ``LDOSCalculator.fix_grid`` avoids the jump by one grid for all
cells, which is right for an equation of state or a run under a barostat: choose it for the largest cell to come.
"""

from __future__ import annotations

import logging

import numpy as np

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure

logger = logging.getLogger(__name__)

#: A grid is kept while every spacing lies within these multiples of its value when the grid was chosen.
TOLERANCE = (0.85, 1.1)


class GridKeeper:
    """Chooses a grid for a structure and keeps it for the next ones (see the module).

    Args:
        shape: use this shape for everything; default is to choose.

    Raises:
        ValueError: the shape is not three positive integers.
    """

    def __init__(self, shape: tuple[int, int, int] | None = None) -> None:
        if shape is not None and (len(shape) != 3 or any(not _is_integer(n) or n < 1 for n in shape)):
            raise ValueError(f"grid shape is {shape}; it must be three positive integers")
        self.shape = None if shape is None else (int(shape[0]), int(shape[1]), int(shape[2]))
        self._fixed = shape is not None
        self._numbers = np.empty(0, dtype=int)
        self._lengths = np.ones(3)

    def forget(self) -> None:
        """Choose again at the next structure, unless the shape was given."""
        if not self._fixed:
            self.shape = None

    def choose(self, structure: Structure, spacing: float) -> Grid:
        """The grid for the structure: the last one, or a new one of about ``spacing`` (Å) where that does not fit."""
        numbers = structure.numbers.cpu().numpy()
        lengths = structure.cell.norm(dim=1).cpu().numpy()
        same = np.array_equal(numbers, self._numbers)
        if self.shape is not None and (self._fixed or (same and self._fits(lengths))):
            return Grid(structure.cell, self.shape)
        grid = Grid.with_spacing(structure.cell, spacing)
        if self.shape is not None and same and grid.shape != self.shape:
            logger.info(
                "the cell has changed: grid %s becomes %s, the energy may jump by the discretisation error",
                "x".join(map(str, self.shape)),
                "x".join(map(str, grid.shape)),
            )
        self.shape, self._numbers, self._lengths = grid.shape, numbers, lengths
        return grid

    def _fits(self, lengths: np.ndarray) -> bool:
        ratios = lengths / self._lengths
        return bool(np.all((ratios >= TOLERANCE[0]) & (ratios <= TOLERANCE[1])))


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
