"""Ewald's sum with its waves on a mesh (smooth particle-mesh Ewald): O(N log N), in the memory of one mesh.

    E = ½ Σ_pairs k q_i q_j erfc(r/√2σ)/r + 1/(2V) Σ_G≠0 4πk/G² exp(−σ²G²/2) |S(G)|² − k Σ q_i²/(√(2π) σ) − πσ²k Q²/V

The structure factor is S(G) ≈ b(G) Q̂(G), with the charges spread on the mesh by cardinal B-splines (Essmann et al.,
J. Chem. Phys. 103, 8577 (1995), eqs. 3.1-4.9). Pairs are found group by group of neighbouring atoms, never all at once.
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

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.neighbours import Images
from ase_ldos.geometry.structure import Structure
from ase_ldos.units import COULOMB

#: Order of the B-splines; even, so that their sums over the mesh have no zero.
ORDER = 8
#: Atoms that are spread on the mesh at once, and atoms of a group whose pairs are found at once, about.
_CHUNK, _GROUP = 2048, 48


@dataclass
class _Sums:
    """Energy and, if wanted, its derivatives at fixed fractional coordinates: in positions ``[atom, 3]`` and strain."""

    energy: float
    positions: Tensor
    strain: Tensor
    wanted: bool


class ParticleMesh(torch.autograd.Function):
    """The sum as a function of positions ``[atom, 3]`` and cell ``[3, 3]``, float64, Å; differentiable once.

    Args:
        positions: of the ions.
        cell: rows are the lattice vectors.
        charges: e, ``[atom]``; constants.
        smearing: σ, Å.
        cutoff: of the pairs, Å.
        spacing: of the mesh, Å.
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
    ) -> Tensor:
        positions, cell = positions.detach(), cell.detach()
        wanted = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        sums = _Sums(0.0, torch.zeros_like(positions), torch.zeros_like(cell), wanted)
        inverse = torch.linalg.inv(cell)
        scaled = positions @ inverse
        scaled = scaled - scaled.floor()
        wrapped = Structure(torch.zeros(len(positions), dtype=torch.int64), scaled @ cell, cell)
        _add_pairs(sums, wrapped, charges, smearing, cutoff)
        _add_waves(sums, scaled, charges, Grid.with_spacing(cell, spacing), smearing)
        _add_constants(sums, charges, torch.linalg.det(cell).abs(), smearing)
        # at fixed positions, not at fixed fractional ones: cell' = cell (1 + ε) takes the positions along
        by_cell = inverse.T @ (sums.strain - positions.T @ sums.positions)
        ctx.save_for_backward(sums.positions, by_cell)
        return positions.new_tensor(sums.energy)

    @staticmethod
    def backward(ctx: FunctionCtx, slope: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:  # noqa: D102
        if torch.is_grad_enabled():
            raise RuntimeError("the particle-mesh sum is differentiable once; create_graph=True is not possible")
        by_positions, by_cell = ctx.saved_tensors  # type: ignore[attr-defined]
        return slope * by_positions, slope * by_cell, None, None, None, None


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
        sums.energy += float(energy.sum())
        if not sums.wanted:
            continue
        gaussian = (2 / math.pi) ** 0.5 / smearing * torch.exp(-0.5 * (r / smearing) ** 2)
        slope = -(energy + strength * gaussian) / r
        vectors = places[second] - here[first]
        pull = vectors * (slope / r)[:, None]
        # each pair stands here twice, once from either side
        sums.positions.index_add_(0, group[first], pull, alpha=-2)
        sums.strain += vectors.T @ pull


def _add_constants(sums: _Sums, charges: Tensor, volume: Tensor, smearing: float) -> None:
    """Each Gaussian's interaction with itself, and the neutralising background."""
    own = -COULOMB * float(charges.square().sum()) / ((2 * math.pi) ** 0.5 * smearing)
    background = -math.pi * smearing**2 * COULOMB * float(charges.sum()) ** 2 / float(volume)
    sums.energy += own + background
    sums.strain -= background * torch.eye(3).to(sums.strain)


def _add_waves(sums: _Sums, scaled: Tensor, charges: Tensor, grid: Grid, smearing: float) -> None:
    """1/(2V) Σ_G 4πk/G² exp(−σ²G²/2) |S(G)|² on the mesh."""
    shape = torch.tensor(grid.shape, device=scaled.device)
    mesh = torch.zeros(grid.n_points, dtype=scaled.dtype, device=scaled.device)
    for part, charge in zip(scaled.split(_CHUNK), charges.split(_CHUNK)):
        values, _, nodes = _splines(part, shape)
        spread = torch.einsum("a,ai,aj,ak->aijk", charge, *values.unbind(1))
        mesh.index_add_(0, _flat(nodes, grid.shape).flatten(), spread.flatten())
    waves = torch.fft.rfftn(mesh.reshape(grid.shape))
    identity = torch.eye(3).to(sums.strain)
    factors = [_spline_factor(n).to(mesh) for n in grid.shape]
    factors[2] = factors[2][: grid.shape[2] // 2 + 1]
    for row in range(grid.shape[0]):
        g = grid.g_vectors(slice(row, row + 1))[0]
        squared = g.square().sum(dim=-1)
        origin = squared == 0
        squared = torch.where(origin, 1.0, squared)
        kernel = torch.where(origin, 0.0, 4 * math.pi * COULOMB / squared * torch.exp(-0.5 * smearing**2 * squared))
        kernel = kernel * factors[0][row] * factors[1][:, None] * factors[2]
        weight = kernel * grid.half_weights() / (2 * grid.volume) * (waves[row].real ** 2 + waves[row].imag ** 2)
        energy = weight.sum()
        sums.energy += float(energy)
        if not sums.wanted:
            continue
        # G → G (1 − ε) and V → V (1 + tr ε)
        along = torch.einsum("yz,yzi,yzj->ij", weight * (2 / squared + smearing**2), g, g)
        sums.strain += along - energy * identity
        waves[row] *= kernel / grid.volume
    if not sums.wanted:
        return
    potential = torch.fft.irfftn(waves, s=grid.shape, norm="forward").flatten()
    to_cartesian = torch.linalg.inv(grid.cell).T
    slopes = []
    for part, charge in zip(scaled.split(_CHUNK), charges.split(_CHUNK)):
        values, steep, nodes = _splines(part, shape)
        felt = potential[_flat(nodes, grid.shape)]
        x, y, z = values.unbind(1)
        dx, dy, dz = steep.unbind(1)
        # axis by axis: z and dz first
        plane, bent = (felt @ torch.stack((z, dz), dim=-1)[:, None]).unbind(-1)
        line, turned = torch.einsum("aij,ajs->ais", plane, torch.stack((y, dy), dim=-1)).unbind(-1)
        rows = [(line * dx).sum(-1), (turned * x).sum(-1), torch.einsum("aij,ai,aj->a", bent, x, y)]
        slopes.append(torch.stack(rows, dim=1) * shape * charge[:, None])
    sums.positions += torch.cat(slopes) @ to_cartesian


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
    nodes = (base.to(torch.int64)[..., None] - steps) % shape[:, None]
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
