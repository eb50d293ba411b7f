"""CPU time per step of molecular dynamics: the model, and Quantum ESPRESSO in the set-up of the model's data.

Run: OMP_NUM_THREADS=1 python cost_vs_qe.py --pseudo-dir FOLDER [--atoms 16 54]. Minutes for 16 atoms, an hour for 54.
Without pw.x or FOLDER (of Be.pbe-gth-q2.gth) only the model is measured. Writes cost_vs_qe.png. Quantum ESPRESSO runs
its own dynamics, converged to 1e-7 Ry: the first step from superposed atoms, later ones from extrapolated states.
"""

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator
from ase_ldos.labelling.dft_settings import load_recipe
from ase_ldos.labelling.pw import input_text
from ase_ldos.labelling.reference_labels import MODELS
from ase_ldos.labelling.subprocesses import run_program

EXTRAPOLATIONS = ("pot_extrapolation", "wfc_extrapolation")
SIZES = {2: (1, 1, 1), 16: (2, 2, 2), 54: (3, 3, 3)}


def model_cost(atoms: Atoms, model: str, steps: int) -> float:
    """CPU seconds per step of 1 fs."""
    atoms.calc = LDOSCalculator(model, device="cpu")
    marks: list[float] = []
    dynamics = VelocityVerlet(atoms, units.fs)
    dynamics.attach(lambda: marks.append(time.process_time()))
    dynamics.run(steps)
    return (marks[-1] - marks[0]) / steps


def espresso_cost(atoms: Atoms, pseudos: str, steps: int) -> tuple[float, float]:
    """CPU seconds of the first and of a later step: the run's CPU time, shared out by the clock that pw.x prints."""
    # a step of 1 fs in units of ħ/Ry
    md = {"control": {"nstep": steps, "dt": 1 / 0.04837768}, "ions": dict.fromkeys(EXTRAPOLATIONS, "second_order")}
    recipe = replace(
        load_recipe(MODELS / "be" / "dft.toml", pseudo_dir=pseudos), ldos=None, convergence=1e-7, options=md
    )
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        run_program("pw.x", input_text(atoms, recipe, "md", Path(folder)), Path(folder))
        _, later = (Path(folder) / "pw.out").read_text().split("Entering Dynamics", 1)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    share = float(later.split("up to now is")[1].split()[0]) / (after.elapsed - before.elapsed)
    return share * seconds, (1 - share) * seconds / (steps - 1)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--pseudo-dir", help="folder of the pseudopotential")
parser.add_argument("--atoms", type=int, nargs="+", choices=SIZES, default=[16])
parser.add_argument("--steps", type=int, default=3, help="of Quantum ESPRESSO, 2 at least; the model does 5 times more")
options = parser.parse_args()
if reason := "pw.x is not on the PATH" if not shutil.which("pw.x") else "" if options.pseudo_dir else "no --pseudo-dir":
    print(f"{reason}: only the model is measured")

print(f"CPU seconds per step\n{'atoms':>6}{'model':>10}{'pw.x, first':>14}{'pw.x, later':>14}{'ratio':>8}")
rows = []
for n_atoms in options.atoms:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat(SIZES[n_atoms])
    atoms.rattle(0.05, seed=1)
    costs = (np.nan, np.nan) if reason else espresso_cost(atoms, options.pseudo_dir, options.steps)
    rows.append((n_atoms, model_cost(atoms, options.model, 5 * options.steps), *costs))
    print("{:6}{:10.2f}{:14.1f}{:14.1f}{:8.0f}".format(*rows[-1], rows[-1][3] / rows[-1][1]))
figure = Figure(figsize=(5, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="atoms", ylabel="CPU seconds per step", xscale="log", yscale="log")
for column, name in enumerate(("model", "pw.x, first step", "pw.x, later step"), start=1):
    axes.plot([row[0] for row in rows], [row[column] for row in rows], "o-", label=name)
axes.legend()
figure.savefig("cost_vs_qe.png", dpi=150)
