"""The simple perceptron: one neuron, one learning rule, the smallest user of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ase_ldos.training.loop import Callback, History, fit


@dataclass(frozen=True)
class Activation:
    """An activation g of the output neuron.

    Attributes:
        function: g(z).
        primitive: G(z) with G' = g.
        labels: the outputs that stand for the two classes.
        boundary: net input at which the output is half-way between the two labels.
        low: smallest label that makes sense.
        high: largest.
    """

    function: Callable[[Tensor], Tensor]
    primitive: Callable[[Tensor], Tensor]
    labels: tuple[float, float]
    boundary: float
    low: float
    high: float


def _step(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _log_cosh(z: Tensor) -> Tensor:
    return nn.functional.softplus(2 * z) - z - torch.log(torch.tensor(2.0, dtype=z.dtype))


INFINITY = float("inf")
ACTIVATIONS = {
    "identity": Activation(torch.nn.Identity(), lambda z: z.square() / 2, (0.0, 1.0), 0.5, -INFINITY, INFINITY),
    "step": Activation(_step, torch.relu, (0.0, 1.0), 0.0, 0.0, 1.0),
    "logistic": Activation(torch.sigmoid, nn.functional.softplus, (0.0, 1.0), 0.0, 0.0, 1.0),
    "tanh": Activation(torch.tanh, _log_cosh, (-1.0, 1.0), 0.0, -1.0, 1.0),
    "relu": Activation(torch.relu, lambda z: torch.relu(z).square() / 2, (0.0, 1.0), 0.5, 0.0, INFINITY),
}
"""Activations by name. ``step`` is Heaviside's, with g(0) = 0."""


