"""A laser pulse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pulse:
    """E(t) = A sin²(π s/τ) cos(ω (s − τ/2) + φ) for 0 ≤ s = t − t_0 ≤ τ, else 0; on an electron acts −x E(t).

    The wave is much longer than the molecule, so the field is the same everywhere (dipole approximation, length
    gauge). Fields are numbers, or tensors ``[...]`` for many pulses at once. Atomic units: A = 1 is 5.14e11 V/m and
    the intensity 3.51e16 W/cm²; τ = 1 is 0.0242 fs; ω = 1 is 27.2 eV.

    Attributes:
        amplitude: A.
        frequency: ω.
        duration: τ.
        start: t_0.
        phase: φ.

    Raises:
        ValueError: a duration that is not positive.
    """

    amplitude: float | Tensor
    frequency: float | Tensor
    duration: float | Tensor
    start: float | Tensor = 0.0
    phase: float | Tensor = 0.0

    def __post_init__(self) -> None:
        if not (torch.as_tensor(self.duration) > 0).all():
            raise ValueError(f"a pulse lasts for a positive time, got duration {self.duration}")

    def __call__(self, time: float | Tensor) -> Tensor:
        """E at a time, ``[...]``."""
        passed = torch.as_tensor(time, dtype=torch.float64) - self.start
        envelope = torch.sin(math.pi * passed / self.duration).square()
        wave = torch.cos(self.frequency * (passed - torch.as_tensor(self.duration) / 2) + self.phase)
        inside = (passed >= 0) & (passed <= self.duration)
        return torch.where(inside, self.amplitude * envelope * wave, 0.0)
