"""Electrons at a stacking fault of beryllium: their density, and the density of states layer by layer.

Run: python fault_electrons.py (seconds). The fault is the intrinsic one, I2, of hcp: two neighbouring layers whose
surroundings are those of fcc. The LDOS, integrated over each layer, tells how states move there. Writes
fault_electrons.png, the picture of the README.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates

from ase_ldos import LDOSCalculator
from ase_ldos.simulation.stacking import polytype

A, C = 2.245, 3.531  # hcp's lattice constants, Å
PLANES = 7  # of grid points per layer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--layers", type=int, default=16, help="even")
options = parser.parse_args()

# h: like hcp, c: like fcc; the fault comes to lie in the middle
half = options.layers // 2
atoms = polytype("Be", A, C, "h" * (half - 1) + "cc" + "h" * (half - 1))
atoms.calc = calculator = LDOSCalculator(options.model)
calculator.fix_grid((9, 9, PLANES * len(atoms)))
density = calculator.get_density(atoms)
ldos = calculator.get_ldos(atoms)  # 1/(eV Å³), [nx, ny, nz, energy]
energies, level = calculator.prediction.energy_grid.cpu().numpy(), calculator.get_fermi_level()

# D(z, ε): over the plane by a sum, along the normal by a mean over the distance of two layers about each height
area = atoms.get_volume() / atoms.cell[2, 2]
by_plane = ldos.mean(axis=(0, 1), dtype=float) * area  # 1/(eV Å)
by_layer = np.mean([np.roll(by_plane, shift, axis=0) for shift in range(-(PLANES // 2), PLANES // 2 + 1)], axis=0)
by_layer *= C / 2  # 1/eV for a layer's atom
height = np.arange(len(by_layer)) / len(by_layer) * atoms.cell[2, 2]
center = atoms.positions[half - 1 : half + 1, 2].mean()  # between the two layers like fcc
nearest = [int(np.abs(height - z).argmin()) for z in atoms.positions[:, 2]]
fault, crystal = by_layer[nearest[half - 1 : half + 1]].mean(axis=0), by_layer[nearest[0]]
at_level = [np.interp(level, energies, dos) for dos in (crystal, fault)]
print(f"{len(atoms)} layers, Fermi level {level:.3f} eV")
print("states at the Fermi level: {:.4f} /eV/atom in the crystal, {:.4f} at the fault".format(*at_level))
above = (energies > level) & (energies < level + 3)
peaks = [energies[above][dos[above].argmax()] for dos in (crystal, fault)]
print("first peak above it: {:.1f} eV in the crystal, {:.1f} eV at the fault".format(*peaks))

# the plane at right angles to a₁ through the atoms: there every layer shows its place A, B or C
y, z = np.meshgrid(np.linspace(0, 3 * 3**0.5 * A, 181), np.linspace(center - 9, center + 9, 241), indexing="ij")
points = np.stack((np.full_like(y, atoms.positions[0, 0]), y, z), axis=-1)
places = np.linalg.solve(atoms.cell.array.T, points.reshape(-1, 3).T).reshape(3, *y.shape)
indices = places * np.array(density.shape)[:, None, None]
plane = map_coordinates(density, indices, order=3, mode="grid-wrap")

figure = Figure(figsize=(11, 3.3), layout="constrained")
left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.15, 1))
picture = left.pcolormesh(z - center, y, plane, cmap="magma", shading="gouraud", rasterized=True)
figure.colorbar(picture, label="e/Å³", shrink=0.72)
left.set(xlabel="distance from the fault (Å)", yticks=[], aspect="equal", title="electron density")
picture = middle.pcolormesh(height - center, energies, by_layer.T, cmap="viridis", shading="gouraud", rasterized=True)
middle.axhline(level, color="w", linestyle="--", linewidth=1)
figure.colorbar(picture, label="1/eV/atom")
middle.set(
    xlabel="distance from the fault (Å)", ylabel="energy (eV)", xlim=(-9, 9), title="density of states, layer by layer"
)
right.plot(energies, crystal, label="crystal")
right.plot(energies, fault, label="fault")
right.axvline(level, color="k", linestyle="--", linewidth=1)
right.set(xlabel="energy (eV); dashed: Fermi level", ylabel="1/eV/atom", title="density of states", ylim=(0, 0.5))
right.legend(loc="upper left", fontsize=8)
figure.savefig("fault_electrons.png", dpi=100)
