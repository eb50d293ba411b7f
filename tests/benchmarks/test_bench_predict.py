"""Time and peak memory of predictions of 16, 128 and 1024 beryllium atoms.

Run with ``pytest tests/benchmarks/test_bench_predict.py --benchmark-only -s``. Each case runs in its own process, whose
peak memory the system counts; torch's and numpy's memory are in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import find_model, list_models, save_model
from ase_ldos.networks.mlp import MLP

REPEATS = {16: (2, 2, 2), 128: (4, 4, 4), 1024: (8, 8, 8)}

CASE = """
import json, resource, sys, time
from ase.build import bulk
from ase_ldos import load_model, predict

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

model, repeat, forces = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] == "forces"
model = load_model(model).requires_grad_(False)
atoms = bulk("Be", "hcp", a=2.245, c=3.531)
predict(model, atoms, forces=forces)  # libraries load on the first call
before = peak()
atoms = atoms.repeat(repeat)
atoms.rattle(0.03, seed=0)
wall, cpu = time.perf_counter(), time.process_time()
found = predict(model, atoms, forces=forces)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"wall": wall, "cpu": cpu, "points": found.grid.n_points, "energies": len(model.energies),
                  "atoms": len(atoms), "peak": peak(), "extra": peak() - before}))
"""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, or, where it is absent, one of its size with random weights."""
    if "be" in list_models():
        return find_model("be")
    return save_random_model(tmp_path_factory.mktemp("model") / "random.safetensors", 151)


def save_random_model(path: Path, n_energies: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    descriptor = PowerSpectrum((4,), cutoff=5.0, n_radial=6, lmax=4)
    network = MLP(96, n_energies, hidden=(128, 128), skip=True, generator=generator)
    with torch.no_grad():
        network.head.weight.mul_(1e-3)
        network.head.bias.fill_(0.04)
    projection = 1e-2 * torch.randn(descriptor.n_features, 96, generator=generator)
    energies = torch.linspace(-5, 10, n_energies)
    model = LDOSModel(descriptor, network, energies, ModelMetadata("random", {"Be": 2.0}), projection=projection)
    save_model(model, path)
    return path


def run_case(model: Path, n_atoms: int, kind: str) -> dict[str, float]:
    command = [sys.executable, "-c", CASE, str(model), json.dumps(REPEATS[n_atoms]), kind]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("kind", ["energy", "forces"])
@pytest.mark.parametrize("n_atoms", list(REPEATS))
def test_predict(benchmark: BenchmarkFixture, model_file: Path, n_atoms: int, kind: str) -> None:
    found = benchmark.pedantic(run_case, args=(model_file, n_atoms, kind), rounds=1, iterations=1)
    benchmark.extra_info.update(found)
    print(
        f"\n{n_atoms:5d} atoms {kind:7} {found['points']:8d} points: {found['wall']:8.3f} s, per atom "
        f"{found['wall'] / n_atoms * 1e3:7.2f} ms, per point {found['wall'] / found['points'] * 1e6:6.2f} µs "
        f"(CPU {found['cpu'] / found['points'] * 1e6:6.2f} µs); peak {found['peak'] / 2**20:6.0f} MiB, "
        f"{found['extra'] / 2**20:6.0f} MiB more than for two atoms"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts peak memory as Linux does")
@pytest.mark.parametrize("kind", ["energy", "forces"])
def test_memory_does_not_grow_with_the_number_of_energies(tmp_path: Path, kind: str) -> None:
    few, many = (run_case(save_random_model(tmp_path / f"{n}.safetensors", n), 128, kind) for n in (51, 1001))
    whole = many["points"] * (many["energies"] - few["energies"]) * 4
    few_mib, many_mib = few["extra"] / 2**20, many["extra"] / 2**20
    print(f"\nLDOS array would grow by {whole / 2**20:.0f} MiB; used {few_mib:.0f} and {many_mib:.0f} MiB")
    assert many["extra"] - few["extra"] < 0.15 * whole
