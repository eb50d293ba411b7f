"""Time of the descriptors per grid point on one core: `pytest tests/benchmarks --benchmark-only -s`.

Beryllium at ambient density, blocks of 8 × 8 × 8 points of a 0.25 Å grid. Set OMP_NUM_THREADS=1 to measure one core.
"""

from __future__ import annotations

import os

import pytest
import torch
from ase.build import bulk
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.snap.descriptor import SNAP

EDGE, SPACING = 8, 0.25
DESCRIPTORS = {"snap": lambda: SNAP((4,)), "power_spectrum": lambda: PowerSpectrum((4,))}


def block(descriptor: Descriptor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A block of points about the origin, and every atom within the cutoff of one of them."""
    axis = (torch.arange(EDGE) - (EDGE - 1) / 2) * SPACING
    points = torch.cartesian_prod(axis, axis, axis).to(torch.float64)
    atoms = torch.from_numpy((bulk("Be", "hcp", a=2.286, c=3.584) * (11, 11, 7)).get_positions())
    atoms = atoms - atoms.mean(dim=0)
    near = torch.cdist(points, atoms).amin(dim=0) < descriptor.cutoff
    return points.to(dtype), atoms[near].to(dtype), torch.zeros(int(near.sum()), dtype=torch.int64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("work", ["forward", "forward+backward"])
@pytest.mark.parametrize("name", list(DESCRIPTORS))
def test_time_per_point(benchmark: BenchmarkFixture, name: str, work: str, dtype: torch.dtype) -> None:
    descriptor = DESCRIPTORS[name]()
    points, atoms, species = block(descriptor, dtype)
    cotangent = torch.ones(len(points), descriptor.n_features, dtype=dtype)
    if work == "forward+backward":
        points.requires_grad_()
        atoms.requires_grad_()

    def run() -> Tensor:
        features = descriptor(points, atoms, species)
        if features.requires_grad:
            return torch.autograd.grad(features, (points, atoms), cotangent)[1]
        return features

    result = benchmark.pedantic(run, rounds=10, warmup_rounds=2)
    assert bool(torch.isfinite(result).all())
    stats = benchmark.stats.stats
    benchmark.extra_info["points"] = len(points)
    benchmark.extra_info["atoms"] = len(atoms)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["load average"] = round(os.getloadavg()[0], 1)
    # the fastest round is the one that other processes disturbed least
    benchmark.extra_info["µs per point and core"] = round(1e6 * stats.min * torch.get_num_threads() / len(points), 2)
    print(f"\n{name:15s} {work:17s} {str(dtype)[6:]:8s} {benchmark.extra_info}")
