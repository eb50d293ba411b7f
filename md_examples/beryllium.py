"""Everything that these examples compare of solid beryllium with DFT: one after the other, their numbers on one page.

Run: python beryllium.py [--only relaxation fault_energies]. Runs relaxation.py, fault_energies.py, phonons.py and
molecular_dynamics.py for one model and writes their pictures (minutes; the dynamics takes most of them and resumes).
"""

import argparse
import runpy
import sys
from pathlib import Path

from ase_ldos import load_model

SCRIPTS = {"relaxation": [], "fault_energies": [], "phonons": [], "molecular_dynamics": ["--steps", "1000"]}
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa", "density": "%", "dos": "%", "ldos_occupied": "%"}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS), help="of the scripts")
options = parser.parse_args()
metadata = load_model(options.model).metadata
print(f"{metadata.name}, on structures held back from its training:")
for name, unit in UNITS.items():
    if name in metadata.errors:
        print(f"  {name:14}{metadata.errors[name]:8.2f} {unit}")
results = {}
for name in options.only:
    print(f"\n{name}.py", flush=True)
    sys.argv = [f"{name}.py", "--model", options.model, *SCRIPTS[name]]
    results[name] = runpy.run_path(str(Path(__file__).with_name(f"{name}.py")), run_name="__main__")
