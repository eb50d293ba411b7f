"""Losses of an LDOS model: LDOS at random points, DOS, density, free energy, forces and stress, from one evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from ase_ldos.geometry.grid import Grid
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.density_functionals import density_energies
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.toml_settings import Limit, NonNegativeFloat, PositiveInt
from ase_ldos.training.learned_features import complete_inputs, complete_inputs_at
from ase_ldos.training.precompute import JacobianProduct, TrainingSnapshot, voigt
from ase_ldos.units import BOLTZMANN


class ElectronWindowError(ValueError):
    """The DOS that the network predicts of a training structure does not hold its electrons."""


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; zero leaves it out.

    LDOS, DOS and density enter as squared relative errors ‖x − x_DFT‖²/‖x_DFT‖²; the rest in squared units.

    Attributes:
        ldos: at ``ldos_points`` random points.
        dos: of the total DOS.
        density: of the density at all points.
        energy: per (eV/atom)².
        forces: per (eV/Å)², mean over components.
        stress: per (eV/Å³)², mean over components.
        electrons: of the number of electrons below DFT's Fermi level, or below the middle of its gap, relative to all:
            what holds them where the density of states leaves the Fermi level free. Needs labels of the DOS.
        ldos_points: number of points drawn in each step.
        force_share: part of the snapshots, drawn anew for each step, whose forces and stress count, their weights
            divided by it: a step without them costs a third. Validation looks at all.
    """

    ldos: NonNegativeFloat = 1.0
    dos: NonNegativeFloat = 1.0
    density: NonNegativeFloat = 50.0
    energy: NonNegativeFloat = 100.0
    forces: NonNegativeFloat = 1.0
    stress: NonNegativeFloat = 100.0
    electrons: NonNegativeFloat = 0.0
    ldos_points: PositiveInt = 2000
    force_share: Annotated[float, Limit(lambda x: 0 < x <= 1, "above 0, at most 1")] = 1.0


@dataclass(frozen=True)
class Evaluation:
    """What the model says about a training snapshot; forces and stress if asked for, with a graph for training.

    Attributes:
        hidden: float32 ``[grid, hidden]``.
        dos: 1/eV, ``[energy]``.
        density: e/Å³, ``[grid]``.
        energies: the terms of the free energy.
        fermi_level: eV.
        forces: eV/Å, ``[atom, 3]``.
        stress: eV/Å³, Voigt ``[6]``.
    """

    hidden: Tensor
    dos: Tensor
    density: Tensor
    energies: Energies
    fermi_level: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None

    @property
    def free_energy(self) -> Tensor:
        """A, eV."""
        return self.energies.free_energy


