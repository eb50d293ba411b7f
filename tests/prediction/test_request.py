"""A request: defaults of the model, its way between ranks, checks of ASE atoms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import fulfil_request, predict
from ase_ldos.prediction.request import PredictionRequest, Thresholds, broadcast_end


class Wire(Communicator):
    """Two ranks in one process: what is sent is kept until it is received."""

    def __init__(self) -> None:
        super().__init__(0, 2)
        self.sent: list[Tensor] = []

    def broadcast(self, tensor: Tensor) -> Tensor:
        if self.is_root:
            self.sent.append(tensor.clone())
            return tensor
        return tensor.copy_(self.sent.pop(0))


def structure_of(atoms: Atoms) -> Structure:
    return Structure.from_atoms(atoms)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forces": True, "fermi_guess": 3.25},
        {"stress": True, "chunk_size": 77, "electronic_temperature": 1234.5},
        {"grid_shape": (3, 4, 5), "thresholds": Thresholds(keep_bytes=2**40 + 1, misplaced=1e-9, mesh_from=3)},
    ],
)
def test_what_is_sent_arrives(be_atoms: Atoms, be_model: LDOSModel, changes: dict[str, object]) -> None:
    request = PredictionRequest.for_model(be_model, structure_of(be_atoms), **changes)  # type: ignore[arg-type]
    wire = Wire()
    request.broadcast(wire)
    broadcast_end(wire)
    wire.rank = 1
    arrived = PredictionRequest.receive(wire)
    assert arrived is not None
    for name in ("numbers", "positions", "cell"):
        assert torch.equal(getattr(arrived.structure, name), getattr(request.structure, name))
    others = {name: value for name, value in vars(request).items() if name != "structure"}
    assert {name: getattr(arrived, name) for name in others} == others
    assert {name: type(value) for name, value in vars(arrived.thresholds).items()} == {
        name: type(value) for name, value in vars(request.thresholds).items()
    }
    assert PredictionRequest.receive(wire) is None
    assert not wire.sent


def test_defaults_are_the_models(be_atoms: Atoms, be_model: LDOSModel) -> None:
    request = PredictionRequest.for_model(be_model, structure_of(be_atoms))
    assert request.electronic_temperature == be_model.metadata.electronic_temperature == 3000.0
    steps = be_atoms.cell.lengths() / request.grid_shape
    assert (steps < 1.05 * be_model.metadata.grid_spacing).all()
    assert not request.needs_gradient
    assert replace(request, stress=True).needs_gradient


def test_a_request_gives_what_its_arguments_give(be_atoms: Atoms, be_model: LDOSModel) -> None:
    request = PredictionRequest.for_model(be_model, structure_of(be_atoms), forces=True, chunk_size=80)
    one, other = fulfil_request(be_model, request), predict(be_model, be_atoms, forces=True, chunk_size=80)
    assert one.free_energy == other.free_energy
    assert torch.equal(one.density, other.density)
    assert one.forces is not None
    assert other.forces is not None
    assert torch.equal(one.forces, other.forces)
    assert one.stress is None


def test_atoms_are_checked(be_model: LDOSModel) -> None:
    with pytest.raises(ValueError, match="the model knows Be; the atoms contain Mg"):
        predict(be_model, bulk("Mg"))
    close = bulk("Be", "hcp", a=2.27, c=3.57)
    close.positions[1] = close.positions[0] + (0, 0, 0.4)
    with pytest.raises(ValueError, match=r"0\.400 Å apart; the model knows no distances below 1\.0"):
        predict(be_model, close)
    with pytest.raises(ValueError, match="periodic boundary conditions"):
        predict(be_model, Atoms("Be", cell=[3, 3, 3]))


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4), (-1, 2, 3)])
def test_grids_and_blocks_without_points_are_refused(be_model: LDOSModel, shape: tuple[int, int, int]) -> None:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    with pytest.raises(ValueError, match=r"grid_shape is .*; it must be three positive integers"):
        predict(be_model, atoms, grid_shape=shape)
    with pytest.raises(ValueError, match="chunk_size is 0; it must be a positive number of grid points"):
        predict(be_model, atoms, chunk_size=0)


def test_a_functional_that_is_not_known_makes_no_model(be_model: LDOSModel) -> None:
    with pytest.raises(ValueError, match="unknown exchange-correlation functional 'PBEsol'; known: lda, pbe, pbesol"):
        replace(be_model.metadata, functional="PBEsol")


@pytest.mark.parametrize("functional", ["lda", "pbesol"])
def test_forces_are_derivatives_with_every_functional(be_model: LDOSModel, functional: str) -> None:
    be_model.metadata = replace(be_model.metadata, functional=functional)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.08, seed=3)
    shape, step = (5, 6, 8), 1e-3
    found = predict(be_model, atoms, forces=True, grid_shape=shape)
    assert found.forces is not None
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * step
        ends.append(predict(be_model, moved, grid_shape=shape).free_energy)
    assert float(found.forces[1, 2]) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-4, abs=1e-5)
