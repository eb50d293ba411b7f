"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """w̄ ← d w̄ + (1 − d) w after every step t, with d = min(decay, (1 + t) / (10 + t)).

    The cap lets the average forget the initial weights quickly (as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: whose parameters are averaged; buffers are not.
        decay: between 0 and 1; None makes everything here do nothing.

    Raises:
        ValueError: decay outside (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"ema_decay is the decay of a moving average, between 0 and 1; got {decay}")
        self.decay = decay
        self.step = 0
        self.weights: dict[str, Tensor] = {} if decay is None else _parameters(model)

    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        if self.decay is None:
            return
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in model.named_parameters():
                self.weights[name].lerp_(value, 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the averaged weights into the model for a while."""
        if self.decay is None:
            yield
            return
        latest = _parameters(model)
        _put(model, self.weights)
        try:
            yield
        finally:
            _put(model, latest)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"step": self.step, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of ``state_dict``.

        Raises:
            ValueError: it averages other parameters.
        """
        if state["weights"].keys() != self.weights.keys():
            raise ValueError("one of the two runs averages its weights, or they average different ones")
        self.step = state["step"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(weights[name])
