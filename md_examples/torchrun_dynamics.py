"""Molecular dynamics on many processes: rank 0 runs ASE's integrator, all share the grid.

Run: torchrun --nproc-per-node 2 torchrun_dynamics.py [--steps 20]; python torchrun_dynamics.py does the same in one
process, to the same numbers (in float32 but for rounding). On a cluster give torchrun the nodes, and the script the
atoms that fill them. Set OMP_NUM_THREADS to a node's cores over its processes. Writes torchrun_dynamics.png.
"""

import argparse
import time

import numpy as np
from ase import units
from ase.build import bulk
from ase.io import read
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator, lead

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--structure", help="file of a structure to take in place of hcp Be; give its model too")
parser.add_argument("--repeat", type=int, nargs=3, default=(3, 3, 2), help="of the unit cell along each axis")
parser.add_argument("--steps", type=int, default=20, help="of 1 fs")
parser.add_argument("--dtype", help="of the network: float32 (as it was trained) or float64")
options = parser.parse_args()


def run(calculator: LDOSCalculator) -> None:
    """What a script without torchrun would do; only rank 0 comes here."""
    unit = read(options.structure) if options.structure else bulk("Be", "hcp", a=2.245, c=3.531)
    atoms = unit.repeat(options.repeat)
    atoms.calc = calculator
    speed = np.sqrt(600 * units.kB / atoms.get_masses())[:, None]  # half of it becomes potential energy
    atoms.set_velocities(speed * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    dynamics = VelocityVerlet(atoms, timestep=1 * units.fs)
    energies, marks = [], []

    def record() -> None:
        energies.append((atoms.get_potential_energy(), atoms.get_kinetic_energy()))
        marks.append(time.perf_counter())

    dynamics.attach(record)
    dynamics.run(options.steps)
    potential, kinetic = 1000 * (np.array(energies) / len(atoms)).T
    total = potential + kinetic
    print(f"processes: {calculator.communicator.size}, {len(atoms)} atoms, {np.median(np.diff(marks)):.3f} s per step")
    print(f"total energy {total[-1]:.6f} meV/atom, moved by at most {abs(total - total[0]).max():.4f}")
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for values, name in ((potential, "potential"), (kinetic, "kinetic"), (total, "total")):
        left.plot(values - values[0], label=name)
    left.set(xlabel="time (fs)", ylabel="energy, change (meV/atom)")
    left.legend()
    right.plot(np.arange(1, len(marks)), np.diff(marks))
    right.set(xlabel="step", ylabel="time (s)", ylim=(0, None), title=f"processes: {calculator.communicator.size}")
    figure.savefig("torchrun_dynamics.png", dpi=150)


lead(run, LDOSCalculator(options.model, device="cpu", dtype=options.dtype))
