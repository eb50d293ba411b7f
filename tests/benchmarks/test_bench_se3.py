"""Time of the graph network per grid point: `pytest tests/benchmarks/test_bench_se3.py --benchmark-only -s`.

Predictions of 16 beryllium atoms with random weights: what they are does not matter here. The power spectrum
with the same pointwise network stands beside it. Set OMP_NUM_THREADS=1 to measure one core.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from ase.build import bulk
from pytest_benchmark.fixture import BenchmarkFixture

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import make_point_features
from ase_ldos.prediction.predict import predict

GRAPH = {"kind": "se3_transformer", "cutoff": 5.0, "lmax": 2, "channels": 32, "layers": 2, "heads": 4}
KINDS: dict[str, dict[str, Any]] = {
    "power spectrum": {"kind": "power_spectrum", "cutoff": 5.0, "n_radial": 6, "lmax": 4},
    "graph": {**GRAPH, "n_radial": 5, "fields": 32, "moments": 1},
    "graph, attention at points": {**GRAPH, "n_radial": 5, "fields": 32, "moments": 1, "point_heads": 4},
    "graph beside power spectrum": {**GRAPH, "n_radial": 4, "fields": 24, "moments": 0, "spectrum_radial": 6},
    "graph, large": {
        "kind": "se3_transformer",
        "cutoff": 6.0,
        "atom_cutoff": 6.0,
        "lmax": 3,
        "channels": 64,
        "layers": 3,
        "heads": 8,
        "n_radial": 5,
        "fields": 64,
        "moments": 1,
    },
}


def random_model(kind: str, n_energies: int = 221) -> LDOSModel:
    generator = torch.Generator().manual_seed(0)
    features = make_point_features({"species": [4], **KINDS[kind]})
    size = features.n_features
    network = MLP(96, n_energies, hidden=(128, 128), skip=True, generator=generator)
    with torch.no_grad():
        network.head.weight.mul_(1e-3)
        network.head.bias.fill_(0.04)
    projection = 1e-2 * torch.randn(size, 96, generator=generator)
    energies = torch.linspace(-5, 17, n_energies)
    return LDOSModel(
        features, network, energies, ModelMetadata("random", {"Be": 2.0}), projection=projection
    ).requires_grad_(False)


def beryllium(device: str = "cpu") -> Structure:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))
    atoms.rattle(0.03, seed=0)
    return Structure.from_atoms(atoms, device=device)


@pytest.mark.parametrize("forces", [False, True], ids=["energy", "forces"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_time_per_point(benchmark: BenchmarkFixture, kind: str, forces: bool) -> None:
    model, structure = random_model(kind), beryllium()
    used = []

    def run() -> int:
        begin = time.process_time()
        points = predict(model, structure, forces=forces).grid.n_points
        used.append(time.process_time() - begin)
        return points

    points = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    # CPU time, and the fastest round: what other processes disturbed least
    benchmark.extra_info["µs of CPU per point"] = round(1e6 * min(used) / points, 2)
    print(f"\n{kind:28s} {'forces' if forces else 'energy':7s} {points} points {benchmark.extra_info}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["graph", "graph beside power spectrum"])
def test_time_does_not_grow_with_the_number_of_energies(kind: str) -> None:
    structure, models = beryllium(), [random_model(kind, n) for n in (51, 2001)]
    times: list[list[float]] = [[], []]
    for _ in range(4):
        for model, found in zip(models, times):
            begin = time.process_time()
            predict(model, structure, forces=True)
            found.append(time.process_time() - begin)
    few, many = (min(found) for found in times)
    print(f"\n{kind}: {few:.3f} s with 51 energies, {many:.3f} s with 2001")
    # the whole LDOS at all points would be 2001 · 224 products per point, more than all the rest of the forward pass
    assert many < 1.3 * few


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", list(KINDS))
def test_time_per_point_on_a_gpu(benchmark: BenchmarkFixture, kind: str) -> None:
    model, structure = random_model(kind).cuda(), beryllium("cuda")

    def run() -> int:
        points = predict(model, structure, forces=True, chunk_size=65536).grid.n_points
        torch.cuda.synchronize()
        return points

    points = benchmark.pedantic(run, rounds=5, warmup_rounds=2)
    print(f"\n{kind:28s} forces {1e6 * benchmark.stats.stats.min / points:.2f} µs per point")
