"""The posterior of a model's last layer and its scale, so that standard deviations hold on structures held back.

F, the mean of φ φᵀ, is taken over the training structures on a grid twice as coarse as the model's; Σ from errors of
the LDOS where there are labels of it (see ``model.last_layer``). Then each quantity x gets a factor: the one with which
68.3 % of the errors on held-back structures lie within one standard deviation, that is the quantile of |Δx| / σ_raw.
How well that works on structures that the factor has not seen is told by leaving out one structure after the other:
``Reliability``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import erf, erfinv
from torch import Tensor
from tqdm import tqdm

from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.last_layer import n_uncertain, set_posterior
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.occupation import fermi_level
from ase_ldos.prediction.committee import sampled_force_deviations
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.prediction.request import PredictionRequest
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.units import BOLTZMANN

#: Quantities with a factor of their own.
QUANTITIES = ("free_energy", "fermi_level", "dos", "density", "forces")
#: Part of a Gaussian within one standard deviation.
ONE_SIGMA = float(erf(1 / np.sqrt(2)))
#: Structures with LDOS from which the covariance of errors between energies is taken, at most.
_LDOS_STRUCTURES = 16
#: Samples of the last layer for the scale of forces.
FORCE_SAMPLES = 8
#: A smaller factor says that there are no errors: those of rounding are some 1e-7 of a quantity.
EXACT = 1e-6
#: Numbers that a structure gives to the factor of a field, at most.
_FIELD_POINTS = 2000


@dataclass(frozen=True)
class Reliability:
    """How errors on held-back structures compare with the standard deviations told for them.

    Attributes:
        ratios: by quantity and structure |Δx| / σ_raw; a structure with a field gives many.
        factors: by quantity, from all structures.
    """

    ratios: dict[str, list[np.ndarray]]
    factors: dict[str, float]

    def within(self, name: str, widths: np.ndarray | float) -> np.ndarray:
        """Part of the errors within so many standard deviations, the factor taken from the other structures each time.

        Args:
            name: of the quantity.
            widths: numbers of standard deviations.
        """
        ratios, widths = self.ratios[name], np.atleast_1d(np.asarray(widths, dtype=float))
        found = np.zeros(len(widths))
        for number, own in enumerate(ratios):
            others = [values for other, values in enumerate(ratios) if other != number]
            factor = _factor(others or [own])
            found += (own[:, None] <= widths * factor).mean(axis=0)
        return found / len(ratios)


def _factor(ratios: Sequence[np.ndarray]) -> float:
    """Quantile of the ratios at one σ, each structure with the same weight."""
    values = np.concatenate(ratios)
    weights = np.concatenate([np.full(len(part), 1 / len(part)) for part in ratios])
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) - weights[order] / 2
    return float(np.interp(ONE_SIGMA * weights.sum(), cumulative, values[order]))


@standard_torch_state()
def calibrate_uncertainty(
    model: LDOSModel,
    training: Sequence[Snapshot],
    held_back: Sequence[Snapshot],
    *,
    force_samples: int = FORCE_SAMPLES,
    progress: bool = True,
) -> Reliability:
    """Find posterior and factors, and store both in the model (save it afterwards).

    Args:
        model: trained on ``training``.
        training: structures, whose labels of the LDOS are used where there are.
        held_back: structures with labels.
        force_samples: samples of the last layer for the factor of forces, each as dear as a force step for each
            structure; 0: none, and the model then refuses to sample forces.
        progress: show bars.

    Raises:
        ValueError: no labels of the LDOS, no held-back structure with a free energy, density and DOS, or labels that
            the model meets exactly.
    """
    moments, covariance = (
        _moments(model, training, progress),
        _ldos_covariance(model, (*held_back, *training), progress),
    )
    raw = copy.deepcopy(model)  # the model stays as it was where labels are missing
    set_posterior(raw, moments, covariance)
    raw.metadata = replace(model.metadata, uncertainty=dict.fromkeys(QUANTITIES, 1.0))
    ratios: dict[str, list[np.ndarray]] = {name: [] for name in QUANTITIES}
    for item in tqdm(held_back, desc="standard deviations", disable=not progress):
        for name, values in _ratios(raw, item, force_samples).items():
            ratios[name].append(values)
    lacking = [name for name in QUANTITIES if name != "forces" and not ratios[name]]
    if lacking:
        raise ValueError(f"no held-back structure has labels of the {lacking[0].replace('_', ' ')}")
    ratios = {name: values for name, values in ratios.items() if values}
    reliability = Reliability(ratios, {name: _factor(values) for name, values in ratios.items()})
    exact = [name for name, factor in reliability.factors.items() if factor < EXACT]
    if exact:
        raise ValueError(
            f"the {exact[0].replace('_', ' ')} of the held-back structures is that of their labels to rounding, as "
            "where a model made the labels; from errors that vanish no standard deviation can be told"
        )
    within = {f"within_one_{name}": float(reliability.within(name, 1.0)[0]) for name in ratios}
    set_posterior(model, moments, covariance)
    model.metadata = replace(model.metadata, uncertainty=reliability.factors | within)
    return reliability


def _structure(model: LDOSModel, item: Snapshot) -> Structure:
    return Structure.from_arrays(item.numbers, item.positions, item.cell, device=model.device)


def _moments(model: LDOSModel, training: Sequence[Snapshot], progress: bool) -> Tensor:
    """Mean of φ φᵀ over the training structures, each point with the same weight."""
    n = n_uncertain(model)
    moments, n_points = torch.zeros(n + 1, n + 1, dtype=torch.float64, device=model.device), 0
    for item in tqdm(training, desc="hidden features", disable=not progress):
        structure = _structure(model, item)
        grid = Grid.with_spacing(structure.cell, 2 * model.metadata.grid_spacing)
        with torch.no_grad():
            atom_state = model.encode_atoms(structure)
            blocks = iterate_blocks(
                structure, grid, model.descriptor.cutoff, max_points=DEFAULT_BLOCK, dtype=model.dtype
            )
            for block in blocks:
                hidden = model.hidden(block, atom_state[block.owners])[:, :n].double()
                features = torch.cat((hidden, hidden.new_ones(len(hidden), 1)), dim=1)
                moments += features.T @ features
        n_points += grid.n_points
    return moments / n_points


def _ldos_covariance(model: LDOSModel, items: Sequence[Snapshot], progress: bool) -> Tensor:
    """Covariance of the LDOS' errors between energies; above what DFT knows, zero where nothing is known."""
    n_energies = len(model.energies)
    labelled = [item for item in items if item.ldos is not None and item.energies is not None][:_LDOS_STRUCTURES]
    if not labelled:
        raise ValueError("no structure has labels of the LDOS, from which the errors of energies would be known")
    total = np.zeros((n_energies, n_energies))
    counts = np.zeros_like(total)
    for item in tqdm(labelled, desc="errors of the LDOS", disable=not progress):
        assert item.ldos is not None
        broadening = max(model.metadata.broadening, float(item.ldos_sigma or 0.0))
        structure = _structure(model, item)
        energies = model.energies_of(structure).cpu().numpy()
        values, known = on_model_energies(item, item.ldos, energies, broadening)
        found = predict_ldos(model, structure, item.ldos.shape[:3])
        difference = found[..., :known].double().cpu().numpy() - values * float(item.ldos_scale or 1.0)
        difference = difference.reshape(-1, known)
        total[:known, :known] += difference.T @ difference
        counts[:known, :known] += len(difference)
    # energies that no label knows are as uncertain as the last that is
    highest = int(np.count_nonzero(np.diag(counts)))
    covariance = total / np.maximum(counts, 1)
    covariance[np.arange(highest, n_energies), np.arange(highest, n_energies)] = covariance[highest - 1, highest - 1]
    return torch.as_tensor(covariance, device=model.device)


