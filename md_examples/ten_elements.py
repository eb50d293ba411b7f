"""Ten elements and ten compounds by the model `sp` and by DFT: sizes, bulk moduli, equations of state.

Run: python ten_elements.py. DFT comes from labels in the package, five volumes of each crystal, none of which the model
has learned; compounds with a star are of pairs of elements that it has never seen together. V is the volume per formula
unit, whose cube root changes as lattice constants do. Model and DFT are compared at the same positions and on one grid
for all volumes of a crystal. Writes ten_elements.png (two minutes).
"""

import argparse

import numpy as np
from ase.eos import EquationOfState
from ase.formula import Formula
from ase.units import GPa
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator, load_snapshots
from ase_ldos.labelling.reference_labels import MODELS

#: Pairs of elements that are held back from the training as a whole.
UNSEEN = ("AlAs", "BeAl", "GeMg2", "KNa", "LiMg", "GaSi")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sp")
parser.add_argument("--crystals", nargs="+", default=[], metavar="NAME", help="such as Si-diamond (default: all)")
options = parser.parse_args()

series: dict[str, list] = {}
for snapshot in load_snapshots(MODELS / "sp" / "reference.npz"):
    series.setdefault(snapshot.name.split("_")[1].rpartition("-")[0], []).append(snapshot)
series = {name: series[name] for name in options.crystals or series}


def equation_of_state(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, EquationOfState]:
    """Volume at rest, Å³, and bulk modulus, GPa."""
    fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, _, modulus = fit.fit()
    return volume, modulus / GPa, fit


figure = Figure(figsize=(12, 2.2 * -(-len(series) // 5)), layout="constrained")
axes = figure.subplots(-(-len(series) // 5), min(5, len(series)), squeeze=False).flatten()
rows = {}
half = f"{'model':>9}{'DFT':>9}{'error':>8}"
print(f"{'':22}{'V^(1/3) (Å)':>18}{'':>8}{'B (GPa)':>18}\n{'':22}{half}{half}")
for place, (name, snapshots) in zip(axes, tqdm(series.items(), desc="crystals", leave=False)):
    snapshots.sort(key=lambda item: np.linalg.det(item.cell))
    volumes = np.array([np.linalg.det(item.cell) for item in snapshots])
    calculator = LDOSCalculator(options.model)
    calculator.fix_grid(snapshots[-1].shape)
    model = []
    for snapshot in snapshots:
        atoms = snapshot.to_atoms()
        atoms.calc = calculator
        model.append(atoms.get_potential_energy())
    dft = [snapshot.free_energy for snapshot in snapshots]
    found, answer = (equation_of_state(volumes, np.array(energies)) for energies in (model, dft))
    formula = Formula(snapshots[0].to_atoms().get_chemical_formula(empirical=True))
    star = "*" if f"{formula:reduce}" in UNSEEN else ""
    cube = len(atoms) / sum(formula.count().values())  # formula units in a cell
    lengths = [(volume / cube) ** (1 / 3) for volume in (found[0], answer[0])]
    errors = [lengths[0] / lengths[1] - 1, found[1] / answer[1] - 1]
    rows[name] = (*lengths, found[1], answer[1], *errors)
    columns = f"{lengths[0]:9.3f}{lengths[1]:9.3f}{errors[0]:8.1%}{found[1]:9.1f}{answer[1]:9.1f}{errors[1]:8.1%}"
    tqdm.write(f"{name + star:22}{columns}")
    for energies, (_, _, fit), style, label in ((dft, answer, "ks", "DFT"), (model, found, "C0o-", "model")):
        place.plot(volumes / len(atoms), 1000 * (np.array(energies) - fit.e0) / len(atoms), style, ms=4, label=label)
    place.set_title(name + star, fontsize=9)
table = np.abs(np.array(list(rows.values())))
print(f"mean |error|: a {table[:, 4].mean():.2%}, B {table[:, 5].mean():.1%}")
figure.supxlabel("volume (Å³/atom)")
figure.supylabel("energy above the lowest (meV/atom)")
axes[0].legend(fontsize=8)
figure.savefig("ten_elements.png", dpi=150)
