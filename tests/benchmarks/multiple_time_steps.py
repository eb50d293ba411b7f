"""Multiple time steps beside velocity Verlet: conservation, averages, resonance and CPU time for each outer step.

Run: python multiple_time_steps.py --model be --outer 1 4 8 12, or --system liquid --model al. Each outer step is run
for the same time from the same start; an outer step as long as the inner one is plain velocity Verlet. With --friction
a Langevin thermostat holds the temperature, as the averages need; without, the drift of the energy is measured.
Averages leave out the first fifth; standard errors of T come from blocks of 0.25 ps. A model without distilled
potential gets one first. A table in Markdown; --out FILE keeps rows from which an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.units import GPa, fs, kB
from tqdm import tqdm

from ase_ldos import LDOSCalculator, load_model
from ase_ldos.labelling.reference_labels import MODELS
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.simulation.respa import RespaLDOS
from ase_ldos.training.distill import distill, reference_crystal

COLUMNS = {
    "drift": "drift, meV/atom/ps",
    "ripple": "ripple, meV/atom",
    "temperature": "T, K",
    "pressure": "p, GPa",
    "peak": "first peak of g(r)",
    "diffusion": "D, Å²/ps",
    "cpu": "CPU s/ps",
    "gain": "gain",
}


def start(system: str, model: LDOSModel, repeat: list[int]) -> Atoms:
    """A crystal, or the liquid of DFT's own dynamics."""
    if system == "liquid":
        with np.load(MODELS / "al" / "phases.npz") as data:
            positions, cell = data["positions"][-1], data["cell"]
        return Atoms(f"Al{len(positions)}", positions=positions, cell=cell, pbc=True).repeat(repeat)
    symbol = model.descriptor.species[0]
    return (bulk("Be", "hcp", a=2.245, c=3.531).repeat((2, 2, 2)) if symbol == 4 else reference_crystal(model)).repeat(
        repeat
    )


def pair_distribution(frames: list[Atoms], reach: float = 5.0, width: float = 0.1) -> np.ndarray:
    """g(r) in bins."""
    edges = np.linspace(0, reach, round(reach / width) + 1)
    counts = sum(np.histogram(neighbor_list("d", atoms, reach), edges)[0] for atoms in frames) / len(frames)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    return counts / shells * frames[0].get_volume() / len(frames[0]) ** 2


