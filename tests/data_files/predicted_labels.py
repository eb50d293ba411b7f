"""Snapshots whose labels are what a model predicts: exactly learnable, and made in milliseconds."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict, predict_ldos


def rattled_beryllium(seed: int) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.25, c=3.55)
    atoms.rattle(0.08, seed=seed)
    return atoms


def predicted_snapshot(
    name: str,
    atoms: Atoms,
    model: LDOSModel,
    *,
    grid_shape: tuple[int, int, int] | None = None,
    sigma: float = 0.3,
    with_ldos: bool = True,
) -> Snapshot:
    """The model's predictions as labels, with LDOS and DOS or without."""
    structure = Structure.from_atoms(atoms)
    found = predict(model, structure, forces=True, stress=True, grid_shape=grid_shape)
    assert found.forces is not None
    assert found.stress is not None
    ldos = {}
    if with_ldos:
        ldos = {
            "energies": model.energies.numpy(),
            "ldos": predict_ldos(model, structure, grid_shape).numpy().astype(np.float32),
            "ldos_scale": 1.0,
            "ldos_sigma": sigma,
            "dos": found.dos.numpy(),
        }
    return Snapshot(
        name=name,
        numbers=atoms.numbers,
        cell=atoms.cell[:],
        positions=atoms.positions,
        density=found.density.numpy(),
        free_energy=found.free_energy,
        forces=found.forces.numpy(),
        stress=found.stress.numpy(),
        electronic_temperature=found.electronic_temperature,
        **ldos,
    )


def labelled(model: LDOSModel, seed: int, *, with_ldos: bool = True) -> Snapshot:
    """Rattled beryllium with the model's labels."""
    return predicted_snapshot(f"be_{seed:02d}", rattled_beryllium(seed), model, with_ldos=with_ldos)