def _ratios(model: LDOSModel, item: Snapshot, force_samples: int) -> dict[str, np.ndarray]:
    """|Δx| / σ_raw of what the snapshot has labels of."""
    structure = _structure(model, item)
    request = PredictionRequest.for_model(
        model,
        structure,
        grid_shape=item.shape,
        electronic_temperature=item.electronic_temperature,
        forces=item.forces is not None and force_samples > 0,
        uncertainty=True,
    )
    found = predict(
        model,
        structure,
        grid_shape=request.grid_shape,
        electronic_temperature=request.electronic_temperature,
        forces=request.forces,
        uncertainty=True,
    )
    deviation = found.uncertainty
    assert deviation is not None
    ratios: dict[str, np.ndarray] = {}
    if item.free_energy is not None:
        ratios["free_energy"] = _ratio(found.free_energy - float(item.free_energy), deviation.free_energy)
    if item.density is not None and item.density.shape == found.density.shape:
        ratios["density"] = _thin(_ratio(found.density.cpu().numpy() - item.density, deviation.density.cpu().numpy()))
    if item.forces is not None and found.forces is not None and force_samples:
        spread = sampled_force_deviations(model, request, force_samples).cpu().numpy()
        # by symmetry or by the vanishing sum some components neither err nor deviate
        moves = spread > 1e-6
        if moves.any():
            ratios["forces"] = _ratio((found.forces.cpu().numpy() - item.forces)[moves], spread[moves])
    if item.dos is not None and item.energies is not None:
        broadening = max(model.metadata.broadening, float(item.ldos_sigma or 0.0))
        label, known = on_model_energies(item, item.dos, model.energies_of(structure).cpu().numpy(), broadening)
        difference = found.dos[:known].cpu().numpy() - label
        # far below the bands there are no states to be uncertain of
        tails = np.abs(label) < 1e-3 * np.abs(label).max()
        ratios["dos"] = _ratio(difference[~tails], deviation.dos[:known].cpu().numpy()[~tails])
        charge, kT = float(model.charges(structure.numbers).sum()), BOLTZMANN * found.electronic_temperature
        try:
            mu = float(
                fermi_level(torch.as_tensor(label).double(), model.energies_of(structure)[:known].cpu(), charge, kT)
            )
        except ValueError:  # DFT's states end among those that are occupied at this temperature
            return ratios
        ratios["fermi_level"] = _ratio(found.fermi_level - mu, deviation.fermi_level)
    return ratios


