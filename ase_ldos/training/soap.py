"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner.

The loss of an LDOS model is badly conditioned: a common shift of the head's output at one energy moves every electron
of the cell, most other directions hardly matter. Adam's diagonal scaling cannot see that, a rotation to the
eigenvectors of the gradient's row and column covariances can. Source: Vyas et al., arXiv:2409.11321, algorithm 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SOAP(torch.optim.Optimizer):
    """For small dense networks: both sides of every matrix are preconditioned, eigenvectors by full decomposition.

    Args:
        params: parameters; those with more than two dimensions are taken as matrices of their first.
        lr: step size in the rotated, normalised coordinates.
        betas: decay of first and second moment.
        shampoo_beta: decay of the covariances.
        eps: added to the root of the second moment.
        every: steps from one eigendecomposition to the next.

    Raises:
        ValueError: a negative step size, a decay outside [0, 1), or ``every`` below 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = 0.95,
        eps: float = 1e-8,
        every: int = 10,
    ) -> None:
        if lr < 0 or every < 1 or any(not 0 <= beta < 1 for beta in (*betas, shampoo_beta)):
            raise ValueError(
                f"lr {lr} must not be negative, betas {betas} and shampoo_beta {shampoo_beta} must lie in [0, 1), "
                f"every ({every}) must be at least 1"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "shampoo_beta": shampoo_beta, "eps": eps, "every": every})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; the first one only gathers the covariances."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        matrix = gradient.reshape(len(gradient), -1) if gradient.dim() > 1 else gradient[:, None]
        state = self.state[parameter]
        if not state:
            _start(state, matrix)
        state["step"] += 1
        taken = int(state["step"]) - 1  # steps that moved the parameter, this one included
        decay = min(group["shampoo_beta"], taken / (taken + 1))
        state["rows"].lerp_(matrix @ matrix.T, 1 - decay)
        if matrix.shape[1] > 1:
            state["columns"].lerp_(matrix.T @ matrix, 1 - decay)
        if taken % group["every"] == 0:
            state["row_basis"] = _eigenvectors(state["rows"])
            state["column_basis"] = _eigenvectors(state["columns"])
        if taken == 0:
            return
        first, second = group["betas"]
        left, right = state["row_basis"], state["column_basis"]
        state["mean"].lerp_(matrix, 1 - first)
        state["square"].lerp_((left.T @ matrix @ right).square(), 1 - second)
        mean = (left.T @ state["mean"] @ right) / (1 - first**taken)
        scale = (state["square"] / (1 - second**taken)).sqrt() + group["eps"]
        parameter.sub_((left @ (mean / scale) @ right.T).reshape(parameter.shape), alpha=group["lr"])


def _start(state: dict[str, Any], matrix: Tensor) -> None:
    n_rows, n_columns = matrix.shape
    state["step"] = torch.tensor(0)
    state["mean"], state["square"] = torch.zeros_like(matrix), torch.zeros_like(matrix)
    state["rows"] = matrix.new_zeros(n_rows, n_rows)
    state["columns"] = matrix.new_zeros(n_columns, n_columns) if n_columns > 1 else matrix.new_ones(1, 1)


def _eigenvectors(covariance: Tensor) -> Tensor:
    """In double precision: gradients span many orders of magnitude.

    Contiguous, as a checkpoint gives them back: products of another layout would round differently.
    """
    return torch.linalg.eigh(covariance.double())[1].to(covariance).contiguous()
