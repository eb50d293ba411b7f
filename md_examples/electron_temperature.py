"""Hot electrons in a cold lattice: ions at 300 K, electrons from 300 to 10,000 K, as just after a laser pulse.

Run: python electron_temperature.py [--frames 4]. Writes electron_temperature.png (a minute). The states stay those of
the model's own temperature. So dF/dT = −S holds for F = E_b − TS, and for A with the calculator's entropy, which counts
what a model has learned of hot electrons (`ase-ldos heat`).
Close to the highest temperature c_e is too small (by up to 20 %), because states beyond the end of the model's energies
are missing.
"""

import argparse

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import read
from ase.md.langevin import Langevin
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator, Prediction
from ase_ldos.physics.occupation import fermi_level, highest_temperature, occupation_weights


def electrons(found: Prediction, temperature: float) -> np.ndarray:
    """μ (eV), E_b (eV/atom), S (eV/K/atom) of electrons of this temperature (K) in the states that were found."""
    dos, energies, kT = found.dos, found.energy_grid, units.kB * temperature
    level = fermi_level(dos, energies, n_electrons, kT, found.fermi_level)
    weights = occupation_weights(energies, level, kT)
    band, entropy = weights.band @ dos, -weights.entropy @ dos / temperature
    return np.array((level, band / found.energies.n_atoms, entropy / found.energies.n_atoms))


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--structure", help="file of a structure to take in place of hcp Be; give its model too")
parser.add_argument("--frames", type=int, default=4, help="averaged over")
parser.add_argument("--interval", type=int, default=20, help="steps of 1 fs between them")
options = parser.parse_args()

random = np.random.default_rng(1)
atoms = read(options.structure) if options.structure else bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))
atoms.calc = LDOSCalculator(options.model, device="cpu")
speed = np.sqrt(600 * units.kB / atoms.get_masses())[:, None]  # half of it becomes potential energy
atoms.set_velocities(speed * random.normal(size=(len(atoms), 3)))
dynamics = Langevin(atoms, units.fs, temperature_K=300, friction=0.02 / units.fs, rng=random, fixcm=False)
frames = []
for _ in range(options.frames):
    dynamics.run(options.interval)
    frames.append(atoms.calc.prediction)
n_electrons = float(frames[0].density.mean() * frames[0].grid.volume)
highest = 0.999 * min(highest_temperature(frame.dos, frame.energy_grid, n_electrons) for frame in frames)
if highest < 10_000:
    print(f"The model's energies, up to {frames[0].energy_grid[-1]:.2f} eV, allow {highest:.0f} K, not 10,000 K.")

T = np.geomspace(300, min(10_000, highest) / 1.001, 57)
low, now, high = (np.mean([[electrons(f, t * x) for t in T] for f in frames], axis=0).T for x in (0.999, 1, 1.001))
heat = (high[1] - low[1]) / (0.002 * T)
states = np.mean([np.interp(f.fermi_level, f.energy_grid, f.dos) for f in frames]) / len(atoms)
sommerfeld = np.pi**2 / 3 * units.kB**2 * states * T
print(f"D(E_F) = {states:.4f} /eV/atom at 300 K; S and heat capacities in k_B/atom")
print(f"{'T (K)':>7}{'mu (eV)':>9}{'S':>9}{'c_e':>9}{'Sommerfeld':>12}")
for row in range(0, 57, 8):
    values = np.array((now[2, row], heat[row], sommerfeld[row])) / units.kB
    print(f"{T[row]:7.0f}{now[0, row]:9.3f}{values[0]:9.4f}{values[1]:9.4f}{values[2]:12.4f}")
slope = (high[1] - low[1] - 1.001 * T * high[2] + 0.999 * T * low[2]) / (0.002 * T)
from_entropy = (high[2] - low[2]) / 0.002
errors = np.abs(slope / now[2] + 1).max(), np.abs(from_entropy / heat - 1).max()
print("largest relative errors: of dF/dT = -S {:.1e}, of dE_b/dT = T dS/dT {:.1e}".format(*errors))
A, S = [], []
for temperature in (0.99 * T[-1], 0.995 * T[-1], T[-1]):
    atoms.calc.set(electronic_temperature=float(temperature))
    A.append(atoms.get_potential_energy())
    S.append(atoms.calc.get_quantity("electronic_entropy"))
ratio = (A[0] - A[2]) / (0.01 * T[-1] * S[1])
print(f"dA/dT is {ratio:.3f} times -S at {T[-1]:.0f} K")
figure = Figure(figsize=(8, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for values, style, name in ((heat, "-", "c_e"), (now[2], "-", "S"), (sommerfeld, "k--", "Sommerfeld")):
    left.plot(T, values / units.kB, style, label=name)
left.set(xlabel="electronic temperature (K)", ylabel="k_B per atom")
left.legend()
right.plot(T, now[0])
right.set(xlabel="electronic temperature (K)", ylabel="Fermi level (eV)")
figure.savefig("electron_temperature.png", dpi=150)
