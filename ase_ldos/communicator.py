"""Several processes that share one calculation, started by torchrun: blocks of the grid or snapshots of a step.

    torchrun --nproc-per-node 4 -m ase_ldos predict be.xyz --forces

Every rank runs the same code on its share; sums meet by ``all_reduce`` (gloo between CPUs, NCCL between GPUs). What
only one process should do, rank 0 does. Without torchrun there is one rank, and nothing here costs anything.

A rank that has died is noticed at once. One that is alive but does not come (stopped, or busy with something else) is
told of after a minute, and ends the run after ``ASE_LDOS_RANK_TIMEOUT`` seconds if the environment sets that. Ranks end
with their torchrun, even where it was killed.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

logger = logging.getLogger(__name__)
Item = TypeVar("Item")

#: Environment variable: seconds that a rank waits for the others before the run ends.
RANK_TIMEOUT = "ASE_LDOS_RANK_TIMEOUT"
#: A rank may wait this long for another that is alive, unless the user says otherwise; of a dead one it learns at once.
_PATIENCE = 7 * 24 * 3600.0
#: Ranks have met over the CPU before they start a transfer between GPUs: what then takes this long, s, is dead.
_TRANSFER = 300.0
#: After so many seconds of waiting a sentence says so.
_TELL_AFTER = 60.0


class RankLostError(RuntimeError):
    """Another rank has ended or does not answer; the calculation cannot go on."""


class Communicator:
    """The ranks of a run. ``Communicator()`` is one process alone.

    Args:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._watch: _Watch | None = None
        self._meeting: dist.ProcessGroup | None = None

    @classmethod
    def from_torchrun(cls, *, timeout: float | None = None) -> Communicator:
        """The ranks that torchrun started, this process among them; alone without torchrun.

        Args:
            timeout: s, that a rank waits for another one that is alive; default is what the environment variable
                ``ASE_LDOS_RANK_TIMEOUT`` says, else a week.

        Raises:
            RankLostError: the others cannot be reached.
            ValueError: the timeout is not a positive number.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        patience = _timeout(os.environ.get(RANK_TIMEOUT, _PATIENCE) if timeout is None else timeout)
        if not dist.is_initialized():
            on_gpus = torch.cuda.is_available()
            backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
            with _lost_ranks(patience):
                dist.init_process_group(backend, timeout=timedelta(seconds=_TRANSFER if on_gpus else patience))
        communicator = cls(dist.get_rank(), dist.get_world_size())
        with _lost_ranks(patience):
            communicator._meeting = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience))
        communicator._watch = _Watch(communicator.rank, patience)
        return communicator

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
            with self._waiting():
                dist.all_reduce(tensor, group=self._meet(tensor))
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Fill the tensor of every rank with that of rank 0, in place; the tensor is returned."""
        if self.size > 1:
            with self._waiting():
                dist.broadcast(tensor, 0, group=self._meet(tensor))
        return tensor

    def send(self, tensor: Tensor) -> None:
        """Send a tensor to rank 0, which calls ``receive``."""
        with self._waiting():
            dist.send(tensor.contiguous(), 0, group=self._meet_one(tensor, 0))

    def receive(self, tensor: Tensor, rank: int) -> Tensor:
        """Fill the tensor with what a rank sends; the tensor is returned."""
        with self._waiting():
            dist.recv(tensor, rank, group=self._meet_one(tensor, rank))
        return tensor

    def _meet(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """The group for a tensor. Those of GPUs notice no dead rank: all ranks first meet in one that does."""
        if tensor.device.type == "cpu":
            return self._meeting
        dist.all_reduce(torch.zeros(1), group=self._meeting)
        return None

    def _meet_one(self, tensor: Tensor, rank: int) -> dist.ProcessGroup | None:
        """As ``_meet``, of this rank and another: each tells the other that it is there."""
        if tensor.device.type == "cpu":
            return self._meeting
        token = torch.zeros(1)
        first, second = (dist.recv, dist.send) if rank == 0 else (dist.send, dist.recv)
        first(token, rank, group=self._meeting)
        second(token, rank, group=self._meeting)
        return None

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        watch = self._watch
        with _lost_ranks(_PATIENCE if watch is None else watch.patience):
            if watch is None:
                yield
            else:
                with watch.waiting():
                    yield

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
        if self._watch is not None:
            self._watch.close()
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _timeout(value: str | float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"the timeout of ranks ({RANK_TIMEOUT}) is {value!r}; it must be a positive number of seconds")
    return min(seconds, 100 * _PATIENCE)


class _Watch:
    """A thread that says when this rank has waited for long, and ends it when torchrun, its parent, is gone.

    Args:
        rank: of this process.
        patience: s, after which a wait ends with an error.
        tell_after: s of waiting.
        interval: s, between two looks.
    """

    def __init__(self, rank: int, patience: float, tell_after: float | None = None, interval: float = 1.0) -> None:
        self.rank, self.patience, self.interval = rank, patience, interval
        self.tell_after = _TELL_AFTER if tell_after is None else tell_after
        self._since: float | None = None
        self._told = False
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._closed = threading.Event()
        threading.Thread(target=self._look, name="ase-ldos ranks", daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time of a wait."""
        self._told, self._since = False, time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(self.interval):
            since = self._since
            if since is not None and not self._told and time.monotonic() - since > self.tell_after:
                self._told = True
                logger.warning(
                    "rank %d has waited for the others for %.0f s: one is stopped, or busy with something else; %s",
                    self.rank,
                    time.monotonic() - since,
                    f"the run ends after {self.patience:g} s"
                    if self.patience < _PATIENCE
                    else f"the environment variable {RANK_TIMEOUT} sets after how many seconds the run ends",
                )
            if self._parent is not None and os.getppid() != self._parent:
                logger.warning("rank %d ends because its torchrun has ended", self.rank)
                os.kill(os.getpid(), signal.SIGTERM)
                return


@contextmanager
def _lost_ranks(patience: float) -> Iterator[None]:
    """Turn what torch.distributed says when a peer has died or does not answer into one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:160]
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            raise RankLostError(
                f"another rank has not answered for {patience:g} s: this run ends ({reason})"
            ) from error
        raise RankLostError(f"another rank has ended or cannot be reached: this run cannot go on ({reason})") from error