class Perceptron(nn.Module):
    """Net input z = wᵀx + b, output y = g(z) (Rosenblatt 1958, Psychol. Rev. 65, 386).

    Two forms of the bias, equal to rounding: a *bias neuron*, whose input is always one, so that the weights are
    [1 + n] and act on ``design_matrix``; or a number of its own that is broadcast over the examples.

    Args:
        n_inputs: n, length of an input vector.
        activation: a key of ``ACTIVATIONS``.
        bias_neuron: which form of the bias.
        scale: standard deviation of the initial weights.
        generator: their source; by default a new one with seed 0.

    Raises:
        ValueError: no inputs, unknown activation, negative scale.
    """

    def __init__(
        self,
        n_inputs: int,
        activation: str = "step",
        *,
        bias_neuron: bool = False,
        scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_inputs < 1 or not scale >= 0:
            raise ValueError(f"a perceptron needs n_inputs >= 1 and scale >= 0, got {n_inputs} and {scale}")
        self.activation = _activation(activation)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        weights = scale * torch.randn(1 + n_inputs, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weights if bias_neuron else weights[1:])
        self.bias = None if bias_neuron else nn.Parameter(weights[0])

    def net_input(self, x: Tensor) -> Tensor:
        """Net inputs z ``[N]`` of inputs ``[N, n]``."""
        if self.bias is None:
            return design_matrix(x) @ self.weight
        return x @ self.weight + self.bias

    def forward(self, x: Tensor) -> Tensor:
        """Outputs y ``[N]`` of inputs ``[N, n]``."""
        return self.activation.function(self.net_input(x))

    def predict(self, x: Tensor) -> Tensor:
        """The class of every input, as one of the activation's two labels, ``[N]``."""
        low, high = self.activation.labels
        return torch.where(self.net_input(x.to(self.weight)) > self.activation.boundary, high, low).to(self.weight)

    def decision_boundary(self) -> tuple[Tensor, float]:
        """The plane between the two classes: unit normal n ``[n]`` (towards the upper class) and d in nᵀx = d.

        Raises:
            ValueError: all weights of the inputs are zero.
        """
        weight = self.weight.detach()
        bias, normal = (weight[0], weight[1:]) if self.bias is None else (self.bias.detach(), weight)
        length = torch.linalg.vector_norm(normal)
        if length == 0:
            raise ValueError("all weights are zero: the perceptron divides nothing")
        return normal / length, float((self.activation.boundary - bias) / length)


def design_matrix(x: Tensor) -> Tensor:
    """Inputs ``[N, n]`` behind a column of ones, the output of the bias neuron, ``[N, 1 + n]``."""
    return torch.cat((torch.ones_like(x[:, :1]), x), dim=1)


def squared_loss(model: Perceptron, x: Tensor, y: Tensor) -> Tensor:
    """L(w) = 1/(2N) Σ_k (y_k − ȳ_k)², with labels y and outputs ȳ = g(z)."""
    return (y - model(x)).square().mean() / 2


def matching_loss(model: Perceptron, x: Tensor, y: Tensor) -> Tensor:
    """(1/N) Σ_k [G(z_k) − y_k z_k], G' = g: what the learning rule descends, whatever the activation.

    A gradient step of rate α on it is the rule of the lecture, Δw_i = (α/N) Σ_k (y_k − ȳ_k) x_k,i, exactly, since
    ∂/∂w_i [G(z) − y z] = (g(z) − y) x_i. The derivation there sets g(z) = z: only for the identity is the rule the
    gradient of L (which then is the matching loss + Σ y²/2N). For the logistic it is that of the cross-entropy,
    for the step that of the perceptron criterion, the sum of |z| over the mistakes (Helmbold, Kivinen, Warmuth 1999,
    IEEE Trans. Neural Netw. 10, 1291). For the others L's own gradient has a factor g'(z) more, which for the step
    is zero.
    """
    z = model.net_input(x)
    return (model.activation.primitive(z) - y * z).mean()


def accuracy(model: Perceptron, x: Tensor, y: Tensor) -> float:
    """Share of the examples on the right side of the boundary."""
    low, high = model.activation.labels
    return float(((model.predict(x) == high) == (y > (low + high) / 2)).double().mean())


def train_perceptron(
    x: Tensor,
    y: Tensor,
    activation: str = "step",
    *,
    learning_rate: float = 1.0,
    epochs: int = 100,
    batch_size: int | None = None,
    bias_neuron: bool = False,
    scale: float = 0.1,
    generator: torch.Generator | None = None,
    tolerance: float = 0.0,
    monitor: str = "loss",
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> tuple[Perceptron, History]:
    """Learn labels from examples: in every epoch, one learning step on the mean over all examples.

    With ``batch_size=1`` there is a step after every example instead, in the given order: Rosenblatt's own form. For
    separable classes, the step activation and ``scale=0``, it makes at most (R/γ)² mistakes, R the length of the
    longest row of the design matrix and γ the margin (Novikoff 1962); the mean form makes at most N times as many,
    counted over all epochs (the same proof, with the mistakes of an epoch in place of one).

    Args:
        x: inputs ``[N, n]``.
        y: labels ``[N]``.
        activation: a key of ``ACTIVATIONS``.
        learning_rate: α.
        epochs: at most so many.
        batch_size: examples per learning step; all by default.
        bias_neuron: form of the bias.
        scale: standard deviation of the initial weights.
        generator: their source.
        tolerance: stop when L is not larger.
        monitor: ``loss`` keeps the weights of smallest L, ``matching_loss`` those of the smallest loss that the rule
            descends; for the logistic the latter ends at the weights of greatest likelihood.
        callbacks: see ``fit``.
        progress: show a progress bar.

    Returns:
        The perceptron, in float64, and the history: ``loss`` (L), ``matching_loss`` and ``accuracy`` of all examples
        after every epoch in the validation columns; ``loss`` (matching) and ``mistakes`` in the training columns are
        means over the steps.

    Raises:
        ValueError: data or settings of no use.
    """
    x, y = _check_data(x, y, _activation(activation))
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be positive, got {learning_rate}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    model = Perceptron(x.shape[1], activation, bias_neuron=bias_neuron, scale=scale, generator=generator)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(model, Perceptron)
        return matching_loss(model, *batch), {"mistakes": (1 - accuracy(model, *batch)) * len(batch[0])}

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Perceptron)
        losses = {"loss": squared_loss(model, x, y), "matching_loss": matching_loss(model, x, y)}
        return {**{name: float(value.detach()) for name, value in losses.items()}, "accuracy": accuracy(model, x, y)}

    size = len(x) if batch_size is None else batch_size
    history = fit(
        model,
        list(zip(x.split(size), y.split(size), strict=True)),
        loss,
        torch.optim.SGD(model.parameters(), lr=learning_rate),
        epochs=epochs,
        validate=validate,
        monitor=monitor,
        callbacks=(*callbacks, lambda _, history: history.records[-1].validation["loss"] <= tolerance),
        progress=progress,
    )
    return model, history


def _activation(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _check_data(x: Tensor, y: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Inputs and labels in float64, or one sentence on what is wrong."""
    x, y = torch.as_tensor(x).double(), torch.as_tensor(y).double()
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"inputs must be [N, n] and labels [N], got {list(x.shape)} and {list(y.shape)}")
    if x.numel() == 0:
        raise ValueError(f"there is nothing to learn from: the inputs are empty, {list(x.shape)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("inputs and labels must be finite numbers: there is a NaN or infinity")
    if (y == y[0]).all():
        raise ValueError(f"all labels are {float(y[0]):g}: learning needs examples of both classes")
    if y.min() < activation.low or y.max() > activation.high:
        span = f"{activation.low:g} ... {activation.high:g}"
        raise ValueError(f"this activation gives {span}, the labels span {float(y.min()):g} ... {float(y.max()):g}")
    return x, y
