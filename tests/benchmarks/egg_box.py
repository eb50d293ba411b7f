"""The egg-box effect: what energy and forces feel of the grid, for several grids, and what each costs.

Run: python egg_box.py --model be --spacing 0.25 0.2 0.16 --average 1 2 4. Rattled atoms are moved together by fractions
of a grid step along x and z. Columns: range of the energy; largest sum of all forces; standard deviation of a component
of a force; what the ripple's curvature alone would make of an acoustic mode at Γ; CPU time of energy and forces.
``--average 2`` and ``4`` take the mean over a body- and a face-centred set of sub-shifts of the grid, 1 is the grid
itself. A table in Markdown. With --acoustic instead the acoustic modes at Γ of the crystal at rest, from forces of all
its displacements; without the mean force (``LDOSCalculator(remove_net_force=True)``) they are zero by construction.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import _e, _hbar, s
from tqdm import tqdm

from ase_ldos import LDOSCalculator, load_model, predict
from ase_ldos.geometry.grid import grid_shape
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.training.distill import reference_crystal

SHIFTS = {
    1: [(0.0, 0.0, 0.0)],
    2: [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5)],
    4: [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)],
}
#: ħ in eV times ASE's unit of time.
HBAR = _hbar / _e * s


def curvature_mode(energies: np.ndarray, step: float, mass: float) -> float:
    """ħω, meV, of a cosine with the range of the energies per atom (eV) over a period of the step (Å)."""
    amplitude = np.ptp(energies) / 2
    return 1000 * HBAR * float((amplitude * (2 * np.pi / step) ** 2 / mass) ** 0.5)


def acoustic_modes(model: LDOSModel, atoms: Atoms, spacing: float, step: float = 0.02) -> np.ndarray:
    """ħω, meV, of the three modes in which all atoms move together; below 0 where ω² is. ω² = Σ_ij Φ_ij / Σ_i m_i."""
    calculator = LDOSCalculator(model)
    calculator.fix_grid(grid_shape(atoms.cell.array, spacing))
    sums = np.zeros((3, 3))
    for atom in tqdm(range(len(atoms)), leave=False):
        for axis in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                sums[axis] -= sign * calculator.get_forces(moved).sum(axis=0) / (2 * step)
    squares = np.linalg.eigvalsh((sums + sums.T) / 2) / atoms.get_masses().sum()
    return 1000 * HBAR * np.sign(squares) * np.sqrt(np.abs(squares))


def row(model: LDOSModel, atoms: Atoms, spacing: float, average: int, n_places: int) -> list[float]:
    """The numbers of one grid; see the module."""
    shape = np.array(grid_shape(atoms.cell.array, spacing))
    n, clock, count = len(atoms), 0.0, 0
    ranges, sums, spreads, modes = [], [], [], []
    for axis in (0, 2):
        energies, forces = [], []
        for part in tqdm(np.arange(n_places) / n_places, desc=f"{spacing:g} Å, {average}", leave=False):
            found = []
            for shift in SHIFTS[average]:
                moved, fraction = atoms.copy(), np.array(shift)
                fraction[axis] += part
                moved.positions += (fraction / shape) @ atoms.cell.array
                before = time.process_time()
                found.append(predict(model, moved, forces=True, grid_shape=tuple(int(size) for size in shape)))
                clock += time.process_time() - before
            count += 1
            energies.append(np.mean([one.free_energy for one in found]) / n)
            forces.append(np.mean([one.forces.cpu().numpy() for one in found], axis=0))
        step = float(np.linalg.norm(atoms.cell[axis]) / shape[axis])
        ranges.append(1000 * np.ptp(energies))
        sums.append(1000 * np.linalg.norm(np.sum(forces, axis=1), axis=1).max())
        spreads.append(1000 * np.std(forces, axis=0).mean())
        modes.append(curvature_mode(np.array(energies), step, float(atoms.get_masses().mean())))
    return [*ranges, max(sums), float(np.mean(spreads)), max(modes), clock / count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="be")
    parser.add_argument("--spacing", type=float, nargs="+", metavar="Å", help="default: the model's own")
    parser.add_argument("--average", type=int, nargs="+", choices=SHIFTS, default=[1])
    parser.add_argument("--places", type=int, default=6, help="along each axis")
    parser.add_argument("--rattle", type=float, default=0.08, metavar="Å", help="standard deviation of the atoms")
    parser.add_argument("--acoustic", action="store_true", help="acoustic modes at Γ")
    options = parser.parse_args()
    model = load_model(options.model)
    beryllium = model.descriptor.species == (4,)
    crystal = bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2)) if beryllium else reference_crystal(model)
    if options.acoustic:
        for spacing in options.spacing or [model.metadata.grid_spacing]:
            print(f"{spacing:g} Å: {', '.join(f'{mode:.2g}' for mode in acoustic_modes(model, crystal, spacing))} meV")
        return
    if options.rattle:
        crystal.rattle(options.rattle, seed=1)
    print(f"{options.model}, {crystal.get_chemical_formula()}")
    heads = ["range x", "range z, meV/atom", "net force, meV/Å", "spread of forces, meV/Å", "mode, meV", "CPU s"]
    print(f"| spacing, Å | average of | {' | '.join(heads)} |\n" + "|---" * 8 + "|")
    for spacing in options.spacing or [model.metadata.grid_spacing]:
        for average in options.average:
            values = row(model, crystal, spacing, average, options.places)
            print(f"| {spacing:g} | {average} | {' | '.join(f'{value:.3g}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