def _ratio(errors: np.ndarray | float, deviations: np.ndarray | float) -> np.ndarray:
    return np.atleast_1d(np.abs(np.asarray(errors)) / np.maximum(np.asarray(deviations), 1e-300)).ravel()


def _thin(values: np.ndarray) -> np.ndarray:
    """Evenly spread, at most ``_FIELD_POINTS``."""
    return values[:: max(1, len(values) // _FIELD_POINTS)]


def format_reliability(reliability: Reliability) -> str:
    """A table: part of the held-back errors within one and two standard deviations."""
    lines = [f"{'':14}{'structures':>12}{'within σ':>12}{'within 2 σ':>12}   (a Gaussian: 68 % and 95 %)"]
    for name, ratios in reliability.ratios.items():
        one, two = reliability.within(name, np.array([1.0, 2.0]))
        lines.append(f"{name.replace('_', ' '):14}{len(ratios):12}{100 * one:10.0f} %{100 * two:10.0f} %")
    return "\n".join(lines)


def reliability_figure(reliability: Reliability, *, title: str = "") -> Figure:
    """Plot the part of held-back errors within z standard deviations against a Gaussian's; the diagonal is right.

    Args:
        reliability: from ``calibrate_uncertainty``.
        title: of the figure.
    """
    expected = np.linspace(0.0, 0.99, 100)
    widths = np.sqrt(2) * erfinv(expected)
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=1)
    axes.axvline(ONE_SIGMA, color="0.6", linewidth=1, linestyle=":")
    for name, ratios in reliability.ratios.items():
        label = f"{name.replace('_', ' ')} ({len(ratios)} structures)"
        axes.plot(expected, reliability.within(name, widths), label=label)
    axes.set(xlabel="part within z σ of a Gaussian", ylabel="part of the errors on held-back structures", title=title)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(frameon=False, loc="upper left", fontsize="small")
    return figure
