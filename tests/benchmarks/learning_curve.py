"""Errors against the number of training structures: ``python tests/benchmarks/learning_curve.py --sizes 5 10 20``.

Three models learn from the same beryllium cells of 3 and 4 atoms (labels of the package, those with LDOS first): the
pointwise network on the power spectrum, the same on SNAP, and the SE(3)-equivariant graph network. All take the same
steps. The last weights are judged on held-back
cells, which choose nothing. Training time and the cost of a point (16 atoms) are CPU time: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from ase.build import bulk

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict
from ase_ldos.training.evaluate import evaluate_model, summarise
from ase_ldos.training.settings import SnapshotStage, TrainingData, TrainingSettings, load_data, load_settings
from ase_ldos.training.train import train_stages

#: Cells of at most 4 atoms.
GROUPS = ("d4", "f3", "g4", "h4")
KINDS = ("power spectrum", "SNAP", "SE(3)")
#: The repository's folder: an installed package has no labels.
MODELS = Path(__file__).resolve().parents[2] / "ase_ldos" / "models"

HEADER = (
    f"{'structures':>10s} {'with LDOS':>9s}  {'model':14s} {'energy':>8s} {'forces':>8s} {'density':>8s} {'LDOS':>6s} "
    f"{'DOS':>6s} {'training':>9s} {'energy only':>12s} {'with forces':>12s}\n"
    f"{'':10s} {'':9s}  {'':14s} {'meV/atom':>8s} {'meV/Å':>8s} {'%':>8s} {'%':>6s} {'%':>6s} {'CPU s':>9s} "
    f"{'µs/point':>12s} {'µs/point':>12s}"
)


def settings_of(kind: str, options: argparse.Namespace, size: int) -> TrainingSettings:
    """The settings of a bundled model with the steps that are asked for, judged only at the end."""
    settings = load_settings(MODELS / ("be-se3" if kind == "SE(3)" else "be") / "training.toml")
    first, then = settings.stages[:2]
    assert isinstance(then, SnapshotStage)
    epochs = -(-options.steps // size)
    weights = replace(then.weights, ldos_points=1000)
    then = replace(then, epochs=epochs, validate_every=epochs, learning_rate=1e-3, weights=weights)
    if kind == "SNAP":
        model = replace(settings.model, descriptor={"kind": "snap"}, n_components=80)
        settings = replace(settings, model=model)
    small = tuple(source for source in settings.data if "small" in source or "wide" in source)
    return replace(settings, data=small, stages=(first, then), seed=options.seed)


def cells(settings: TrainingSettings) -> tuple[list[Snapshot], list[Snapshot]]:
    """Cells to learn from, in random order but those with LDOS first, and cells held back."""
    parts = load_data(settings).chosen(None)
    training, held_back = ([item for item in part if item.group in GROUPS] for part in parts)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(1 + settings.seed)).tolist()
    return sorted((training[place] for place in order), key=lambda item: item.ldos is None), held_back


def cost(model: LDOSModel, *, forces: bool) -> float:
    """CPU time of a prediction of 16 atoms, µs per point, the best of three."""
    atoms = bulk("Be", "hcp", a=2.245, c=3.531).repeat(2)
    atoms.rattle(0.03, seed=0)
    structure, seconds = Structure.from_atoms(atoms), []
    for _ in range(3):
        start = time.process_time()
        found = predict(model, structure, forces=forces)
        seconds.append(time.process_time() - start)
    return 1e6 * min(seconds) / found.grid.n_points


def run(kind: str, size: int, options: argparse.Namespace) -> str:
    """One line of the table."""
    settings = settings_of(kind, options, size)
    training, held_back = cells(settings)
    training = training[:size]
    start = time.process_time()
    data = TrainingData({settings.data[0]: training}, {settings.data[0]: held_back})
    one_set = settings.with_data(settings.data[:1])
    model = train_stages(one_set, data, progress=options.progress).model
    spent = time.process_time() - start
    model.requires_grad_(False)
    errors = summarise(evaluate_model(model, held_back, progress=options.progress))
    widths = {"energy": (8, 1), "forces": (8, 0), "density": (8, 2), "ldos": (6, 1), "dos": (6, 1)}
    numbers = " ".join(f"{errors[name]:{width}.{digits}f}" for name, (width, digits) in widths.items())
    with_ldos = sum(item.ldos is not None for item in training)
    costs = " ".join(f"{cost(model, forces=forces):12.1f}" for forces in (False, True))
    return f"{len(training):10d} {with_ldos:9d}  {kind:14s} {numbers} {spent:9.0f} {costs}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(5, 10, 20), help="training structures (5 10 20)")
    parser.add_argument("--steps", type=int, default=600, help="on everything, after 300 on the LDOS (default 600)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which models (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and choice of structures (default 0)")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    options = parser.parse_args()
    if min(*options.sizes, options.steps) < 1:
        parser.error("sizes and steps must be 1 or more")
    held_back = cells(settings_of(KINDS[0], options, 1))[1]
    print(f"{len(held_back)} cells held back; {options.steps} steps, seed {options.seed}\n{HEADER}")
    for size in options.sizes:
        for kind in options.kinds:
            print(run(kind, size, options), flush=True)


if __name__ == "__main__":
    main()
