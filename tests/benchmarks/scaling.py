"""Time and memory against the number of atoms: ``python tests/benchmarks/scaling.py --seconds 600``.

Rattled hcp beryllium from 128 atoms on, doubled until time or memory would not suffice for the next size; energy, and
energy with forces, in turn. Each case runs in a process of its own, whose peak memory the system counts, and the
fastest of some rounds stands in the table. At the end stand the exponents of time against atoms, fitted by least
squares in log-log. ``--repeat 64 32 32 --device cuda`` runs one size, here 131,072 atoms.

The clock is CPU time on the CPU and wall time on a device. The fraction of the roof is the rate of floating-point
operations in matrix products (no others are counted) in units of that of one large float32 product on the same device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from math import prod
from typing import Any

# only the cases import torch: the system counts a parent's memory in its child's peak, so this process stays small
import numpy as np

Repeat = tuple[int, int, int]
Found = dict[str, Any]

#: Of hcp beryllium, Å.
A, C = 2.245, 3.531
KINDS = ("energy", "forces")
#: Part of the machine's memory that a case may take, by the growth seen so far.
MEMORY_SHARE = 0.8
HEADER = (
    f"{'atoms':>8s} {'points':>10s} {'':7s} {'wall s':>9s} {'CPU s':>9s} {'CPU ms/atom':>12s} {'CPU µs/point':>13s} "
    f"{'memory MiB':>11s} {'more than 16 atoms':>19s} {'of the roof':>12s}"
)


def doubled(repeat: Repeat) -> Repeat:
    """Twice as many cells, along the shortest edge."""
    lengths = [repeat[0] * A, repeat[1] * A, repeat[2] * C]
    axis = lengths.index(min(lengths))
    nx, ny, nz = (2 * n if i == axis else n for i, n in enumerate(repeat))
    return nx, ny, nz


def peak_memory() -> int:
    """Largest memory this process has had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def case(model_name: str, repeat: Repeat, kind: str, device: str) -> Found:
    """One prediction in this process, after a small one that loads libraries and counts operations."""
    import torch
    from ase.build import bulk
    from torch.utils.flop_counter import FlopCounterMode

    from ase_ldos.geometry.structure import Structure
    from ase_ldos.model.model_file import load_model
    from ase_ldos.prediction.predict import predict

    on_device = device.startswith("cuda")
    forces = kind == "forces"
    model = load_model(model_name).requires_grad_(False).to(device)
    cell = bulk("Be", "hcp", a=A, c=C)
    with FlopCounterMode(display=False) as counter:
        small = predict(model, Structure.from_atoms(cell.repeat(2), device=device), forces=forces)
    operations = counter.get_total_flops() / small.grid.n_points
    roof = product_rate(device)
    before = peak_memory()
    if on_device:
        torch.cuda.reset_peak_memory_stats()
    atoms = cell.repeat(repeat)
    atoms.rattle(0.03, seed=0)
    structure = Structure.from_atoms(atoms, device=device)
    wall, cpu = time.perf_counter(), time.process_time()
    found = predict(model, structure, forces=forces)
    if on_device:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "atoms": len(atoms),
        "points": found.grid.n_points,
        "wall": wall,
        "cpu": cpu,
        "clock": wall if on_device else cpu,
        "peak": peak_memory(),
        "extra": peak_memory() - before,
        "device_peak": torch.cuda.max_memory_allocated() if on_device else 0,
        "device": torch.cuda.get_device_name() if on_device else platform.machine(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "roof": roof,
        "rate": operations * found.grid.n_points / (wall if on_device else cpu),
    }


def product_rate(device: str) -> float:
    """Floating-point operations per second of the product of two large float32 matrices, the best of some."""
    import torch

    clock, size = (time.perf_counter, 8192) if device.startswith("cuda") else (time.process_time, 2048)
    left, right = (torch.ones(size, size, device=device) for _ in range(2))
    seconds = []
    for _ in range(4):
        start = clock()
        # reading one number waits for the device
        float((left @ right)[0, 0])
        seconds.append(clock() - start)
    return 2 * size**3 / min(seconds)


