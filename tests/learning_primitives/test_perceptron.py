"""The simple perceptron and its learning rule."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ase_ldos.learning_primitives.perceptron import (
    ACTIVATIONS,
    Perceptron,
    accuracy,
    design_matrix,
    matching_loss,
    squared_loss,
    train_perceptron,
)

CORNERS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
AND, OR, XOR = torch.tensor([0.0, 0, 0, 1]), torch.tensor([0.0, 1, 1, 1]), torch.tensor([0.0, 1, 1, 0])


def examples(activation: str, n: int = 40, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two overlapping clouds with the activation's labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    upper = x[:, 0] - 0.5 * x[:, 1] + 0.2 + 0.7 * torch.randn(n, generator=generator, dtype=torch.float64) > 0
    low, high = ACTIVATIONS[activation].labels
    return x, torch.where(upper, high, low).double()


def separable(n: int = 60, margin: float = 0.2, seed: int = 2) -> tuple[Tensor, Tensor, float]:
    """Points that a known plane divides, their labels and the perceptron theorem's bound (R/γ)²."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(4 * n, 2, generator=generator, dtype=torch.float64) - 1
    plane = torch.tensor([0.3, 1.0, -0.8], dtype=torch.float64)
    plane = plane / plane.norm()
    z = design_matrix(x) @ plane
    x, z = x[z.abs() > margin][:n], z[z.abs() > margin][:n]
    return x, (z > 0).double(), float(design_matrix(x).square().sum(1).max() / z.abs().min() ** 2)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias_neuron", [False, True])
