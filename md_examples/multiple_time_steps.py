"""Multiple time steps: beryllium by r-RESPA, the model every 8 fs, a potential distilled from it every 1 fs.

Run: python multiple_time_steps.py [--outer 8] [--picoseconds 0.5]. Where the model file holds no distilled potential,
one is made first from the model itself (ase-ldos distill keeps it). From one start: velocity Verlet with the model at
every 1 fs for a while; r-RESPA; and the distilled potential alone, of which the model looks at a few frames. Writes
multiple_time_steps.png (three minutes).
"""

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet
from ase.units import fs, kB
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import DistilledCalculator, LDOSCalculator, RespaLDOS, load_model
from ase_ldos.training.distill import distill

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--outer", type=float, default=8.0, help="fs between two calls of the model")
parser.add_argument("--picoseconds", type=float, default=0.4, help="of r-RESPA")
parser.add_argument("--verlet", type=float, default=0.1, help="ps of velocity Verlet with the model alone")
parser.add_argument("--structures", type=int, default=40, help="from which a potential is distilled")
options = parser.parse_args()

model = load_model(options.model)
crystal = bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))
if model.distilled is None:
    began = time.process_time()
    model.distilled = distill(model, [crystal], temperature=300, n_structures=options.structures)
    print(f"distilled in {time.process_time() - began:.0f} s of CPU time")
errors = model.distilled.errors
print(
    f"distilled potential against the model: {errors['energy']:.2f} meV/atom, forces {errors['forces']:.0f} meV/Å of "
    f"{errors['typical_forces']:.0f}"
)


def start(calculator: LDOSCalculator | DistilledCalculator) -> Atoms:
    atoms, random = crystal.copy(), np.random.default_rng(1)
    momenta = random.normal(size=(len(atoms), 3)) * np.sqrt(600 * kB * atoms.get_masses())[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))  # half of 600 K becomes potential energy
    atoms.calc = calculator
    return atoms


def follow(name: str, dynamics: MolecularDynamics, duration: float) -> dict[str, np.ndarray | float]:
    """Times, fs, energies, meV/atom, temperatures, and CPU seconds per ps."""
    atoms, rows, began = dynamics.atoms, [], time.process_time()
    steps = round(1000 * duration * fs / dynamics.dt)
    for _ in tqdm(dynamics.irun(steps), total=steps + 1, desc=name, unit="step", leave=False):
        rows.append((dynamics.get_time() / fs, 1000 * atoms.get_total_energy() / len(atoms), atoms.get_temperature()))
    times, energies, temperatures = np.array(rows).T
    return {"t": times, "E": energies, "T": temperatures, "cpu": (time.process_time() - began) / duration}


calculator = LDOSCalculator(model)
runs = {
    "velocity Verlet, 1 fs": follow("velocity Verlet", VelocityVerlet(start(calculator), fs), options.verlet),
    f"r-RESPA, {options.outer:g} fs": follow(
        "r-RESPA",
        RespaLDOS(start(calculator), options.outer * fs, DistilledCalculator(model), round(options.outer)),
        options.picoseconds,
    ),
}
explorer = start(DistilledCalculator(model))
runs["distilled potential alone"] = follow("explorer", VelocityVerlet(explorer, fs), options.picoseconds)
plain, respa, alone = runs.values()
print(f"{'':28}{'CPU s/ps':>10}{'gain':>8}{'ripple (meV/atom)':>19}{'T (K)':>8}")
for name, run in runs.items():
    gain, ripple = plain["cpu"] / run["cpu"], np.std(run["E"])
    late = run["T"][run["t"] > run["t"][-1] / 4].mean()
    print(f"{name:28}{run['cpu']:10.1f}{gain:8.1f}{ripple:19.3f}{late:8.0f}")
shared = np.intersect1d(np.round(plain["t"], 6), np.round(respa["t"], 6))
apart = max(
    abs(np.interp(shared, plain["t"], plain["T"]) - np.interp(shared, respa["t"], respa["T"])), default=float("nan")
)
print(f"temperatures of the first two differ by at most {apart:.1f} K in the first {shared[-1]:.0f} fs")
density = calculator.get_density(explorer)  # the electrons, where the explorer has arrived
off = 1000 * (calculator.get_potential_energy(explorer) - explorer.get_potential_energy()) / len(explorer)
print(f"the model at the explorer's end: {off:+.2f} meV/atom from it, densities up to {density.max():.3f} e/Å³")

figure = Figure(figsize=(7, 4.5), layout="constrained")
upper, lower = figure.subplots(2, 1, sharex=True)
for name, run in runs.items():
    upper.plot(run["t"], run["T"], label=name)
    lower.plot(run["t"], run["E"] - run["E"][0])
upper.set(ylabel="temperature (K)", title="16 atoms of beryllium at constant energy")
upper.legend()
lower.set(xlabel="time (fs)", ylabel="total energy (meV/atom)")
figure.savefig("multiple_time_steps.png", dpi=150)
