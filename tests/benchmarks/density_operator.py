"""The Fourier neural operator beside `be`'s pointwise network: ``python tests/benchmarks/density_operator.py``.

Learns the density of beryllium from superposed atomic densities, on the structures that `be` learned from and with the
same held back (every sixth of each file), by the same loop and optimiser. Prints the error ∫ |n − n_DFT| / N of both on
what was held back, small cells and larger ones, and the CPU time per atom of one density, up to 1,024 atoms.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from ase.build import bulk
from torch import Tensor, nn

from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.model_file import load_model
from ase_ldos.networks.density_operator import DensityOperator
from ase_ldos.prediction.predict import predict
from ase_ldos.training.loop import fit
from ase_ldos.training.soap import SOAP

LABELS = Path(__file__).resolve().parents[2] / "ase_ldos" / "models/be/labels"
SMALL = [LABELS / "small", LABELS / "wide", LABELS / "small-cells.npz"]
LARGE = [LABELS / "large", LABELS / "larger-cells.npz"]
VALENCE = 2.0  # electrons of a beryllium atom in these labels


@dataclass(frozen=True)
class Labelled:
    """A structure and DFT's density on its grid."""

    structure: Structure
    grid: Grid
    density: Tensor

    @classmethod
    def of(cls, snapshot: Snapshot) -> Labelled:
        assert snapshot.density is not None
        assert snapshot.shape is not None
        structure = snapshot.structure
        density = torch.as_tensor(snapshot.density).double()
        # half precision on disk: the number of electrons is known better than the sum of rounded numbers
        density *= VALENCE * len(structure) / (density.mean() * structure.volume)
        return cls(structure, Grid(structure.cell, snapshot.shape), density)

    @property
    def charges(self) -> Tensor:
        return torch.full((len(self.structure),), VALENCE, dtype=torch.float64)


def split(paths: list[Path]) -> tuple[list[Labelled], list[Labelled]]:
    """To learn from, and every sixth."""
    items = [Labelled.of(snapshot) for snapshot in load_snapshots(paths) if snapshot.density is not None]
    return [item for i, item in enumerate(items) if i % 6 != 5], items[5::6]


def mean_error(density: Callable[[Labelled], Tensor], items: list[Labelled]) -> float:
    """Mean of ∫ |n − n_DFT| / N."""
    with torch.no_grad():
        errors = [float((density(item) - item.density).abs().sum() / item.density.sum()) for item in items]
    return sum(errors) / len(errors)


def train(model: DensityOperator, items: list[Labelled], held_back: list[Labelled], epochs: int, rate: float) -> None:
    generator = torch.Generator().manual_seed(1)

    def batches(_epoch: int) -> Iterator[list[Labelled]]:
        for chosen in torch.randperm(len(items), generator=generator).split(4):
            yield [items[int(i)] for i in chosen]

    def loss(network: nn.Module, batch: list[Labelled]) -> Tensor:
        parts = []
        for item in batch:
            found = network(item.structure, item.charges, item.grid)
            parts.append((found - item.density).square().mean() / item.density.mean() ** 2)
        return torch.stack(parts).mean()

    optimizer = SOAP(model.parameters(), lr=rate)
    history = fit(
        model,
        batches,
        loss,
        optimizer,
        epochs=epochs,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(items) // 4)),
        validate=lambda network: {"density": mean_error(lambda i: network(i.structure, i.charges, i.grid), held_back)},
        validate_every=5,
        monitor="density",
        ema_decay=0.98,
        generator=generator,
        progress=False,
        callbacks=[lambda _, history: report(history.records[-1].epoch, history.records[-1].validation)],
    )
    print(f"best epoch {history.best_epoch}")


def report(epoch: int, numbers: dict[str, float]) -> bool:
    if numbers:
        print(f"epoch {epoch}: density {100 * numbers['density']:.3f} %", flush=True)
    return False


def seconds(density: Callable[[Labelled], Tensor], n: int) -> float:
    """CPU time per atom of hcp beryllium with n³ · 2 atoms."""
    structure = Structure.from_atoms(bulk("Be", "hcp", a=2.29, c=3.59) * (n, n, n))
    grid = Grid.with_spacing(structure.cell, 0.3)
    item = Labelled(structure, grid, torch.zeros(0))
    with torch.no_grad():
        density(item)
        begin = time.process_time()
        density(item)
    return (time.process_time() - begin) / len(structure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--large", action="store_true", help="learn from the larger cells too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (small, small_held), (large, large_held) = split(SMALL), split(LARGE)
    be = load_model("be")

    def of_be(item: Labelled) -> Tensor:
        return predict(be, item.structure, grid_shape=item.grid.shape).density

    model = DensityOperator(options.width, options.layers)
    begin = time.process_time()
    train(model, small + large * options.large, small_held, options.epochs, options.learning_rate)
    print(f"trained in {time.process_time() - begin:.0f} CPU s")

    def of_operator(item: Labelled) -> Tensor:
        return model(item.structure, item.charges, item.grid)

    print(f"{'':24}{'FNO':>10}{'be':>10}")
    for name, items in (("small cells, held back", small_held), ("12 to 24 atoms, all", large + large_held)):
        print(f"{name:24}{100 * mean_error(of_operator, items):9.3f}%{100 * mean_error(of_be, items):9.3f}%")
    for n in (2, 4, 8):
        times = [1000 * seconds(density, n) for density in (of_operator, of_be)]
        print(f"{f'ms per atom, {2 * n**3} atoms':24}{times[0]:10.2f}{times[1]:10.2f}", flush=True)


if __name__ == "__main__":
    main()
