"""All that wants a GPU, measured in one run: ``python tests/gpu/measure.py --out FOLDER`` writes JSON and a table.

Each part ends within its share of the time; one that fails is recorded with its error and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.data import chemical_symbols
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.model_file import list_models, load_model
from ase_ldos.prediction.cost import count_work, measure_machine, synchronize
from ase_ldos.prediction.memory import is_out_of_memory
from ase_ldos.prediction.predict import predict
from ase_ldos.training.settings import ValidationSettings, load_settings
from ase_ldos.training.train import train_model

DEVICE = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[2]
#: Beryllium, 2 n³ atoms.
SIZES = (2, 4, 8, 16, 32, 40)


def beryllium(n: int) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((n, n, n))
    atoms.rattle(0.05, seed=1)
    return atoms


def crystal(model: str) -> Atoms:
    """Some 16 rattled atoms of a model's first element."""
    atoms = bulk(chemical_symbols[load_model(model).descriptor.species[0]])
    atoms = atoms.repeat((2, 2, 4) if len(atoms) == 1 else (2, 2, 2))
    atoms.rattle(0.05, seed=1)
    return atoms


def agreement(_: float) -> dict[str, Any]:
    """Energies and forces of every bundled model against those of the CPU."""
    found: dict[str, Any] = {}
    for name in list_models():
        results = []
        for device in ("cpu", str(DEVICE)):
            atoms = crystal(name)
            atoms.calc = LDOSCalculator(name, device=device)
            results.append((atoms.get_potential_energy() / len(atoms), atoms.get_forces()))
        (energy, forces), (energy_there, forces_there) = results
        found[name] = {
            "energy_meV_per_atom": 1000 * (energy_there - energy),
            "largest_force_eV_per_A": float(np.abs(forces_there - forces).max()),
        }
    return found


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Reduced precision of products where the package would have IEEE: for this comparison alone."""
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before


def reduced_precision(_: float) -> dict[str, Any]:
    """Hidden features by TF32 and bfloat16 products in the network against those in float64, relative, largest."""
    from ase_ldos.prediction.grid_walk import GridWalk

    structure = Structure.from_atoms(beryllium(2))
    model = load_model("be")
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing)
    with torch.no_grad():
        exact = GridWalk(model.to(DEVICE, torch.float64), structure, grid, 2**18)
        block = next(exact.blocks())
        inputs = model.inputs(block, exact.image_states(block))
        reference = model.network.features(inputs)
        network, scale = model.network.float(), reference.abs().amax(dim=0)
        found = {"float32": network.features(inputs.float())}
        with products_in("tf32"):
            found["tf32"] = network.features(inputs.float())
        with torch.autocast("cuda", dtype=torch.bfloat16):
            found["bfloat16"] = network.features(inputs.float())
    return {name: float(((values - reference).abs() / scale).max()) for name, values in found.items()}


def speed(limit: float) -> dict[str, Any]:
    """Times per step for growing cells, fractions of the roofline, and the largest cell that fits."""
    begin = time.perf_counter()
    model = load_model("be").to(DEVICE)
    machine = measure_machine(DEVICE, model.dtype)
    rows: list[dict[str, Any]] = []
    largest, sizes = 0, [*SIZES, 50, 64, 80, 100]
    for n in sizes:
        row: dict[str, Any] = {"atoms": 2 * n**3}
        structure = Structure.from_atoms(beryllium(n))
        grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing)
        try:
            for kind, forces in (("energy", False), ("forces", True)):
                torch.cuda.reset_peak_memory_stats()
                times: list[float] = []
                for _ in range(4 if n <= 8 else 1):
                    start = time.perf_counter()
                    predict(model, structure, forces=forces, grid_shape=grid.shape)
                    synchronize(DEVICE)
                    times.append(time.perf_counter() - start)
                work = count_work(model, structure, grid, forces=forces)
                assert work is not None
                row |= {
                    f"{kind}_s": min(times),
                    f"{kind}_roofline": work.seconds(machine) / min(times),
                    f"{kind}_GiB": torch.cuda.max_memory_allocated() / 2**30,
                }
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            row["error"] = "out of memory"
            rows.append(row)
            break
        rows.append(row)
        largest = 2 * n**3
        used = time.perf_counter() - begin
        following = sizes[sizes.index(n) + 1] if n != sizes[-1] else n
        if used + 1.5 * (following / n) ** 3 * (row["energy_s"] + row["forces_s"]) > limit:
            row["stopped"] = "time"
            break
    return {
        "rows": rows,
        "largest_atoms": largest,
        "tflops": machine.operations / 1e12,
        "gigabytes_per_second": machine.traffic / 1e9,
    }


def dynamics(limit: float) -> dict[str, Any]:
    """Molecular dynamics of 1,024 atoms at constant energy; of 16 on the stand-in for a device, which is slow."""
    atoms = beryllium(2 if "fakecuda" in sys.modules else 8)
    atoms.calc = LDOSCalculator("be", device=str(DEVICE))
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
    verlet = VelocityVerlet(atoms, timestep=1 * units.fs)
    verlet.run(1)
    totals, begin = [], time.perf_counter()
    while len(totals) < 100 and time.perf_counter() - begin < limit:
        verlet.run(1)
        totals.append(atoms.get_total_energy() / len(atoms))
    per_step = (time.perf_counter() - begin) / len(totals)
    drift = 1000 * float(np.ptp(totals))
    return {"atoms": len(atoms), "steps": len(totals), "s_per_step": per_step, "drift_meV_per_atom": drift}


def in_turn(limit: float, sizes: Sequence[int], one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Times per force step and energy of ``be`` with some options of the calculator against others, in turn.

    Args:
        limit: for all of it, s.
        sizes: repeats of the primitive cell.
        one: options.
        other: other options.
    """
    found: dict[str, Any] = {}
    for n in sizes:
        atoms = beryllium(n)
        calculators = {
            name: LDOSCalculator("be", device=str(DEVICE), **options)
            for name, options in (("without", one), ("with", other))
        }
        times: dict[str, list[float]] = {}
        results: dict[str, tuple[float, np.ndarray]] = {}
        begin = time.perf_counter()
        for turn in range(6):  # the first compiles or records
            for name, calculator in calculators.items():
                for kind in ("energy", "forces"):
                    calculator.reset()
                    start = time.perf_counter()
                    value = calculator.get_property(kind, atoms)
                    synchronize(DEVICE)
                    if turn > 0:
                        times.setdefault(f"{name}_{kind}_s", []).append(time.perf_counter() - start)
                results[name] = (calculator.results["energy"], value)
            if turn > 0 and time.perf_counter() - begin > limit / len(sizes):
                break
        (energy, forces), (energy_there, forces_there) = results["without"], results["with"]
        found[f"{len(atoms)} atoms"] = {name: min(own) for name, own in times.items()} | {
            "energy_meV_per_atom": 1000 * (energy_there - energy) / len(atoms),
            "largest_force_eV_per_A": float(np.abs(forces_there - forces).max()),
        }
        graphs = calculators["with"]._graphs
        if graphs is not None:
            found[f"{len(atoms)} atoms"] |= {"recorded": graphs.recorded, "failed": graphs.failed}
    return found


