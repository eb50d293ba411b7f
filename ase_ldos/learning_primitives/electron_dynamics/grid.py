"""A uniform grid on a line, with the derivatives of its plane waves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid1D:
    """Points x_j = (j − N/2) Δx, Δx = L/N, of the box −L/2 ≤ x < L/2 with periodic ends.

    Attributes:
        length: L, bohr.
        n_points: N, even.

    Raises:
        ValueError: no length, or an odd or too small number of points.
    """

    length: float
    n_points: int

    def __post_init__(self) -> None:
        if not 0 < self.length < math.inf:
            raise ValueError(f"the length of the box must be a positive number of bohr, got {self.length}")
        if self.n_points != int(self.n_points) or self.n_points < 4 or self.n_points % 2:
            raise ValueError(f"the grid needs an even number of points, 4 or more, got {self.n_points}")

    @property
    def spacing(self) -> float:
        """Δx, bohr."""
        return self.length / self.n_points

    @cached_property
    def x(self) -> Tensor:
        """Points, bohr, ``[N]``."""
        return (torch.arange(self.n_points, dtype=torch.float64) - self.n_points // 2) * self.spacing

    @cached_property
    def wave_numbers(self) -> Tensor:
        """Wave numbers k in the order of ``torch.fft.fft``, 1/bohr, ``[N]``."""
        return 2 * math.pi * torch.fft.fftfreq(self.n_points, self.spacing, dtype=torch.float64)

    @cached_property
    def kinetic_matrix(self) -> Tensor:
        """−½ ∂²/∂x² of the plane waves between the points, hartree, symmetric ``[N, N]``."""
        transform = torch.fft.fft(torch.eye(self.n_points, dtype=torch.complex128), dim=0, norm="ortho")
        return (transform.conj().T @ (self.wave_numbers[:, None] ** 2 / 2 * transform)).real

    def integrate(self, values: Tensor) -> Tensor:
        """∫ f dx = Δx Σ_j f(x_j) over the last axis: as exact as the plane waves."""
        return values.sum(dim=-1) * self.spacing

    def differentiate(self, values: Tensor, order: int = 1) -> Tensor:
        """∂ⁿf/∂xⁿ of values on the grid, ``[..., N]``."""
        wave = (1j * self.wave_numbers) ** order
        if order % 2:  # the highest wave has no odd derivative at the points
            wave[self.n_points // 2] = 0
        transform = torch.fft.fft(values)
        result = torch.fft.ifft(wave.to(transform.dtype) * transform)
        return result if values.is_complex() else result.real

    def interpolate(self, values: Tensor, points: Tensor) -> Tensor:
        """Values between the grid points, by their Fourier series.

        Args:
            values: on the grid, ``[..., N]``.
            points: bohr, within the box, ``[M]``.

        Returns:
            ``[..., M]``.

        Raises:
            ValueError: a point outside the box, where the series only repeats itself.
        """
        if (points.abs() > self.length / 2).any():
            raise ValueError(f"points must lie in the box |x| ≤ {self.length / 2:g} bohr, got {points.abs().max():g}")
        # cos for the highest wave: the mean of the two signs of its wave number
        waves = torch.exp(1j * self.wave_numbers[:, None] * (points - self.x[0]))
        waves[self.n_points // 2] = waves[self.n_points // 2].real.to(waves.dtype)
        result = torch.fft.fft(values) @ waves / self.n_points
        return result if values.is_complex() else result.real
