"""A random alloy of ten thousand atoms, all electrons on record: density, density of states by species, energy.

Run: python random_alloy.py (ten minutes on one core; --atoms 500 for a look). Atoms of two elements are dealt out at
random to the sites of a crystal whose lattice constant lies between those of the pure ones (Vegard's rule). Every atom
has surroundings of its own, which no small cell holds; the states around its two kinds of atoms, next to those of the
pure crystals, tell how alloying moves them. Writes random_alloy.png.
"""

import argparse

import numpy as np
from ase.build import bulk
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sp")
parser.add_argument("--elements", nargs=2, default=["Si", "Ge"])
parser.add_argument("--crystal", default="diamond", help="as ase.build.bulk names it")
parser.add_argument("--lattice", type=float, nargs=2, default=[5.47, 5.78], metavar="Å", help="of the pure crystals")
parser.add_argument("--fraction", type=float, default=0.5, help="of the second element")
parser.add_argument("--atoms", type=int, default=10_648)
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
first, second = options.elements

lattice = np.dot(options.lattice, (1 - options.fraction, options.fraction))
alloy = bulk(first, options.crystal, a=lattice, cubic=True)
alloy *= max(1, round((options.atoms / len(alloy)) ** (1 / 3)))
replaced = np.random.default_rng(options.seed).permutation(len(alloy))[: round(options.fraction * len(alloy))]
alloy.symbols[replaced] = second
is_second = alloy.symbols == second
pure = {symbol: bulk(symbol, options.crystal, a=a) for symbol, a in zip(options.elements, options.lattice)}

energies, dos, levels = {}, {}, {}
for name, atoms in {**pure, "alloy": alloy}.items():
    atoms.calc = LDOSCalculator(options.model, progress=len(atoms) > 100)
    energies[name] = atoms.get_potential_energy() / len(atoms)
    levels[name] = atoms.calc.get_fermi_level()
    shown = atoms.calc.get_dos(atoms)
    dos[name] = (shown.get_energies() - levels[name], shown.get_weights() / len(atoms))
density = alloy.calc.get_density()
by_atom = alloy.calc.get_atomic_dos()
mixing = energies["alloy"] - np.dot([energies[first], energies[second]], (1 - options.fraction, options.fraction))
electrons = density.mean() * alloy.get_volume()
print(f"{alloy.get_chemical_formula()}: {len(alloy)} atoms, {density.size} grid points, {electrons:.3f} electrons")
print(f"energy of mixing, unrelaxed: {1000 * mixing:.1f} meV/atom")
around = {symbol: by_atom[is_second == (symbol == second)] for symbol in options.elements}
at_level = {s: [np.interp(0, dos["alloy"][0], row) for row in rows] for s, rows in around.items()}
for symbol, values in at_level.items():
    print(f"states at the Fermi level around {symbol}: {np.mean(values):.4f} ± {np.std(values):.4f} /eV/atom")

figure = Figure(figsize=(11, 3.6), layout="constrained")
left, middle, right = figure.subplots(1, 3, width_ratios=(1.1, 1, 1))
plane = density[:, :, density.shape[2] // 8 if options.atoms < 1000 else 3]
shown = alloy.cell[0, 0], alloy.cell[1, 1]
picture = left.imshow(plane.T, origin="lower", extent=(0, shown[0], 0, shown[1]), cmap="magma")
figure.colorbar(picture, label="e/Å³", shrink=0.8)
left.set(xlabel="x (Å)", ylabel="y (Å)", title="electron density")
for place, (symbol, rows) in enumerate(around.items()):
    grid, crystal = dos[symbol]
    middle.plot(grid, crystal, f"C{place}--", linewidth=1, label=f"crystal of {symbol}")
    middle.plot(dos["alloy"][0], rows.mean(axis=0), f"C{place}", label=f"{symbol} in the alloy")
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    right.plot(dos["alloy"][0], mean, f"C{place}", label=symbol)
    right.fill_between(dos["alloy"][0], mean - spread, mean + spread, color=f"C{place}", alpha=0.3, linewidth=0)
middle.set(title="density of states", ylabel="1/eV/atom")
right.set(title="its spread from atom to atom")
for place in (middle, right):
    place.set(xlabel="energy from the Fermi level (eV)", xlim=(-14, 3), ylim=(0, None))
    place.legend(fontsize=8)
figure.savefig("random_alloy.png", dpi=120)
