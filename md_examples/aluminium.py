"""Aluminium by the model `al` and by DFT: equation of state of fcc, hcp, stacking faults and their density of states.

Run: python aluminium.py. DFT comes from labels in the package, or with --pseudo-dir FOLDER (by ase-ldos pseudo Al) from
Quantum ESPRESSO, which takes a quarter of an hour and resumes. Model and DFT are compared at the same positions.
Writes aluminium.png (a minute).
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.eos import EquationOfState
from ase.units import GPa
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.reference_labels import MODELS, reference_labels
from ase_ldos.simulation.stacking import fault_energy, polytype

A = 4.05  # Å, where stackings are compared
STACKINGS = {"fcc": "ABC", "hcp": "AB", "intrinsic": "cccccchh", "extrinsic": "ccccchch"}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="al")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
options = parser.parse_args()

crystals = {}
for a in np.linspace(3.92, 4.20, 8):
    crystals[f"fcc_{a:.2f}"] = bulk("Al", "fcc", a=round(a, 3))
stackings = {name: polytype("Al", A / 2**0.5, 2 * A / 3**0.5, layers) for name, layers in STACKINGS.items()}
for name, atoms in (crystals | stackings).items():
    atoms.info["name"] = name
cells = [*crystals.values(), *stackings.values()]
dft = reference_labels(cells, recipe=MODELS / "al" / "reference.toml", pseudo_dir=options.pseudo_dir)
for atoms in tqdm(cells, desc="model"):
    atoms.calc = LDOSCalculator(options.model)
    # one grid for all volumes, and the same distances of grid points in all stackings
    atoms.calc.fix_grid((9, 9, 9) if atoms.info["name"] in crystals else (9, 9, 7 * len(atoms)))
    atoms.get_potential_energy()


def equation_of_state(energies: np.ndarray) -> tuple[float, float, EquationOfState]:
    """Lattice constant, Å, and bulk modulus, GPa."""
    fit = EquationOfState([atoms.get_volume() for atoms in crystals.values()], energies, eos="birchmurnaghan")
    volume, _, modulus = fit.fit()
    return (4 * volume) ** (1 / 3), modulus / GPa, fit


columns, curves = [], []
for source in ({atoms.info["name"]: atoms for atoms in cells}, dft):
    energies = np.array([source[name].get_potential_energy() for name in crystals])
    *constants, fit = equation_of_state(energies)
    curves.append((energies, fit))
    per_atom = {name: source[name].get_potential_energy() / len(source[name]) for name in ("fcc", "hcp")}
    faults = [fault_energy(source[name], source["fcc"]) for name in ("intrinsic", "extrinsic")]
    columns.append([*constants, 1000 * (per_atom["hcp"] - per_atom["fcc"]), *faults])
print(f"{'':30}{'model':>9}{'DFT':>9}{'error':>8}")
names = ("a (Å)", "bulk modulus (GPa)", "hcp - fcc (meV/atom)", "intrinsic fault (mJ/m²)", "extrinsic fault (mJ/m²)")
for name, model, answer in zip(names, *columns, strict=True):
    print(f"{name:30}{model:9.4g}{answer:9.4g}{model / answer - 1:8.1%}")

figure = Figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
for (energies, fit), label, style in zip(curves, ("model", "DFT"), ("o-", "s--")):
    left.plot(fit.v, 1000 * (energies - fit.e0), style, label=label)
left.set(xlabel="volume (Å³/atom)", ylabel="energy above the lowest (meV/atom)", title="fcc")
for name, atoms in stackings.items():
    dos = atoms.calc.get_dos(atoms)
    right.plot(dos.get_energies(), dos.get_weights() / len(atoms), label=name)
right.axvline(stackings["fcc"].calc.get_fermi_level(), color="k", linestyle="--", linewidth=1)
right.set(xlabel="energy (eV); dashed: Fermi level of fcc", ylabel="density of states (1/eV/atom)")
left.legend()
right.legend()
figure.savefig("aluminium.png", dpi=150)
