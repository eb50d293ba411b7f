"""A gap read off a broadened density of states, and the middle of it.

With N(ε) = ∫^ε D dε′, the last electron lies between the levels at which N(ε) leaves the number of electrons by a small
number δ per atom,

    N(ε₋) = N − δ,    N(ε₊) = N + δ

In a metal these are δ/D(μ) on either side of μ, far closer than the width σ of the broadening, and no gap is told from
that. In a gap they lie in the tails of the bands; their middle is the Fermi level by one rule that serves a model and
its reference alike (a Fermi-Dirac level there is whatever tails and temperature make of it).

The edges themselves are where tails of this shape begin. States that a band D₀ |ε − ε_v|^p loses to the other side
of ε,

    L(ε) = D₀ ∫₀^∞ s^p Q((ε − ε_v + s)/σ) ds,    Q: the integral of the normal distribution from there on,

are compared at two levels, L = δ and 4 δ: their distance in units of σ tells where they are on that curve. p = ½ is the
edge of a band in three dimensions; what p = 0 and p = 1 give instead is the uncertainty that the broadening leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr
from torch import Tensor

#: δ, electrons per atom.
TOLERANCE = 0.005
#: The second level, in units of δ.
_RATIO = 4.0
#: Least distance of ε₊ from ε₋, in units of σ, that is told to be a gap.
RESOLVED = 0.8
#: Shapes p of a band's edge: that of three dimensions, and those on either side of it.
_SHAPE, _OTHER_SHAPES = 0.5, (0.0, 1.0)


@dataclass(frozen=True)
class Gap:
    """What a density of states says of the levels about the last electron; eV.

    Attributes:
        below: ε₋.
        above: ε₊.
        valence_edge: ε_v; ``below`` where no gap is resolved.
        conduction_edge: ε_c; ``above`` where no gap is resolved.
        uncertainty: of the gap, by the broadening; 0 where no gap is resolved.
        resolved: whether there is a gap that the broadening does not hide.
    """

    below: float
    above: float
    valence_edge: float
    conduction_edge: float
    uncertainty: float
    resolved: bool

    @property
    def width(self) -> float:
        """The gap, eV; 0 where none is resolved."""
        return self.conduction_edge - self.valence_edge if self.resolved else 0.0

    @property
    def middle(self) -> float:
        """Half way between ε₋ and ε₊, eV."""
        return (self.below + self.above) / 2


def find_gap(dos: Tensor, energies: Tensor, n_electrons: float, n_atoms: int, broadening: float) -> Gap:
    """The levels about the last electron of a density of states.

    Args:
        dos: D, 1/eV, ``[energy]``; piecewise linear between the nodes.
        energies: rising nodes, eV, ``[energy]``.
        n_electrons: N.
        n_atoms: number of atoms.
        broadening: σ of the density of states, eV.

    Raises:
        ValueError: no atoms, or the window does not hold N − δ and N + δ electrons.
    """
    if n_atoms < 1:
        raise ValueError("a gap needs at least one atom")
    values, nodes = (np.asarray(t.detach().cpu(), dtype=float) for t in (dos, energies))
    fine = np.linspace(nodes[0], nodes[-1], 16 * (len(nodes) - 1) + 1)
    heights = np.interp(fine, nodes, values)
    filled = np.concatenate(([0.0], np.cumsum((heights[1:] + heights[:-1]) / 2 * np.diff(fine))))
    delta = TOLERANCE * n_atoms
    if filled.max() < n_electrons + delta:
        raise ValueError(
            f"the energy window {nodes[0]:g} to {nodes[-1]:g} eV holds {filled.max():.4g} states; {n_electrons:g} "
            f"electrons and {delta:g} more are needed to see the edges of a gap"
        )
    levels = {step: _level(fine, filled, n_electrons + step * delta, from_below=step < 0) for step in (-1, 1)}
    below, above = levels[-1], levels[1]
    if above - below <= max(RESOLVED * broadening, 1e-9):
        # N(ε) of a predicted D need not be monotonic: the two are then in the wrong order, about the same place
        below, above = min(below, above), max(below, above)
        return Gap(below, above, below, above, 0.0, False)
    # 4 δ away from N the bands of a tiny or shallow density of states may have ended
    farther = {
        step: _level(fine, filled, n_electrons + step * _RATIO * delta, from_below=step < 0)
        for step in (-1, 1)
        if 0 < n_electrons + step * _RATIO * delta < filled.max()
    }
    edges = {shape: [0.0, 0.0] for shape in (_SHAPE, *_OTHER_SHAPES)}
    for place, step in enumerate((-1, 1)):
        distance = abs(levels[step] - farther[step]) if step in farther else 0.0
        for shape in edges:
            depth = _depth(shape, distance / broadening) * broadening if broadening > 0 and distance > 0 else 0.0
            edges[shape][place] = levels[step] + step * depth
    valence, conduction = edges[_SHAPE]
    widths = [edges[shape][1] - edges[shape][0] for shape in _OTHER_SHAPES]
    uncertainty = max(abs(width - (conduction - valence)) for width in widths)
    if conduction - valence <= uncertainty:
        return Gap(below, above, below, above, 0.0, False)
    return Gap(below, above, valence, conduction, uncertainty, True)


def _level(energies: np.ndarray, filled: np.ndarray, number: float, *, from_below: bool) -> float:
    """Where N(ε) meets a number: the last crossing before there are more, or the first after there are fewer."""
    if from_below:
        place = int(np.flatnonzero(filled <= number)[-1]) if filled[0] <= number else 0
    else:
        place = max(int(np.flatnonzero(filled >= number)[0]) - 1, 0)
    place = min(place, len(filled) - 2)
    rise = filled[place + 1] - filled[place]
    part = (number - filled[place]) / rise if rise > 0 else 0.5
    return float(energies[place] + min(max(part, 0.0), 1.0) * (energies[place + 1] - energies[place]))


@cache
def _tail(shape: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances in units of σ over which L falls by the ratio of the levels (rising), and places of the lower level."""
    places = np.linspace(-6.0, 5.0, 1101)
    s = np.linspace(0.0, 24.0, 4801)
    lost = np.array([np.trapezoid(s**shape * ndtr(-(u + s)), s) for u in places])
    logarithm = np.log(lost)
    inside = places[places > -5.9]
    # L(u − distance) = ratio · L(u); the logarithm falls with u
    before = np.interp(-(np.interp(inside, places, logarithm) + np.log(_RATIO)), -logarithm, places)
    kept = before > places[0]
    distances = (inside - before)[kept]
    order = np.argsort(distances)
    return distances[order], inside[kept][order]


def _depth(shape: float, distance: float) -> float:
    """How far beyond the edge the level δ lies, in units of σ."""
    return float(np.interp(distance, *_tail(shape)))
