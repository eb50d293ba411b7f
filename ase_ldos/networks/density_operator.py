"""A Fourier neural operator for crystals: superposed atomic densities in, the electron density out.

In the plain operator of ``fno``, a wave is known by its number of periods in the cell, which means another length in
another cell. Here the kernels are functions of |G|: the same operator in every cell, whatever its size and shape, and
unchanged by rotations. A repeated cell gives the repeated density, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.mlp import MLP


class RadialFourierLayer(nn.Module):
    """v_c ↦ Σ_d W_cd (k_d ∗ v_d) + b_c, with kernels k_d(|G|) = Σ_m C_dm B_m(|G|) in Gaussians B_m.

    Args:
        width: channels.
        n_radial: Gaussians, evenly spaced from 0 to ``cutoff`` and as wide as their distance.
        cutoff: largest |G| of a kernel's Gaussians, 1/Å.
        generator: source of the initial weights.
    """

    centres: Tensor

    def __init__(self, width: int, n_radial: int, cutoff: float, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, cutoff, n_radial), persistent=False)
        self.kernel = nn.Parameter(torch.randn(n_radial, width, generator=generator))
        self.mixing = nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor, length: Tensor) -> Tensor:
        """Values ``[nx, ny, nz, width]``, |G| of ``rfftn``'s waves ``[nx, ny, nz // 2 + 1]``; the shape stays."""
        spacing = self.centres[1]
        basis = torch.exp(-0.5 * ((length[..., None] - self.centres) / spacing).square())
        waves = torch.fft.rfftn(values, dim=(0, 1, 2)) * (basis @ self.kernel)
        return torch.fft.irfftn(waves, s=values.shape[:3], dim=(0, 1, 2)) @ self.mixing + self.bias


def superposed_gaussians(structure: Structure, charges: Tensor, grid: Grid, deviation: float) -> Tensor:
    """Σ_a Z_a of normal distributions around the atoms and all their images, e/Å³, ``[nx, ny, nz]``.

    Args:
        structure: atoms in the grid's cell.
        charges: Z of each atom, ``[atom]``.
        grid: the points.
        deviation: standard deviation, Å.
    """
    g = grid.g_vectors()
    # the phase factor is a product over the three axes: no array [wave, atom] is made
    fractional = structure.positions @ torch.linalg.inv(structure.cell)
    nx, ny, nz = grid.shape
    axes = (torch.fft.fftfreq(nx, 1 / nx), torch.fft.fftfreq(ny, 1 / ny), torch.fft.rfftfreq(nz, 1 / nz))
    x, y, z = (torch.exp(-2j * torch.pi * axis.to(g)[None] * fractional[:, i, None]) for i, axis in enumerate(axes))
    factor = torch.einsum("a,ai,aj,ak->ijk", charges.to(x), x, y, z)
    factor = factor * torch.exp(-(deviation**2) / 2 * g.square().sum(dim=-1)) / grid.volume
    return torch.fft.irfftn(factor, s=grid.shape, norm="forward")


class DensityOperator(nn.Module):
    """Electron density of a structure on the whole grid at once.

    Inputs are two superpositions of Gaussians; radial Fourier layers with GELU and residuals follow, a pointwise
    network, and a constant that makes the number of electrons right.

    Args:
        width: channels.
        n_layers: Fourier layers.
        n_radial: Gaussians of each kernel.
        cutoff: largest |G| of the kernels, 1/Å.
        deviations: standard deviations of the input Gaussians, Å.
        generator: source of the initial weights; by default a new one with seed 0.

    Raises:
        ValueError: numbers that make no network.
    """

    def __init__(
        self,
        width: int = 16,
        n_layers: int = 3,
        n_radial: int = 24,
        cutoff: float = 12.0,
        deviations: Sequence[float] = (0.35, 0.7),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(width, n_layers, n_radial - 1) < 1 or not cutoff > 0 or not deviations or min(deviations) <= 0:
            raise ValueError(
                f"a density operator needs channels, layers, two or more radial functions and positive lengths, got "
                f"width {width}, {n_layers} layers, {n_radial} functions, cutoff {cutoff}, deviations {deviations}"
            )
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.width, self.n_radial, self.cutoff, self.deviations = width, n_radial, cutoff, tuple(deviations)
        self.lift = MLP(len(self.deviations), width, (width,), "gelu", generator=generator)
        self.layers = nn.ModuleList(RadialFourierLayer(width, n_radial, cutoff, generator) for _ in range(n_layers))
        self.project = MLP(width, 1, (2 * width,), "gelu", generator=generator)
        with torch.no_grad():
            self.project.head.weight *= 0.1  # training starts near the mean density

    def inputs(self, structure: Structure, charges: Tensor, grid: Grid) -> Tensor:
        """The superpositions, over the mean density, ``[nx, ny, nz, deviation]``."""
        mean = charges.sum() / grid.volume
        parts = [superposed_gaussians(structure, charges, grid, deviation) / mean for deviation in self.deviations]
        return torch.stack(parts, dim=-1)

    def forward(self, structure: Structure, charges: Tensor, grid: Grid) -> Tensor:
        """Density n(r), e/Å³, ``[nx, ny, nz]``; its integral is the sum of the charges.

        Args:
            structure: atoms in the grid's cell.
            charges: electrons that each atom brings, ``[atom]``.
            grid: any that carries the density.
        """
        dtype = next(self.parameters()).dtype
        length = grid.g_vectors().norm(dim=-1).to(dtype)
        values = self.lift(self.inputs(structure, charges, grid).to(dtype))
        for layer in self.layers:
            values = values + nn.functional.gelu(layer(values, length))
        relative = self.project(values)[..., 0]
        return (1 + relative - relative.mean()) * (charges.sum() / grid.volume).to(dtype)

    def settings(self) -> dict[str, Any]:
        """JSON-able keyword arguments that build the same network (with other weights) again."""
        return {
            "width": self.width,
            "n_layers": len(self.layers),
            "n_radial": self.n_radial,
            "cutoff": self.cutoff,
            "deviations": list(self.deviations),
        }
