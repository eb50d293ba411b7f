"""How many launches and waits a force step takes on a GPU, as the fake device counts them: they may only fall."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from ase.build import bulk

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import list_models, load_model
from ase_ldos.prediction.grid_walk import GridWalk

fakecuda = sys.modules.get("fakecuda")
pytestmark = pytest.mark.skipif(fakecuda is None, reason="launches are counted on the fake device")

#: Atoms, points of a batch, launches, waits, as counted when this was written. A batch has fewer points than by
#: default, in whose place a machine without a GPU needs its memory.
BOUNDS = [
    ("power spectrum", (2, 2, 2), 2**18, 992, 19),
    ("power spectrum", (8, 8, 8), 2**18, 1685, 25),
    ("graph network", (2, 2, 2), 2**18, 2426, 26),
    ("graph network", (8, 8, 8), 2**17, 4331, 32),
]


#: The same of a binary alloy and a small model with two pseudo-species.
COMPRESSED_BOUNDS = [((2, 2, 2), 934, 15), ((4, 4, 4), 934, 15)]


@pytest.mark.parametrize(("kind", "repeat", "points", "launches", "waits"), BOUNDS)
def test_force_step(kind: str, repeat: tuple[int, int, int], points: int, launches: int, waits: int) -> None:
    assert fakecuda is not None
    bundled = {"power spectrum": "be", "graph network": "be-se3"}[kind]
    if bundled not in list_models():
        pytest.skip(f"the bundled model {bundled} is not in this checkout")
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(repeat)
    atoms.rattle(0.05, seed=1)
    atoms.calc = LDOSCalculator(bundled, device="cuda", chunk_size=points)
    # what is kept from step to step: tables, the fused scaler
    atoms.calc.get_property("forces", bulk("Be", "hcp", a=2.27, c=3.57))
    fakecuda.reset(by_line=True)
    atoms.get_forces()
    assert fakecuda.launches() <= launches, fakecuda.report()
    assert fakecuda.waits() <= waits, fakecuda.report()


@pytest.mark.parametrize(("repeat", "launches", "waits"), COMPRESSED_BOUNDS)
def test_force_step_of_pseudo_species(
    repeat: tuple[int, int, int], launches: int, waits: int, compressed_model: LDOSModel
) -> None:
    assert fakecuda is not None
    atoms = bulk("Be", "hcp", a=2.4, c=3.8).repeat(repeat)
    atoms.numbers[::2] = 12
    atoms.rattle(0.05, seed=1)
    atoms.calc = LDOSCalculator(compressed_model, device="cuda", dtype="float32", chunk_size=2**18)
    atoms.calc.get_property("forces", atoms[:4])
    fakecuda.reset(by_line=True)
    atoms.get_forces()
    assert fakecuda.launches() <= launches, fakecuda.report()
    assert fakecuda.waits() <= waits, fakecuda.report()


def test_a_batch_waits_for_nothing(bundled: str) -> None:
    """Hidden features of a batch and their derivatives: what a CUDA graph could hold."""
    assert fakecuda is not None
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
    atoms.rattle(0.05, seed=1)
    model = load_model(bundled).to("cuda").eval().requires_grad_(False).with_fused_scaler()
    structure = Structure.from_atoms(atoms)
    walk = GridWalk(model, structure, Grid.with_spacing(structure.cell, model.metadata.grid_spacing), 2**18)
    batch = next(walk.blocks())
    assert isinstance(batch, BlockBatch)
    moved = replace(batch, points=batch.points.clone().requires_grad_(), atoms=batch.atoms.clone().requires_grad_())
    for _ in range(2):  # the first makes what is kept
        fakecuda.reset(by_line=True)
        hidden = walk.hidden(moved)
        torch.autograd.grad(hidden, (moved.points, moved.atoms), torch.ones_like(hidden))
    assert fakecuda.launches() > 0
    assert fakecuda.waits() == 0, fakecuda.report()
