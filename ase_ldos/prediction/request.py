"""What rank 0 tells the others to calculate, as plain tensors: no pickle travels between ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import Prediction, predict

_WANT = ("forces", "stress")


@dataclass(frozen=True)
class Order:
    """One prediction; see the arguments of ``predict``.

    Attributes:
        kind: 1, or 0 for "stop".
        numbers: int64 ``[atom]``.
        positions: Å, ``[atom, 3]``.
        cell: Å, ``[3, 3]``.
        shape: of the grid.
        want: any of forces, stress.
        temperature: electronic, K.
        chunk_size: points of a block.
    """

    kind: int = 1
    numbers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    positions: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))
    cell: Tensor = field(default_factory=lambda: torch.zeros(3, 3, dtype=torch.float64))
    shape: tuple[int, int, int] = (0, 0, 0)
    want: tuple[str, ...] = ()
    temperature: float = 0.0
    chunk_size: int = 0

    def give(self, communicator: Communicator) -> None:
        """Spread it from rank 0."""
        flags = [int(name in self.want) for name in _WANT]
        communicator.broadcast(torch.tensor([self.kind, len(self.numbers), *self.shape, self.chunk_size, *flags]))
        communicator.broadcast(torch.tensor([self.temperature], dtype=torch.float64))
        for tensor in (self.numbers, self.positions, self.cell):
            communicator.broadcast(tensor.detach().cpu().contiguous())

    @classmethod
    def take(cls, communicator: Communicator) -> Order:
        """Wait for the next order of rank 0."""
        kind, n_atoms, nx, ny, nz, chunk_size, *flags = communicator.broadcast(
            torch.zeros(8, dtype=torch.int64)
        ).tolist()
        temperature = float(communicator.broadcast(torch.zeros(1, dtype=torch.float64)))
        numbers = communicator.broadcast(torch.zeros(n_atoms, dtype=torch.int64))
        positions, cell = (communicator.broadcast(torch.zeros(n, 3, dtype=torch.float64)) for n in (n_atoms, 3))
        want = tuple(name for name, flag in zip(_WANT, flags) if flag)
        return cls(kind, numbers, positions, cell, (nx, ny, nz), want, temperature, chunk_size)

    def carry_out(self, model: LDOSModel, communicator: Communicator, *, progress: bool = False) -> Prediction:
        """Predict with all ranks of the communicator; rank 0 gives the order to the others first."""
        if communicator.is_root and communicator.size > 1:
            self.give(communicator)
        return predict(
            model,
            self.structure(model.device),
            self.want,
            electronic_temperature=self.temperature,
            grid=self.grid(model.device),
            chunk_size=self.chunk_size,
            communicator=communicator,
            progress=progress,
        )

    def structure(self, device: torch.device) -> Structure:
        """The atoms."""
        return Structure(self.numbers.to(device), self.positions.to(device), self.cell.to(device))

    def grid(self, device: torch.device) -> Grid:
        """The grid."""
        return Grid(self.cell.to(device), self.shape)


STOP = Order(kind=0)
