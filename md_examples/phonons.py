"""Phonons of hcp beryllium by finite displacements: bands, density of states, optical modes at Γ against DFT.

Run: python phonons.py [--supercell 3 3 2]. Needs phonopy (pip install ase-ldos[phonons]). DFT comes from labels in the
package, or with --pseudo-dir FOLDER (by ase-ldos pseudo Be) from Quantum ESPRESSO. Writes phonons.png (under a minute).
Of the special points 3×3×2 holds Γ, K and A exactly; M, which it interpolates, moves by up to 5 % in 6×6×4 (288 atoms).
"""

import argparse

import numpy as np
from ase import Atoms
from ase.build import bulk
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.reference_labels import reference_labels

try:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms
except ImportError as error:
    raise SystemExit(f"phonons.py needs phonopy, which is not installed: pip install phonopy ({error})") from error

GRID = (9, 9, 14)  # points per hcp cell, so that all cells of a supercell see the same grid


def frozen_frequency(pair: list[Atoms], forces: list[np.ndarray]) -> float:
    """Frequency, THz, of a Γ mode from forces at two opposite displacements R along it: ω² = −ΔF·ΔR / Σ m ΔR²."""
    shift = pair[0].positions - pair[1].positions
    shift -= shift.mean(axis=0)  # a translation of all atoms, of equal masses, costs nothing
    square = -np.sum(shift * (forces[0] - forces[1])) / np.sum(pair[0].get_masses()[:, None] * shift**2)
    return float(np.sign(square) * abs(square) ** 0.5 * 15.633302)  # (eV/Å²/u)^(1/2) / 2π in THz


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
parser.add_argument("--supercell", type=int, nargs=3, default=(3, 3, 2), metavar="N")
options = parser.parse_args()
cell = bulk("Be", "hcp", a=2.245, c=2.245 * 1.573)  # the lattice constants of DFT
unit = PhonopyAtoms(symbols=cell.symbols, cell=cell.cell, scaled_positions=cell.get_scaled_positions())
phonon = Phonopy(unit, np.diag(options.supercell), primitive_matrix=np.eye(3))
phonon.generate_displacements(distance=0.03)
calculator = LDOSCalculator(options.model)
calculator.fix_grid(tuple(n * m for n, m in zip(GRID, options.supercell)))
images = [phonon.supercell, *phonon.supercells_with_displacements]
rest, *moved = [calculator.get_forces(Atoms(i.symbols, i.positions, cell=i.cell, pbc=True)) for i in images]
phonon.forces = np.array(moved) - rest  # forces at rest are a residue of the grid
phonon.produce_force_constants()
phonon.symmetrize_force_constants()
phonon.run_qpoints((path := cell.cell.bandpath("GMKGALHA", npoints=200)).kpts)
bands = phonon.qpoints.frequencies
phonon.run_mesh([30, 30, 20], is_gamma_center=True)
phonon.run_total_dos()
lowest = min(bands.min(), phonon.mesh.frequencies.min())
verdict = "no imaginary modes" if lowest > -0.05 else "imaginary modes"
print(f"{len(rest)} atoms: frequencies {lowest:.3f} to {bands.max():.2f} THz, {verdict}")
# One sublattice moved by ±0.02 Å along x or z: by model and DFT, at the same places.
calculator.fix_grid(GRID)
print(f"{'optical mode at Γ, THz':24}{'phonopy':>9}{'frozen':>9}{'DFT':>9}{'error':>9}")
for mode, direction, band in (("E2g", "x", 3), ("B1g", "z", 5)):
    pair = [cell.copy() for _ in range(2)]
    for atoms, sign in zip(pair, (1, -1)):
        atoms.positions[0, "xyz".index(direction)] += 0.02 * sign
        atoms.info["name"] = f"elastic_move_0{direction}_{sign:+d}"
    model = frozen_frequency(pair, [calculator.get_forces(atoms) for atoms in pair])
    labels = list(reference_labels(pair, pseudo_dir=options.pseudo_dir).values())
    dft = frozen_frequency(labels, [atoms.get_forces() for atoms in labels])
    print(f"{mode:24}{bands[0, band]:9.2f}{model:9.2f}{dft:9.2f}{model / dft - 1:9.1%}")

figure = Figure(figsize=(8, 4.5), layout="constrained")
left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
axis, ticks, names = path.get_linear_kpoint_axis()
left.plot(axis, bands, color="tab:blue", linewidth=1)
left.set(xticks=ticks, xticklabels=[n.replace("G", "Γ") for n in names], ylabel="frequency (THz)", title="hcp Be")
right.fill_betweenx(phonon.total_dos.frequency_points, phonon.total_dos.dos)
right.set(xlabel="states (1/THz)", xlim=0, ylim=min(0, lowest))
figure.savefig("phonons.png", dpi=150)
