"""Images as of a scanning tunnelling microscope: where in a plane of beryllium the states next to the Fermi level are.

Run: python tunnelling_image.py (seconds). After Tersoff and Hamann (Phys. Rev. B 31, 805, 1985) the tip sees the LDOS
integrated from the Fermi level to the bias. The calculator gives just that (get_local_density), and ASE's STM scans it,
at constant height and at constant current. The model has learned no vacuum, so this tip moves inside the crystal, from
half-way between two layers downwards; it can sink only into the channels along c, where there are few states. Writes
tunnelling_image.png.
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.dft.stm import STM
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator

A, C = 2.245, 3.531  # hcp's lattice constants, Å

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--bias", type=float, default=-1.0, help="V; occupied states where it is negative")
options = parser.parse_args()

atoms = bulk("Be", "hcp", a=A, c=C)
atoms.calc = calculator = LDOSCalculator(options.model)
calculator.fix_grid((24, 24, 48))
level = calculator.get_fermi_level(atoms)

microscope = STM(atoms)
# in place of its sum over eigenstates, which a model of the LDOS does not have
microscope.bias = options.bias
microscope.ldos = calculator.get_local_density((min(level, level + options.bias), max(level, level + options.bias)))

middle = 0.25 * C  # half-way between the layers at 0 and C/2
x, y, current = microscope.scan2(options.bias, middle, repeat=(4, 4))  # nA
start = microscope.ldos.shape[2] // 4 + 1
set_point = 0.98 * microscope.ldos[:, :, :start].max(axis=2).min()  # states/Å³; there is such a place in every column
microscope.ldos[:, :, start:] = 0  # from where the tip comes
_, _, height = microscope.scan(options.bias, set_point, repeat=(4, 4))  # Å

channel = np.array([2 / 3, 1 / 3]) @ atoms.cell.array[:2, :2]  # neither layer has an atom on this line along c
lowest = [field[:24, :24].argmin() for field in (abs(current), height)]
distances = [np.hypot(x[:24, :24].ravel()[i] - channel[0], y[:24, :24].ravel()[i] - channel[1]) for i in lowest]
least, most = abs(current).min(), abs(current).max()
print(f"constant height: {least:.3f} to {most:.3f} nA, least {distances[0]:.2f} Å from a channel")
print(f"constant current: the tip sinks by {np.ptp(height):.2f} Å, most {distances[1]:.2f} Å from a channel")

figure = Figure(figsize=(9, 3.6), layout="constrained")
pictures = (("constant height", abs(current), "nA", "magma"), ("constant current", height, "height (Å)", "copper"))
for axes, (title, field, unit, colors) in zip(figure.subplots(1, 2), pictures):
    picture = axes.pcolormesh(x, y, field, cmap=colors, shading="gouraud", rasterized=True)
    figure.colorbar(picture, label=unit)
    for z, color in ((0, "w"), (C / 2, "c")):
        here = atoms.repeat((4, 4, 1)).positions
        here = here[np.isclose(here[:, 2], z)]
        axes.plot(here[:, 0], here[:, 1], "o", color=color, markersize=3, label="layer below" if z == 0 else "above")
    axes.set(title=title, xlabel="Å", ylabel="Å", aspect="equal")
figure.savefig("tunnelling_image.png", dpi=100)
