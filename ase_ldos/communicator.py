"""Several processes that share one calculation, started by torchrun: blocks of the grid or snapshots of a step.

    torchrun --nproc-per-node 4 -m ase_ldos predict be.xyz --forces

Every rank runs the same code on its share; sums meet by ``all_reduce`` (gloo between CPUs, NCCL between GPUs). What
only one process should do, rank 0 does. Without torchrun there is one rank, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")

#: A rank may wait this long for another that is alive; of one that is dead it learns at once.
_PATIENCE = timedelta(days=7)


class RankLostError(RuntimeError):
    """Another rank has ended; the calculation cannot go on."""


class Communicator:
    """The ranks of a run. ``Communicator()`` is one process alone.

    Args:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def from_torchrun(cls) -> Communicator:
        """The ranks that torchrun started, this process among them; alone without torchrun.

        Raises:
            RankLostError: the others cannot be reached.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            with _lost_ranks():
                dist.init_process_group(backend, timeout=_PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def partition(self, items: Sequence[Item], rank: int | None = None) -> Sequence[Item]:
        """The contiguous part of the items that belongs to a rank (default: this one); sizes differ by one at most."""
        rank = self.rank if rank is None else rank
        return items[rank * len(items) // self.size : (rank + 1) * len(items) // self.size]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Σ over all ranks, in place; the tensor is returned."""
        if self.size > 1:
            with _lost_ranks():
                dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Fill the tensor of every rank with that of rank 0, in place; the tensor is returned."""
        if self.size > 1:
            with _lost_ranks():
                dist.broadcast(tensor, 0)
        return tensor

    def send(self, tensor: Tensor) -> None:
        """Send a tensor to rank 0, which calls ``receive``."""
        with _lost_ranks():
            dist.send(tensor.contiguous(), 0)

    def receive(self, tensor: Tensor, rank: int) -> Tensor:
        """Fill the tensor with what a rank sends; the tensor is returned."""
        with _lost_ranks():
            dist.recv(tensor, rank)
        return tensor

    def run_on_root(self, work: Callable[[], None]) -> None:
        """Let rank 0 do some work while the others wait.

        Raises:
            ValueError: the work failed on rank 0; there the error is its own.
        """
        if not self.is_root:
            if int(self.broadcast(torch.zeros(1, dtype=torch.int64))):
                raise ValueError("rank 0 could not finish its part; its message says why")
            return
        try:
            work()
        except Exception:
            self.broadcast(torch.ones(1, dtype=torch.int64))
            raise
        self.broadcast(torch.zeros(1, dtype=torch.int64))

    def close(self) -> None:
        """Leave the group of processes; to be called once, at the end of a run in which nothing failed."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Turn what torch.distributed says when a peer has died into one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise RankLostError(f"another rank has ended or cannot be reached: this run cannot go on ({reason})") from error
