"""Where a model should not be trusted: beryllium under compression, and the warning that tells.

Run: python extrapolation.py. The distance of each atom's surroundings from the training data is compared with the
error of the pressure, by DFT's labels in the package or, with --pseudo-dir FOLDER, by Quantum ESPRESSO. The threshold
was found on structures that were held back from training. Writes extrapolation.png (half a minute).
"""

import argparse
import warnings

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import InputError
from matplotlib.figure import Figure

from ase_ldos import ExtrapolationWarning, LDOSCalculator
from ase_ldos.labelling.reference_labels import reference_labels

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential: calculate DFT's answers into the folder dft")
options = parser.parse_args()
calculator = LDOSCalculator(options.model)
ranges = calculator.model.metadata.extrapolation
if not ranges:
    raise SystemExit(f"the model {options.model} does not know its training range; see ase-ldos calibrate --help")
largest, accepted = ranges.get("largest", ranges["threshold"]), ranges.get("force_error", np.nan)
print(f"{ranges['structures']:.0f} held-back structures: farthest atom at {largest:.2f}")
print(f"the warning begins at {ranges['threshold']:.2f}, where forces are off by {accepted:.2f} eV/Å")

cells = []
for volume in (1.0, 0.95, 0.9, 0.85, 0.8, 0.75):
    cells.append(bulk("Be", "hcp", a=2.245, c=2.245 * 1.573))
    cells[-1].set_cell(cells[-1].cell * volume ** (1 / 3), scale_atoms=True)
    cells[-1].info.update(name=f"compressed_{volume:.2f}", volume=volume)
dft = reference_labels(cells, pseudo_dir=options.pseudo_dir)


def pressure(atoms: Atoms) -> float:
    try:
        return -np.trace(atoms.get_stress(voigt=False)) / 3 / units.GPa
    except InputError as error:
        print(f"  {error}")
        return np.nan


rows, said = [], []
print(f"{'V/V0':>6}{'distance':>10}{'P (GPa)':>10}{'P of DFT':>10}")
for cell in cells:
    cell.calc = calculator
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ExtrapolationWarning)
        found = pressure(cell)
    label = dft.get(cell.info["name"])
    rows.append(
        (cell.info["volume"], calculator.get_extrapolation(cell).max(), found, pressure(label) if label else np.nan)
    )
    said += [f"Warned at V/V0 = {cell.info['volume']}: {warning.message}" for warning in caught]
    print("{:6.2f}{:10.2f}{:10.2f}{:10.2f}".format(*rows[-1]))
print("\n".join(said) or "There was no warning.")

# A single atom out of place: its neighbours see it, atoms beyond the cutoff do not.
atoms = bulk("Be", "hcp", a=2.245, c=2.245 * 1.573).repeat((6, 6, 4))
atoms.positions[0] += (0.0, 0.0, 0.9)
distances = LDOSCalculator(options.model).get_extrapolation(atoms)
away = atoms.get_distances(0, range(len(atoms)), mic=True)
beyond = np.sum(distances > ranges["threshold"])
print(f"one of {len(atoms)} atoms displaced by 0.9 Å: {beyond} atoms beyond the threshold")
figure = Figure(figsize=(10, 3.4), layout="constrained")
left, middle, right = figure.subplots(1, 3)
volumes, farthest, found, answer = np.array(rows).T
left.plot(volumes, farthest, "o-")
left.set(xlabel="V / V0", ylabel="distance from the training data")
middle.plot(volumes, np.abs(found - answer), "o-", color="tab:red")
middle.set(xlabel="V / V0", ylabel="error of the pressure (GPa)")
right.plot(away, distances, ".")
right.set(xlabel="distance from the displaced atom (Å)", ylabel="distance from the training data")
for axes in (left, right):
    axes.axhline(ranges["threshold"], color="k", linestyle="--", linewidth=1)
figure.savefig("extrapolation.png", dpi=150)
