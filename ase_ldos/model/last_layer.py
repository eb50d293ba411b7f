"""How sure a model is: the posterior of its last layer, through which every quantity gets a standard deviation.

The LDOS is linear in the last layer, d(ε, r) = Σ_j W_εj φ_j(r) with φ = (last hidden layer, 1). For a linear model with
Gaussian errors of covariance Σ (between energies) the posterior of W is a Gaussian with

    cov(W_εj, W_ε'k) = Σ_εε' (F⁻¹)_jk,    F = mean over the training points of φ φᵀ + ridge,

so that δd(ε, r) has the covariance Σ_εε' φ(r)ᵀ F⁻¹ φ(r): small where the training set has such features, large where it
has none. This is the prediction rigidity of a last layer: F. Bigi, S. Chong, M. Ceriotti, F. Grasselli, Mach. Learn.:
Sci. Technol. 5, 045018 (2024). Points of one structure are far from independent, so that the scale is not taken from
theory but from held-back structures, one factor for each quantity (``metadata.uncertainty``).

The model keeps R with R Rᵀ = F⁻¹, scaled so that |Rᵀφ|² is 1 on average over the training points, and B with B Bᵀ ≈ Σ
(the largest ``RANK`` components). The linear part x → d of a network with a skip connection counts as fixed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from ase_ldos.model.ldos_model import LDOSModel

#: Components of the errors' covariance between energies that are kept.
RANK = 32
#: Part of the mean eigenvalue of F that is added to all.
RIDGE = 1e-6


def n_uncertain(model: LDOSModel) -> int:
    """How many hidden features, from the first, have uncertain weights."""
    return model.network.hidden[-1] if model.network.hidden else model.network.n_features


def check_calibrated(model: LDOSModel) -> None:
    """Refuse a model without a posterior.

    Raises:
        ValueError: it has none.
    """
    if model.uncertainty_hidden is None or not model.metadata.uncertainty:
        raise ValueError(
            f"the model {model.metadata.name!r} does not know how sure it is; see `ase-ldos calibrate --help`"
        )


def whiten(model: LDOSModel, hidden: Tensor) -> Tensor:
    """Rᵀφ of hidden features ``[..., hidden]`` of points, in their number type, ``[..., hidden + 1]``."""
    assert model.uncertainty_hidden is not None
    root = model.uncertainty_hidden.to(hidden)
    return torch.addmm(root[-1], hidden[:, : len(root) - 1], root[:-1])


def set_posterior(model: LDOSModel, moments: Tensor, covariance: Tensor) -> None:
    """Put the posterior into a model.

    Args:
        model: gets R and B.
        moments: mean of φ φᵀ, float64 ``[hidden + 1, hidden + 1]``.
        covariance: Σ of the LDOS' errors, 1/(eV Å³)², float64 ``[energy, energy]``.
    """
    values, axes = torch.linalg.eigh(moments)
    values = values.clamp(min=0)
    ridged = values + RIDGE * values.mean()
    mean_square = (values / ridged).sum()
    model.uncertainty_hidden = (axes / (ridged * mean_square).sqrt()).to(model.dtype)
    values, axes = torch.linalg.eigh(covariance)
    largest = slice(max(0, len(values) - RANK), None)
    model.uncertainty_energies = (axes[:, largest] * values[largest].clamp(min=0).sqrt()).to(model.dtype)


def sample_models(model: LDOSModel, n_samples: int, *, scale: float = 1.0, seed: int = 0) -> Iterator[LDOSModel]:
    """Models whose last layers are drawn from the posterior: W + scale · B Z Rᵀ with Gaussian Z.

    Args:
        model: calibrated, its scaler not fused.
        n_samples: how many.
        scale: of the deviations.
        seed: the same seed gives the same models.

    Raises:
        ValueError: the model has no posterior.
    """
    check_calibrated(model)
    assert model.uncertainty_hidden is not None
    assert model.uncertainty_energies is not None
    root, energies = model.uncertainty_hidden.double(), model.uncertainty_energies.double()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_samples):
        noise = torch.randn(energies.shape[1], root.shape[1], generator=generator, dtype=torch.float64).to(root)
        change = scale * energies @ noise @ root.T / model.ldos_scale
        sample = copy.deepcopy(model)
        head, n = sample.network.head, n_uncertain(model)
        with torch.no_grad():
            head.weight[:, :n].add_(change[:, :n].to(head.weight))
            head.bias.add_(change[:, -1].to(head.bias))
        yield sample
