"""Write the lists of beryllium's crystals, strained crystals and stacking faults: ``python make_structures.py``.

The other lists (``*.extxyz``) hold structures that were drawn at random or taken from dynamics, and are kept as they
are.
A series of cells shares one mesh of k-points and one grid of pw.x, so that differences of energies are smooth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

from ase_ldos.simulation.stacking import polytype, stacking_fault

#: Crystals by name: a, c, layers, k-mesh, grid of pw.x. The last suits the crystal's symmetry and strains of 2 %.
CRYSTALS = {
    "hcp2": (2.245, 3.5314, "AB", (20, 20, 11), (15, 15, 24)),
    "fcc3": (2.2104, 3.6096, "ABC", (20, 20, 7), (15, 15, 45)),
    "dhcp4": (2.234, 3.552, "ABCB", (20, 20, 6), (15, 15, 48)),
}
#: Strains by name: which entries of the symmetric strain tensor, each of which is the step.
MODES = {
    "xx": ((0, 0),),
    "yy": ((1, 1),),
    "zz": ((2, 2),),
    "yz": ((1, 2), (2, 1)),
    "xy": ((0, 1), (1, 0)),
    "v": ((0, 0), (1, 1), (2, 2)),
}
STEPS = (-0.02, -0.01, 0.01, 0.02)


def strained(atoms: Atoms, mode: str, step: float) -> Atoms:
    """The crystal under a strain; a shear's step is ε_ij, half the engineering strain."""
    strain = np.zeros((3, 3))
    for entry in MODES[mode]:
        strain[entry] = step
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def strained_crystals() -> list[Atoms]:
    """hcp, fcc and double hcp with ±1 and ±2 % in each mode."""
    frames = []
    for name, (a, c, layers, mesh, grid) in CRYSTALS.items():
        crystal = polytype("Be", a, c, layers)
        series = {"0": crystal} | {
            f"{mode}{round(100 * step):+d}": strained(crystal, mode, step) for mode in MODES for step in STEPS
        }
        for label, atoms in series.items():
            atoms.info = {"name": f"{name}_{label}", "kpoints": np.array(mesh), "fft_grid": np.array(grid)}
            frames.append(atoms)
    return frames


def slid_cells() -> list[Atoms]:
    """Four layers of hcp, two of which slide to the fault, at three distances of the layers."""
    frames = []
    for slide in (0.2, 0.4, 0.6, 0.8, 1.0):
        for stretch in (0.97, 1.0, 1.03):
            atoms = stacking_fault("Be", 2.245, 3.5314 * stretch, slide)
            atoms.info = {"name": f"gsf4_s{round(100 * slide)}c{round(100 * stretch)}"}
            frames.append(atoms)
    return frames


if __name__ == "__main__":
    folder = Path(__file__).parent
    write(folder / "strained.extxyz", strained_crystals())
    write(folder / "slid.extxyz", slid_cells())
