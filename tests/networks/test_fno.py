"""The Fourier neural operator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ase_ldos.networks.fno import FourierLayer, FourierNeuralOperator


def layer(modes: tuple[int, ...], width: int = 2) -> FourierLayer:
    return FourierLayer(width, modes, torch.Generator().manual_seed(1)).double()


def smooth(*sizes: int) -> Tensor:
    """Two smooth periodic functions on a grid over [0, 1) in each direction, ``[*sizes, 2]``."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in sizes), indexing="ij")
    phase = 2 * math.pi * torch.stack(axes)
    first = 0.3 + torch.sin(phase).sum(dim=0) + torch.cos(phase.sum(dim=0) + 0.4)
    return torch.stack((first, torch.exp(torch.cos(phase)).prod(dim=0)), dim=-1)


def test_a_layer_is_a_convolution_with_a_band_limited_kernel() -> None:
    """In one dimension, against the definition: a sum over waves, written out."""
    values, operator = smooth(16), layer((3,))
    x = torch.arange(16, dtype=torch.float64) / 16
    expected = values @ operator.pointwise + operator.bias
    for k in range(3):
        wave = torch.exp(2j * math.pi * k * x)
        coefficient = (wave.conj()[:, None] * values).mean(dim=0)
        mapped = coefficient @ torch.view_as_complex(operator.spectral)[k]
        # of the constant, the imaginary part has nothing to cancel against and is left out
        expected = expected + (1 if k == 0 else 2) * (wave[:, None] * mapped).real
    torch.testing.assert_close(operator(values), expected)


@pytest.mark.parametrize("sizes", [(12,), (8, 10), (8, 6, 8)])
def test_it_commutes_with_translations(sizes: tuple[int, ...]) -> None:
    operator = FourierNeuralOperator(2, 3, (3,) * len(sizes), 4, 2).double()
    values, axes = smooth(*sizes), tuple(range(len(sizes)))
    shifted = operator(values.roll((2,) * len(sizes), dims=axes))
    torch.testing.assert_close(shifted, operator(values).roll((2,) * len(sizes), dims=axes))


@pytest.mark.parametrize("sizes", [(24,), (20, 24), (16, 20, 18)])
def test_it_is_the_same_operator_on_a_finer_grid(sizes: tuple[int, ...]) -> None:
    """One linear layer exactly; the network, whose GELU makes short waves, to its aliasing."""
    fine = tuple(2 * n for n in sizes)
    every = tuple(slice(None, None, 2) for _ in sizes)
    operator = layer((3,) * len(sizes))
    torch.testing.assert_close(operator(smooth(*fine))[every], operator(smooth(*sizes)))
    network = FourierNeuralOperator(2, 1, (3,) * len(sizes), 6, 2).double()
    torch.testing.assert_close(network(smooth(*fine))[every], network(smooth(*sizes)), rtol=0, atol=2e-3)


def test_many_functions_at_once() -> None:
    network = FourierNeuralOperator(2, 1, (3,), 6, 2).double()
    batch = torch.stack((smooth(16), 2 * smooth(16)))
    torch.testing.assert_close(network(batch)[1], network(batch[1]))


def test_gradients() -> None:
    operator = layer((2, 2), 2)
    values = smooth(4, 4).requires_grad_()
    assert torch.autograd.gradcheck(operator, (values,))
    names = dict(operator.named_parameters())

    def of_parameters(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(operator, dict(zip(names, tensors)), (values.detach(),))

    assert torch.autograd.gradcheck(of_parameters, tuple(names.values()))


def test_settings_build_the_same_network() -> None:
    first = FourierNeuralOperator(2, 1, (3, 3), 4, 2, torch.Generator().manual_seed(4))
    second = FourierNeuralOperator(**first.settings(), generator=torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_bad_input() -> None:
    with pytest.raises(
        ValueError, match=r"\(3,\) waves need a grid of twice as many points along each axis, got \[5\]"
    ):
        layer((3,))(smooth(5))
    for settings in ({"modes": ()}, {"modes": (2,) * 4}, {"modes": (0,)}, {"width": 0}, {"n_layers": 0}):
        with pytest.raises(ValueError, match="1 to 3 axes, channels and layers"):
            FourierNeuralOperator(1, 1, **settings)  # type: ignore[arg-type]
