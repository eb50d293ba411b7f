"""The generalised stacking-fault energy of hcp beryllium along the partial Burgers vector, 0 (hcp) to 1 (the fault I2).

Run: python fault_energy_curve.py. Half a crystal slides over the other; then all layers relax along their normal. DFT
comes from labels in the package, those of relaxed cells at the places to which an earlier model has relaxed them; with
--pseudo-dir FOLDER (by ase-ldos pseudo Be) from Quantum ESPRESSO at this run's places (an hour, resumes). Writes
fault_energy_curve.png, and fault_density.png: the density minus that of halves that slide rigidly (minutes).
"""

import argparse

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.reference_labels import MODELS, reference_labels
from ase_ldos.simulation.plots import density_figure
from ase_ldos.simulation.stacking import fault_energy, relax_normal, stacking_fault

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
parser.add_argument("--slides", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0])
options = parser.parse_args()
calculator = LDOSCalculator(options.model)
calculator.fix_grid((9, 9, 56))


def make(slide: float, name: str = "gsf") -> Atoms:
    """Eight layers, the upper four slid."""
    atoms = stacking_fault("Be", 2.245, 2.245 * 1.573, slide, layers=8)
    atoms.info["name"] = f"{name}_{slide:.2f}"
    atoms.calc = calculator
    return atoms


hcp, rigid, relaxed = make(0.0), [make(slide) for slide in options.slides], [make(s, "relaxed") for s in options.slides]
for atoms in tqdm(relaxed, desc="relaxing"):
    relax_normal(atoms)
dft = reference_labels([hcp, *rigid], recipe=MODELS / "be" / "faults.toml", pseudo_dir=options.pseudo_dir)
dft |= reference_labels(relaxed, exact=False, recipe=MODELS / "be" / "faults.toml", pseudo_dir=options.pseudo_dir)
print("mJ/m²: rigid; relaxed by this model; at the places of DFT's labels of relaxed cells")
print(f"{'slide':>6}{'rigid':>10}{'DFT':>8}{'relaxed':>12}{'at labels':>12}{'DFT':>8}")
rows = [(0.0,) * 6]
for slide, first, last in zip(options.slides, rigid, relaxed):
    labels = [dft.get(atoms.info["name"]) for atoms in (first, last)]
    placed = Atoms(labels[1], calculator=calculator) if labels[1] else None
    model = [fault_energy(atoms, hcp) for atoms in (first, last, placed)]
    answers = [fault_energy(label, dft.get("gsf_0.00")) for label in labels]
    rows.append((slide, model[0], answers[0], model[1], model[2], answers[1]))
    print("{:6.2f}{:10.0f}{:8.0f}{:12.0f}{:12.0f}{:8.0f}".format(*rows[-1]))

figure = Figure(figsize=(5.5, 4), layout="constrained")
axes = figure.add_subplot(xlabel="slide / partial Burgers vector", ylabel="energy (mJ/m²)")
columns = np.array(rows).T
for row, style, label in (
    (1, "o--", "rigid"),
    (3, "o-", "relaxed"),
    (2, "ks", "rigid, DFT"),
    (5, "k^", "relaxed, DFT"),
):
    axes.plot(columns[0], columns[row], style, label=label, markerfacecolor="none" if "DFT" in label else None)
axes.legend()
figure.savefig("fault_energy_curve.png", dpi=150)

# Each plane of hcp's density, moved as the slide moves it, by its Fourier series; the third cell vector has moved too.
atoms, before, after = rigid[-1], calculator.get_density(hcp), calculator.get_density(rigid[-1])
slide = (np.linalg.inv(hcp.cell.T) @ (atoms.cell[2] - hcp.cell[2]))[:2]
height = np.arange(before.shape[2]) / before.shape[2]
upper = height > (hcp.positions[3, 2] + hcp.positions[4, 2]) / 2 / hcp.cell[2, 2]
waves = [np.fft.fftfreq(n, 1 / n) for n in before.shape[:2]]
phase = waves[0][:, None, None] * slide[0] + waves[1][None, :, None] * slide[1]
moved = np.fft.ifft2(np.fft.fft2(before, axes=(0, 1)) * np.exp(2j * np.pi * phase * (height - upper)), axes=(0, 1)).real
print(f"electrons moved by the fault: {np.abs(after - moved).mean() * atoms.get_volume() / 2:.3f}")
wide = density_figure(atoms.repeat((1, 4, 1)), np.tile(after - moved, (1, 4, 1)), axis=0, title="change of density")
wide.savefig("fault_density.png", dpi=150)
