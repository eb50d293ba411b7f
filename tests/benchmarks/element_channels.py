"""CPU time of a point with forces for 1 to 10 elements: channels of elements beside those of pseudo-species.

    python tests/benchmarks/element_channels.py [--seconds 4] [--most 6]

An fcc crystal of 16 Å³ per atom, its sites shared by the elements at random. Repetitions of all rows alternate, and the
least time counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.structure import Structure

ELEMENTS = ("Be", "Al", "Si", "Mg", "Li", "Na", "K", "Ga", "Ge", "As")
OPTIONS: dict[str, Any] = {"cutoff": 5.0, "n_radial": 6, "lmax": 4}


def crystal(symbols: tuple[str, ...]) -> Atoms:
    """108 atoms of these elements in equal shares."""
    atoms: Atoms = bulk("Al", "fcc", a=4.0, cubic=True).repeat(3)  # type: ignore[no-untyped-call]
    atoms.symbols = np.random.default_rng(0).permutation(np.resize(symbols, len(atoms)))
    atoms.rattle(0.1, seed=0)
    return atoms


def descriptors(symbols: tuple[str, ...], most: int) -> dict[str, Descriptor]:
    """The power spectrum of elements, unless they are too many, and compressed ones, that of ``sp`` among them."""
    species = tuple(atomic_numbers[symbol] for symbol in symbols)
    found: dict[str, Descriptor] = {}
    if len(species) <= most:
        found["elements"] = PowerSpectrum(species, **OPTIONS)
    for count in (2, 3, 4):
        rows = {s: [float(covalent_radii[atomic_numbers[s]]) ** c for c in range(count)] for s in symbols}
        found[f"{count} channels"] = CompressedPowerSpectrum(species, channels=rows, **OPTIONS)
        if count == 3:
            found["sp's"] = CompressedPowerSpectrum(species, channels=rows, **OPTIONS | {"n_radial": 5})
    return found


def seconds(descriptor: Descriptor, block: Block, state: torch.Tensor) -> float:
    """CPU time of features and their adjoint."""
    atoms = block.atoms.detach().requires_grad_()
    start = time.process_time()
    features = descriptor(block.points, atoms, state)
    torch.autograd.grad(features, atoms, torch.ones_like(features))
    return time.process_time() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each number of elements")
    parser.add_argument("--most", type=int, default=4, help="elements with channels of their own")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'elements':>8}  {'descriptor':12}{'features':>9}{'µs/point':>10}")
    for count in (1, 2, 3, 4, 6, 10):
        symbols = ELEMENTS[:count]
        structure = Structure.from_atoms(crystal(symbols))
        grid = Grid(structure.cell, (48, 48, 48))
        block = next(iter(iterate_blocks(structure, grid, OPTIONS["cutoff"], dtype=torch.float32)))
        rows = descriptors(symbols, args.most)
        states = {name: d.encode_atoms(structure)[block.owners] for name, d in rows.items()}
        times: dict[str, list[float]] = {name: [] for name in rows}
        end = time.monotonic() + args.seconds
        while time.monotonic() < end or len(times[next(iter(rows))]) < 4:
            for name, descriptor in rows.items():
                times[name].append(seconds(descriptor, block, states[name]))
        for name, descriptor in rows.items():
            cost = 1e6 * min(times[name]) / len(block.points)
            print(f"{count:8d}  {name:12}{descriptor.n_features:9d}{cost:10.1f}", flush=True)


if __name__ == "__main__":
    main()
