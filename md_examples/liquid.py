"""Liquid aluminium: dynamics by the model `al`, its pair distribution against DFT's own dynamics, DOS of both phases.

Run: python liquid.py. Langevin dynamics in the cell and at the temperature of DFT's trajectory of 16 atoms, which is in
the package, or with --repeat N in N³ such cells. The densities of states are those of structures that were not learned
from, one solid and one liquid. Writes liquid.png (minutes).
"""

import argparse

import numpy as np
from ase import Atoms
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.units import fs
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.data.espresso_files import sample_dos
from ase_ldos.data.reference import RECIPES
from ase_ldos.data.snapshot import load_snapshots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="al")
parser.add_argument("--repeat", type=int, default=1, help="cells of 16 atoms along each edge")
parser.add_argument("--steps", type=int, default=600, help="of 2 fs; the first third is left out")
options = parser.parse_args()

with np.load(RECIPES / "al-liquid-dynamics.npz") as data:
    dft = [Atoms(f"Al{len(p)}", positions=p, cell=data["cell"], pbc=True) for p in data["positions"]]
    temperature = float(data["temperature"])
atoms, random = dft[0].repeat(options.repeat), np.random.default_rng(1)
atoms.calc = calculator = LDOSCalculator(options.model)
MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
dynamics = Langevin(atoms, 2 * fs, temperature_K=temperature, friction=0.02 / fs, rng=random)
frames = []
for step in tqdm(range(options.steps), unit="step"):
    dynamics.run(1)
    if step >= options.steps // 3 and step % 4 == 0:
        frames.append(atoms.copy())


def pair_distribution(snapshots: list[Atoms], reach: float = 6.0, width: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Distances, Å, and g(r), images of an atom itself included."""
    edges = np.linspace(0, reach, round(reach / width) + 1)
    counts = sum(np.histogram(neighbor_list("d", cell, reach), edges)[0] for cell in snapshots) / len(snapshots)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    return 0.5 * (edges[1:] + edges[:-1]), counts / shells * snapshots[0].get_volume() / len(snapshots[0]) ** 2


print(f"{len(atoms)} atoms, {np.mean([frame.get_temperature() for frame in frames]):.0f} K, {len(frames)} frames")
print(f"{'':8}{'first peak (Å)':>16}{'its height':>12}{'first minimum (Å)':>19}{'neighbours':>12}")
figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for name, source in (("model", frames), ("DFT", dft)):
    r, g = pair_distribution(source)
    left.plot(r, g, label=name)
    peak = int(np.argmax(g))
    low = peak + int(np.argmin(g[peak : np.searchsorted(r, 4.8)]))
    within = 4 * np.pi * np.sum((r**2 * g)[:low]) * (r[1] - r[0]) * len(dft[0]) / dft[0].get_volume()
    print(f"{name:8}{r[peak]:16.2f}{g[peak]:12.2f}{r[low]:19.2f}{within:12.1f}")
left.set(xlabel="distance (Å)", ylabel="g(r)", title=f"liquid at {temperature:.0f} K")
metadata = calculator.model.metadata
for phase, color in (("solid", "tab:blue"), ("liquid", "tab:red")):
    # as large a cell as there is among the structures that were not learned from
    unseen = [s for s in load_snapshots(RECIPES / f"al-{phase}.npz") if s.name in metadata.provenance["held back"]]
    label = max(unseen, key=lambda s: len(s.numbers))
    dos = calculator.get_dos(label.to_atoms())
    known = dos.get_energies() < label.eigenvalues[:, -1].min() - 2 * metadata.smearing  # bands end there
    energies, found = dos.get_energies()[known], dos.get_weights()[known] / len(label.numbers)
    wanted = sample_dos(energies, metadata.smearing, label.eigenvalues, label.k_weights) / len(label.numbers)
    print(f"DOS of {label.name} ({phase}): off by {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.1%}")
    right.plot(energies, found, color=color, label=phase)
    right.plot(energies, wanted, "k--", linewidth=1)
right.set(xlabel="energy (eV); dashed: DFT", ylabel="density of states (1/eV/atom)")
for axes in (left, right):
    axes.legend()
figure.savefig("liquid.png", dpi=150)
