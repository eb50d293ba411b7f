"""MALA's snapshots: ``.out.npy`` with ``.info.json``; its models are read by ``ase_ldos.model.import_mala``.

MALA: J. A. Ellis et al., Phys. Rev. B 104, 035120 (2021). LDOS in 1/(eV Å³); the ``.in.npy`` holds the points'
coordinates (Å) and then the SNAP columns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ase_ldos.dataset.npz import Snapshot, snapshot_from_arrays
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.files import PathLike, atomic_write, check_file_names, write_json
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import iterate_blocks

#: Keys of ``info.json`` and ours.
_KEYS = {
    "total_energy_dft_calculation": "free_energy",
    "band_energy_dft_calculation": "band_energy",
    "entropy_contribution_dft_calculation": "smearing_TS",
    "one_electron_contribution": "one_electron",
    "hartree_contribution": "hartree",
    "xc_contribution": "xc",
    "ewald_contribution": "ewald",
    "fermi_energy_dft": "fermi_level",
    "temperature": "electronic_temperature",
    "electrons_per_atom": "valence",
    "ecutwfc": "ecutwfc_Ry",
    "atomic_forces_dft": "forces",
}


def read_mala_snapshot(info: PathLike, energies: np.ndarray) -> Snapshot:
    """Read ``NAME.info.json`` and the LDOS ``NAME.out.npy`` beside it.

    Args:
        info: the JSON file.
        energies: energy grid, eV, ``[energy]``: MALA keeps it in its parameters, as offset, spacing and size.

    Raises:
        ValueError: a file is missing or not of this kind, or the LDOS has another number of energies.
    """
    info = Path(info)
    if not info.name.endswith(".info.json"):
        raise ValueError(f"{info.name} is not the NAME.info.json of a MALA snapshot")
    name = info.name.removesuffix(".info.json")
    output = info.with_name(f"{name}.out.npy")
    try:
        table = json.loads(info.read_text())
        ldos = np.load(output, allow_pickle=False)
        atoms = table["atoms"]
        arrays = {key: np.asarray(atoms[key]) for key in ("numbers", "positions", "cell")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{info} and {output.name} are not a MALA snapshot: {error}") from error
    volume = abs(np.linalg.det(arrays["cell"]))
    arrays |= {ours: np.asarray(table[theirs], dtype=float) for theirs, ours in _KEYS.items() if theirs in table}
    arrays |= {
        "ldos": ldos,
        "ldos_scale": np.array(1.0),
        "energies": np.asarray(energies, dtype=float),
        "dos": ldos.mean(axis=(0, 1, 2), dtype=float) * volume,
    }
    return snapshot_from_arrays(name, arrays, str(info))


def write_mala_snapshot(folder: PathLike, snapshot: Snapshot, descriptor: PointFeatures | None = None) -> None:
    """Write ``NAME.out.npy`` and ``NAME.info.json``, and with a descriptor also ``NAME.in.npy``.

    Raises:
        ValueError: the snapshot has no LDOS, or a name that cannot be that of a file.
    """
    ldos = snapshot.ldos_values()
    check_file_names([snapshot.name])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = {ours: getattr(snapshot, ours) for ours in _KEYS.values()}
    table: dict[str, Any] = {
        theirs: np.asarray(values[ours]).tolist() for theirs, ours in _KEYS.items() if values[ours] is not None
    }
    shape = ldos.shape[:3]
    table |= {
        "number_of_electrons_exact": snapshot.n_electrons,
        "grid_dimensions": list(shape),
        "voxel": {"array": (snapshot.cell / np.array(shape)[:, None]).tolist()},
        "atoms": {
            "numbers": snapshot.numbers.tolist(),
            "positions": snapshot.positions.tolist(),
            "cell": snapshot.cell.tolist(),
            "pbc": [True, True, True],
        },
    }
    with atomic_write(folder / f"{snapshot.name}.out.npy") as draft:
        np.save(draft, ldos)
    if descriptor is not None:
        with atomic_write(folder / f"{snapshot.name}.in.npy") as draft:
            np.save(draft, _descriptor_columns(snapshot, descriptor))
    # last, because it is what readers look for
    write_json(folder / f"{snapshot.name}.info.json", table)


def _descriptor_columns(snapshot: Snapshot, descriptor: PointFeatures) -> np.ndarray:
    """Coordinates and features of every grid point, float32 ``[nx, ny, nz, 3 + feature]``."""
    structure = snapshot.structure
    grid = Grid(structure.cell, snapshot.shape or (1, 1, 1))
    columns = np.empty((grid.n_points, 3 + descriptor.n_features), dtype=np.float32)
    columns[:, :3] = grid.points().numpy()
    with torch.no_grad():
        atom_state = descriptor.encode_atoms(structure)
        for block in iterate_blocks(structure, grid, descriptor.cutoff):
            columns[block.flat.numpy(), 3:] = descriptor(block.points, block.atoms, atom_state[block.owners]).numpy()
    return columns.reshape(*grid.shape, -1)
