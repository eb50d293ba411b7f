"""What can be asked of the LDOS without the array grid × energy: sums over energies, and its parts by atom.

With the linear head d = W h + c, any weighted sum over the energies Σ_i w_i d_i(r) is (wᵀW) h(r) + wᵀc: one number per
point and set of weights, found block by block.
"""

from __future__ import annotations

import math

import torch
from scipy.spatial import KDTree
from torch import Tensor
from torch.profiler import record_function

from ase_ldos.geometry.buffers import add_rows
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.grid_walk import GridWalk, default_points


def window_weights(energies: Tensor, window: tuple[float, float]) -> Tensor:
    """Weights w with ∫ d(ε) dε = Σ_i w_i d_i over a window, for d piecewise linear between the nodes.

    w_i = ∫ φ_i dε over the window, φ_i the hat function of node i. As for the occupation (``physics.occupation``), d
    vanishes one spacing outside the nodes, so that a window around all of them has the weights of the trapezoid rule
    plus half a spacing at both ends.

    Args:
        energies: rising nodes, eV, ``[energy]``.
        window: lower and upper end, eV.

    Returns:
        w, eV, float64 ``[energy]``.

    Raises:
        ValueError: an end that is not a number, the ends in the wrong order or equal, or a window outside the nodes.
    """
    low, high = (float(end) for end in window)
    nodes = energies.to(torch.float64)
    first, last = float(nodes[0]), float(nodes[-1])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the energy window is {low:g} to {high:g} eV; two numbers are needed, the smaller one first")
    if high <= first or low >= last:
        raise ValueError(f"the energy window {low:g} to {high:g} eV lies outside the model's, {first:g} to {last:g} eV")
    return _hat_integrals(nodes, high) - _hat_integrals(nodes, low)


def _hat_integrals(nodes: Tensor, end: float) -> Tensor:
    """∫ φ_i dε from −∞ to ``end``, ``[energy]``."""
    steps = nodes.diff()
    steps = torch.cat((steps[:1], steps, steps[-1:]))
    before, after = steps[:-1], steps[1:]
    # how far the end has come on the rising and on the falling side, 0 to 1
    rising = ((end - nodes + before) / before).clamp(0, 1)
    falling = ((end - nodes) / after).clamp(0, 1)
    return before * rising**2 / 2 + after * (falling - falling**2 / 2)


def sum_over_energies(
    model: LDOSModel, structure: Structure, grid: Grid, weights: Tensor, *, chunk_size: int | None = None
) -> Tensor:
    """Σ_i w_i d_i(r) for several sets of weights, block by block.

    Args:
        model: on the device that is to work, and where the result will be.
        structure: the atoms.
        grid: the points; a coarse one costs less, and its values are those of the points themselves.
        weights: w, ``[set, energy]``.
        chunk_size: grid points that are handled at once.

    Returns:
        In the unit of the weights times 1/(eV Å³), float64 ``[set, nx, ny, nz]``.

    Raises:
        ValueError: another number of energies than the model has, or foreign elements.
    """
    if weights.dim() != 2 or weights.shape[1] != len(model.energies):
        raise ValueError(f"the weights have shape {list(weights.shape)}; [set, {len(model.energies)}] is needed")
    model = model.with_fused_scaler()
    weight, bias = (part.detach().double() for part in model.head)
    weights = weights.to(weight)
    rows, constants = (weights @ weight).to(model.dtype), (weights @ bias)[:, None]
    result = torch.empty(len(weights), grid.n_points, dtype=torch.float64, device=model.device)
    size = default_points(model.device) if chunk_size is None else chunk_size
    with torch.no_grad(), record_function("ase_ldos::sum_over_energies"):
        walk = GridWalk(model, structure, grid, size)
        for block in walk.blocks():
            result[:, block.flat] = (rows @ walk.hidden(block).T).double() + constants
    return result.reshape(-1, *grid.shape)


def local_density(
    model: LDOSModel,
    structure: Structure,
    grid: Grid,
    window: tuple[float, float],
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """Density of states of an energy window in space, ∫ d(ε, r) dε, states/Å³ (spins summed), ``[nx, ny, nz]``.

    A narrow window around μ gives the picture of a scanning tunnelling microscope after Tersoff and Hamann, Phys.
    Rev. B 31, 805 (1985). Nothing is occupied here: the density is ``predict``'s.

    Args:
        model: on the device that is to work, and where the result will be.
        structure: the atoms.
        grid: the points.
        window: lower and upper end, eV.
        chunk_size: grid points that are handled at once.

    Raises:
        ValueError: a window that makes no sense (see ``window_weights``), or foreign elements.
    """
    weights = window_weights(model.energies_of(structure), window)[None]
    return sum_over_energies(model, structure, grid, weights, chunk_size=chunk_size)[0]


def atomic_dos(model: LDOSModel, structure: Structure, grid: Grid, *, chunk_size: int | None = None) -> Tensor:
    """Density of states by atom: each point's LDOS goes to the nearest atom (Voronoi's cells), 1/eV ``[atom, energy]``.

    The sum over the atoms is the whole density of states of the grid. Where atoms of different size meet, the plane
    half way between them is a convention, not a property of the electrons.

    Args:
        model: on the device that is to work, and where the result will be.
        structure: the atoms.
        grid: the points.
        chunk_size: grid points that are handled at once.

    Raises:
        ValueError: foreign elements.
    """
    model = model.with_fused_scaler()
    weight, bias = (part.detach().double() for part in model.head)
    sums = torch.zeros(len(structure), weight.shape[1], dtype=torch.float64, device=model.device)
    counts = torch.zeros(len(structure), dtype=torch.float64, device=model.device)
    size = default_points(model.device) if chunk_size is None else chunk_size
    structure, grid = structure.to("cpu"), Grid(grid.cell.cpu(), grid.shape)
    nearest_atoms = _NearestAtoms(structure)
    with torch.no_grad(), record_function("ase_ldos::atomic_dos"):
        walk = GridWalk(model, structure, grid, size)
        for block in walk.blocks():
            # the tree is searched on the CPU
            mine = nearest_atoms(grid.points(block.flat.cpu())).to(model.device)
            add_rows(sums, mine, walk.hidden(block).double())
            add_rows(counts, mine, torch.ones_like(mine, dtype=torch.float64))
    return (sums @ weight.T + counts[:, None] * bias) * grid.voxel_volume


class _NearestAtoms:
    """Finds the atom that is nearest to a point, periodic images included."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._search(4.0)

    def _search(self, reach: float) -> None:
        self._reach, self._images = reach, Images(self._structure, reach)
        self._tree = KDTree(self._images.positions.detach().cpu().numpy())

    def __call__(self, points: Tensor) -> Tensor:
        """Atoms nearest to points in the cell, ``[grid, 3]``, Å; int64 ``[grid]``."""
        places = points.cpu().numpy()
        distances, nearest = self._tree.query(places)
        if distances.max() > self._reach:
            # in a vacuum: what was found bounds how far the nearest can be
            self._search(float(distances.max()) + 1e-6)
            _, nearest = self._tree.query(places)
        return self._images.atoms[torch.as_tensor(nearest, device=self._images.atoms.device)]
