"""Make the snapshots of beryllium in ``be/`` again: two cells of two atoms, some minutes of Quantum ESPRESSO.

    python tests/data_files/make_beryllium.py

``hcp2`` has LDOS and states of a dense mesh; ``sheared2`` has energies, forces and density alone. The stress is left
out: pw.x 6.7 computes its deviatoric part wrongly from a potential in GTH's layout.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from gth_potentials import write_gth

from ase_ldos.dataset.npz import save_snapshot
from ase_ldos.labelling.dft_settings import load_recipe
from ase_ldos.labelling.pw import calculate

FOLDER = Path(__file__).parent / "be"


def structures() -> dict[str, Atoms]:
    """The cells by the names of their files."""
    crystal = bulk("Be", "hcp", a=2.245, c=3.531)
    crystal.rattle(0.06, seed=1)
    sheared = crystal.copy()
    strain = np.array([[0.01, 0.03, 0], [0, -0.02, 0], [0.02, 0, 0]])
    sheared.set_cell(crystal.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return {"hcp2": crystal, "sheared2": sheared}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_gth(Path(folder), "Be")
        setup = load_recipe(FOLDER / "recipe.toml", pseudo_dir=folder)
        for name, atoms in structures().items():
            work = Path(folder) / name
            work.mkdir()
            snapshot = calculate(name, atoms, setup if name == "hcp2" else replace(setup, ldos=None), work)
            save_snapshot(FOLDER / f"{name}.npz", replace(snapshot, stress=None))


if __name__ == "__main__":
    main()
