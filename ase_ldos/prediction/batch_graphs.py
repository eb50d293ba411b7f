"""CUDA graphs: what a batch of blocks of a small cell needs on a GPU is recorded once and replayed for other positions.

The kernels of a cell of some ten atoms take less time than the host needs to launch them. A graph launches all that was
recorded by one call. It repeats the very kernels on the very memory, so whatever is recorded must have shapes that do
not depend on where the atoms are, must wait for nothing, and must find what it reads where it was:

* Descriptor, network and, with forces, their adjoint of one batch are recorded; the search for images is not, as it
  reads their numbers. Batches are filled up to numbers with room to spare (``ImageRoom``).
* Inputs are copied into memory that the recording owns. Its results are overwritten by its next replay.
* Shapes or a model that are not known are recorded anew.
* Where a recording fails, all goes on without.

The numbers are those without a graph up to rounding: more images are summed over, whose terms are zero or below it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ase_ldos.geometry.image_table import ImageRoom
from ase_ldos.model.ldos_model import LDOSModel

#: Largest grid whose batches are recorded: beyond, launches take a small part of the time, and memory is kept.
MAXIMUM_POINTS = 2**17
#: Recordings that are kept; each keeps the memory of its batch.
_KEPT = 8
#: Runs before a recording, in which libraries choose kernels and constants find their place.
_WARM_UP = 3
_LOG = logging.getLogger(__name__)

Work = Callable[..., tuple[Tensor, ...]]


class Recording(Protocol):
    """Work that was recorded on given inputs."""

    results: tuple[Tensor, ...]

    def replay(self) -> None:
        """Do it again with what the inputs hold now; ``results`` are overwritten."""
        ...


class CUDARecording:
    """A CUDA graph of work on a GPU.

    Args:
        work: gives tensors, waits for nothing.
        inputs: its arguments, whose memory the graph reads.
    """

    def __init__(self, work: Work, inputs: Sequence[Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # of the inputs, which need not be the process's own; autograd goes back on the stream of the way out
        with torch.cuda.device(inputs[0].device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    work(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph, stream=stream):
                self.results = work(*inputs)

    def replay(self) -> None:
        """One launch; see ``Recording``."""
        self._graph.replay()


@dataclass(frozen=True)
class _Known:
    inputs: tuple[Tensor, ...]
    recording: Recording


class BatchGraphs:
    """Recordings of the batches of one run, from step to step.

    Args:
        record: makes a recording.
        maximum_points: of a grid whose batches are recorded.

    Attributes:
        room: numbers of images that batches are filled up to.
        recorded: how many recordings were made.
        replayed: how often one was replayed.
        failed: a recording failed; there will be none.
    """

    def __init__(
        self,
        record: Callable[[Work, Sequence[Tensor]], Recording] = CUDARecording,
        *,
        maximum_points: int = MAXIMUM_POINTS,
    ) -> None:
        self._record, self._maximum_points = record, maximum_points
        self._model: LDOSModel | None = None
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()
        self.room = ImageRoom()
        self.recorded = self.replayed = 0
        self.failed = False

    def suit(self, n_points: int) -> bool:
        """Whether batches of a grid of so many points are recorded."""
        return not self.failed and n_points <= self._maximum_points

    def run(self, model: LDOSModel, kind: Hashable, work: Work, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The results of some work on these inputs; overwritten by the next run of the same kind and shapes.

        Args:
            model: that the work belongs to.
            kind: all that the work depends on beside model, values and shapes of the inputs.
            work: of tensors like the inputs.
            inputs: on the device.
        """
        if self.failed:
            return work(*inputs)
        if model is not self._model:
            # other weights lie elsewhere; a model that is kept here cannot hand its memory to another one
            self._known.clear()
            self._model = model
        key = (kind, *((tuple(part.shape), part.dtype, part.device) for part in inputs))
        known = self._known.get(key)
        if known is None:
            # of its own: the caller's is freed or written to
            own = tuple(part.detach().clone() for part in inputs)
            try:
                known = _Known(own, self._record(work, own))
            except RuntimeError as error:
                _LOG.warning("no CUDA graph could be recorded, going on without: %s", str(error).splitlines()[0])
                self.failed = True
                self._known.clear()
                return work(*inputs)
            self.recorded += 1
            self._known[key] = known
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        with torch.no_grad():
            for own_part, part in zip(known.inputs, inputs):
                own_part.copy_(part)
        known.recording.replay()
        self.replayed += 1
        return known.recording.results
