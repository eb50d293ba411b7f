"""The multi-layer perceptron."""

from __future__ import annotations

import json

import pytest
import torch

from ase_ldos.networks.mlp import ACTIVATIONS, MLP


def test_output_is_the_formula() -> None:
    network = MLP(2, 3, hidden=(4, 5), activation="tanh", skip=True).double()
    x = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = network.state_dict()
    hidden = torch.tanh(x @ state["layers.0.weight"].T + state["layers.0.bias"])
    hidden = torch.tanh(hidden @ state["layers.1.weight"].T + state["layers.1.bias"])
    expected = torch.cat((hidden, x), dim=-1) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(network(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
def test_head_of_summed_features_is_sum_of_outputs(skip: bool, hidden: tuple[int, ...]) -> None:
    network = MLP(3, 8, hidden=hidden, skip=skip).double()
    x = torch.randn(5, 10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    features = network.features(x)
    assert features.shape == (5, 10, network.n_features)
    summed = network.head.weight @ features.sum(dim=(0, 1)) + 50 * network.head.bias
    torch.testing.assert_close(summed, network(x).sum(dim=(0, 1)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("hidden", [(), (6, 4)])
def test_features_can_go_where_they_are_wanted(skip: bool, hidden: tuple[int, ...]) -> None:
    network = MLP(3, 8, hidden=hidden, skip=skip).double().requires_grad_(False)
    x = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    room = torch.full((12, network.n_features), 7.0, dtype=torch.float64)
    given = network.features(x, room[1:-1])
    assert given.data_ptr() == room[1:-1].data_ptr()
    assert torch.equal(room[1:-1], network.features(x))
    assert bool((room[[0, -1]] == 7).all())


def test_skip_starts_from_the_linear_model() -> None:
    network = MLP(3, 2, hidden=(16,), skip=True).double()
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    bent = network(x[:1] + x[1:2]) - network(x[:1]) - network(x[1:2]) + network(torch.zeros_like(x[:1]))
    assert bent.abs().max() < 1e-14
    weight, bias = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]]), torch.tensor([0.25, -4.0])
    network.set_linear(weight, bias)
    torch.testing.assert_close(network(x), x @ weight.double().T + bias, rtol=1e-14, atol=1e-14)
    # the hidden part is not dead: its head receives a gradient
    network(x).square().sum().backward()
    assert network.head.weight.grad is not None
    assert network.head.weight.grad[:, :16].abs().min() > 0


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"relu"}))
def test_first_and_second_derivatives(activation: str) -> None:
    network = MLP(2, 3, hidden=(5, 4), activation=activation, skip=True).double()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(4))
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    assert torch.autograd.gradcheck(network, (x,))
    assert torch.autograd.gradgradcheck(network, (x,))


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = MLP(3, 2, generator=torch.Generator().manual_seed(7)).state_dict()
    second = MLP(3, 2, generator=torch.Generator().manual_seed(7)).state_dict()
    other = MLP(3, 2, generator=torch.Generator().manual_seed(8)).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert first["head.weight"].dtype == torch.float32


@pytest.mark.parametrize("activation", ["silu", "tanh", "relu"])
def test_signal_neither_dies_nor_explodes_through_the_layers(activation: str) -> None:
    network = MLP(64, 64, hidden=(128,) * 6, activation=activation)
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(9))
    assert 0.05 < float(network(x).detach().std()) < 3


def test_settings_build_the_same_network() -> None:
    network = MLP(3, 2, hidden=(4,), activation="gelu", skip=True)
    twin = MLP(**json.loads(json.dumps(network.settings())))
    twin.load_state_dict(network.state_dict())
    x = torch.ones(2, 3)
    assert torch.equal(twin(x), network(x))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="positive integers"):
        MLP(3, 2, hidden=(4, 0))
    with pytest.raises(ValueError, match="unknown activation 'swish'; known: silu"):
        MLP(3, 2, activation="swish")
    with pytest.raises(ValueError, match=r"takes 3 features per point, got an array \[5, 4\]"):
        MLP(3, 2)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="skip=True"):
        MLP(3, 2).set_linear(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="must have shapes"):
        MLP(3, 2, skip=True).set_linear(torch.zeros(3, 2), torch.zeros(2))