def with_error(values: np.ndarray, block: int) -> tuple[float, float]:
    """Mean and its standard error from means of blocks."""
    blocks = [part.mean() for part in np.array_split(values, max(2, len(values) // max(1, block)))]
    return float(np.mean(values)), float(np.std(blocks, ddof=1) / len(blocks) ** 0.5)


def diffusion(places: np.ndarray, interval: float) -> np.ndarray:
    """D of each atom from displacements over 0.2 to 0.5 ps, Å²/ps; the centre of mass held, ``[atom]``."""
    places = places - places.mean(axis=1, keepdims=True)
    lags = np.unique(np.linspace(0.2, 0.5, 7) // interval).astype(int)
    lags = lags[(lags > 0) & (lags < len(places) // 2)]
    squares = np.array([((places[lag:] - places[:-lag]) ** 2).sum(axis=2).mean(axis=0) for lag in lags])
    return np.polyfit(lags * interval, squares, 1)[0] / 6


def run(atoms: Atoms, model: LDOSModel, outer: float, options: argparse.Namespace) -> dict[str, object]:
    """One row of the table."""
    atoms = atoms.copy()
    atoms.calc = LDOSCalculator(model)
    thermostat = {}
    if options.friction:
        random = np.random.default_rng(2)
        thermostat = {"temperature_K": options.temperature, "friction": options.friction / fs, "rng": random}
    n_inner = max(1, round(outer / options.inner))
    dynamics = RespaLDOS(atoms, outer * fs, DistilledCalculator(model), n_inner, **thermostat)
    energies, temperatures, places, frames, pressures = [], [], [], [], []
    steps = round(1000 * options.picoseconds / outer)
    every, seldom = max(1, round(16 / outer)), max(1, round(64 / outer))
    clock = 0.0
    for step in tqdm(range(steps), desc=f"{outer:g} fs", unit="step"):
        before = time.process_time()
        dynamics.run(1)
        clock += time.process_time() - before
        energies.append(dynamics.get_conserved_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())
        if abs(energies[-1] - energies[0]) > 1:
            return {"outer": outer, "lost": round((step + 1) * outer)}
        if step >= steps // 5 and step % every == 0:
            places.append(atoms.get_positions())
            frames.append(atoms.copy())
        if options.pressure and step >= steps // 5 and step % seldom == 0:
            other = atoms.copy()
            other.calc = LDOSCalculator(model)
            kinetic = 2 * atoms.get_kinetic_energy() / 3 / atoms.get_volume()
            pressures.append((kinetic - other.get_stress()[:3].mean()) / GPa)
    times = outer * np.arange(1, steps + 1) / 1000
    values = 1000 * np.array(energies)
    line = np.polyfit(times, values, 1)
    late = np.array(temperatures[steps // 5 :])
    halves = np.array_split(np.arange(len(frames)), 4)
    curves = [pair_distribution([frames[i] for i in part]) for part in halves]
    peaks = np.array([curve.max() for curve in curves])
    row: dict[str, object] = {"outer": outer, "inner": n_inner, "drift": line[0]}
    row |= {"ripple": float(np.std(values - np.polyval(line, times))), "cpu": clock / options.picoseconds}
    row |= {"temperature": with_error(late, round(250 / outer)), "g": np.mean(curves, axis=0).tolist()}
    row |= {"peak": (float(np.max(np.mean(curves, axis=0))), float(np.std(peaks, ddof=1) / 2))}
    if options.pressure:
        row["pressure"] = with_error(np.array(pressures), 4)
    if options.picoseconds >= 1.5:
        each = diffusion(np.array(places), every * outer / 1000)
        row["diffusion"] = (float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5))
    return row


def text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return f"{value[0]:.4g} ± {value[1]:.2g}"
    return f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="be")
    parser.add_argument("--system", choices=("crystal", "liquid"), default="crystal")
    parser.add_argument("--repeat", type=int, nargs=3, default=[1, 1, 1], help="of the cell of 16 atoms")
    parser.add_argument("--outer", type=float, nargs="+", default=[1, 4, 6, 8, 10], metavar="FS")
    parser.add_argument("--inner", type=float, default=1.0, metavar="FS", help="inner step, about")
    parser.add_argument("--picoseconds", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--friction", type=float, default=0.0, help="of a Langevin thermostat, 1/fs")
    parser.add_argument("--pressure", action="store_true", help="average the pressure too, every 64 fs")
    parser.add_argument("--out", type=Path, help="JSON file of the rows")
    options = parser.parse_args()
    model = load_model(options.model)
    atoms = start(options.system, model, options.repeat)
    if model.distilled is None:
        before = time.process_time()
        cell = start(options.system, model, [1, 1, 1])
        model.distilled = distill(model, [cell], temperature=options.temperature)
        print(f"distilled in {time.process_time() - before:.0f} CPU s")
    found = model.distilled.errors
    print(
        f"inner potential: {found['forces']:.0f} meV/Å of typical {found['typical_forces']:.0f}, {len(atoms)} atoms\n"
    )
    # the ideal crystal gives half of its kinetic energy away; a liquid has its share
    heat = options.temperature * (1 if options.friction or options.system == "liquid" else 2)
    momenta = np.random.default_rng(1).normal(size=(len(atoms), 3)) * np.sqrt(heat * kB * atoms.get_masses())[:, None]
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    kept = json.loads(options.out.read_text()) if options.out is not None and options.out.exists() else []
    for outer in options.outer:
        if any(row["outer"] == outer for row in kept):
            continue
        kept.append(run(atoms, model, outer, options))
        if options.out is not None:
            options.out.write_text(json.dumps(kept))
    first = kept[0]
    print("| outer step, fs | inner steps | " + " | ".join(COLUMNS.values()) + " | distance of g(r) |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for row in kept:
        if "lost" in row:
            print(f"| {row['outer']:g} | unstable: 1 eV/atom off after {row['lost']} fs |")
            continue
        if "cpu" in first:
            row["gain"] = first["cpu"] / row["cpu"]
        apart = np.abs(np.subtract(row["g"], first["g"])).sum() / np.sum(first["g"]) if "g" in first else float("nan")
        cells = [text(row.get(name)) for name in COLUMNS]
        print(f"| {row['outer']:g} | {row['inner']} | {' | '.join(cells)} | {100 * apart:.1f} % |")


if __name__ == "__main__":
    main()
