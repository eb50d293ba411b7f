"""Make ``snap_lammps.npz`` again: SNAP columns at a few points of a few structures, by LAMMPS' ``compute sna/grid``.

    pip install '.[bench]' && python tests/data_files/make_snap_reference.py

Each case is kept as ``NAME.KEY``, with the keys of the job and ``columns``, x, y, z and B, ``[point, 3 + feature]``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

WORKER = Path(__file__).parents[1] / "benchmarks" / "lammps_snap.py"
RESULT = Path(__file__).with_name("snap_lammps.npz")
CUTOFF, RFAC0 = 4.67637, 0.99363


def beryllium() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.26, c=3.57).repeat((2, 2, 1))
    atoms.rattle(0.15, seed=4)
    return atoms


def alloy() -> Atoms:
    """Aluminium and beryllium in turn."""
    atoms = bulk("Al", "fcc", a=3.75, cubic=True).repeat((2, 1, 1))
    atoms.symbols[1::2] = "Be"
    atoms.rattle(0.2, seed=5)
    return atoms


def jobs() -> dict[str, dict[str, object]]:
    """Arguments of LAMMPS by the name of the case."""
    one = {"species": np.zeros(8, dtype=int), "weights": [1.0], "switch": 1, "shape": (2, 3, 4)}
    two = {"species": np.arange(8) % 2, "weights": [1.0, 0.6], "switch": 1, "shape": (4, 2, 3)}
    return {
        "beryllium_4": {"atoms": beryllium(), "twojmax": 4, **one},
        "beryllium_6_without_switch": {"atoms": beryllium(), "twojmax": 6, **one, "switch": 0},
        "beryllium_10": {"atoms": beryllium(), "twojmax": 10, **one, "shape": (2, 2, 3)},
        "alloy_8": {"atoms": alloy(), "twojmax": 8, **two},
    }


def evaluate(job: dict[str, object]) -> dict[str, np.ndarray]:
    """The job as arrays, with LAMMPS' columns."""
    atoms = job.pop("atoms")
    assert isinstance(atoms, Atoms)
    job |= {"cell": atoms.cell.array, "positions": atoms.positions, "cutoff": CUTOFF, "rfac0": RFAC0}
    arrays = {key: np.asarray(value) for key, value in job.items()}
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "job.npz"), Path(folder, "result.npy")
        np.savez(source, **arrays)
        subprocess.run([sys.executable, WORKER, source, result], input="\n", text=True, check=True, capture_output=True)
        columns = np.load(result)
    return arrays | {"columns": columns.reshape(-1, columns.shape[-1])}


def main() -> None:
    cases = {name: evaluate(job) for name, job in jobs().items()}
    np.savez_compressed(
        RESULT, **{f"{name}.{key}": value for name, case in cases.items() for key, value in case.items()}
    )


if __name__ == "__main__":
    main()
