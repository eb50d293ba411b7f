"""``ase-ldos bench``: what this machine should reach, and what it does reach."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from ase_ldos.cli.evaluate import add_device

if TYPE_CHECKING:
    from ase import Atoms

    from ase_ldos.model.ldos_model import LDOSModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos bench``."""
    parser.add_argument("--model", default="be", help="bundled model or model file (default: be)")
    parser.add_argument("--atoms", type=int, nargs="+", default=[16, 128], help="about so many (default: 16 128)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Measure the machine and predictions on it, print both."""
    if min(args.atoms) < 1 or args.rounds < 1:
        raise ValueError(f"--atoms {args.atoms} and --rounds {args.rounds} must be positive")
    import torch
    from tqdm import tqdm

    from ase_ldos.devices import find_device
    from ase_ldos.model.model_file import load_model
    from ase_ldos.prediction.cost import measure_machine

    device = find_device(args.device)
    model = load_model(args.model).to(device)
    machine = measure_machine(device, model.dtype)
    rows = [
        measure(model, example(model, n), args.rounds)
        for n in tqdm(args.atoms, "measuring", unit="size", disable=args.json, leave=False)
    ]
    for row in rows:
        for kind in ("energy", "forces"):
            work = row.pop(f"{kind}_work")
            row[f"{kind}_least_s"] = None if work is None else work.seconds(machine)
    found: dict[str, Any] = {
        "model": model.metadata.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {_cpus()} cores for us",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gflops": machine.operations / 1e9,
        "gigabytes_per_second": machine.traffic / 1e9,
        "sizes": rows,
    }
    sys.stdout.write((json.dumps(found, indent=1) if args.json else _table(found)) + "\n")
    return 0


def example(model: LDOSModel, n_atoms: int) -> Atoms:
    """A rattled crystal of the model's first element with at least so many atoms."""
    from ase.build import bulk
    from ase.data import chemical_symbols

    atoms = bulk(chemical_symbols[model.descriptor.species[0]])
    while len(atoms) < n_atoms:
        shortest = min(range(3), key=lambda axis: atoms.cell.lengths()[axis])
        atoms = atoms.repeat([2 if axis == shortest else 1 for axis in range(3)])
    atoms.rattle(0.05, seed=0)
    return atoms


def measure(model: LDOSModel, atoms: Atoms, rounds: int) -> dict[str, Any]:
    """Shortest times of a prediction of energy and of energy and forces, and the work that each is."""
    import time

    from ase_ldos.geometry.grid import Grid
    from ase_ldos.geometry.structure import Structure
    from ase_ldos.prediction.cost import count_work, synchronize
    from ase_ldos.prediction.predict import predict

    structure = Structure.from_atoms(atoms)
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing)
    row: dict[str, Any] = {"atoms": len(atoms), "points": grid.n_points}
    for kind, forces in (("energy", False), ("forces", True)):
        times = []
        for _ in range(rounds + 1):  # the first one fills caches
            begin = time.perf_counter()
            predict(model, structure, forces=forces, grid_shape=grid.shape)
            synchronize(model.device)
            times.append(time.perf_counter() - begin)
        row[f"{kind}_s"] = min(times[1:])
        row[f"{kind}_work"] = count_work(model, structure, grid, forces=forces)
    return row


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _table(found: dict[str, Any]) -> str:
    lines = [
        f"model {found['model']} on {found['device']}, {found['threads']} threads",
        f"measured: {found['gflops']:.0f} GFLOP/s in products of large matrices, "
        f"{found['gigabytes_per_second']:.1f} GB/s from and to memory",
        "",
        f"{'atoms':>8s}{'points':>11s}  {'':8s}{'time':>11s}{'per atom':>12s}{'at best':>11s}{'reached':>9s}",
    ]
    for row in found["sizes"]:
        for kind in ("energy", "forces"):
            seconds, least = row[f"{kind}_s"], row[f"{kind}_least_s"]
            head = f"{row['atoms']:8d}{row['points']:11d}" if kind == "energy" else " " * 19
            best = "" if least is None else f"{least * 1e3:8.1f} ms{100 * least / seconds:7.0f} %"
            lines.append(f"{head}  {kind:8s}{seconds * 1e3:8.1f} ms{seconds / row['atoms'] * 1e3:9.3f} ms{best}")
    lines += [
        "",
        "'at best' is the time of the matrix products, or of a GPU's memory traffic if that is longer, at the measured",
        "rates. One core reached 12 to 13 % of it for the energy of be and al, 17 to 19 % with forces (AVX2).",
        "Far less: other work on the machine (several processes whose threads together are more than the cores take",
        "longer: set OMP_NUM_THREADS to cores / processes), a debug build of torch, or power saving.",
    ]
    if found["load"] is not None and found["load"] > 1.5 * _cpus():
        lines.append(f"The load of this machine is {found['load']:.1f} on {_cpus()} cores: others are working here.")
    return "\n".join(lines)
