"""Densities and trajectories for other programs: cube and XSF for VESTA, extxyz and cube for OVITO; all are read back.

Run: python export.py (half a minute). Writes trajectory.extxyz (positions, momenta, forces, energy), density.cube and
density.xsf, change.cube (density minus that of the atoms at their sites), fermi.cube (states at the Fermi level) and
export.png. There are no charges of atoms: in an elemental metal they would only measure how space is divided.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import read, write
from ase.io.cube import read_cube_data
from ase.io.xsf import read_xsf
from ase.md.verlet import VelocityVerlet

from ase_ldos import LDOSCalculator
from ase_ldos.formats.cube import write_cube
from ase_ldos.simulation.plots import density_figure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--structure", help="file of a structure to take in place of hcp Be; give its model too")
parser.add_argument("--steps", type=int, default=20, help="of 1 fs; every fifth goes into the trajectory")
options = parser.parse_args()

atoms = read(options.structure) if options.structure else bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))
atoms.calc = calculator = LDOSCalculator(options.model)
at_rest = calculator.get_density(atoms)
speed = np.sqrt(600 * units.kB / atoms.get_masses())[:, None]
atoms.set_velocities(speed * np.random.default_rng(1).normal(size=(len(atoms), 3)))
frames = []


def record() -> None:
    """Append a frame to the file, and remember what was written."""
    frames.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.positions.copy()))
    write("trajectory.extxyz", atoms, append=True)


Path("trajectory.extxyz").unlink(missing_ok=True)
dynamics = VelocityVerlet(atoms, units.fs)
dynamics.attach(record, interval=5)
dynamics.run(options.steps)

density, level = calculator.get_density(atoms), calculator.get_fermi_level()
energies, ldos = calculator.prediction.energy_grid.numpy(), calculator.get_ldos()
# linear between the two nodes of energy about the Fermi level
node = int(np.searchsorted(energies, level))
share = (energies[node] - level) / (energies[node] - energies[node - 1])
at_level = share * ldos[..., node - 1] + (1 - share) * ldos[..., node]
# cube files hold numbers per bohr³
write_cube("density.cube", atoms, density, comment="electron density in e/bohr^3")
write_cube("change.cube", atoms, density - at_rest, comment="change of the electron density in e/bohr^3")
write_cube("fermi.cube", atoms, at_level, comment="LDOS at the Fermi level in 1/(eV bohr^3)")
# XSF grids hold the first points again at the far ends of the cell
write("density.xsf", atoms, data=np.pad(density, (0, 1), mode="wrap"), span_vectors=atoms.cell)

voxel = calculator.prediction.grid.voxel_volume.item()
print(f"{'file':18}{'integral':>12}  unit{'':6}{'largest error':>14}")
fields = {"density.cube": (density, "e"), "change.cube": (density - at_rest, "e"), "fermi.cube": (at_level, "1/eV")}
for name, (written, unit) in fields.items():
    found = read_cube_data(name)[0] / units.Bohr**3  # ASE's reader, not our own
    print(f"{name:18}{found.sum() * voxel:12.6f}  {unit:10}{np.abs(found - written).max():14.1e}")
with Path("density.xsf").open() as file:
    found = read_xsf(file, read_data=True)[0][:-1, :-1, :-1]
print(f"{'density.xsf':18}{found.sum() * voxel:12.6f}  {'e':10}{np.abs(found - density).max():14.1e}")
images = read("trajectory.extxyz", ":")
errors = [
    (abs(i.get_potential_energy() - e), np.abs(i.get_forces() - f).max(), np.abs(i.positions - p).max())
    for i, (e, f, p) in zip(images, frames, strict=True)
]
worst = np.max(errors, axis=0)
print("trajectory.extxyz: {} frames, errors {:.1e} eV, {:.1e} eV/Å, {:.1e} Å".format(len(images), *worst))
figure = density_figure(atoms, density - at_rest, title="Density minus that of the atoms at their sites")
figure.savefig("export.png", dpi=150)