def test_one_step_is_the_rule_of_the_lecture(activation: str, bias_neuron: bool) -> None:
    x, y = examples(activation)
    start = Perceptron(3, activation, bias_neuron=bias_neuron, generator=torch.Generator().manual_seed(3))
    model, _ = train_perceptron(
        x,
        y,
        activation,
        learning_rate=0.3,
        epochs=1,
        bias_neuron=bias_neuron,
        generator=torch.Generator().manual_seed(3),
    )
    rows = design_matrix(x)
    weights = start.weight if start.bias is None else torch.cat((start.bias[None], start.weight))
    output = ACTIVATIONS[activation].function(rows @ weights)
    expected = weights + 0.3 / len(x) * ((y - output)[:, None] * rows).sum(dim=0)
    learned = model.weight if model.bias is None else torch.cat((model.bias[None], model.weight))
    torch.testing.assert_close(learned, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_two_forms_of_the_bias_agree(activation: str) -> None:
    x, y = examples(activation)
    settings: dict[str, Any] = {"learning_rate": 0.2, "epochs": 30}
    neuron, first = train_perceptron(
        x, y, activation, bias_neuron=True, generator=torch.Generator().manual_seed(4), **settings
    )
    number, second = train_perceptron(
        x, y, activation, bias_neuron=False, generator=torch.Generator().manual_seed(4), **settings
    )
    assert number.bias is not None
    torch.testing.assert_close(neuron.weight[0], number.bias, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(neuron.weight[1:], number.weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(neuron(x), number(x), rtol=1e-12, atol=1e-12)
    losses = [history.column("loss", validation=True) for history in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_matching_loss_has_the_activation_as_slope(activation: str) -> None:
    z = torch.linspace(-5, 5, 22, dtype=torch.float64, requires_grad=True)
    entry = ACTIVATIONS[activation]
    (slope,) = torch.autograd.grad(entry.primitive(z).sum(), z)
    torch.testing.assert_close(slope, entry.function(z).detach(), rtol=1e-12, atol=1e-12)


def test_rule_is_the_gradient_of_the_squared_loss_for_the_identity_and_of_cross_entropy_for_the_logistic() -> None:
    for activation in ("identity", "logistic"):
        x, y = examples(activation)
        model = Perceptron(3, activation, bias_neuron=True, scale=1.0, generator=torch.Generator().manual_seed(5))
        if activation == "identity":
            reference = squared_loss(model, x, y)
        else:
            reference = torch.nn.functional.binary_cross_entropy(model(x), y)
        (expected,) = torch.autograd.grad(reference, model.weight)
        (gradient,) = torch.autograd.grad(matching_loss(model, x, y), model.weight)
        rule = -((y - model(x))[:, None] * design_matrix(x)).mean(dim=0)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rule, expected, rtol=1e-12, atol=1e-12)


def test_identity_finds_the_least_squares_solution() -> None:
    x, _ = examples("identity")
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 3.0 + torch.sin(5 * x[:, 0])
    model, history = train_perceptron(x, y, "identity", learning_rate=0.5, epochs=300, bias_neuron=True)
    expected = np.linalg.lstsq(design_matrix(x).numpy(), y.numpy(), rcond=None)[0]
    np.testing.assert_allclose(model.weight.detach().numpy(), expected, rtol=1e-8)
    losses = history.column("loss", validation=True)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(losses))


def test_logistic_finds_what_scikit_learn_finds() -> None:
    x, y = examples("logistic")
    model, _ = train_perceptron(x, y, "logistic", learning_rate=4.0, epochs=500, monitor="matching_loss")
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(model.weight.detach().numpy(), reference.coef_[0], rtol=1e-4)
    np.testing.assert_array_equal(model.predict(x).numpy(), reference.predict(x.numpy()))


@pytest.mark.parametrize("batch_size", [1, None])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_mistakes_stay_within_the_perceptron_theorem(batch_size: int | None, seed: int) -> None:
    x, y, bound = separable(seed=seed)
    model, history = train_perceptron(x, y, "step", epochs=1000, batch_size=batch_size, scale=0.0)
    assert accuracy(model, x, y) == 1.0
    steps_per_epoch = 1 if batch_size is None else len(x)
    mistakes = sum(history.column("mistakes")) * steps_per_epoch
    assert 0 < mistakes <= bound * (len(x) if batch_size is None else 1)
    assert history.stopped == "callback"
    assert len(history.records) < 1000


@pytest.mark.parametrize("activation", ["step", "logistic", "identity"])
def test_learns_and_and_or_but_not_xor(activation: str) -> None:
    for labels in (AND, OR):
        model, history = train_perceptron(CORNERS, labels, activation, learning_rate=1.0, epochs=100)
        assert torch.equal(model.predict(CORNERS), labels.double())
        assert history.column("accuracy", validation=True)[-1] == 1.0
    _, history = train_perceptron(CORNERS, XOR, activation, learning_rate=1.0, epochs=100)
    assert history.stopped == "epochs"
    assert max(history.column("accuracy", validation=True)) <= 0.75


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias_neuron", [False, True])
def test_decision_boundary_divides_the_predictions(activation: str, bias_neuron: bool) -> None:
    model = Perceptron(2, activation, bias_neuron=bias_neuron, scale=1.0, generator=torch.Generator().manual_seed(6))
    normal, distance = model.decision_boundary()
    assert float(normal.norm()) == pytest.approx(1.0, rel=1e-14)
    along = torch.tensor([-normal[1], normal[0]])
    on_it = distance * normal + torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None] * along
    low, high = ACTIVATIONS[activation].labels
    assert (model.predict(on_it + 1e-9 * normal) == high).all()
    assert (model.predict(on_it - 1e-9 * normal) == low).all()
    if activation != "step":
        torch.testing.assert_close(model(on_it), torch.full((7,), (low + high) / 2, dtype=torch.float64))


def test_keeps_the_weights_of_smallest_loss() -> None:
    x, y = examples("step")
    model, history = train_perceptron(x, y, "step", epochs=60)
    assert float(squared_loss(model, x, y)) == min(history.column("loss", validation=True)) == history.best
    assert 1 - accuracy(model, x, y) == pytest.approx(2 * history.best)


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (Perceptron(4, generator=torch.Generator().manual_seed(seed)).weight for seed in (1, 2))
    assert torch.equal(Perceptron(4, generator=torch.Generator().manual_seed(1)).weight, first)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "x, y, settings, message",
    [
        (torch.zeros(0, 2), torch.zeros(0), {}, "inputs are empty"),
        (CORNERS, torch.ones(4), {}, "all labels are 1: learning needs examples of both classes"),
        (CORNERS, torch.tensor([0.0, 1.0]), {}, r"must be \[N, n\] and labels \[N\], got \[4, 2\] and \[2\]"),
        (CORNERS[:, 0], AND, {}, r"must be \[N, n\]"),
        (CORNERS * float("nan"), AND, {}, "there is a NaN or infinity"),
        (CORNERS, torch.tensor([0.0, 1, 1, float("inf")]), {}, "there is a NaN or infinity"),
        (CORNERS, AND, {"learning_rate": 0.0}, "learning rate must be positive, got 0"),
        (CORNERS, AND, {"learning_rate": float("nan")}, "learning rate must be positive, got nan"),
        (CORNERS, 2 * AND - 1, {"activation": "logistic"}, r"gives 0 \.\.\. 1, the labels span -1 \.\.\. 1"),
        (CORNERS, 2 * AND, {"activation": "tanh"}, r"gives -1 \.\.\. 1, the labels span 0 \.\.\. 2"),
        (CORNERS, -AND, {"activation": "relu"}, r"gives 0 \.\.\. inf"),
        (CORNERS, AND, {"activation": "sine"}, "unknown activation 'sine'; known: identity, step"),
        (CORNERS, AND, {"scale": -1.0}, "scale >= 0"),
        (CORNERS, AND, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input(x: Tensor, y: Tensor, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_perceptron(x, y, **settings)


def test_zero_weights_have_no_boundary() -> None:
    with pytest.raises(ValueError, match="all weights are zero"):
        Perceptron(2, scale=0.0).decision_boundary()
