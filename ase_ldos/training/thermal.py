"""Learns how a finished model's free energy changes with the electronic temperature, by one linear fit.

Of each structure there are labels at several electronic temperatures, one of them the model's own, T₀. What is fitted,
by ``model.thermal_correction``, is what the model gets wrong of the change,

    [X_DFT(T) − X_DFT(T₀)] − [X_model(T) − X_model(T₀)],

of the energy, and of forces and stress alike. What is wrong at T₀ already stays out of it. All are linear in the
weights, so the fit is a ridge regression in the principal components of the hidden features, in closed form, and that
without one structure costs nothing: the ridge is the one with the smallest errors on structures that are left out in
turn, and the errors that are told of each structure are those of a fit, ridge and all, that never saw it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor
from tqdm import tqdm

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.thermal_correction import FUNCTIONS, ThermalCorrection, temperature_functions
from ase_ldos.prediction.predict import predict
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.training.learned_features import fixed_scaler
from ase_ldos.training.precompute import prepare_snapshot, voigt
from ase_ldos.units import GIGAPASCAL

#: Where more of the squares of errors is left on structures left out, it is chance, and nothing is learned.
LARGEST_REST = 0.9
#: Errors that weigh alike: of energy, eV/atom, forces, eV/Å, stress, eV/Å³.
UNITS = (3e-3, 20e-3, 0.5 / GIGAPASCAL)
#: Principal components of the hidden features: with 10, 30 and 80 beryllium that is left out is met about equally well.
COMPONENTS = 30
#: Weights of the squares of their coefficients (in eV/Å³) among which the fit chooses; the last means none is learned.
RIDGES = (*(10.0**power for power in range(10)), math.inf)
#: Relative difference of two temperatures that are one: DFT programs round.
_SAME_TEMPERATURE = 1e-2
#: Å, by which the atoms of one structure may differ between two labels.
_SAME_PLACE = 1e-5


@dataclass(frozen=True)
class _Features:
    """Sums over the grid of one structure's φ = (h, 1), times the volume of a point, and their slopes, float64.

    Attributes:
        total: ∫ φ, ``[hidden + 1]``.
        slopes: its derivatives in positions and strain (Voigt), ``[3 atom + 6, hidden + 1]``.
        moments: mean of φ φᵀ over the points, ``[hidden + 1, hidden + 1]``.
        volume: of the cell, Å³.
        n_atoms: of the cell.
    """

    total: Tensor
    slopes: Tensor
    moments: Tensor
    volume: float
    n_atoms: int


@dataclass(frozen=True)
class _Change:
    """Of one label: features of its structure, t_k of its temperature, and what is missing from the model's change.

    Attributes:
        name: of the label.
        structure: number of the structure.
        temperature: K.
        factors: t_k, ``[function]``.
        missing: energy, forces (by component) and stress (Voigt) in eV and Å, in a row.
    """

    name: str
    structure: int
    temperature: float
    factors: Tensor
    missing: Tensor


class ThermalData:
    """What the fit needs of a model and labels; fits cost nothing.

    Args:
        model: finished, with fixed features; its own correction is left out.
        labels: with energy, forces and stress, of structures at several electronic temperatures.
        progress: show a bar.

    Attributes:
        names: of the labels that are learned from.

    Raises:
        ValueError: learned features, no labels at other temperatures, one without a label of the same atoms at the
            model's own temperature, one that lacks energy, forces or stress, or one that the model cannot predict,
            such as beyond its energy window.
    """

    @standard_torch_state()
    def __init__(self, model: LDOSModel, labels: Sequence[Snapshot], *, progress: bool = True) -> None:
        if model.descriptor.n_learned or model.descriptor.fixed is None:
            raise ValueError("a change with temperature can be learned by models with fixed features only")
        own = model.metadata.electronic_temperature
        hot = [label for label in labels if not _is_at(label, own)]
        if not hot:
            raise ValueError(f"there are no labels at other temperatures than the model's own, {own:g} K")
        cold = [label for label in labels if _is_at(label, own)]
        self._own, self._highest = own, max(float(label.electronic_temperature or 0) for label in hot)
        self._features, self._changes = list[_Features](), list[_Change]()
        # a model without what is to be learned; the file's stays as it is
        kept, model.thermal_correction = model.thermal_correction, None
        try:
            known: list[tuple[Snapshot, tuple[Tensor, Tensor]]] = []
            for label in tqdm(hot, desc="labels", disable=not progress):
                place = next((k for k, (other, _) in enumerate(known) if _same_atoms(other, label)), len(known))
                if place == len(known):
                    reference = _reference(label, cold, own)
                    known.append((reference, _differences(model, reference)))
                    self._features.append(_features(model, reference))
                hotter, colder = _differences(model, label), known[place][1]
                temperature = float(label.electronic_temperature or 0)
                factors = temperature_functions(temperature, own)[0]
                missing = (hotter[1] - colder[1]) - (hotter[0] - colder[0])
                self._changes.append(_Change(label.name, place, temperature, factors, missing))
        finally:
            model.thermal_correction = kept
        self.names = [change.name for change in self._changes]
        self._basis = self._components()
        self._rows = [self._rows_of(change) for change in self._changes]
        self._equations = [self._normal_equations(place) for place in range(len(self._features))]

    def fit(self, *, without: str | None = None, ridge: float | None = None) -> ThermalCorrection:
        """The correction of all labels, or of all but those of one label's structure.

        Args:
            without: name of a label whose structure is left out.
            ridge: weight of the squares of the coefficients; None: the best on structures left out in turn.

        Raises:
            ValueError: nothing is left, or too little to choose a ridge.
        """
        coefficients = self._fitted(self._places(without), ridge)
        weights = coefficients.reshape(FUNCTIONS, -1) @ self._basis.T
        return ThermalCorrection(weights, self._own, self._highest)

    def errors(self, *, ridge: float | None = None) -> dict[str, dict[str, float]]:
        """By temperature (K, as text): root mean square errors of changes, of the model and of the fit without each.

        ``energy`` (meV/atom), ``forces`` (meV/Å), ``pressure`` (GPa), and ``plain_energy`` … without correction. The
        ridge is chosen anew without each.

        Raises:
            ValueError: there is only one structure, or too few to choose a ridge without one of them.
        """
        one_of_each = {change.structure: change.name for change in self._changes}
        fits = {place: self._fitted(self._places(name), ridge) for place, name in one_of_each.items()}
        scales = {"energy": 1000, "forces": 1000, "pressure": GIGAPASCAL}
        found: dict[str, dict[str, float]] = {}
        for temperature in sorted({change.temperature for change in self._changes}):
            squares: dict[str, list[float]] = {}
            for change, rows in zip(self._changes, self._rows, strict=True):
                if change.temperature != temperature:
                    continue
                for prefix, rest in (("plain_", change.missing), ("", change.missing - rows @ fits[change.structure])):
                    parts = self._parts(change, rest)
                    parts["pressure"] = parts.pop("stress")[:3].mean(dim=0, keepdim=True)
                    for name, values in parts.items():
                        squares.setdefault(prefix + name, []).extend((scales[name] * values).square().tolist())
            found[f"{temperature:.0f}"] = {name: float(np.sqrt(np.mean(values))) for name, values in squares.items()}
        return found

    def learn(self, *, ridge: float | None = None) -> ThermalCorrection:
        """The correction of all labels, with the errors of structures that were left out and the labels' names.

        Raises:
            ValueError: as ``errors``; or no ridge makes structures better that are left out.
        """
        used = self._choose_ridge(range(len(self._features))) if ridge is None else ridge
        if ridge is None and used == math.inf:
            raise ValueError(
                "nothing is learned: structures that are left out are met best without any correction; the model's "
                "own states may end too low for these temperatures, or more structures are needed"
            )
        errors = self.errors(ridge=ridge)
        return replace(self.fit(ridge=used), errors=errors, provenance={"labels": self.names, "ridge": used})

    def _places(self, without: str | None) -> list[int]:
        """All structures but that of a label."""
        left_out = {change.structure for change in self._changes if change.name == without}
        return [place for place in range(len(self._features)) if place not in left_out]

    def _fitted(self, places: Sequence[int], ridge: float | None) -> Tensor:
        """Coefficients of the fit of these structures, with their best ridge if none is given."""
        return self._solve(places, self._choose_ridge(places) if ridge is None else ridge)

    def _of_structure(self, place: int) -> list[tuple[_Change, Tensor]]:
        """A structure's changes and their rows."""
        return [(item, rows) for item, rows in zip(self._changes, self._rows, strict=True) if item.structure == place]

    def _choose_ridge(self, places: Sequence[int]) -> float:
        """The ridge with the smallest errors on each of these structures, left out in turn.

        Squares of energy, forces and stress count at each temperature as parts of those without correction: the large
        errors of the hottest electrons would else choose alone.
        """
        if len(places) < 2:
            raise ValueError(
                "of two structures or fewer no ridge can be chosen, with one left out; give it, or add labels"
            )

        def score(ridge: float) -> float:
            rests, wholes = dict[tuple[float, str], float](), dict[tuple[float, str], float]()
            for place in places:
                coefficients = self._solve([other for other in places if other != place], ridge)
                for change, rows in self._of_structure(place):
                    rest = change.missing - rows @ coefficients
                    for squares, row in ((rests, rest), (wholes, change.missing)):
                        for name, values in self._parts(change, row).items():
                            key = change.temperature, name
                            squares[key] = squares.get(key, 0.0) + float(values.square().sum())
            return sum(rests[key] / max(wholes[key], 1e-300) for key in wholes) / len(wholes)

        best = min(RIDGES, key=score)
        return best if score(best) < LARGEST_REST else math.inf

    def _solve(self, places: Sequence[int], ridge: float) -> Tensor:
        """Coefficients of the fit of these structures, ``[function · component]``."""
        if not places:
            raise ValueError("there is only one structure; without it there is nothing to learn from")
        left = torch.stack([self._equations[place][0] for place in places]).sum(dim=0)
        right = torch.stack([self._equations[place][1] for place in places]).sum(dim=0)
        if ridge == math.inf:
            return torch.zeros_like(right)
        left = left + ridge * torch.eye(len(left), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(left, right)
        return solved

    def _normal_equations(self, place: int) -> tuple[Tensor, Tensor]:
        """What a structure adds to both sides of the normal equations."""
        n_weights = FUNCTIONS * self._basis.shape[1]
        left, right = torch.zeros(n_weights, n_weights).double(), torch.zeros(n_weights).double()
        for change, rows in self._of_structure(place):
            units = self._units(change)
            scaled = rows / units[:, None]
            left, right = left + scaled.T @ scaled, right + scaled.T @ (change.missing / units)
        return left, right

    def _components(self) -> Tensor:
        """Standardised principal components as functions of φ, the constant last, ``[hidden + 1, component + 1]``."""
        moments = torch.stack([item.moments for item in self._features]).mean(dim=0)
        mean = moments[-1, :-1]
        variances, axes = torch.linalg.eigh(moments[:-1, :-1] - torch.outer(mean, mean))
        n = min(COMPONENTS, int((variances > 1e-9 * variances[-1]).sum()))
        scaled = axes[:, -n:] / variances[-n:].sqrt()
        basis = torch.zeros(len(moments), n + 1, dtype=torch.float64)
        basis[:-1, :-1], basis[-1, :-1], basis[-1, -1] = scaled, -mean @ scaled, 1.0
        return basis

    def _rows_of(self, change: _Change) -> Tensor:
        """What a coefficient adds to energy, forces, stress of a label, ``[1 + 3 atom + 6, function · component]``."""
        item = self._features[change.structure]
        slopes, total = item.slopes @ self._basis, (item.total @ self._basis)[None]
        each = torch.cat((total, -slopes[:-6], slopes[-6:] / item.volume))
        return torch.cat([factor * each for factor in change.factors], dim=1)

    def _parts(self, change: _Change, row: Tensor) -> dict[str, Tensor]:
        """Energy per atom, forces and stress of a row, eV and Å."""
        n_atoms = self._features[change.structure].n_atoms
        return {"energy": row[:1] / n_atoms, "forces": row[1:-6], "stress": row[-6:]}

    def _units(self, change: _Change) -> Tensor:
        n_atoms = self._features[change.structure].n_atoms
        energy, force, stress = UNITS
        return torch.tensor([energy * n_atoms, *[force] * (3 * n_atoms), *[stress] * 6], dtype=torch.float64)


def _is_at(snapshot: Snapshot, temperature: float) -> bool:
    """Whether the label's electrons have this temperature, K."""
    found = snapshot.electronic_temperature
    return found is None or abs(float(found) - temperature) < _SAME_TEMPERATURE * temperature


def _same_atoms(first: Snapshot, second: Snapshot) -> bool:
    """Whether two labels are of one structure."""
    return (
        np.array_equal(first.numbers, second.numbers)
        and np.allclose(first.cell, second.cell, rtol=0, atol=_SAME_PLACE)
        and np.allclose(first.positions, second.positions, rtol=0, atol=_SAME_PLACE)
    )


def _reference(label: Snapshot, cold: Sequence[Snapshot], own: float) -> Snapshot:
    """The label of the same atoms at the model's own temperature."""
    found = next((other for other in cold if _same_atoms(label, other)), None)
    if found is None:
        raise ValueError(
            f"{label.name} has no label of the same atoms at {own:g} K, from which a change could be learned; add one, "
            "or leave it out"
        )
    return found


def _differences(model: LDOSModel, label: Snapshot) -> tuple[Tensor, Tensor]:
    """Energy, forces and stress in a row by the model and by DFT, eV and Å."""
    if label.free_energy is None or label.forces is None or label.stress is None:
        raise ValueError(f"{label.name} lacks energy, forces or stress; all three are needed")
    structure = Structure.from_arrays(label.numbers, label.positions, label.cell)
    temperature = label.electronic_temperature
    wanted = {"grid_shape": label.shape, "electronic_temperature": temperature}
    try:
        found = predict(model, structure, forces=True, stress=True, **wanted)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{label.name}: {error}; leave the label out") from error
    assert found.forces is not None
    assert found.stress is not None

    def row(energy: float, forces: Tensor, stress: Tensor) -> Tensor:
        return torch.cat((torch.tensor([energy], dtype=torch.float64), forces.flatten(), voigt(stress)))

    forces, stress = (torch.tensor(np.asarray(array, dtype=float)) for array in (label.forces, label.stress))
    return row(found.free_energy, found.forces, found.stress), row(float(label.free_energy), forces, stress)


def _features(model: LDOSModel, label: Snapshot) -> _Features:
    """Sums of a structure's hidden features and their slopes, from the Jacobian of the inputs."""
    metadata = model.metadata
    prepared = prepare_snapshot(
        replace(label, ldos=None, dos=None),
        model.descriptor.fixed,
        fixed_scaler(model),
        {atomic_numbers[symbol]: charge for symbol, charge in metadata.valence.items()},
        energies=model.energies_on_cpu.numpy(),
        broadening=metadata.broadening,
        level_constants=metadata.level_constants,
        spacing=metadata.grid_spacing,
        jacobian=torch.float32,
    ).to(model.device)
    assert prepared.jacobian is not None
    inputs = prepared.inputs.to(model.dtype).requires_grad_()
    with torch.enable_grad():
        # Σ_r ∂h/∂x · ẋ for every ẋ of the Jacobian: the derivative in u of the derivative of Σ_r u · h along ẋ
        hidden = model.network.features(inputs)
        ones = torch.ones_like(hidden[0], requires_grad=True)
        (slope,) = torch.autograd.grad((hidden * ones).sum(), inputs, create_graph=True)
        along = ((slope * row.reshape(inputs.shape)).sum() for row in prepared.jacobian)
        slopes = [torch.autograd.grad(value, ones, retain_graph=True)[0].double() for value in along]
    rows = torch.cat((hidden.detach(), hidden.new_ones(len(hidden), 1)), dim=1).double()
    by_features = torch.cat((torch.stack(slopes), rows.new_zeros(len(slopes), 1)), dim=1).cpu()
    total, moments = rows.sum(dim=0).cpu(), (rows.T @ rows).cpu() / len(rows)
    point = float(prepared.grid.voxel_volume)
    # the volume of a point grows with the strain
    by_features[-6:-3] += total
    return _Features(total * point, by_features * point, moments, float(prepared.grid.volume), len(label))
