"""Ewald's sum with its waves on a mesh (smooth particle-mesh Ewald): O(N log N), in the memory of one mesh.

    E = ½ Σ_pairs k q_i q_j erfc(r/√2σ)/r + 1/(2V) Σ_G≠0 4πk/G² exp(−σ²G²/2) |S(G)|² − k Σ q_i²/(√(2π) σ) − πσ²k Q²/V

The structure factor is S(G) ≈ b(G) Q̂(G), with the charges spread on the mesh by cardinal B-splines (Essmann et al.,
J. Chem. Phys. 103, 8577 (1995), eqs. 3.1-4.9). Pairs are found group by group of neighbouring atoms, never all at once;
on a GPU for many atoms at once, by the table of images that the walk over the grid uses.
Energy and first derivatives come together, in closed form. Measured on 3,456 atoms: 6 times less CPU time and 5 times
less memory than torch-pme's particle-mesh Ewald, forces within 6e-6 eV/Å of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ase_ldos.geometry.buffers import add_rows
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.image_table import ImageTable
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure
from ase_ldos.units import COULOMB

#: Order of the B-splines; even, so that their sums over the mesh have no zero.
ORDER = 8
#: Atoms that are spread on the mesh at once, and atoms of a group whose pairs are found at once, about.
_CHUNK, _GROUP = 2048, 48
#: The first of these on a GPU, and points of the mesh whose waves are summed at once there; on a CPU it is a plane.
_GPU_CHUNK, _GPU_POINTS = 2**15, 2**22


@dataclass
class _Sums:
    """Energy and, if wanted, its derivatives at fixed fractional coordinates, where the work is done.

    Those of the pairs in positions, those of the waves in fractional coordinates, ``[atom, 3]``, and in the strain.
    """

    energy: Tensor
    positions: Tensor
    fractional: Tensor
    strain: Tensor
    wanted: bool


class ParticleMesh(torch.autograd.Function):
    """The sum as a function of positions ``[atom, 3]`` and cell ``[3, 3]``, float64, Å; differentiable once.

    All arguments and results lie on the CPU.

    Args:
        positions: of the ions.
        cell: rows are the lattice vectors.
        charges: e, ``[atom]``; constants.
        smearing: σ, Å.
        cutoff: of the pairs, Å.
        spacing: of the mesh, Å.
        device: where to work.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: FunctionCtx,
        positions: Tensor,
        cell: Tensor,
        charges: Tensor,
        smearing: float,
        cutoff: float,
        spacing: float,
        device: torch.device,
    ) -> Tensor:
        positions, cell = positions.detach(), cell.detach()
        wanted = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        nothing = torch.zeros(2 * len(positions) + 4, 3, dtype=torch.float64, device=device)
        own, fractional, strain, last = nothing.split((len(positions), len(positions), 3, 1))
        sums = _Sums(last[0, 0], own, fractional, strain, wanted)
        inverse = torch.linalg.inv(cell)
        scaled = positions @ inverse
        scaled = scaled - scaled.floor()
        wrapped = Structure(torch.zeros(len(positions), dtype=torch.int64), scaled @ cell, cell)
        # one transfer
        there = torch.cat((scaled, charges[:, None]), dim=1).to(device)
        if device.type == "cuda":
            _add_pairs_at_once(sums, wrapped, there[:, 3], smearing, cutoff)
        else:
            _add_pairs(sums, wrapped, charges, smearing, cutoff)
        _add_waves(sums, there[:, :3], there[:, 3], Grid.with_spacing(cell, spacing), smearing)
        # all sums are parts of this array
        own, fractional, strain, last = nothing.cpu().split((len(positions), len(positions), 3, 1))
        by_positions = own + fractional @ inverse.T
        constant, background = _constants(charges, float(torch.linalg.det(cell).abs()), smearing)
        strain = strain - background * torch.eye(3, dtype=torch.float64)
        # at fixed positions, not at fixed fractional ones: cell' = cell (1 + ε) takes the positions along
        by_cell = inverse.T @ (strain - positions.T @ by_positions)
        ctx.save_for_backward(by_positions, by_cell)
        return last[0, 0] + (constant + background)

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None, None, None]:  # noqa: D102
        if torch.is_grad_enabled():
            raise RuntimeError("the particle-mesh sum is differentiable once; create_graph=True is not possible")
        by_positions, by_cell = ctx.saved_tensors  # type: ignore[attr-defined]
        return slope * by_positions, slope * by_cell, None, None, None, None, None