def run_case(repeat: Repeat, kind: str, options: argparse.Namespace) -> Found:
    """``case`` in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    job = json.dumps([options.model, repeat, kind, options.device])
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    done = subprocess.run([sys.executable, __file__, "--case", job], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{2 * prod(repeat)} atoms, {kind}, ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def row(found: Found, kind: str) -> str:
    mib = 2**20
    device = f"; device {found['device_peak'] / mib:.0f} MiB" if found["device_peak"] else ""
    return (
        f"{found['atoms']:8d} {found['points']:10d} {kind:7s} {found['wall']:9.2f} {found['cpu']:9.2f} "
        f"{1e3 * found['cpu'] / found['atoms']:12.2f} {1e6 * found['cpu'] / found['points']:13.2f} "
        f"{found['peak'] / mib:11.0f} {found['extra'] / mib:19.0f} "
        f"{100 * found['rate'] / found['roof']:10.1f} %{device}"
    )


def exponent(atoms: list[int], times: list[float]) -> float:
    """p of time ∝ atoms^p by least squares in log-log."""
    return float(np.polyfit(np.log(atoms), np.log(times), 1)[0])


def summary(results: dict[str, list[Found]]) -> str:
    """Where it ran, fitted exponents, and the memory that each atom more takes."""
    some = next(found[0] for found in results.values() if found)
    lines = [f"{some['device']}, {some['dtype']} network; roof {some['roof'] / 1e9:.0f} GFLOP/s"]
    for kind, found in results.items():
        if len(found) < 2:
            continue
        atoms = [item["atoms"] for item in found]
        power = exponent(atoms, [item["clock"] for item in found])
        growth = (found[-1]["peak"] - found[-2]["peak"]) / (atoms[-1] - atoms[-2]) / 1024
        lines.append(
            f"{kind}: time grows as atoms^{power:.3f} from {atoms[0]} to {atoms[-1]} atoms, "
            f"memory by {growth:.0f} KiB per atom from {atoms[-2]} to {atoms[-1]}"
        )
    return "\n".join(lines)


def enough(found: Found, spent: float, last_round: float, seconds: float) -> bool:
    """Whether twice as many atoms would take more time or memory than there is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return spent + 2.2 * last_round > seconds or found["peak"] + 1.2 * found["extra"] > MEMORY_SHARE * memory


def measure(repeat: Repeat, options: argparse.Namespace) -> dict[str, Found]:
    """The fastest of all rounds of each kind; the kinds take turns."""
    rounds = [{kind: run_case(repeat, kind, options) for kind in options.kinds} for _ in range(options.rounds)]
    return {kind: min((found[kind] for found in rounds), key=lambda item: item["clock"]) for kind in options.kinds}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="start no size that would end later (default 300)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each case runs (default 2)")
    parser.add_argument("--repeat", type=int, nargs=3, metavar="N", help="one size: cells of two atoms along each axis")
    parser.add_argument("--start", type=int, nargs=3, metavar="N", default=(4, 4, 4), help="first size (default 4 4 4)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what to predict (default both)")
    parser.add_argument("--model", default="be", help="bundled model or model file (default be)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of each case (default 1)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(*(options.repeat or options.start), options.rounds, options.threads) < 1:
        parser.error("cells along each axis, rounds and threads must be 1 or more")
    return options


def main() -> None:
    options = arguments()
    if options.case:
        print(json.dumps(case(*json.loads(options.case))))
        return
    start, repeat = time.monotonic(), tuple(options.repeat or options.start)
    results: dict[str, list[Found]] = {kind: [] for kind in options.kinds}
    print(f"model {options.model}, hcp beryllium, threads: {options.threads}, rounds: {options.rounds}\n{HEADER}")
    while True:
        began = time.monotonic()
        try:
            found = measure(repeat, options)
        except RuntimeError as error:
            sys.exit(str(error))
        for kind, item in found.items():
            results[kind].append(item)
            print(row(item, kind), flush=True)
        now = time.monotonic()
        largest = max(found.values(), key=lambda item: item["peak"])
        if options.repeat or enough(largest, now - start, now - began, options.seconds):
            break
        repeat = doubled(repeat)
    print(summary(results))


if __name__ == "__main__":
    main()
