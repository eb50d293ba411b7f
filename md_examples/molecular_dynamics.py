"""Molecular dynamics with the electrons on record: NVE, NVT (Langevin) or NPT (Martyna-Tobias-Klein) of beryllium.

Run: python molecular_dynamics.py --ensemble nve|nvt|npt. Interrupt it at any moment and run it again: it resumes from
ENSEMBLE.npz with the numbers of a run that was never interrupted. Writes that file and pictures: ENSEMBLE_energy.png,
ENSEMBLE_dos.png (density of states in time), ENSEMBLE_density.png (the last step's). Minutes.
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import MTKNPT
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.geometry.grid import grid_shape
from ase_ldos.simulation.plots import density_figure, dos_history_figure
from ase_ldos.simulation.restart import load_run, save_run

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--structure", help="file of a structure to take in place of hcp Be; give its model too")
parser.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve")
parser.add_argument("--steps", type=int, default=200, help="of 1 fs, those before an interruption included")
parser.add_argument("--interval", type=int, default=5, help="steps from one record to the next")
options = parser.parse_args()
name, random = options.ensemble, np.random.default_rng(1)

atoms = read(options.structure) if options.structure else bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))
atoms.calc = calculator = LDOSCalculator(options.model)
calculator.fix_grid(grid_shape(1.03 * atoms.cell.array, 0.25))  # one grid for all cells to come
momenta = random.normal(size=(len(atoms), 3)) * np.sqrt(600 * kB * atoms.get_masses())[:, None]
atoms.set_momenta(momenta - momenta.mean(axis=0))  # half of 600 K becomes potential energy
dynamics = {
    "nve": lambda: VelocityVerlet(atoms, fs),
    "nvt": lambda: Langevin(atoms, fs, temperature_K=300, friction=0.01 / fs, rng=random, fixcm=False),
    "npt": lambda: MTKNPT(atoms, fs, temperature_K=300, pressure_au=0, tdamp=50 * fs, pdamp=200 * fs),
}[name]()
file = Path(f"{name}.npz")
record = load_run(file, dynamics) if file.exists() else {}
print(f"starts at step {dynamics.nsteps}, writes {file}")


def note() -> None:
    total = dynamics.get_conserved_energy() if name == "npt" else atoms.get_total_energy()
    now = {"time": dynamics.nsteps, "T": atoms.get_temperature(), "total": total, "cell": atoms.cell.array.copy()}
    now |= {"level": calculator.get_fermi_level(), "dos": calculator.prediction.dos.numpy()}
    for key, value in {**now, "positions": atoms.get_positions()}.items():
        record.setdefault(key, []).append(value)
    save_run(file, dynamics, record)


dynamics.attach(note, options.interval)
for _ in tqdm(dynamics.irun(options.steps - dynamics.nsteps), total=options.steps - dynamics.nsteps + 1, unit="step"):
    pass
density, energies = calculator.get_density(atoms), calculator.prediction.energy_grid.numpy()
time, T, level, dos = (np.array(record[key]) for key in ("time", "T", "level", "dos"))
total = 1000 * (np.array(record["total"]) - record["total"][0]) / len(atoms)
volume = np.abs(np.linalg.det(record["cell"])) / len(atoms)
print(f"{'time (fs)':>10}{'T (K)':>8}{'V (Å³/atom)':>13}{'mu (eV)':>9}{'D(mu) (1/eV/atom)':>19}")
states = [np.interp(*row) / len(atoms) for row in zip(level, [energies] * len(time), dos)]
for i in range(0, len(time), max(1, len(time) // 8)):
    print(f"{time[i]:10}{T[i]:8.0f}{volume[i]:13.4f}{level[i]:9.3f}{states[i]:19.4f}")
late = time >= time[-1] / 2
print(f"means of the second half: {T[late].mean():.0f} K, {volume[late].mean():.4f} Å³/atom")
if name != "nvt":
    print(f"drift of the conserved energy: {np.polyfit(time / 1000, total, 1)[0]:.3f} meV/atom/ps")
figure = Figure(figsize=(6, 5), layout="constrained")
columns = {"temperature (K)": T, "volume (Å³/atom)": volume, "total energy (meV/atom)": total}
for axes, (label, values) in zip(figure.subplots(3, 1, sharex=True), columns.items()):
    axes.plot(time, values)
    axes.set(ylabel=label, xlabel="time (fs)")
figure.savefig(f"{name}_energy.png", dpi=150)
dos_history_figure(time, energies, dos, level).savefig(f"{name}_dos.png", dpi=150)
density_figure(atoms, density).savefig(f"{name}_density.png", dpi=150)
