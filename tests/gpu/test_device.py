"""What must be the same on a GPU as on the CPU. Needs a CUDA device, or the fake one (``tests/fakecuda``)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.prediction.checkpointing import PredictionCheckpoint
from ase_ldos.prediction.local_density import atomic_dos, local_density
from ase_ldos.prediction.predict import Prediction, predict, predict_ldos
from ase_ldos.prediction.request import Thresholds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

#: Batches as well as single blocks, kept features as well as interpolated ones.
WAYS: dict[str, Callable[[], dict[str, object]]] = {
    "one batch": dict,
    "many batches": lambda: {"chunk_size": 300},
    "interpolated density": lambda: {"chunk_size": 200, "thresholds": Thresholds(keep_bytes=0)},
    "prime numbers of points": lambda: {"grid_shape": (7, 11, 13), "chunk_size": 150},
}


def tensors(found: Prediction) -> dict[str, torch.Tensor]:
    assert found.forces is not None
    assert found.stress is not None
    terms = found.energies.terms()
    return {"terms": terms, "forces": found.forces, "stress": found.stress, "density": found.density.cpu()}


@pytest.mark.parametrize("way", WAYS)
def test_prediction(way: str, be_atoms: Atoms, either_model: LDOSModel) -> None:
    options = WAYS[way]()
    cpu, gpu = (predict(either_model.to(d), be_atoms, forces=True, stress=True, **options) for d in ("cpu", "cuda"))
    # an interpolation differs by its own error: the blocks of the sample are others
    tolerance = 1e-6 if way == "interpolated density" else 1e-10
    for name, value in tensors(cpu).items():
        torch.testing.assert_close(tensors(gpu)[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: n + text)
    assert gpu.fermi_level == pytest.approx(cpu.fermi_level, abs=1e-10)


@pytest.mark.parametrize("kind", ["alloy_model", "compressed_model"])
def test_alloy_and_a_species_that_is_not_there(kind: str, request: pytest.FixtureRequest) -> None:
    model: LDOSModel = request.getfixturevalue(kind)
    alloy = bulk("Be", "hcp", a=2.4, c=3.8).repeat((2, 1, 1))
    alloy.rattle(0.05, seed=1)
    for numbers in ([4, 12, 4, 4], [12, 12, 12, 12]):
        alloy.numbers[:] = numbers
        cpu, gpu = (predict(model.to(d), alloy, forces=True, stress=True) for d in ("cpu", "cuda"))
        for name, value in tensors(cpu).items():
            torch.testing.assert_close(tensors(gpu)[name], value, rtol=0, atol=1e-10, msg=name)


def test_what_is_asked_of_the_ldos(be_model: LDOSModel) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    structure = Structure.from_atoms(atoms)
    grid = Grid(structure.cell, (6, 6, 8))
    found = []
    for device in ("cpu", "cuda"):
        model = be_model.to(device)
        parts = (
            predict_ldos(model, structure, grid.shape),
            local_density(model, structure, grid, (0.0, 3.0)),
            atomic_dos(model, structure, grid, chunk_size=100),
        )
        found.append([part.cpu() for part in parts])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("derivatives", [False, True])
def test_ions_on_a_mesh(derivatives: bool) -> None:
    atoms = bulk("Be", "hcp", a=2.26, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=3)
    structure = Structure.from_atoms(atoms)
    charges = torch.linspace(1, 3, len(atoms), dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        positions = structure.positions.clone().requires_grad_(derivatives)
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=derivatives)
        moved = replace(structure, positions=positions).strained(strain)
        energy = ewald_energy(moved, charges, mesh_from=0, device=torch.device(device))
        slopes = torch.autograd.grad(energy, (positions, strain)) if derivatives else ()
        found.append([energy.detach(), *slopes])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_second_run_gives_the_very_same_numbers(be_model: LDOSModel) -> None:
    """Sums into atoms are sorted, not atomic."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 2, 1))
    atoms.rattle(0.05, seed=1)
    model = be_model.to("cuda", torch.float32)
    one, other = (predict(model, atoms, forces=True, stress=True, chunk_size=400) for _ in range(2))
    for name, value in tensors(one).items():
        assert torch.equal(tensors(other)[name], value), name


@pytest.mark.skipif("fakecuda" in sys.modules, reason="Triton's compiler needs a real GPU")
def test_kernels_of_triton(be_model: LDOSModel) -> None:
    pytest.importorskip("triton")
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 2, 1))
    atoms.rattle(0.05, seed=1)
    results = []
    for kernels in ("torch", "triton"):
        calculator = LDOSCalculator(be_model, device="cuda", dtype="float32", kernels=kernels)
        results.append((calculator.get_property("energy", atoms), calculator.get_property("forces", atoms)))
    (energy, forces), (energy_there, forces_there) = results
    assert energy_there == pytest.approx(energy, abs=1e-4 * len(atoms))
    np.testing.assert_allclose(forces_there, forces, rtol=0, atol=1e-4)


@contextmanager
def reduced_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_process_may_allow_reduced_precision(be_model: LDOSModel) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    calculators = [LDOSCalculator(be_model, device="cuda", dtype="float32") for _ in range(2)]
    expected = calculators[0].get_property("forces", atoms)
    with reduced_precision():
        np.testing.assert_array_equal(calculators[1].get_property("forces", atoms), expected)


def test_an_interrupted_prediction_starts_its_pass_again(
    be_model: LDOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields of blocks that were done are not in a file of their own on a GPU."""
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    model = be_model.to("cuda")
    expected = predict(model, atoms, forces=True, stress=True, chunk_size=60, checkpoint=tmp_path / "whole")
    plain, calls = PredictionCheckpoint.write, []

    def write(self: PredictionCheckpoint, name: str, state: dict[str, object], *, always: bool = False) -> None:
        plain(self, name, state, always=True)
        calls.append(name)
        if len(calls) in (3, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(PredictionCheckpoint, "write", write)
    monkeypatch.setattr(PredictionCheckpoint, "is_due", lambda _: True)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict(model, atoms, forces=True, stress=True, chunk_size=60, checkpoint=tmp_path / "parts")
    found = predict(model, atoms, forces=True, stress=True, chunk_size=60, checkpoint=tmp_path / "parts")
    for name, value in tensors(expected).items():
        torch.testing.assert_close(tensors(found)[name], value, rtol=0, atol=1e-9, msg=name)


def test_cuda_is_the_device_of_this_process(be_model: LDOSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert LDOSCalculator(be_model, device="cuda").parameters["device"] == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", str(torch.cuda.device_count()))
    with pytest.raises(CalculatorSetupError, match="each process needs its own"):
        LDOSCalculator(be_model, device="cuda")
