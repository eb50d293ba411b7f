"""How far a model is from DFT on labelled snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.density_functionals import density_energies
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.gap import find_gap
from ase_ldos.physics.ldos import density_of_states, electron_density
from ase_ldos.physics.occupation import fermi_level, occupation_weights
from ase_ldos.prediction.predict import Prediction, predict, predict_ldos
from ase_ldos.torch_state import standard_torch_state
from ase_ldos.training.precompute import count_electrons
from ase_ldos.units import BOLTZMANN, GIGAPASCAL

#: Name → (heading, unit, digits) of every error, in the order of the table.
COLUMNS: dict[str, tuple[str, str, int]] = {
    "energy": ("A - DFT", "meV/atom", 2),
    "energy_ldos": ("A - LDOS-derived", "meV/atom", 2),
    "forces": ("forces", "meV/Å", 1),
    "stress": ("stress", "GPa", 3),
    "density": ("density", "%", 3),
    "dos": ("DOS", "%", 2),
    "fermi_level": ("mu", "eV", 3),
    "electrons": ("N(mu of DFT)", "me/atom", 2),
    "gap": ("gap", "eV", 3),
    "ldos": ("LDOS", "%", 2),
    "ldos_occupied": ("LDOS below mu", "%", 2),
}


@dataclass(frozen=True)
class SnapshotErrors:
    """Errors on one snapshot; a quantity that has no label is missing from ``values``.

    Attributes:
        name: of the snapshot.
        group: of the snapshots that share its k-mesh and the error of that.
        values: signed differences of energies (meV/atom; to DFT, and to A from DFT's LDOS), of μ (eV, on the dense
            mesh; where DFT's DOS shows a gap, of the middles of the two), of the electrons below DFT's level (10⁻³ per
            atom), which tells more where few states are about it, and of the gap, from DOS of one width;
            root mean squares of forces (meV/Å) and stress (GPa); density: ∫|n − n_DFT| / N (%); DOS and LDOS:
            ‖x − x_DFT‖ / ‖x_DFT‖ (%).
    """

    name: str
    group: str
    values: dict[str, float]


@standard_torch_state()
def evaluate_model(model: LDOSModel, snapshots: Iterable[Snapshot], *, progress: bool = True) -> list[SnapshotErrors]:
    """Predict every snapshot on its own grid and compare.

    Raises:
        ValueError: there are no snapshots, elements that the model does not know, or one that cannot be predicted; the
            message names it.
    """
    items = list(snapshots)
    if not items:
        raise ValueError("there are no snapshots to evaluate the model on")
    check_elements(model, items)
    return [_snapshot_errors(model, item) for item in tqdm(items, desc="evaluate", disable=not progress)]


def check_elements(model: LDOSModel, snapshots: Iterable[Snapshot]) -> None:
    """Refuse snapshots of other elements before anything is calculated.

    Raises:
        ValueError: the message names the first of them.
    """
    for snapshot in snapshots:
        try:
            species_indices(torch.tensor(snapshot.numbers), model.descriptor.species)
        except ValueError as error:
            raise ValueError(f"{snapshot.name}: {error}") from error


def summarise(errors: Sequence[SnapshotErrors]) -> dict[str, float]:
    """Root mean squares over snapshots; energies also as bias, spread and spread within a group.

    The spread within a group is the root mean square after the mean of each group with at least two snapshots is
    taken off (with n − 1 as divisor): total energies of different k-meshes differ by an error of DFT itself.
    """
    summary: dict[str, float] = {}
    for key in COLUMNS:
        values = np.array([error.values[key] for error in errors if key in error.values])
        if len(values):
            summary[key] = float(np.sqrt(np.mean(values**2)))
            if key.startswith("energy"):
                summary[f"{key}_bias"], summary[f"{key}_spread"] = float(values.mean()), float(values.std())
    within = _within_groups(errors)
    if within is not None:
        summary["energy_within_family"] = within
    return summary


def _within_groups(errors: Sequence[SnapshotErrors]) -> float | None:
    squares, freedom = 0.0, 0
    for group in {error.group for error in errors}:
        values = np.array([e.values["energy"] for e in errors if e.group == group and "energy" in e.values])
        if len(values) > 1:
            squares, freedom = squares + float(((values - values.mean()) ** 2).sum()), freedom + len(values) - 1
    return float(np.sqrt(squares / freedom)) if freedom else None


def format_table(errors: Sequence[SnapshotErrors]) -> str:
    """The errors of every snapshot, then their root mean squares, as an aligned table."""
    keys = [key for key in COLUMNS if any(key in error.values for error in errors)]
    width = max([len(error.name) for error in errors] + [8])
    heads = [f"{COLUMNS[key][0]:>18}" for key in keys]
    units = [f"{COLUMNS[key][1]:>18}" for key in keys]
    lines = [" " * width + "".join(heads), " " * width + "".join(units)]

    def row(name: str, value: Callable[[str], float | None]) -> str:
        cells = (value(key) for key in keys)
        return f"{name:<{width}}" + "".join(
            f"{'':>18}" if cell is None else f"{cell:>18.{COLUMNS[key][2]}f}" for key, cell in zip(keys, cells)
        )

    lines += [row(error.name, error.values.get) for error in errors]
    summary = summarise(errors)
    lines += ["-" * len(lines[0]), row("RMS", summary.get)]
    lines += [f"free energy: bias {summary['energy_bias']:+.2f}, spread {summary['energy_spread']:.2f} meV/atom"] * (
        "energy" in summary
    )
    if "energy_within_family" in summary:
        lines[-1] += f", spread within one cell type {summary['energy_within_family']:.2f} meV/atom"
    return "\n".join(lines)


def _snapshot_errors(model: LDOSModel, snapshot: Snapshot) -> SnapshotErrors:
    structure = Structure.from_arrays(snapshot.numbers, snapshot.positions, snapshot.cell)
    temperature = snapshot.electronic_temperature
    try:
        found = predict(
            model, structure, forces=True, stress=True, grid_shape=snapshot.shape, electronic_temperature=temperature
        )
    except ValueError as error:
        raise ValueError(f"snapshot {snapshot.name!r}: {error}") from error
    assert found.forces is not None
    assert found.stress is not None
    values: dict[str, float] = {}
    per_atom = 1000 / len(structure)
    if snapshot.free_energy is not None:
        values["energy"] = (found.free_energy - float(snapshot.free_energy)) * per_atom
    if snapshot.forces is not None:
        values["forces"] = _rms(found.forces.cpu().numpy() - snapshot.forces) * 1000
    if snapshot.stress is not None:
        values["stress"] = _rms(found.stress.cpu().numpy() - snapshot.stress) * GIGAPASCAL
    if snapshot.density is not None:
        difference = np.abs(found.density.cpu().numpy() - snapshot.density).sum()
        values["density"] = float(difference / snapshot.density.sum()) * 100
    if snapshot.fermi_level_dense is not None:
        values["fermi_level"] = found.fermi_level - float(snapshot.fermi_level_dense)
    if snapshot.ldos is not None and snapshot.energies is not None:
        values |= _ldos_errors(model, snapshot, structure, found)
    elif snapshot.dos is not None and snapshot.energies is not None:
        dos, known = on_model_energies(
            snapshot, snapshot.dos, found.energy_grid.cpu().numpy(), _broadening(model, snapshot)
        )
        values["dos"] = _relative(found.dos[:known].cpu(), torch.as_tensor(dos).double())
        values |= _level_errors(model, snapshot, found, torch.as_tensor(dos).double())
    return SnapshotErrors(snapshot.name, snapshot.group, values)


def _broadening(model: LDOSModel, snapshot: Snapshot) -> float:
    """σ at which the two compare, eV: the model's, unless DFT's is broader."""
    return max(model.metadata.broadening, float(snapshot.ldos_sigma or 0.0))


def _ldos_errors(model: LDOSModel, snapshot: Snapshot, structure: Structure, found: Prediction) -> dict[str, float]:
    """Errors of DOS and LDOS up to where DFT knows them, and of A against A from DFT's LDOS by the same sums."""
    assert snapshot.ldos is not None
    assert snapshot.energies is not None
    energies, broadening = found.energy_grid.cpu().numpy(), _broadening(model, snapshot)
    values, known = on_model_energies(snapshot, snapshot.ldos, energies, broadening)
    reference = torch.as_tensor(values).double() * float(snapshot.ldos_scale or 1.0)
    ldos = predict_ldos(model, structure, found.grid.shape)[..., :known].double().cpu()
    grid = found.grid
    dos = density_of_states(reference, grid)
    kT = BOLTZMANN * float(snapshot.electronic_temperature or model.metadata.electronic_temperature)
    charges = model.charges(structure.numbers)
    nodes = found.energy_grid[:known].cpu()
    errors = {"dos": _relative(found.dos[:known].cpu(), dos), "ldos": _relative(ldos, reference)}
    errors |= _level_errors(model, snapshot, found, dos)
    try:
        mu = fermi_level(dos, nodes, float(charges.sum()), kT)
    except ValueError:  # DFT's LDOS ends among the states that are occupied at this temperature
        return errors
    weights = occupation_weights(nodes, mu, kT)
    core = model.core_density(structure, grid)
    density = density_energies(
        electron_density(reference, weights), grid, model.metadata.functional, None if core is None else core.cpu()
    )
    derived = Energies.collect(dos, weights, density, ewald_energy(structure, charges))
    occupied = nodes < mu
    return errors | {
        "energy_ldos": (found.free_energy - float(derived.free_energy)) * 1000 / len(structure),
        "ldos_occupied": _relative(ldos[..., occupied], reference[..., occupied]),
    }


def _level_errors(model: LDOSModel, snapshot: Snapshot, found: Prediction, dos: Tensor) -> dict[str, float]:
    """Difference of the electrons below DFT's level; where its DOS shows a gap, of that and of its middle too.

    A Fermi-Dirac level in a gap follows tails and temperature; the middle is one rule for both sides. DFT's DOS is of
    the model's width and energies.
    """
    n_electrons, n_atoms = float(model.charges(torch.as_tensor(snapshot.numbers)).sum()), len(snapshot)
    broadening, nodes = _broadening(model, snapshot), found.energy_grid.cpu()
    counted = count_electrons(dos, nodes, snapshot, broadening, n_electrons)
    errors: dict[str, float] = {}
    if counted is not None:
        errors["electrons"] = (float(counted[0] @ found.dos.cpu()) - counted[1]) * 1000 / n_atoms
    try:
        expected = find_gap(dos, nodes[: len(dos)], n_electrons, n_atoms, broadening)
        predicted = find_gap(found.dos.cpu(), nodes, n_electrons, n_atoms, broadening)
    except ValueError:  # one of the two ends among the states about the last electron
        return errors
    if not expected.resolved:
        return errors
    return errors | {"gap": predicted.width - expected.width, "fermi_level": predicted.middle - expected.middle}


def _rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array))))


def _relative(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).norm() / reference.norm()) * 100
