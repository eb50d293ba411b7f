"""SOAP on problems whose answer is known."""

from __future__ import annotations

import pytest
import torch

from ase_ldos.training.soap import SOAP


def loss_after(optimizer_class: type[torch.optim.Optimizer], lr: float, steps: int) -> float:
    """Least squares of a matrix whose rows and columns are coupled and badly conditioned."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    left, right = (torch.linalg.qr(draw(12, 12))[0] * torch.logspace(0, -2, 12, dtype=torch.float64) for _ in range(2))
    target = draw(12, 12)
    weight = torch.zeros(12, 12, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_class([weight], lr=lr)  # type: ignore[call-arg]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (left.T @ (weight - target) @ right).square().sum()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_soap_copes_with_conditioning_that_stops_adam() -> None:
    adam = min(loss_after(torch.optim.Adam, lr, 300) for lr in (0.003, 0.01, 0.03))
    soap = min(loss_after(SOAP, lr, 300) for lr in (0.003, 0.01, 0.03))
    assert soap < 0.5 * adam


def test_first_step_only_looks() -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    optimizer = SOAP([weight], lr=0.1)
    for expected_still in (True, False):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        assert bool((weight == 1).all()) is expected_still


def test_vectors_and_unused_parameters() -> None:
    used, unused = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    optimizer = SOAP([used, unused], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        used.square().sum().backward()
        optimizer.step()
    assert float(used.detach().abs().max()) < 0.2
    assert bool((unused == 1).all())


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"every": 0}, {"betas": (1.0, 0.9)}, {"shampoo_beta": 1.0}])
def test_bad_settings(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SOAP([torch.ones(2, requires_grad=True)], **options)  # type: ignore[arg-type]
