"""Stackings of beryllium: energies of hcp, dhcp and fcc, of the faults of hcp and fcc, and their density of states.

Run: python fault_energies.py. DFT comes from labels in the package, or with --pseudo-dir FOLDER (by ase-ldos pseudo Be)
from Quantum ESPRESSO, which takes half an hour and resumes. Model and DFT are compared at the same positions; the last
column is the model's after relaxation along the normal. Writes fault_energies.png (minutes).
"""

import argparse

import numpy as np
from ase import Atoms
from ase.build import bulk
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.reference_labels import MODELS, reference_labels
from ase_ldos.simulation.stacking import fault_energy, polytype, relax_normal

FAULTS = {  # layers, and the crystal they are a fault of
    "I1": ("hhhhhhc", "hcp"),
    "I2": ("hhhhhhcc", "hcp"),
    "E": ("hhhhhhccc", "hcp"),
    "intrinsic": ("cccccchh", "fcc"),
    "extrinsic": ("cccchch", "fcc"),
}
# a and the height of two layers, Å, where DFT has no stress
LATTICE = {"hcp": (2.245, 2.245 * 1.573), "dhcp": (2.234, 3.552), "fcc": (3.126 / 2**0.5, 6.252 / 3**0.5)}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
options = parser.parse_args()

cells = {"hcp": bulk("Be", "hcp", a=LATTICE["hcp"][0], c=LATTICE["hcp"][1])}
layers = {"dhcp": ("ABCB", "dhcp"), "fcc": ("ABC", "fcc")} | {name: FAULTS[name] for name in options.faults}
cells |= {name: polytype("Be", *LATTICE[crystal], stacking) for name, (stacking, crystal) in layers.items()}
for name, atoms in cells.items():
    atoms.info["name"] = f"fault_{name}" if name in FAULTS else name
    atoms.calc = LDOSCalculator(options.model)
    atoms.calc.fix_grid((9, 9, 7 * len(atoms)))  # the same distances of grid points in all cells
labels = reference_labels(list(cells.values()), recipe=MODELS / "be" / "faults.toml", pseudo_dir=options.pseudo_dir)
dft = {name: labels[atoms.info["name"]] for name, atoms in cells.items() if atoms.info["name"] in labels}


print(f"{'energy above hcp (meV/atom)':28}{'model':>9}{'DFT':>9}")
for name in ("dhcp", "fcc"):
    found = [s[n].get_potential_energy() / len(s[n]) if n in s else np.nan for s in (cells, dft) for n in (name, "hcp")]
    print(f"{name:28}{1000 * (found[0] - found[1]):9.1f}{1000 * (found[2] - found[3]):9.1f}")
print(f"{'fault (mJ/m²)':28}{'model':>9}{'DFT':>9}{'error':>8}{'relaxed':>9}")
for name in tqdm(options.faults, desc="faults"):
    crystal = FAULTS[name][1]
    model, answer = (fault_energy(source.get(name), source.get(crystal)) for source in (cells, dft))
    relaxed = Atoms(cells[name], calculator=cells[name].calc)
    relax_normal(relaxed)
    row = (f"{name} of {crystal}", model, answer, model / answer - 1, fault_energy(relaxed, cells[crystal]))
    tqdm.write("{:28}{:9.0f}{:9.0f}{:8.1%}{:9.0f}".format(*row))

figure = Figure(figsize=(9, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
dos = {name: atoms.calc.get_dos(atoms) for name, atoms in cells.items()}
for name in ("hcp", "dhcp", "fcc"):
    left.plot(dos[name].get_energies(), dos[name].get_weights() / len(cells[name]), label=name)
for name in options.faults:
    perfect = dos[FAULTS[name][1]].get_weights() / len(cells[FAULTS[name][1]])
    right.plot(dos[name].get_energies(), dos[name].get_weights() - len(cells[name]) * perfect, label=name)
level = cells["hcp"].calc.get_fermi_level(cells["hcp"])
for axes, label in ((left, "density of states (1/eV/atom)"), (right, "change by a fault (1/eV/cell)")):
    axes.axvline(level, color="k", linestyle="--", linewidth=1)
    axes.set(xlabel="energy (eV); dashed: Fermi level of hcp", ylabel=label)
    axes.legend()
figure.savefig("fault_energies.png", dpi=150)
