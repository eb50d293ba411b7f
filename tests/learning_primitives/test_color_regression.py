"""Networks that compute colours."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.learning_primitives.color_regression import cmyk_to_rgb, rgb_to_cmyk, train_regressor


def test_known_inks() -> None:
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 1, 1], [0.5, 0.25, 0.5]])
    inks = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0.5, 0, 0.5]]
    assert rgb_to_cmyk(rgb).tolist() == inks


def test_there_and_back() -> None:
    rgb = torch.rand(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(cmyk_to_rgb(rgb_to_cmyk(rgb)), rgb)
    assert rgb_to_cmyk(rgb).amin() >= 0
    # at least one ink is not needed: black replaces what three have in common
    assert (rgb_to_cmyk(rgb)[:, :3].amin(dim=-1) == 0).all()


def test_learns_the_identity() -> None:
    model, history = train_regressor("rgb", hidden=(16,), epochs=10)
    assert history.best < 0.02
    unseen = torch.rand(1000, 3, generator=torch.Generator().manual_seed(5))
    assert (model.errors(unseen) < 0.02).all()


def test_two_hidden_units_cannot_carry_three_colours() -> None:
    """The bottleneck keeps two of three directions; the third, of variance 1/12, is lost: error √(1/36) = 0.17."""
    model, _ = train_regressor("rgb", hidden=(2,), activation="tanh", epochs=15)
    unseen = torch.rand(4000, 3, generator=torch.Generator().manual_seed(5))
    assert float(model.errors(unseen).square().mean().sqrt()) == pytest.approx(0.167, abs=0.03)


def test_learns_inks() -> None:
    """Guessing the mean inks is wrong by 0.3; black needs only a maximum, the others a ratio that jumps at black."""
    model, _ = train_regressor("cmyk", epochs=15)
    unseen = torch.rand(4000, 3, generator=torch.Generator().manual_seed(5))
    errors = model.errors(unseen)
    assert (errors[:3] < 0.08).all()
    assert errors[3] < 0.02
    assert errors[3] < errors[:3].min()
    near_black = 0.1 * unseen
    assert model.errors(near_black)[:3].max() > 2 * errors[:3].max()


def test_same_seed_same_network() -> None:
    before = torch.get_rng_state()
    losses = [
        train_regressor("cmyk", epochs=2, generator=torch.Generator().manual_seed(seed))[1].column("loss")
        for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input() -> None:
    for bad in (torch.zeros(2, 4), torch.full((1, 3), 255.0), torch.full((1, 3), float("nan"))):
        with pytest.raises(ValueError, match="between 0 and 1"):
            rgb_to_cmyk(bad)
    with pytest.raises(ValueError, match=r"inks must be \[\.\.\., 4\]"):
        cmyk_to_rgb(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="unknown target 'hsv'; known: cmyk, rgb"):
        train_regressor("hsv")
    for setting in ({"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match="at least 1 and the learning rate positive"):
            train_regressor("rgb", **setting)  # type: ignore[arg-type]