def evaluate_snapshot(
    model: LDOSModel, snapshot: TrainingSnapshot, *, forces: bool = True, create_graph: bool = False
) -> Evaluation:
    """Evaluate the model on prepared inputs; the same physics as ``predict``, on the whole grid at once.

    Raises:
        ElectronWindowError: the predicted DOS does not hold the structure's electrons.
    """
    snapshot = snapshot.to(model.device)
    inputs = snapshot.inputs.to(model.dtype).detach().requires_grad_(forces)
    strain = torch.zeros(3, 3, dtype=torch.float64, device=model.device, requires_grad=forces)
    positions = snapshot.structure.positions.detach().requires_grad_(forces)
    structure = replace(snapshot.structure, positions=positions).strained(strain)
    grid = Grid(structure.cell, snapshot.grid.shape)
    weight, bias = model.head
    hidden = model.network.features(complete_inputs(model, inputs, structure, grid))
    dos = (weight @ hidden.sum(dim=0, dtype=torch.float64) + bias * grid.n_points) * grid.voxel_volume
    thermal_energy = BOLTZMANN * snapshot.temperature
    try:
        mu = fermi_level(dos, model.energies, snapshot.n_electrons, thermal_energy, model.metadata.fermi_level)
    except ValueError as error:
        raise ElectronWindowError(
            f"structure {snapshot.name!r}: {error}; if only the network is at fault, lower the stage's learning_rate "
            "or begin with a longer stage on the LDOS alone, else widen energy_window or leave the structure out"
        ) from error
    weights = occupation_weights(model.energies, mu, thermal_energy)
    # the projection in the network's dtype: double precision here would double the cost of the whole step
    density = (hidden @ (weights.number @ weight).to(hidden.dtype)).double() + weights.number @ bias
    core = model.core_density(structure, grid)
    terms = density_energies(density.reshape(grid.shape), grid, model.metadata.functional, core)
    n_atoms = len(snapshot.structure)
    # the ions' energy is a constant here, found beforehand with its derivatives
    energies = Energies.collect(dos, weights, terms, dos.new_tensor(snapshot.ewald), n_atoms)
    shift = model.energy_shift(structure)
    energies = replace(energies, band=energies.band + snapshot.n_electrons * shift)
    found = Evaluation(hidden, dos, density, energies, mu + shift.detach())
    if not forces or snapshot.jacobian is None:
        return found
    # positions and strain act through the fixed inputs by the Jacobian, through the learned ones and the grid directly
    by_inputs, by_positions, by_strain = torch.autograd.grad(
        energies.free_energy,
        (inputs, positions, strain),
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    slope = JacobianProduct.apply(snapshot.jacobian, by_inputs.flatten()).double() + snapshot.ewald_slope
    slope = slope + torch.cat((by_positions.flatten(), voigt((by_strain + by_strain.T) / 2)))
    return replace(
        found,
        forces=-slope[: 3 * n_atoms].reshape(n_atoms, 3),
        stress=slope[3 * n_atoms :] / snapshot.grid.volume,
    )


@dataclass(frozen=True)
class LDOSPoints:
    """All points of all snapshots with LDOS, from which every step draws some: LDOS labels are rare. On the CPU.

    Attributes:
        inputs: of the fixed features, float32 ``[point, input]``.
        ldos: 1/(eV Å³), float32 ``[point, energy]``, NaN where it is not known.
        snapshots: whose points these are, one after the other.
    """

    inputs: Tensor
    ldos: Tensor
    snapshots: tuple[TrainingSnapshot, ...] = ()

    @classmethod
    def gather(cls, snapshots: Iterable[TrainingSnapshot]) -> LDOSPoints | None:
        """Collect the points; ``None`` if no snapshot has an LDOS."""
        known = tuple(snapshot for snapshot in snapshots if snapshot.labels.ldos is not None)
        if not known:
            return None
        ldos = [s.labels.ldos for s in known if s.labels.ldos is not None]
        return cls(torch.cat([s.inputs for s in known]), torch.cat(ldos), known)

    def completed(self, model: LDOSModel) -> LDOSPoints:
        """The same points with the inputs of all features, as the model's weights now give them."""
        with torch.no_grad():
            there = (snapshot.to(model.device) for snapshot in self.snapshots)
            inputs = [complete_inputs(model, s.inputs, s.structure, s.grid).cpu() for s in there]
        return replace(self, inputs=torch.cat(inputs))

    def draw(self, model: LDOSModel, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Complete inputs and LDOS of random points: of all snapshots, or of one if there are learned features.

        A step of learned features would cost a pass through the atoms for every snapshot that its points come from.
        """
        rows, place = self.choose(model, number, generator)
        inputs = self.inputs[rows].to(model.device, model.dtype)
        if place is not None:
            structure = self.snapshots[place].structure.to(model.device)
            grid = Grid(structure.cell, self.snapshots[place].grid.shape)
            first = sum(other.grid.n_points for other in self.snapshots[:place])
            inputs = complete_inputs_at(model, inputs, structure, grid, (rows - first).to(model.device))
        return inputs, self.ldos[rows].to(model.device)

    def choose(self, model: LDOSModel, number: int, generator: torch.Generator) -> tuple[Tensor, int | None]:
        """Rows of random points, and, with learned features, the number of the snapshot that they belong to."""
        chosen = torch.randint(len(self.inputs), (number,), generator=generator)
        if not model.descriptor.n_learned:
            return chosen, None
        ends = torch.tensor([snapshot.grid.n_points for snapshot in self.snapshots]).cumsum(0)
        place = int(torch.searchsorted(ends, chosen[0], right=True))  # a snapshot is as likely as it is large
        n_points = self.snapshots[place].grid.n_points
        flat = torch.randint(n_points, (number,), generator=generator)
        return int(ends[place]) - n_points + flat, place


class ModelWithOffsets(nn.Module):
    """The model and what is fitted beside it: the error that DFT energies of one group (one k-mesh) share.

    An offset follows the mean energy error of its group, never farther than the k-mesh noise that it stands for. Over
    all snapshots the offsets sum to zero: they separate the groups, the model's mean energy stays DFT's.

    Args:
        model: to be trained.
        groups: the group of every training snapshot.
        largest: offset before centring, eV/atom; the k-mesh noise of total energies between groups. Zero for labels
            whose energies are all comparable: an offset hides what a model gets wrong of a whole group.
    """

    #: Part of the way to the latest error that an offset goes.
    RATE = 0.1

    errors: Tensor
    shares: Tensor

    def __init__(self, model: LDOSModel, groups: Iterable[str], largest: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.largest = largest
        counts = Counter(groups)
        self.groups = {name: place for place, name in enumerate(sorted(counts))}
        shares = torch.tensor([counts[name] for name in self.groups], dtype=torch.float64) / counts.total()
        self.register_buffer("shares", shares, persistent=False)
        self.register_buffer("errors", torch.zeros(len(self.groups), dtype=torch.float64))

    def offset(self, group: str) -> float:
        """Energy offset of a group, eV/atom; zero for one that is not trained on."""
        place = self.groups.get(group)
        return 0.0 if place is None else float(self.errors[place] - self.shares @ self.errors)

    def follow(self, group: str, error: float) -> None:
        """Move the offset of a group towards an energy error (eV/atom)."""
        place = self.groups[group]
        moved = self.errors[place] + self.RATE * (error - self.errors[place])
        self.errors[place] = moved.clamp(-self.largest, self.largest)


class LDOSLoss:
    """Sum of weighted squared errors of one snapshot, for ``training.loop.fit`` on a ``ModelWithOffsets``.

    Args:
        weights: of the terms.
        generator: draws the points of the LDOS.
        points: where they are drawn from.
    """

    def __init__(self, weights: LossWeights, generator: torch.Generator, points: LDOSPoints | None = None) -> None:
        self.weights = weights
        self.generator = generator
        self.points = points

    def __call__(self, trained: nn.Module, snapshot: TrainingSnapshot) -> tuple[Tensor, dict[str, float]]:
        """Loss and the root of each squared error; the group's offset follows."""
        assert isinstance(trained, ModelWithOffsets)
        loss, metrics, error = self.evaluate(trained, snapshot)
        if error is not None:
            trained.follow(snapshot.group, error)
        return loss, metrics

    def evaluate(
        self, trained: ModelWithOffsets, snapshot: TrainingSnapshot
    ) -> tuple[Tensor, dict[str, float], float | None]:
        """Loss, the root of each squared error, and the error of the energy, eV/atom, if it is known."""
        snapshot = snapshot.to(trained.model.device)
        w, labels, model = self.weights, snapshot.labels, trained.model
        wants_slopes = (w.forces > 0 and labels.forces is not None) or (w.stress > 0 and labels.stress is not None)
        wants_slopes &= self._draws_forces()
        found = evaluate_snapshot(model, snapshot, forces=wants_slopes, create_graph=True)
        squares = _squared_errors(trained, snapshot, found)
        error = None
        if labels.free_energy is not None:
            error = float((found.free_energy - labels.free_energy).detach()) / len(snapshot.structure)
        if self.points is not None and w.ldos > 0:
            squares["ldos"] = self._ldos(model, self.points)
        shares = {"forces": w.force_share, "stress": w.force_share}
        loss = torch.stack([getattr(w, name) / shares.get(name, 1.0) * value for name, value in squares.items()]).sum()
        return loss, {name: float(value.detach().sqrt()) for name, value in squares.items()}, error

    def skip(self, trained: ModelWithOffsets) -> None:
        """Draw what ``evaluate`` would: another rank has this snapshot, and the generators must stay together."""
        self._draws_forces()
        if self.points is not None and self.weights.ldos > 0:
            self.points.choose(trained.model, self.weights.ldos_points, self.generator)

    def _draws_forces(self) -> bool:
        share = self.weights.force_share
        return share == 1 or bool(torch.rand((), generator=self.generator) < share)

    def _ldos(self, model: LDOSModel, points: LDOSPoints) -> Tensor:
        inputs, ldos = points.draw(model, self.weights.ldos_points, self.generator)
        weight, bias = model.head
        hidden = model.network.features(inputs)
        return relative_square(torch.addmm(bias.to(hidden), hidden, weight.to(hidden).T), ldos)


def relative_square(found: Tensor, reference: Tensor) -> Tensor:
    """Squared relative error ‖x − x_DFT‖²/‖x_DFT‖² over what is known, i.e. not NaN."""
    known = torch.nan_to_num(reference)
    # where, not a product: a derivative times NaN would be NaN
    return torch.where(reference.isnan(), 0.0, found - known).square().sum() / known.square().sum()


def _squared_errors(trained: ModelWithOffsets, snapshot: TrainingSnapshot, found: Evaluation) -> dict[str, Tensor]:
    """Squared errors of everything but the LDOS that is both known and found."""
    labels, squares = snapshot.labels, dict[str, Tensor]()
    if labels.free_energy is not None:
        error = (found.free_energy - labels.free_energy) / len(snapshot.structure)
        squares["energy"] = (error - trained.offset(snapshot.group)).square()
    if labels.forces is not None and found.forces is not None:
        squares["forces"] = (found.forces - labels.forces).square().mean()
    if labels.stress is not None and found.stress is not None:
        squares["stress"] = (found.stress - labels.stress).square().mean()
    if labels.density is not None:
        squares["density"] = relative_square(found.density, labels.density)
    if labels.dos is not None:
        squares["dos"] = relative_square(found.dos, labels.dos)
    if labels.level_weights is not None and labels.electrons is not None:
        counted = labels.level_weights @ found.dos
        squares["electrons"] = ((counted - labels.electrons) / snapshot.n_electrons).square()
    return squares


def measure(trained: nn.Module, snapshots: Sequence[TrainingSnapshot], weights: LossWeights) -> dict[str, float]:
    """Root mean squares of the same errors over whole snapshots, and their weighted sum as ``"loss"``."""
    assert isinstance(trained, ModelWithOffsets)
    columns: dict[str, list[float]] = {}
    for snapshot in (item.to(trained.model.device) for item in snapshots):
        found = evaluate_snapshot(trained.model, snapshot)
        squares = _squared_errors(trained, snapshot, found)
        if snapshot.labels.ldos is not None:
            weight, bias = (part.to(found.hidden).detach() for part in trained.model.head)
            ldos = torch.addmm(bias, found.hidden.detach(), weight.T)
            squares["ldos"] = relative_square(ldos, snapshot.labels.ldos)
        for name, value in squares.items():
            columns.setdefault(name, []).append(float(value.detach()))
    means = {name: sum(values) / len(values) for name, values in columns.items()}
    loss = sum(getattr(weights, name) * value for name, value in means.items())
    return {"loss": loss, **{name: value**0.5 for name, value in means.items()}}
