"""The calculator as an i-PI client: a driver in one process moves the atoms, forces come over a socket from another.

Run: python socket_client.py. The driver here is ASE's; i-PI or another that speaks its protocol does as well. It starts
its client by this same script; by hand: python socket_client.py --client ADDRESS, where ADDRESS is the name of the
driver's Unix socket or its HOST:PORT. Writes socket_client.png (a minute).
"""

import argparse
import os
import subprocess
import sys

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.io import read
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure

from ase_ldos import LDOSCalculator

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="be")
parser.add_argument("--structure", help="file of a structure to take in place of hcp Be; give its model too")
parser.add_argument("--client", metavar="ADDRESS", help="be the client of the driver at this Unix socket or HOST:PORT")
parser.add_argument("--port", type=int, help="let the driver listen at a port instead of a Unix socket")
parser.add_argument("--steps", type=int, default=40, help="of 1 fs")
options = parser.parse_args()

# Driver and client must agree on the atoms: only cell and positions are sent.
atoms = read(options.structure) if options.structure else bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2))

if options.client:
    host, _, port = options.client.rpartition(":")
    atoms.calc = LDOSCalculator(options.model)
    SocketClient(**({"host": host, "port": int(port)} if host else {"unixsocket": port})).run(atoms, use_stress=True)
    sys.exit()

random = np.random.default_rng(1)
momenta = random.normal(size=(len(atoms), 3)) * np.sqrt(600 * units.kB * atoms.get_masses())[:, None]
atoms.set_momenta(momenta - momenta.mean(axis=0))
name = f"ase_ldos_{os.getpid()}"
place = {"port": options.port} if options.port else {"unixsocket": name}
address = f"localhost:{options.port}" if options.port else name
energies = []
with SocketIOCalculator(**place, timeout=120) as atoms.calc:
    # the driver listens from here on; the client connects and stays until the driver closes
    command = [sys.executable, __file__, "--model", options.model, "--client", address]
    client = subprocess.Popen([*command, *(["--structure", options.structure] if options.structure else [])])
    dynamics = VelocityVerlet(atoms, units.fs)
    dynamics.attach(lambda: energies.append((atoms.get_potential_energy(), atoms.get_kinetic_energy())))
    dynamics.run(options.steps)
    received = atoms.get_forces(), atoms.get_stress()
if client.wait(timeout=60) != 0:
    raise SystemExit(f"the client stopped with exit code {client.returncode}")

potential, kinetic = 1000 * np.array(energies).T / len(atoms)
total = potential + kinetic - potential[0] - kinetic[0]
print(f"{'time (fs)':>10}{'potential':>12}{'kinetic':>10}{'total':>9}   (meV/atom from the start)")
for step in range(0, len(total), max(1, options.steps // 5)):
    print(f"{step:10}{potential[step] - potential[0]:12.3f}{kinetic[step]:10.3f}{total[step]:9.3f}")
atoms.calc = LDOSCalculator(options.model)
differences = [
    np.abs(ours - atoms.calc.get_property(kind, atoms)).max() for ours, kind in zip(received, ("forces", "stress"))
]
print("received and directly calculated: forces differ by {:.1e} eV/Å, stress by {:.1e} eV/Å³".format(*differences))

figure = Figure(figsize=(6, 3.6), layout="constrained")
axes = figure.add_subplot(xlabel="time (fs)", ylabel="energy (meV/atom)", title="NVE over a socket")
axes.plot(potential - potential[0], label="potential")
axes.plot(kinetic, label="kinetic")
axes.plot(total, "k", label="total")
axes.legend()
figure.savefig("socket_client.png", dpi=150)
