"""Liquid aluminium: dynamics by the model `al`, its pair distribution against DFT's own dynamics, DOS of both phases.

Run: python liquid.py. Langevin dynamics in the cell and at the temperature of DFT's trajectory of 16 atoms, which is in
the package, or with --repeat N in N³ such cells. The densities of states are those of structures that were not learned
from, one solid and one liquid. Writes liquid.png (minutes).
"""

import argparse

import numpy as np
from ase import Atoms
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list
from ase.units import fs, kB
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.dataset.broadening import broaden
from ase_ldos.labelling.reference_labels import MODELS

KEYS = ("cell", "positions", "energies", "dos", "sigma", "known")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="al")
parser.add_argument("--repeat", type=int, default=1, help="cells of 16 atoms along each edge")
parser.add_argument("--steps", type=int, default=270, help="of 2 fs; the first fifth is left out")
options = parser.parse_args()

with np.load(MODELS / "al" / "phases.npz") as file:
    data = dict(file)
dft = [Atoms(f"Al{len(p)}", positions=p, cell=data["cell"], pbc=True) for p in data["positions"]]
temperature = float(data["temperature"])
atoms, random = dft[0].repeat(options.repeat), np.random.default_rng(1)
atoms.calc = calculator = LDOSCalculator(options.model)
atoms.set_momenta(random.normal(size=(len(atoms), 3)) * np.sqrt(temperature * kB * atoms.get_masses())[:, None])
dynamics = Langevin(atoms, 2 * fs, temperature_K=temperature, friction=0.02 / fs, rng=random, fixcm=False)
frames = []
for step in tqdm(range(options.steps), unit="step"):
    dynamics.run(1)
    if step >= options.steps // 5 and step % 2 == 0:
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
for phase, color in (("solid", "tab:blue"), ("liquid", "tab:red")):
    cell, positions, nodes, wanted, sigma, known = (data[f"{phase}_{key}"] for key in KEYS)
    dos = calculator.get_dos(Atoms(f"Al{len(positions)}", positions=positions, cell=cell, pbc=True))
    energies = dos.get_energies()[dos.get_energies() < known - 0.6]  # DFT's bands end there
    found = dos.get_weights()[: len(energies)] / len(positions)
    wider = (calculator.model.metadata.broadening**2 - sigma**2) ** 0.5
    wanted = broaden(wanted, nodes, wider, onto=energies) / len(positions)
    print(f"DOS of the {phase}: {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.1%} from DFT's")
    right.plot(energies, found, color=color, label=phase)
    right.plot(energies, wanted, "--", color=color, linewidth=1)
right.set(xlabel="energy (eV); dashed: DFT", ylabel="density of states (1/eV/atom)")
for axes in (left, right):
    axes.legend()
figure.savefig("liquid.png", dpi=150)
