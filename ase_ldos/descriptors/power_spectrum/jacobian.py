"""Closed-form derivatives of the power spectrum of every point in every atom's position and in the strain.

With v = R_a − r, h_n = 2 dg_n/d(d²) and the gradient ∂_x S_i = Σ_j G_xij S_j of solid harmonics,

    ∂A_ni/∂R_o,x = Σ_a∈images(o) [h_n v_x S_i(v) + g_n Σ_j G_xij S_j(v)]
    ∂A_ni/∂ε_xy  = Σ_a           [h_n v_x v_y S_i(v) + g_n v_x Σ_j G_yij S_j(v)]   (symmetrised)

All sums are moments about the block's centre, hence matrix products, which the addition theorem shifts to the points.
Training on forces keeps these derivatives, so that a step costs no evaluation of the descriptor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ase_ldos.descriptors.protocol import VOIGT
from ase_ldos.descriptors.solid_harmonics import degree_slices, gradient_tensor, solid_harmonics
from ase_ldos.geometry.grid_blocks import Block

if TYPE_CHECKING:
    from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum


def power_spectrum_jacobian(descriptor: PowerSpectrum, block: Block, species: Tensor, n_atoms: int) -> Tensor:
    """∂x/∂R and ∂x/∂ε at the points of a block.

    Args:
        descriptor: the power spectrum.
        block: points and images; float64 is advised, moments of high degree cancel.
        species: species index of the images, int64 ``[image]``.
        n_atoms: number of atoms that own the images.

    Returns:
        ``[grid, 3 atom + 6, feature]``, 1/Å and 1 (Voigt order xx yy zz yz xz xy, engineering shear).
    """
    tangents = amplitude_derivatives(descriptor, block, species, n_atoms)
    amplitudes = descriptor.amplitudes(block.points, block.atoms, species)
    return product_derivatives(tangents, amplitudes, descriptor.pairs, descriptor.lmax)


def product_derivatives(tangents: Tensor, amplitudes: Tensor, pairs: Tensor, lmax: int) -> Tensor:
    """Derivatives of the features from those of the amplitudes.

    Args:
        tangents: of the scaled amplitudes, ``[grid, coordinate, channel, lm]``.
        amplitudes: scaled, ``[grid, channel, lm]``.
        pairs: channels of every product, ``[2, pair]``.
        lmax: highest degree.

    Returns:
        ``[grid, coordinate, feature]``.
    """
    first, second = pairs
    columns = [tangents[..., 0]]
    for rows in degree_slices(lmax):
        left, right = tangents[..., rows], amplitudes[:, :, rows]
        products = (left.flatten(1, 2) @ right.mT).unflatten(1, left.shape[1:3])
        columns.append(products[..., first, second] + products[..., second, first])
    return torch.cat(columns, dim=-1)


def amplitude_derivatives(
    descriptor: PowerSpectrum, block: Block, species: Tensor, n_atoms: int, *, strain: bool = True
) -> Tensor:
    """Derivatives of the scaled amplitudes, ``[grid, 3 atom + 6, channel, lm]``; those in the strain may stay zero."""
    points, size = block.points, (descriptor.lmax + 1) ** 2
    channels = len(descriptor.species) * descriptor.n_radial
    result = points.new_zeros((len(points), 3 * n_atoms + 6, channels, size))
    shift = descriptor.translation(points)
    gradient = gradient_tensor(descriptor.lmax).to(points)
    for atom in range(n_atoms):
        mine = block.owners == atom
        if bool(mine.any()):
            start = int(species[mine][0]) * descriptor.n_radial
            part = _displacement(descriptor, points, block.atoms[mine], shift, gradient)
            result[:, 3 * atom : 3 * atom + 3, start : start + descriptor.n_radial] = part
    for index in range(len(descriptor.species)) if strain else ():
        mine = species == index
        start = index * descriptor.n_radial
        part = _strain(descriptor, points, block.atoms[mine], shift, gradient)
        result[:, 3 * n_atoms :, start : start + descriptor.n_radial] = part
    return result * descriptor.amplitude_scale.to(points)


def _bells(descriptor: PowerSpectrum, points: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """g_n and h_n = 2 dg_n/d(d²), ``[radial, grid, image]`` each."""
    height = torch.relu(1 - torch.cdist(points, atoms) ** 2 / descriptor.cutoff**2)
    values, slopes, power = [height**3], [], 3
    slope = height**2
    for _ in range(descriptor.n_radial):
        slopes.append(slope * (-2 * power / descriptor.cutoff**2))
        # d/dh of h^(2p) is 2p h^(2p-1) = 2p (h^p) (h^(p-1))
        slope = slope * values[-1]
        values.append(values[-1] ** 2)
        power *= 2
    return torch.stack(values[:-1]), torch.stack(slopes)


def _moments(weights: Tensor, columns: Tensor, shift: Tensor) -> Tensor:
    """Σ_a w_n(p, a) S_i(a − p) f_q(a) from weights ``[radial, grid, image]`` and S_j(a) f_q(a) ``[image, q, lm]``.

    Returns ``[grid, q, radial, lm]``.
    """
    sums = (weights @ columns.flatten(1)).unflatten(-1, columns.shape[1:]).permute(1, 2, 0, 3)
    return (sums.flatten(1, 2) @ shift.mT).unflatten(1, sums.shape[1:3])


def _displacement(descriptor: PowerSpectrum, points: Tensor, atoms: Tensor, shift: Tensor, gradient: Tensor) -> Tensor:
    """∂A/∂R of one atom with these images, unscaled, ``[grid, 3, radial, lm]``."""
    values, slopes = _bells(descriptor, points, atoms)
    harmonics = solid_harmonics(atoms, descriptor.lmax)[:, None]
    moments = _moments(slopes, torch.cat((harmonics, atoms[:, :, None] * harmonics), dim=1), shift)
    radial = moments[:, 1:] - points[:, :, None, None] * moments[:, :1]
    angular = torch.einsum("pnj,xij->pxni", _moments(values, harmonics, shift)[:, 0], gradient)
    return radial + angular


def _strain(descriptor: PowerSpectrum, points: Tensor, atoms: Tensor, shift: Tensor, gradient: Tensor) -> Tensor:
    """∂A/∂ε of all images of one species, unscaled, ``[grid, 6, radial, lm]``."""
    values, slopes = _bells(descriptor, points, atoms)
    harmonics = solid_harmonics(atoms, descriptor.lmax)[:, None]
    first = atoms[:, :, None] * harmonics
    second = [atoms[:, x, None, None] * atoms[:, y, None, None] * harmonics for x, y in VOIGT]
    m = _moments(slopes, torch.cat((harmonics, first, *second), dim=1), shift)
    g = _moments(values, torch.cat((harmonics, first), dim=1), shift)
    p = points[:, :, None, None]
    arms = g[:, 1:] - p * g[:, :1]
    turned = torch.einsum("pxnj,yij->pxyni", arms, gradient)
    parts = []
    for place, (x, y) in enumerate(VOIGT):
        radial = m[:, 4 + place] - p[:, x] * m[:, 1 + y] - p[:, y] * m[:, 1 + x] + p[:, x] * p[:, y] * m[:, 0]
        parts.append(radial + 0.5 * (turned[:, x, y] + turned[:, y, x]))
    return torch.stack(parts, dim=1)
