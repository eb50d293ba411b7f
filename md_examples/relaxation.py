"""Lattice constants, elastic constants and bulk modulus of hcp beryllium, by the model and by DFT.

Run: python relaxation.py. Cell and atoms are relaxed by ASE's FrechetCellFilter; elastic constants are those of the
cell that DFT's labels deform. DFT comes from labels in the package, or with --pseudo-dir FOLDER (by ase-ldos pseudo Be)
from Quantum ESPRESSO, which takes a quarter of an hour and resumes. Writes relaxation.png (a minute).
"""

import argparse

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.reference_labels import reference_labels
from ase_ldos.simulation.elasticity import ElasticResponse, deformations, elastic_response

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
options = parser.parse_args()


def lattice(atoms: Atoms) -> np.ndarray:
    """The lattice constant a, Å, and c/a."""
    a, _, c = atoms.cell.lengths()
    return np.array((a, c / a))


def constants(response: ElasticResponse) -> list[float]:
    """Bulk modulus and the elastic constants of a hexagonal crystal, GPa."""
    C = response.elastic
    return [response.bulk_modulus, C[0, 0], C[0, 1], C[0, 2], C[2, 2], C[3, 3], C[5, 5]]


cell = bulk("Be", "hcp", a=2.245, c=2.245 * 1.573)
cell.info["name"] = "hcp"
cells = deformations(cell)
for deformed in cells:
    deformed.info["name"] = f"elastic_{deformed.info['name']}"
dft = reference_labels([cell, *cells], pseudo_dir=options.pseudo_dir)
calculator = LDOSCalculator(options.model)
calculator.fix_grid((9, 9, 14))  # one grid for all cells
relaxed = cell.copy()
for atoms in (cell, relaxed, *cells):
    atoms.calc = calculator
trace = []
optimizer = BFGS(FrechetCellFilter(relaxed), logfile=None)
optimizer.attach(lambda: trace.append(1000 * relaxed.get_potential_energy() / 2))
if not optimizer.run(fmax=1e-3, steps=50):
    print("The relaxation has not come to rest.")
response = elastic_response(cell, {atoms.info["name"]: atoms for atoms in cells}, "elastic_")
model, answers = (*lattice(relaxed), *constants(response)), np.full(9, np.nan)
if len(dft) == len(cells) + 1:
    response = elastic_response(cell, dft, "elastic_")
    # Hooke's law from the stress that is left
    strain = np.linalg.solve(response.elastic * units.GPa, -dft["hcp"].get_stress())
    a, ratio = lattice(cell)
    answers[:] = a * (1 + strain[0]), ratio * (1 + strain[2] - strain[0]), *constants(response)
    print(f"DFT's lattice constants are extrapolated from its stress at a = {a} Å, c/a = {ratio:.3f}.")
else:
    print(f"{len(cells) + 1 - len(dft)} labels of DFT are missing; --pseudo-dir calculates them.")
print(f"{'':10}{'model':>10}{'DFT':>10}{'error':>9}")
names = ["a (Å)", "c/a", *(f"{name} (GPa)" for name in ("B", "C11", "C12", "C13", "C33", "C44", "C66"))]
for name, found, answer in zip(names, model, answers, strict=True):
    print(f"{name:10}{found:10.4g}{answer:10.4g}{found / answer - 1:9.1%}")
figure = Figure(figsize=(8, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(np.array(trace) - trace[-1], "o-")
left.set(xlabel="step", ylabel="energy above the relaxed cell's (meV/atom)", title="Relaxation")
for shift, values, label in ((-0.2, model, "model"), (0.2, answers, "DFT")):
    right.bar(np.arange(7) + shift, values[2:], 0.4, label=label)
right.set(ylabel="GPa", title="Elastic constants", xticks=range(7), xticklabels=[n.split()[0] for n in names[2:]])
right.legend()
figure.savefig("relaxation.png", dpi=150)