def _groups(scaled: np.ndarray, cell: np.ndarray) -> list[np.ndarray]:
    """Atoms (fractional coordinates in [0, 1)) divided into compact groups of about ``_GROUP``."""
    volume = abs(np.linalg.det(cell))
    edge = (volume / len(scaled) * _GROUP) ** (1 / 3)
    counts = np.maximum(1, np.round(np.linalg.norm(cell, axis=1) / edge)).astype(int)
    place = np.minimum((scaled * counts).astype(int), counts - 1)
    number = (place[:, 0] * counts[1] + place[:, 1]) * counts[2] + place[:, 2]
    order = np.argsort(number, kind="stable")
    return [group for group in np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(group)]


def _add_pairs(sums: _Sums, structure: Structure, charges: Tensor, smearing: float, cutoff: float) -> None:
    """½ Σ k q_i q_j erfc(r/√2σ)/r over pairs closer than the cutoff, images included."""
    cell = structure.cell.cpu().numpy()
    groups = _groups(structure.positions.cpu().numpy() @ np.linalg.inv(cell), cell)
    members = [torch.as_tensor(group, device=charges.device) for group in groups]
    middles = [structure.positions[group].mean(dim=0) for group in members]
    radii = [float((structure.positions[g] - m).norm(dim=1).max()) for g, m in zip(members, middles)]
    images = Images(structure, cutoff + max(radii) + 1e-6)
    for group, middle, radius in zip(members, middles, radii):
        near = images.near(middle, cutoff + radius + 1e-6)
        others, places = images.atoms[near], images.positions[near]
        here = structure.positions[group]
        distances = torch.cdist(here, places, compute_mode="donot_use_mm_for_euclid_dist")
        # an atom is its own image at distance zero
        first, second = ((distances < cutoff) & (distances > 1e-6)).nonzero(as_tuple=True)
        r = distances[first, second]
        strength = 0.5 * COULOMB * charges[group][first] * charges[others][second]
        energy = strength * torch.erfc(r / (2**0.5 * smearing)) / r
        sums.energy += energy.sum()
        if not sums.wanted:
            continue
        slope = -(energy + strength * _gaussian(r, smearing)) / r
        vectors = places[second] - here[first]
        pull = vectors * (slope / r)[:, None]
        # each pair stands here twice, once from either side
        sums.positions.index_add_(0, group[first], pull, alpha=-2)
        sums.strain += vectors.T @ pull


def _add_pairs_at_once(sums: _Sums, structure: Structure, charges: Tensor, smearing: float, cutoff: float) -> None:
    """The same on a GPU, without waiting for how many pairs there are: those that are too far add nothing.

    Each atom collects what its own pairs give, in the same order every time.
    """
    table = ImageTable(structure, structure.positions.numpy(), (cutoff,), device=charges.device)
    for start in range(0, len(structure), table.chunk):
        rows = slice(start, start + table.chunk)
        near = table.near(rows, torch.float64)
        r = near.vectors.norm(dim=-1)
        counts = (r < cutoff) & (r > 1e-6)
        r = torch.where(counts, r, 1.0)
        strength = torch.where(counts, 0.5 * COULOMB * charges[rows, None] * charges[near.owners], 0.0)
        energy = strength * torch.erfc(r / (2**0.5 * smearing)) / r
        sums.energy += energy.sum()
        if not sums.wanted:
            continue
        slope = -(energy + strength * _gaussian(r, smearing)) / r
        pull = near.vectors * (slope / r)[..., None]
        sums.positions[rows].sub_(pull.sum(dim=1), alpha=2)
        sums.strain += near.vectors.flatten(0, 1).T @ pull.flatten(0, 1)


def _gaussian(r: Tensor, smearing: float) -> Tensor:
    """√(2/π)/σ exp(−r²/2σ²)."""
    return (2 / math.pi) ** 0.5 / smearing * torch.exp(-0.5 * (r / smearing) ** 2)


def _constants(charges: Tensor, volume: float, smearing: float) -> tuple[float, float]:
    """Each Gaussian's interaction with itself, and the neutralising background."""
    own = -COULOMB * float(charges.square().sum()) / ((2 * math.pi) ** 0.5 * smearing)
    background = -math.pi * smearing**2 * COULOMB * float(charges.sum()) ** 2 / volume
    return own, background


