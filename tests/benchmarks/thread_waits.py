"""Several processes on the cores of one: what spinning threads cost, and what the ways out of it bring.

Run: python thread_waits.py [--processes 2] [--limit 60]. Each process does force steps of 16 beryllium atoms; the
columns are wall and CPU time per step, means over the processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

#: What is set, besides what is unset: everything that says how many threads there are and how they wait.
WAYS = {
    "as it comes": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 3000, 10000)},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
_STEPS = """
import json, time
from ase.build import bulk
from ase_ldos import LDOSCalculator
atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(2)
atoms.calc = LDOSCalculator("be", device="cpu")
atoms.get_forces()
wall, cpu = time.perf_counter(), time.process_time()
for seed in range(2):
    atoms.rattle(0.01, seed=seed)
    atoms.get_forces()
print(json.dumps([(time.perf_counter() - wall) / 2, (time.process_time() - cpu) / 2]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=60, metavar="s")
    options = parser.parse_args()
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS", "KMP_BLOCKTIME")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{options.processes} processes on {os.cpu_count()} cores{load}\n")
    print("| | wall, s | CPU, s |\n|---|---|---|")
    for name, given in WAYS.items():
        command = [sys.executable, "-c", _STEPS]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=plain | given)
            for _ in range(options.processes)
        ]
        found = []
        for process in running:
            try:
                found.append(json.loads(process.communicate(timeout=options.limit)[0]))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if len(found) < len(running):
            print(f"| {name} | not done in {options.limit:g} s | |", flush=True)
        else:
            wall, cpu = (sum(own[i] for own in found) / len(found) for i in (0, 1))
            print(f"| {name} | {wall:.2f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
