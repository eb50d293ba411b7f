"""Two ranks with a GPU each must find what one finds: started by ``test_suite.py``, on the fake device over gloo.

NCCL knows nothing of that device, so what would go through it takes the way over the CPU here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from ase.build import bulk
from torch import Tensor

import ase_ldos.communicator as communicator_module
from ase_ldos.communicator import Communicator
from ase_ldos.model.model_file import load_model
from ase_ldos.prediction.predict import predict
from ase_ldos.prediction.request import Thresholds


class OverTheCPU:
    """``torch.distributed`` whose tensors of a GPU travel as copies on the CPU."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever torch has there
        return getattr(dist, name)

    def init_process_group(self, _: str, **options: Any) -> None:  # noqa: ANN401
        dist.init_process_group("gloo", **options)

    @staticmethod
    def _travel(tensor: Tensor, send: Callable[[Tensor], Any]) -> None:
        if not tensor.is_contiguous():
            raise RuntimeError("NCCL takes contiguous tensors alone")
        copy = tensor.detach().cpu()
        send(copy)
        if tensor.is_cuda:
            tensor.copy_(copy)

    def all_reduce(self, tensor: Tensor, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self._travel(tensor, lambda copy: dist.all_reduce(copy, *args, **options))

    def broadcast(self, tensor: Tensor, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self._travel(tensor, lambda copy: dist.broadcast(copy, *args, **options))

    def send(self, tensor: Tensor, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self._travel(tensor, lambda copy: dist.send(copy, *args, **options))

    def recv(self, tensor: Tensor, *args: Any, **options: Any) -> None:  # noqa: ANN401
        self._travel(tensor, lambda copy: dist.recv(copy, *args, **options))


def main(names: list[str]) -> None:
    communicator_module.dist = OverTheCPU()  # type: ignore[attr-defined]
    communicator = Communicator.from_torchrun()
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=1)
    for name in names:
        model = load_model(name).to("cuda:0", torch.float64)
        for keep in (2**30, 0):
            options: dict[str, Any] = {"forces": True, "stress": True, "grid_shape": (6, 6, 8), "chunk_size": 48}
            options["thresholds"] = Thresholds(keep_bytes=keep)
            one, two = (predict(model, atoms, **options, communicator=c) for c in (None, communicator))
            for field in ("forces", "stress", "density", "dos"):
                torch.testing.assert_close(getattr(two, field), getattr(one, field), rtol=0, atol=1e-8)
    print("equal", communicator.size, flush=True)
    communicator.close()


if __name__ == "__main__":
    main(sys.argv[1:])