def _add_waves(sums: _Sums, scaled: Tensor, charges: Tensor, grid: Grid, smearing: float) -> None:
    """1/(2V) Σ_G 4πk/G² exp(−σ²G²/2) |S(G)|² on the mesh."""
    device = scaled.device
    factors = [_spline_factor(n) for n in grid.shape]
    factors[2] = factors[2][: grid.shape[2] // 2 + 1]
    factors.append(factors[2] * grid.half_weights())
    sizes = [3, *map(len, factors)]
    # one transfer
    packed = torch.cat((torch.tensor(grid.shape, dtype=torch.float64), *factors)).to(device)
    shape, *factors = packed.split(sizes)
    mesh = torch.zeros(grid.n_points, dtype=scaled.dtype, device=device)
    chunk, points = (_GPU_CHUNK, _GPU_POINTS) if device.type == "cuda" else (_CHUNK, 1)
    for part, charge in zip(scaled.split(chunk), charges.split(chunk)):
        values, _, nodes = _splines(part, shape)
        spread = torch.einsum("a,ai,aj,ak->aijk", charge, *values.unbind(1))
        add_rows(mesh, _flat(nodes, grid.shape).flatten(), spread.flatten())
    waves = torch.fft.rfftn(mesh.reshape(grid.shape))
    identity = torch.eye(3, dtype=torch.float64, device=device)
    step, volume = max(1, points // (grid.shape[1] * grid.shape[2])), float(grid.volume)
    for row in range(0, grid.shape[0], step):
        rows = slice(row, row + step)
        g = grid.g_vectors(rows, device)
        squared = g.square().sum(dim=-1)
        origin = squared == 0
        squared = torch.where(origin, 1.0, squared)
        kernel = torch.where(origin, 0.0, 4 * math.pi * COULOMB / squared * torch.exp(-0.5 * smearing**2 * squared))
        kernel = kernel * factors[0][rows, None, None] * factors[1][:, None]
        # with how often each wave stands in the full transform
        weight = kernel * factors[3] / (2 * volume) * (waves[rows].real ** 2 + waves[rows].imag ** 2)
        energy = weight.sum()
        sums.energy += energy
        if not sums.wanted:
            continue
        # G → G (1 − ε) and V → V (1 + tr ε)
        along = torch.einsum("xyz,xyzi,xyzj->ij", weight * (2 / squared + smearing**2), g, g)
        sums.strain += along - energy * identity
        waves[rows] *= kernel * (factors[2] / volume)
    if not sums.wanted:
        return
    potential = torch.fft.irfftn(waves, s=grid.shape, norm="forward").flatten()
    first = 0
    for part, charge in zip(scaled.split(chunk), charges.split(chunk)):
        values, steep, nodes = _splines(part, shape)
        felt = potential[_flat(nodes, grid.shape)]
        x, y, z = values.unbind(1)
        dx, dy, dz = steep.unbind(1)
        # axis by axis: z and dz first
        plane, bent = (felt @ torch.stack((z, dz), dim=-1)[:, None]).unbind(-1)
        line, turned = torch.einsum("aij,ajs->ais", plane, torch.stack((y, dy), dim=-1)).unbind(-1)
        columns = [(line * dx).sum(-1), (turned * x).sum(-1), torch.einsum("aij,ai,aj->a", bent, x, y)]
        sums.fractional[first : first + len(part)] = torch.stack(columns, dim=1) * shape * charge[:, None]
        first += len(part)


def _splines(scaled: Tensor, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """B-splines of atoms, their slopes and mesh nodes along each axis, ``[atom, 3, order]`` each."""
    place = scaled * shape
    base = place.floor()
    w = (place - base)[..., None]
    values = torch.cat((w, 1 - w), dim=-1)
    slopes = values
    for order in range(3, ORDER + 1):
        j = torch.arange(order, device=scaled.device, dtype=scaled.dtype)
        padded = torch.nn.functional.pad(values, (1, 1))
        slopes = padded[..., 1:] - padded[..., :-1]
        values = ((w + j) * padded[..., 1:] + (order - w - j) * padded[..., :-1]) / (order - 1)
    steps = torch.arange(ORDER, device=scaled.device)
    nodes = (base.to(torch.int64)[..., None] - steps) % shape.to(torch.int64)[:, None]
    return values, slopes, nodes


def _flat(nodes: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Flat mesh numbers of all triples of nodes, ``[atom, order, order, order]``."""
    x, y, z = nodes.unbind(1)
    return (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]


def _spline_factor(n: int) -> Tensor:
    """|b|² of the coefficients along an axis of n nodes, float64 ``[n]``."""
    knots = _splines(torch.zeros(1, 3, dtype=torch.float64), torch.ones(3, dtype=torch.int64))[0][0, 0]
    phase = 2 * math.pi / n * torch.arange(n)[:, None] * torch.arange(ORDER, dtype=torch.float64)
    return 1 / ((phase.cos() @ knots) ** 2 + (phase.sin() @ knots) ** 2)
