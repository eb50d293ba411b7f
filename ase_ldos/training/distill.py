"""Distillation: a cheap potential of the atoms alone, fitted to what a model itself says of structures it makes itself.

No DFT is needed. The first structures are rattled and strained copies of those given; a potential is fitted to the
model's energies, forces and stresses for them, its own dynamics give the next structures, and so on for some rounds: so
the potential is right where its dynamics go. Its form (``ase_ldos.model.distilled_potential``) is linear in the
coefficients c, found by least squares with a penalty,

    Σ_k [12² (ΔE_k)²/N_k + Σ |ΔF_k|² + 1.2² Σ (V ΔS_k)²/N_k] + λ K |c|²,

with λ and the number of products q chosen by cross-validation, from which its errors come too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, chemical_symbols, reference_states
from ase.md.langevin import Langevin
from ase.units import fs, kB
from torch import Tensor
from tqdm import tqdm

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import VOIGT
from ase_ldos.geometry.atom_blocks import iterate_atom_blocks
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.extrapolation import atom_distances, warning_threshold
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict
from ase_ldos.prediction.request import check_structure
from ase_ldos.simulation.sampling import rattled, strained
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.units import GIGAPASCAL

logger = logging.getLogger(__name__)

#: Weights of E/√N, of a component of a force and of V S/√N: 1 meV/atom counts as much as 48 meV/Å in 16 atoms.
WEIGHTS = (12.0, 1.0, 1.2)
#: What cross-validation chooses from: numbers of components that enter in products, and penalties.
PRODUCTS = (0, 8, 16, 24)
PENALTIES = (1e-4, 1e-2, 1.0)
FOLDS = 5
#: Directions in which the first structures vary less than this part of the largest variance are left out.
LEAST_VARIANCE = 1e-9
MOST_COMPONENTS = 128
#: Standard deviations of rattled atoms, in units of the shortest distance.
RATTLES = (0.015, 0.025, 0.035)
#: Temperatures of the dynamics, in units of the one that is wanted; the hotter ones keep the potential sound.
HEATS = (1.0, 1.0, 1.5)
#: Atoms farther out, in thresholds of the model's warning, teach nothing.
FARTHEST = 3.0
#: Time between two structures, and before the first, fs.
INTERVAL, EQUILIBRATION = 60.0, 120.0


@standard_torch_state()
def distill(
    model: LDOSModel,
    structures: Sequence[Atoms] = (),
    *,
    temperature: float | None = None,
    n_structures: int = 80,
    rounds: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> DistilledPotential:
    """Distil a potential; put it into ``model.distilled`` and save the model to keep it.

    Args:
        model: the teacher, which is not changed.
        structures: periodic cells of what is to be simulated, say 16 to 64 atoms each; default, for models of one
            element: its crystal at the model's volume.
        temperature: of the dynamics, K; default is the model's electronic temperature.
        n_structures: how many the model is asked for.
        rounds: of dynamics by the potential of the round before.
        seed: of all random numbers.
        progress: show a bar.

    Raises:
        ValueError: numbers out of range, structures that the model does not know, or none for a model of several
            elements.
    """
    if n_structures < 2 * FOLDS or not 0 <= rounds <= n_structures - FOLDS:
        raise ValueError(
            f"{n_structures} structures in {rounds} rounds are asked for; at least {2 * FOLDS} structures are needed, "
            f"{FOLDS} of them before the first round and one in each"
        )
    temperature = model.metadata.electronic_temperature if temperature is None else temperature
    if not 0 < temperature < float("inf"):
        raise ValueError(f"the temperature is {temperature} K; it must be positive")
    seeds = [atoms.copy() for atoms in structures] or [reference_crystal(model)]
    for atoms in seeds:
        atoms.calc = None
        check_structure(model, atoms)
    rng = np.random.default_rng(seed)
    descriptor = _descriptor_for(model)
    sizes = [max(FOLDS, n_structures // (rounds + 1)) if rounds else n_structures]
    sizes += [len(part) for part in np.array_split(np.arange(n_structures - sizes[0]), rounds)] if rounds else []
    fit: _Fit | None = None
    potential: DistilledPotential | None = None
    runs = [_Run(atoms, temperature * heat) for atoms, heat in product(seeds, HEATS)]
    with tqdm(total=n_structures, desc="distillation", unit="structure", disable=not progress) as bar:
        for size in sizes:
            frames = _rattled(seeds, size, rng) if potential is None else _sampled(model, potential, runs, size, rng)
            labels = []
            for frame in frames:
                labels.append(_Label.of(model, frame))
                bar.update()
            if fit is None:
                fit = _Fit.of(descriptor, labels)
            for label in labels:
                fit.add(label)
            # errors count where the dynamics go; before there were any, on the rattled structures
            potential = fit.solve(errors_from=0 if potential is None else sizes[0])
            bar.set_postfix_str(f"forces within {potential.errors['forces']:.0f} meV/Å")
    assert potential is not None
    formulas = sorted({atoms.get_chemical_formula() for atoms in seeds})
    potential.provenance.update(
        teacher=model.metadata.name, temperature=temperature, structures=formulas, rounds=rounds, seed=seed
    )
    return potential


def reference_crystal(model: LDOSModel) -> Atoms:
    """The crystal of a model's only element, at least 12 atoms, at the volume where the model's pressure vanishes.

    Raises:
        ValueError: several elements, or one whose crystal ASE does not know.
    """
    symbols = [chemical_symbols[number] for number in model.descriptor.species]
    known = reference_states[atomic_numbers[symbols[0]]] or {}
    kind = known.get("symmetry")
    if len(symbols) > 1 or kind not in ("hcp", "fcc", "bcc", "diamond"):
        raise ValueError(f"no crystal of {', '.join(symbols)} is known; give structures to start from")
    atoms = bulk(symbols[0], cubic=kind != "hcp")
    while len(atoms) < 12:
        lengths = atoms.cell.lengths()
        atoms = atoms.repeat([2 if axis == int(lengths.argmin()) else 1 for axis in range(3)])
    cell, scale = atoms.cell.array.copy(), 1.0
    for _ in range(6):
        # steps as if the bulk modulus were 100 GPa, none longer than 3 % in length
        atoms.set_cell(scale * cell, scale_atoms=True)
        stress = predict(model, atoms, stress=True).stress
        assert stress is not None
        pressure = -float(torch.diagonal(stress).mean()) * GIGAPASCAL
        if abs(pressure) < 0.3:
            break
        scale *= float(np.clip(1 + pressure / 300, 0.97, 1.03))
    return atoms


def _descriptor_for(model: LDOSModel) -> PowerSpectrum:
    """The model's own, where it is a power spectrum; else the default one of its cutoff and elements."""
    descriptor = model.descriptor
    if isinstance(descriptor, PowerSpectrum):
        return descriptor
    return PowerSpectrum(tuple(descriptor.species), cutoff=descriptor.cutoff)


