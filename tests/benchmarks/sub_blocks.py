"""CPU time per grid point with forces: a block against its eight parts, each with a list of images of its own.

``python tests/benchmarks/sub_blocks.py [MODEL]``: hidden features of a power spectrum and their derivatives on one
thread, in turn: as a CPU takes them (one kernel per block), and by the kernel of batches, as a GPU takes them. A part
of a block has fewer images near it, so that fewer pairs are multiplied; the search for images is not in these times.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from ase.build import bulk

from ase_ldos import load_model
from ase_ldos.descriptors.protocol import BatchedFeatures
from ase_ldos.geometry.grid import BlockRange, Grid
from ase_ldos.geometry.grid_batches import BlockBatch, GridBatches
from ase_ldos.geometry.grid_blocks import Block, iterate_blocks
from ase_ldos.geometry.structure import Structure, species_indices

#: Points along the edges of a block, about the default's; it is cut in two along each.
EDGE = 12
BLOCKS, ROUNDS = 4, 5


def main() -> None:
    torch.set_num_threads(1)
    model = load_model(sys.argv[1] if len(sys.argv) > 1 else "be").eval().requires_grad_(False).with_fused_scaler()
    features = model.descriptor
    assert isinstance(features, BatchedFeatures)
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat(4)
    atoms.rattle(0.05, seed=1)
    structure = Structure.from_atoms(atoms)
    grid = Grid.with_spacing(structure.cell, model.metadata.grid_spacing)
    assert all(n % EDGE == 0 for n in grid.shape), grid.shape
    state = features.encode_atoms(structure)
    starts = list(product(*(range(0, n, EDGE) for n in grid.shape)))
    chosen = [BlockRange(start, (EDGE,) * 3) for start in starts[:: len(starts) // BLOCKS][:BLOCKS]]
    half = EDGE // 2
    parts = [
        BlockRange((i + x, j + y, k + z), (half,) * 3)
        for (i, j, k), _ in chosen
        for x, y, z in product((0, half), repeat=3)
    ]
    batches = GridBatches(
        structure,
        grid,
        features.batch_radii(model.dtype),
        parts,
        kinds=species_indices(structure.numbers, features.species).numpy(),
        n_kinds=len(features.species),
        points=EDGE**3,
        dtype=model.dtype,
        device=torch.device("cpu"),
    )
    ways: dict[str, Sequence[Block | BlockBatch]] = {
        "blocks": list(iterate_blocks(structure, grid, features.cutoff, dtype=model.dtype, ranges=chosen)),
        "eight parts": list(batches.iterate()),
    }
    pull = torch.randn(EDGE**3, model.network.n_features, generator=torch.Generator().manual_seed(0)).to(model.dtype)

    def run(blocks: Sequence[Block | BlockBatch]) -> None:
        for block in blocks:
            moved = block.atoms.detach().requires_grad_()
            states = None if isinstance(block, BlockBatch) else state[block.owners]
            torch.autograd.grad(model.hidden(replace(block, atoms=moved), states), moved, pull)

    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):  # the first finds what is kept
        for name, blocks in ways.items():
            begin = time.process_time()
            run(blocks)
            if turn > 0:
                times[name].append((time.process_time() - begin) / (BLOCKS * EDGE**3))
    for name, own in times.items():
        images = ways[name][0].atoms.shape[-2]
        print(f"{name}: {1e6 * np.median(own):.1f} µs per point (least {1e6 * min(own):.1f}), {images} images near")


if __name__ == "__main__":
    main()
