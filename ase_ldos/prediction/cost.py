"""What a prediction costs: the arithmetic and the memory traffic that it cannot do without, and what a machine can do.

Counted for a power spectrum and its network, the matrix products alone: heights, moments of every bell, translations,
products of amplitudes, layers. What else there is (table of neighbours, Fourier transforms, calls) is the difference to
what is measured. Derivatives take the features once more and twice as much again on the way back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes from and to memory of a whole prediction, each in one pass."""

    operations: float
    traffic: float

    def seconds(self, machine: Machine) -> float:
        """The least time on a machine: the roofline. Blocks of a CPU stay in its cache, so memory does not count."""
        arithmetic = self.operations / machine.operations
        return arithmetic if machine.has_cache else max(arithmetic, self.traffic / machine.traffic)


@dataclass(frozen=True)
class Machine:
    """What a device does at best, measured: float operations and bytes per second.

    Attributes:
        operations: per second.
        traffic: bytes per second.
        has_cache: whether a block of points stays in a cache.
    """

    operations: float
    traffic: float
    has_cache: bool


def count_work(model: LDOSModel, structure: Structure, grid: Grid, *, forces: bool) -> Work | None:
    """The work of a prediction; None for features whose work is not known.

    Args:
        model: with a power spectrum.
        structure: the atoms.
        grid: of the prediction.
        forces: with derivatives.
    """
    descriptor, network = model.descriptor, model.with_fused_scaler().network
    if not isinstance(descriptor, PowerSpectrum):
        return None
    structure = structure.to("cpu")
    block = next(iterate_blocks(structure, grid, descriptor.cutoff, max_points=DEFAULT_BLOCK))
    distances = torch.cdist(block.points, block.atoms).amin(dim=0)
    images = [float((distances <= radius).sum()) for radius in descriptor.batch_radii(model.dtype)]
    channels, size = len(descriptor.species) * descriptor.n_radial, (descriptor.lmax + 1) ** 2
    pairs = channels * (channels + 1) / 2
    widths = [network.n_inputs, *network.hidden]
    layers = sum(2 * n_in * n_out for n_in, n_out in pairwise(widths))
    moments = 2 * sum(images) * size
    features = 12 * images[0] + sum(images) + moments + 2 * channels * size**2 + 2 * pairs * size
    operations = features + layers
    # each height and bell is written once and read once; features and layers likewise
    traffic = 2 * model.dtype.itemsize * (images[0] + sum(images) + channels * size + sum(widths))
    factor = 4.0 if forces else 1.0
    return Work(factor * operations * grid.n_points, factor * traffic * grid.n_points)


def measure_machine(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> Machine:
    """What a device does at best: products of large matrices, and an array added to another.

    Args:
        device: to be measured.
        dtype: number type.
        seconds: for each of both, about.
    """
    n = 4096 if device.type == "cuda" else 768
    first, second, result = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(3))
    products = _best_time(lambda: torch.mm(first, second, out=result), device, seconds)
    size = 2**28 if device.type == "cuda" else 2**24
    one, other = (torch.ones(size, dtype=dtype, device=device) for _ in range(2))
    sums = _best_time(lambda: one.add_(other), device, seconds)
    return Machine(2 * n**3 / products, 3 * size * dtype.itemsize / sums, device.type == "cpu")


def _best_time(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest of several runs, s."""
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
