"""CPU time per atom and force step beside MACE: ``python tests/benchmarks/mace_peer.py --atoms 256 --rounds 3``.

MACE (``pip install '.[mace]'``) in the two shapes of the public foundation models of Batatia et al., arXiv:2401.00096:
small (128 scalar channels) and medium (128 scalars and vectors), 89 elements, cutoff 6 Å, with random weights: its
time does not depend on them. Ours: a bundled model. Energy and forces of the same rattled atoms, one thread each, in
turn, several rounds; on a GPU, where there is one, wall time of the same. MACE gives an energy; ours the electrons too.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.prediction.cost import synchronize

#: Irreducible representations of the hidden features, by the name of the public model.
SHAPES = {"small": "128x0e", "medium": "128x0e + 128x1o"}


def aluminium(n_atoms: int) -> Atoms:
    """A rattled fcc crystal of about so many atoms."""
    n = max(1, round((n_atoms / 4) ** (1 / 3)))
    atoms = bulk("Al", "fcc", a=4.05, cubic=True).repeat(n)
    atoms.rattle(0.05, seed=0)
    return atoms


def mace_step(shape: str, atoms: Atoms, device: torch.device) -> Callable[[], object]:
    """A function that finds energy and forces of the atoms by MACE, the list of neighbours included."""
    from mace import data, modules, tools
    from mace.tools import torch_geometric

    o3 = import_module("e3nn.o3")  # after mace, which lets torch read its tables
    numbers = tuple(range(1, 90))
    torch.manual_seed(0)
    model = modules.ScaleShiftMACE(
        r_max=6.0,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(SHAPES[shape]),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(numbers)),
        avg_num_neighbors=60.0,
        atomic_numbers=list(numbers),
        correlation=3,
        radial_MLP=[64, 64, 64],
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    ).to(device, torch.float32)
    table = tools.AtomicNumberTable(numbers)

    def step() -> object:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            graph = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=6.0)
            batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1))).to(device)
            return model(batch.to_dict(), compute_force=True)["forces"]
        finally:
            torch.set_default_dtype(before)

    return step


def our_step(model: str, atoms: Atoms, device: torch.device) -> Callable[[], object]:
    """A function that finds energy and forces by one of our models."""
    mine = atoms.copy()
    calculator = LDOSCalculator(model, device=device)
    mine.calc = calculator

    def step() -> object:
        calculator.reset()
        return mine.get_forces()

    return step


def measure(steps: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step, in turn: CPU time, on a GPU wall time; one round more is for warming up."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            begin = clock()
            step()
            synchronize(device)
            if number:
                times[name].append(clock() - begin)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=256, help="about so many of fcc aluminium (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed, in turn (default 3)")
    parser.add_argument("--model", default="al", help="bundled model or model file (default al)")
    options = parser.parse_args()
    if options.rounds < 1 or options.atoms < 1:
        parser.error("--rounds and --atoms must be 1 or more")
    if find_spec("mace") is None:
        parser.error("MACE is not installed: pip install '.[mace]'")
    warnings.simplefilter("ignore")  # of its dependencies
    torch.set_num_threads(1)
    atoms = aluminium(options.atoms)
    for device in [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]:
        steps = {f"MACE, {shape} shape": mace_step(shape, atoms, device) for shape in SHAPES}
        steps[f"ours, {options.model}"] = our_step(options.model, atoms, device)
        kind = "CPU time, one thread" if device.type == "cpu" else torch.cuda.get_device_name(device)
        print(f"{len(atoms)} Al atoms, energy and forces, ms per atom and step; {kind}, {platform.machine()}")
        for name, times in measure(steps, options.rounds, device).items():
            per_atom = 1000 * np.array(times) / len(atoms)
            print(f"{name:24s} minimum {per_atom.min():7.2f}  median {np.median(per_atom):7.2f}")
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
