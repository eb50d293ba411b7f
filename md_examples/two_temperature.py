"""Aluminium in a laser pulse: electrons heated to 10,000 K within 100 fs, the lattice still cold.

Run: python two_temperature.py. Two-temperature dynamics of 32 atoms by the model `al`, with states of free electrons
above its window, with the electrons on record. Interrupt it and run it again: it resumes from two_temperature.npz.
Then what hot electrons do to the lattice, beside DFT where the repository has labels: their pressure and Grüneisen
parameter, and frozen phonons at X. Writes two_temperature.png (2 minutes).
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.units import fs, kB
from matplotlib.figure import Figure
from tqdm import tqdm

from ase_ldos import LDOSCalculator, load_model
from ase_ldos.dataset.npz import load_snapshot
from ase_ldos.model.energy_tail import with_free_states
from ase_ldos.simulation.observables import electron_pressure, observe
from ase_ldos.simulation.restart import load_run, save_run
from ase_ldos.simulation.two_temperature import LaserPulse, TwoTemperatureMD

#: Labels come with the repository, not with an installed package.
LABELS = Path(__file__).resolve().parents[1] / "ase_ldos" / "models" / "al" / "labels" / "hot-phonons"

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=120, help="of 2 fs")
parser.add_argument("--repeat", type=int, default=2, help="cells of 4 atoms along each edge")
parser.add_argument("--energy", type=float, default=0.54, help="absorbed, eV/atom")
parser.add_argument("--coupling", type=float, default=2.45e17, help="W/(m³ K); Lin, Zhigilei and Celli (2008) at 300 K")
options = parser.parse_args()
model = with_free_states(load_model("al"), 30.0)
random = np.random.default_rng(1)
atoms = bulk("Al", "fcc", a=4.05, cubic=True).repeat(options.repeat)
atoms.calc = calculator = LDOSCalculator(model, electronic_temperature=300.0)
atoms.set_momenta(random.normal(size=(len(atoms), 3)) * np.sqrt(600 * kB * atoms.get_masses())[:, None])
pulse = LaserPulse(energy=options.energy, duration=40.0, centre=60.0)
dynamics = TwoTemperatureMD(atoms, 2 * fs, 300.0, coupling=options.coupling, laser=pulse, rng=random)
file = Path("two_temperature.npz")
record = load_run(file, dynamics) if file.exists() else {}
start = record["start"][0] if record else dynamics.get_conserved_energy()


def note() -> None:
    now = observe(atoms) | {"time": 2 * dynamics.nsteps, "start": start, "positions": atoms.get_positions()}
    now["error"] = 1000 * (dynamics.get_conserved_energy() - start) / len(atoms)
    for name in ("absorbed", "transferred"):
        now[name] = getattr(dynamics, name) / len(atoms)
    for name, value in now.items():
        record.setdefault(name, []).append(value)
    save_run(file, dynamics, record)


dynamics.attach(note, 5)
left = max(0, options.steps - dynamics.nsteps)
for _ in tqdm(dynamics.irun(left), total=left + 1, unit="step"):
    pass
names = ("time", "temperature", "electronic_temperature", "absorbed", "transferred", "heat_capacity", "error")
columns = {name: np.array(record[name]) for name in names}
print("  time  T ions   T el.  absorbed  to ions  C el.     error   (fs, K, K, eV/atom, meV/atom, k/atom, meV/atom)")
for t, ions, hot, gained, given, capacity, error in list(zip(*columns.values()))[::3]:
    print(f"{t:6.0f}{ions:8.0f}{hot:8.0f}{gained:10.4f}{1000 * given:9.2f}{capacity / kB:7.3f}{error:10.4f}")
print(f"largest error of the energy balance: {np.abs(columns['error']).max():.4f} meV/atom")


def frozen_phonon(direction: tuple[int, int, int], temperature: float) -> float:
    """Frequency at X, THz, of the planes that move against each other along a direction."""
    cell = Atoms("Al2", cell=[4.05 / 2**0.5, 4.05 / 2**0.5, 4.05], scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], pbc=1)
    forces = []
    for side in (0.025, -0.025):
        moved = cell.copy()
        moved.positions += side * np.outer((1, -1), direction)
        moved.calc = probe
        probe.set(electronic_temperature=temperature)
        forces.append(moved.get_forces()[0] @ direction)
    return float(np.sqrt(-(forces[0] - forces[1]) / 0.05 / cell.get_masses()[0]) * fs * 1000 / (2 * np.pi))


def labelled(mode: str, temperature: float) -> str:
    """The same of a DFT label, where there is one."""
    path = LABELS / f"x2_{mode}_{temperature:.0f}K.npz"
    if not path.is_file():
        return "-"
    (pull, *_), direction = load_snapshot(path).forces, {"L": (0, 0, 1), "T": (1, 0, 0)}[mode]
    return f"{np.sqrt(-(pull @ direction) / 0.025 / atoms.get_masses()[0]) * fs * 1000 / (2 * np.pi):.2f}"


probe = LDOSCalculator(model)
print("phonons of fcc Al at X, THz, and pressure of the electrons, model (DFT):")
crystal = bulk("Al", "fcc", a=4.05, cubic=True)
crystal.calc = probe
for temperature in (933.0, 10000.0, 20000.0):
    modes = [
        f"{mode} {frozen_phonon(direction, temperature):.2f} ({labelled(mode, temperature)})"
        for mode, direction in (("L", (0, 0, 1)), ("T", (1, 0, 0)))
    ]
    probe.set(electronic_temperature=temperature)
    pushed = electron_pressure(crystal, 933.0)
    push = f"{pushed.pressure:.2f} GPa, Grüneisen parameter {pushed.gruneisen:.2f}"
    print(f"{temperature:7.0f} K: {', '.join(modes)}, {push}")
cells = [Atoms("Al" * len(atoms), positions=p, cell=atoms.cell, pbc=True) for p in record["positions"]]
figure = Figure(figsize=(10, 6.4), layout="constrained")
(heat, dos), (pairs, states) = figure.subplots(2, 2)
for name, label in (("electronic_temperature", "electrons"), ("temperature", "ions")):
    heat.plot(columns["time"], columns[name], label=label)
heat.set(xlabel="time (fs)", ylabel="temperature (K)", yscale="log")
energies = calculator.model.energies.numpy()
picture = dos.pcolormesh(columns["time"], energies, np.array(record["dos"]).T / len(atoms), shading="nearest")
dos.plot(columns["time"], record["fermi_level"], "w--", linewidth=1)
dos.set(xlabel="time (fs)", ylabel="energy (eV)", ylim=(-5, 20), title="density of states (1/eV/atom)")
figure.colorbar(picture)
edges = np.linspace(0, 5.5, 111)
for name, part in (("first third", cells[: len(cells) // 3]), ("last third", cells[-(len(cells) // 3) :])):
    counts = sum(np.histogram(neighbor_list("d", cell, 5.5), edges)[0] for cell in part) / len(part)
    shells = 4 / 3 * np.pi * np.diff(edges**3) * len(atoms) ** 2 / atoms.get_volume()
    pairs.plot(0.5 * (edges[1:] + edges[:-1]), counts / shells, label=name)
pairs.set(xlabel="distance (Å)", ylabel="g(r)", xlim=(2, 5.5))
states.plot(columns["electronic_temperature"], columns["heat_capacity"] / kB, ".-")
states.set(xlabel="electronic temperature (K)", ylabel="electronic heat capacity (k/atom)")
for axes in (heat, pairs):
    axes.legend()
figure.savefig("two_temperature.png", dpi=150)