@dataclass
class _Run:
    """A trajectory that goes on from round to round."""

    atoms: Atoms
    temperature: float


def _rattled(seeds: Sequence[Atoms], size: int, rng: np.random.Generator) -> Iterator[Atoms]:
    """Copies with rattled atoms, every other one strained as well."""
    for number, atoms, part in zip(range(size), cycle(seeds), cycle(RATTLES)):
        distances = atoms.get_all_distances(mic=True)
        shortest = float(np.min(distances[distances > 0], initial=3.0))
        start = strained(atoms, rng, strain=0.01, volume=(-0.02, 0.02)) if number % 2 else atoms
        yield rattled(start, part * shortest, rng, minimum_distance=0.75 * shortest)


def _sampled(
    model: LDOSModel, potential: DistilledPotential, runs: list[_Run], size: int, rng: np.random.Generator
) -> Iterator[Atoms]:
    """Structures from Langevin dynamics by the potential, every third strained; a run that gets lost starts again."""
    lightest = min(float(run.atoms.get_masses().min()) for run in runs)
    timestep = min(3.0, 0.7 * lightest**0.5)
    shares = [len(part) for part in np.array_split(np.arange(size), len(runs))]
    for run, share in zip(runs, shares):
        atoms, calculator = run.atoms.copy(), DistilledCalculator(potential)
        atoms.calc = calculator
        if not atoms.has("momenta"):
            spread = np.sqrt(run.temperature * kB * atoms.get_masses())[:, None]
            atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * spread)
        dynamics = Langevin(
            atoms, timestep * fs, temperature_K=run.temperature, friction=0.02 / fs, rng=rng, fixcm=False
        )
        dynamics.run(round(EQUILIBRATION / timestep))
        for number in range(share):
            dynamics.run(round(INTERVAL / timestep))
            frame = atoms.copy()
            frame.set_momenta(None)
            if number % 3 == 2:
                frame = strained(frame, rng, strain=0.01, volume=(-0.02, 0.02))
            try:
                check_structure(model, frame)
                _check_range(model, frame)
            except ValueError as error:
                # what the model cannot judge teaches nothing; rattled atoms do
                logger.info("the dynamics of the distilled potential went astray (%s)", error)
                yield next(_rattled([run.atoms], 1, rng))
                atoms.positions, momenta = run.atoms.positions, rng.normal(size=(len(atoms), 3))
                atoms.set_momenta(momenta * np.sqrt(run.temperature * kB * atoms.get_masses())[:, None])
                continue
            yield frame
        run.atoms = atoms