def triton_kernels(limit: float) -> dict[str, Any]:
    """With Triton's kernels and without."""
    if find_spec("triton") is None:
        return {"skipped": "Triton is not installed"}
    if "fakecuda" in sys.modules:
        return {"skipped": "Triton's compiler needs a real GPU"}
    return in_turn(limit, (2, 8), {}, {"kernels": "triton"})


def cuda_graphs(limit: float) -> dict[str, Any]:
    """With CUDA graphs of the batches of small cells and without."""
    if "fakecuda" in sys.modules:
        return {"skipped": "CUDA graphs need a real GPU"}
    return in_turn(limit, (1, 2, 4), {}, {"cuda_graphs": True})


def training(_: float) -> dict[str, Any]:
    """An epoch of each stage of the training of ``be``, on some of its labels."""
    folder = ROOT / "ase_ldos" / "models" / "be"
    # its recipe holds back labels by name, of which those here have few
    settings = replace(load_settings(folder / "training.toml"), validation=ValidationSettings())
    data = [ROOT / "tests" / "data_files" / "be", folder / "labels" / "close-pairs"]
    begin = time.perf_counter()
    found = train_model(settings, init_from="be", data=data, epochs=1, progress=False, device=DEVICE)
    epochs = {name: history.records[0].seconds for name, history in found.histories.items()}
    return {"s_per_epoch": epochs, "s_in_all": time.perf_counter() - begin}


#: Parts and their share of the time.
PARTS: dict[str, tuple[Callable[[float], dict[str, Any]], float]] = {
    "agreement": (agreement, 0.15),
    "reduced_precision": (reduced_precision, 0.05),
    "speed": (speed, 0.45),
    "triton_kernels": (triton_kernels, 0.05),
    "cuda_graphs": (cuda_graphs, 0.05),
    "dynamics": (dynamics, 0.15),
    "training": (training, 0.1),
}


def table(found: dict[str, Any]) -> str:
    """The numbers as Markdown, as the README of the benchmarks takes them."""
    lines = [f"{found['device']}, torch {found['torch']}, {found['date']}", ""]
    speeds = found.get("speed", {})
    if "rows" in speeds:
        lines += ["| atoms | energy | with forces | µs per atom with forces | of the roofline | GiB |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in speeds["rows"]:
            if "forces_s" not in row:
                lines.append(f"| {row['atoms']} | {row['error']} | | | | |")
                continue
            lines.append(
                f"| {row['atoms']} | {1e3 * row['energy_s']:.1f} ms | {1e3 * row['forces_s']:.1f} ms | "
                f"{1e6 * row['forces_s'] / row['atoms']:.1f} | "
                f"{100 * row['energy_roofline']:.0f} / {100 * row['forces_roofline']:.0f} % | {row['forces_GiB']:.1f} |"
            )
        lines += ["", f"{speeds['tflops']:.1f} TFLOP/s and {speeds['gigabytes_per_second']:.0f} GB/s measured."]
    for name in PARTS:
        if name != "speed" or "error" in found.get(name, {}):
            lines += ["", f"{name}: {json.dumps(found.get(name, 'not run'))}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for gpu.json and gpu.md (default: here)")
    parser.add_argument("--seconds", type=float, default=300, help="for all parts together, about (default 300)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which (default: all)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA device")
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    for name in tqdm(options.parts, unit="part"):
        part, share = PARTS[name]
        begin = time.perf_counter()
        try:
            found[name] = part(share * options.seconds)
        except Exception as error:
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        found[name]["seconds"] = time.perf_counter() - begin
        (options.out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "gpu.md").write_text(table(found))
    print(table(found))
    sys.exit(any("error" in found[name] for name in options.parts))


if __name__ == "__main__":
    main()
