"""CUDA graphs against the ordinary way, on a GPU or, where the work is only done again, on the fake device."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import list_models
from ase_ldos.prediction.batch_graphs import BatchGraphs, CUDARecording, Recording, Work

fakecuda = sys.modules.get("fakecuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


class Rerun:
    """Stands in for a CUDA graph: does the work again on the same memory; counts what that launches and waits for."""

    launches = waits = 0

    def __init__(self, work: Work, inputs: Sequence[Tensor]) -> None:
        self._work, self._inputs = work, inputs
        self.results = tuple(part.clone() for part in work(*inputs))

    def replay(self) -> None:
        assert fakecuda is not None
        before = (fakecuda.launches(), fakecuda.waits())
        found = self._work(*self._inputs)
        Rerun.launches += fakecuda.launches() - before[0]
        Rerun.waits += fakecuda.waits() - before[1]
        for kept, part in zip(self.results, found):
            kept.copy_(part)


def record(work: Work, inputs: Sequence[Tensor]) -> Recording:
    return CUDARecording(work, inputs) if fakecuda is None else Rerun(work, inputs)


@pytest.mark.parametrize("stress", [False, True])
def test_steps_of_a_run(either_model: LDOSModel, stress: bool) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    plain, graphed = (
        LDOSCalculator(either_model, device="cuda", dtype="float64", cuda_graphs=graphs) for graphs in (False, True)
    )
    assert graphed.parameters["cuda_graphs"]
    graphs = graphed._graphs = BatchGraphs(record=record)
    for seed in range(4):
        atoms.rattle(0.02, seed=seed)
        for name in ("stress", "forces") if stress else ("forces",):
            expected, found = (one.get_property(name, atoms) for one in (plain, graphed))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
        assert graphed.get_property("energy", atoms) == pytest.approx(plain.get_property("energy", atoms), abs=1e-9)
    assert (graphs.recorded, graphs.replayed) == (2, 8)
    # another cell: the same grid in another shape, then another number of atoms
    atoms.set_cell(atoms.cell[:] * 1.001, scale_atoms=True)
    for other in (atoms, atoms.repeat((1, 2, 1))):
        expected, found = (one.get_property("forces", other) for one in (plain, graphed))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert graphs.recorded > 2


@pytest.mark.skipif(fakecuda is None, reason="launches are counted on the fake device")
@pytest.mark.parametrize(("model", "outside", "inside"), [("be", 807, 200), ("be-se3", 1928, 400)])
def test_launches_inside_and_outside(model: str, outside: int, inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 atoms: what a step still launches where its batches are replayed, and that these wait for nothing."""
    assert fakecuda is not None
    if model not in list_models():
        pytest.skip(f"the bundled model {model} is not in this checkout")
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=1)
    atoms.calc = LDOSCalculator(model, device="cuda", cuda_graphs=True)
    graphs = atoms.calc._graphs = BatchGraphs(record=record)
    atoms.get_forces()
    atoms.rattle(0.01, seed=2)
    monkeypatch.setattr(Rerun, "launches", 0)
    monkeypatch.setattr(Rerun, "waits", 0)
    fakecuda.reset(by_line=True)
    atoms.get_forces()
    assert (graphs.recorded, graphs.replayed) == (2, 4)
    assert Rerun.waits == 0
    # the stand-in copies each result once
    copies = 3 if model == "be" else 4
    print(f"{model}: {fakecuda.launches() - Rerun.launches - copies} launches outside, {Rerun.launches} inside")
    assert fakecuda.launches() - Rerun.launches - copies <= outside, fakecuda.report()
    assert Rerun.launches >= inside


@pytest.mark.skipif(fakecuda is None, reason="only the fake device has no graphs")
def test_without_graphs_all_goes_on(be_model: LDOSModel, caplog: pytest.LogCaptureFixture) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    plain, graphed = (LDOSCalculator(be_model, device="cuda", cuda_graphs=graphs) for graphs in (False, True))
    np.testing.assert_allclose(
        graphed.get_property("forces", atoms), plain.get_property("forces", atoms), rtol=0, atol=1e-5
    )
    assert "no CUDA graph could be recorded" in caplog.text
    assert graphed._graphs is not None
    assert graphed._graphs.failed