def _check_range(model: LDOSModel, frame: Atoms) -> None:
    """Refuse what is so far from the model's training data that what it says of it is chance."""
    if not model.metadata.extrapolation:
        return
    distance = float(atom_distances(model, Structure.from_atoms(frame)).max()) / warning_threshold(model.metadata)
    if distance > FARTHEST:
        raise ValueError(f"an atom is {distance:.1f} times as far out as the model's range reaches")


@dataclass(frozen=True)
class _Label:
    """What the model says of a structure: A, eV; forces without their mean, eV/Å; V S in Voigt's order, eV."""

    structure: Structure
    energy: float
    forces: Tensor
    virial: Tensor

    @classmethod
    def of(cls, model: LDOSModel, atoms: Atoms) -> _Label:
        found = predict(model, atoms, forces=True, stress=True)
        assert found.forces is not None
        assert found.stress is not None
        structure = Structure.from_atoms(atoms)
        forces, stress = found.forces.cpu(), found.stress.cpu()
        virial = torch.stack([stress[row, column] for row, column in VOIGT]) * structure.volume
        return cls(structure, found.free_energy, forces - forces.mean(dim=0), virial)


class _Fit:
    """Rows of the least-squares problem, and its solutions."""

    def __init__(self, descriptor: PowerSpectrum, mean: Tensor, projection: Tensor) -> None:
        self.descriptor, self.mean, self.projection = descriptor, mean, projection
        self._labels: list[_Label] = []
        self._rows: list[Tensor] = []

    @classmethod
    def of(cls, descriptor: PowerSpectrum, labels: Sequence[_Label]) -> _Fit:
        """Principal components of the atoms of the first structures."""
        features = []
        with torch.no_grad():
            for label in labels:
                state = descriptor.encode_atoms(label.structure)
                blocks = iterate_atom_blocks(label.structure, descriptor.cutoff)
                features += [descriptor(block.points, block.atoms, state[block.owners]) for block in blocks]
        table = torch.cat(features)
        variances, axes = torch.linalg.eigh(torch.cov(table.T))
        kept = min(int((variances > LEAST_VARIANCE * variances[-1]).sum()), MOST_COMPONENTS)
        # variances ascend; scaled down only so far that rounding is not scaled up
        variances, axes = variances[-kept:].flip(0), axes[:, -kept:].flip(1)
        return cls(descriptor, table.mean(dim=0), axes / variances.clamp(min=1e-6 * variances[0]).sqrt())

    def add(self, label: _Label) -> None:
        """Add a structure: the derivatives of E, all forces and V S in the coefficients."""
        structure, n_atoms = label.structure, len(label.structure)
        species = species_indices(structure.numbers, self.descriptor.species)
        n_species, n_components = len(self.descriptor.species), self.projection.shape[1]
        q = min(max(PRODUCTS), n_components)
        first, second = torch.triu_indices(q, q).unbind()
        size = n_components + len(first)
        values = self.mean.new_zeros(n_species, size)
        slopes = self.mean.new_zeros(3 * n_atoms + 6, n_species, size)
        for block in iterate_atom_blocks(structure, self.descriptor.cutoff):
            state = species[block.owners]
            with torch.no_grad():
                features = self.descriptor(block.points, block.atoms, state)
            components = (features - self.mean) @ self.projection
            jacobian = self.descriptor.jacobian(block, state, n_atoms)
            for row, atom in enumerate(block.flat.tolist()):
                z, by_all = components[row], jacobian[row] @ self.projection
                # the point moves with its atom, against all others
                by_all[3 * atom : 3 * atom + 3] -= by_all[: 3 * n_atoms].unflatten(0, (n_atoms, 3)).sum(dim=0)
                index = int(species[atom])
                values[index] += torch.cat((z, z[first] * z[second]))
                slopes[:, index, :n_components] += by_all
                slopes[:, index, n_components:] += by_all[:, first] * z[second] + by_all[:, second] * z[first]
        counts = torch.bincount(species, minlength=n_species).to(values)
        # constants come last
        energy_row = torch.cat((values.flatten(), counts))[None]
        rest = torch.nn.functional.pad(slopes.flatten(1), (0, n_species))
        rest[: 3 * n_atoms] *= -1
        self._rows.append(torch.cat((energy_row, rest)))
        self._labels.append(label)

    def solve(self, errors_from: int = 0) -> DistilledPotential:
        """The best potential by cross-validation, fitted to all structures.

        Its errors are those of fits that have not seen the structure, from number ``errors_from`` on.
        """
        n_species, n_components = len(self.descriptor.species), self.projection.shape[1]
        total = sum(label.energy for label in self._labels) / sum(len(label.structure) for label in self._labels)
        targets = [
            torch.cat(
                (torch.tensor([label.energy - total * len(label.structure)]), label.forces.flatten(), label.virial)
            )
            for label in self._labels
        ]
        weights = [_row_weights(len(label.structure)) for label in self._labels]
        folds = [list(range(start, len(targets), FOLDS)) for start in range(FOLDS)]
        parts = [self._normal(fold, targets, weights) for fold in folds]
        matrix, vector = (torch.stack(side).sum(dim=0) for side in zip(*parts))
        best: tuple[float, Tensor, float, list[Tensor]] | None = None
        for q, penalty in product(PRODUCTS, PENALTIES):
            columns = self._columns(q)
            found = [
                _solve(matrix - part[0], vector - part[1], columns, penalty * len(targets), n_species) for part in parts
            ]
            loss = sum(
                float(((self._rows[k] @ c - targets[k]) * weights[k]).square().sum())
                for fold, c in zip(folds, found)
                for k in fold
            )
            if best is None or loss < best[0]:
                best = (loss, columns, penalty, found)
        assert best is not None
        _, columns, penalty, found = best
        residuals = {
            k: self._rows[k] @ c - targets[k] for fold, c in zip(folds, found) for k in fold if k >= errors_from
        }
        solution = _solve(matrix, vector, columns, penalty * len(targets), n_species)
        polynomial = solution[:-n_species].unflatten(0, (n_species, -1))
        return DistilledPotential(
            self.descriptor,
            self.mean,
            self.projection,
            solution[-n_species:] + total,
            polynomial[:, :n_components].clone(),
            self._products_of(polynomial[:, n_components:]),
            errors=self._errors(residuals),
        )

    def _normal(self, fold: list[int], targets: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Normal equations of some structures."""
        rows = torch.cat([self._rows[k] * weights[k][:, None] for k in fold])
        values = torch.cat([targets[k] * weights[k] for k in fold])
        return rows.T @ rows, rows.T @ values

    def _columns(self, q: int) -> Tensor:
        """Which columns a potential with products of q components has."""
        n_species, n_components = len(self.descriptor.species), self.projection.shape[1]
        most = min(max(PRODUCTS), n_components)
        _, second = torch.triu_indices(most, most).unbind()
        own = torch.cat((torch.ones(n_components, dtype=torch.bool), second < q))
        return torch.cat((own.repeat(n_species), torch.ones(n_species, dtype=torch.bool))).nonzero()[:, 0]

    def _products_of(self, full: Tensor) -> Tensor:
        """The coefficients of products without those of components that enter in none."""
        most = min(max(PRODUCTS), self.projection.shape[1])
        _, second = torch.triu_indices(most, most).unbind()
        used = second[(full != 0).any(dim=0)]
        q = int(used.max()) + 1 if len(used) else 0
        return full[:, second < q].clone()

    def _errors(self, residuals: dict[int, Tensor]) -> dict[str, float]:
        """Root mean squares over structures that were left out; see ``DistilledPotential.errors``."""
        sizes = {k: len(self._labels[k].structure) for k in residuals}
        energies = torch.stack([residual[0] / sizes[k] for k, residual in residuals.items()])
        forces = torch.cat([residual[1 : 1 + 3 * sizes[k]] for k, residual in residuals.items()])
        stresses = torch.cat([residual[-6:] / self._labels[k].structure.volume for k, residual in residuals.items()])
        typical = torch.cat([self._labels[k].forces.flatten() for k in residuals])
        return {
            "energy": 1000 * _root_mean_square(energies),
            "forces": 1000 * _root_mean_square(forces),
            "stress": _root_mean_square(stresses) * GIGAPASCAL,
            "typical_forces": 1000 * _root_mean_square(typical),
            "structures": float(len(residuals)),
        }


def _row_weights(n_atoms: int) -> Tensor:
    """Of the rows of a structure: energy, forces, V S."""
    energy, forces, virial = WEIGHTS
    parts = [energy / n_atoms**0.5] + [forces] * (3 * n_atoms) + [virial / n_atoms**0.5] * 6
    return torch.tensor(parts, dtype=torch.float64)


def _solve(matrix: Tensor, vector: Tensor, columns: Tensor, penalty: float, n_constants: int) -> Tensor:
    """Coefficients of all columns, zero for those that are not chosen; the constants are hardly held."""
    chosen = matrix[columns][:, columns].clone()
    strengths = torch.full((len(columns),), penalty, dtype=torch.float64)
    strengths[-n_constants:] = 1e-9 * float(chosen.diagonal()[-n_constants:].max())
    chosen.diagonal().add_(strengths)
    result = torch.zeros_like(vector)
    result[columns] = torch.linalg.solve(chosen, vector[columns])
    return result


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
