"""The Triton kernel against torch's products, in Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ase_ldos.descriptors.power_spectrum import triton_kernel
from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.image_table import ImageGroup

needs_interpreter = pytest.mark.skipif(
    not triton_kernel.interpreted(), reason="runs in Triton's interpreter: TRITON_INTERPRET=1"
)
OPTIONS = {"cutoff": 3.3, "n_radial": 3, "lmax": 3}
DESCRIPTORS = {
    "elements": lambda: PowerSpectrum((4, 12), **OPTIONS),
    "pseudo-species": lambda: CompressedPowerSpectrum((4, 12), channels={"Be": [1, -0.6], "Mg": [1, 0.8]}, **OPTIONS),
}


def batch(dtype: torch.dtype) -> BlockBatch:
    """More points and images than a tile has, no multiple of it, and no image of the second species near one block."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(70, 3, dtype=torch.float64, generator=generator) - 0.5
    atoms = 6 * torch.rand(2, 50, 3, dtype=torch.float64, generator=generator) - 3
    atoms[1, 40:] = 20.0
    groups = (ImageGroup(slice(0, 40), (40, 40, 33)), ImageGroup(slice(40, 50), (10, 7, 0)))
    owners = torch.zeros(2, 50, dtype=torch.int64)
    return BlockBatch(torch.arange(140), points.to(dtype), atoms.to(dtype), owners, groups)


@needs_interpreter
@pytest.mark.parametrize("kind", DESCRIPTORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_values_and_derivatives(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    descriptor, plain = DESCRIPTORS[kind](), batch(dtype)
    weights = torch.linspace(-1, 1, 140 * descriptor.n_features, dtype=dtype).reshape(140, -1)
    results: list[list[Tensor]] = []
    for kernels in ("torch", "triton"):
        descriptor.kernels = kernels
        points, atoms = plain.points.clone().requires_grad_(), plain.atoms.clone().requires_grad_()
        features = descriptor.of_batch(BlockBatch(plain.flat, points, atoms, plain.owners, plain.groups))
        results.append([features.detach(), *torch.autograd.grad(features, (points, atoms), weights)])
    for expected, found in zip(*results, strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < tolerance


@needs_interpreter
def test_a_kernel_that_is_given_too_few_images_is_seen() -> None:
    """The comparison above would notice a missing tile."""
    plain = batch(torch.float64)
    (group, other) = plain.groups
    fewer = (ImageGroup(group.rows, (32, 32, 32)), other)
    descriptor = PowerSpectrum((4, 12), **OPTIONS)
    expected = descriptor.of_batch(plain)
    descriptor.kernels = "triton"
    found = descriptor.of_batch(BlockBatch(plain.flat, plain.points, plain.atoms, plain.owners, fewer))
    assert float((found - expected).abs().max() / expected.abs().max()) > 1e-3


def test_in_the_interpreter() -> None:
    """The tests above, in a process whose Triton interprets: that is decided when Triton is imported."""
    pytest.importorskip("triton", reason="Triton comes with torch for CUDA; pip install 'ase-ldos[triton]'")
    if triton_kernel.interpreted():
        pytest.skip("this is the interpreter")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", str(Path(__file__))]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[3]
    found = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert "6 passed" in found.stdout, found.stdout[-500:]


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("radial", [0, 5])
def test_it_compiles_for_a_gpu_with_ieee_products(radial: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's compiler needs no GPU; TF32 products would lose what cancels."""
    triton = pytest.importorskip("triton", reason="Triton comes with torch for CUDA; pip install 'ase-ldos[triton]'")
    if triton_kernel.interpreted():
        pytest.skip("the interpreter compiles nothing")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = triton_kernel._moments_kernel
    kinds = {name: "constexpr" if name.isupper() else "i32" for name in kernel.arg_names}
    kinds |= dict.fromkeys(("points", "images", "harmonics", "out"), "*fp32")
    constants = {"RADIAL": radial, "POINTS": 64, "IMAGES": 32, "WIDTH": 32}
    source = triton.compiler.ASTSource(kernel, kinds, constexprs=constants)
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    code = triton.compile(source, target=target).asm["ptx"]
    assert "fma.rn.f32" in code
    assert "tf32" not in code


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernel, "triton", None)
    with pytest.raises(ValueError, match="triton, which is not installed"):
        triton_kernel.check_triton(torch.device("cuda"))
    monkeypatch.setattr(triton_kernel, "triton", builtins)
    with pytest.raises(ValueError, match="needs a CUDA device; the model is on cpu"):
        triton_kernel.check_triton(torch.device("cpu"))
