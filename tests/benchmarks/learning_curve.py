"""Errors against the number of training structures: ``python tests/benchmarks/learning_curve.py --sizes 5 10 20``.

Three models learn from the same beryllium cells of 3 and 4 atoms (labels of the package, those with LDOS first): the
pointwise network on the power spectrum, the same on SNAP, and the SE(3)-equivariant graph network. All take the same
steps. SNAP has no Jacobian, so it learns from the LDOS alone, as MALA does. The last weights are judged on held-back
cells, which choose nothing. Training time and the cost of a point (16 atoms) are CPU time: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from ase.build import bulk
from ase.data import atomic_numbers

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import BUNDLED
from ase_ldos.prediction.predict import predict
from ase_ldos.training import stages
from ase_ldos.training.evaluate import evaluate_model, summarise
from ase_ldos.training.losses import LDOSPoints
from ase_ldos.training.precompute import fit_scaler, prepare_snapshots
from ase_ldos.training.settings import Recipe, load_recipe, split_data

#: Cells of at most 4 atoms.
FAMILIES = ("d4", "f3", "g4", "h4")
KINDS = ("power spectrum", "SNAP", "SE(3)")
HEADER = (
    f"{'structures':>10s} {'with LDOS':>9s}  {'model':14s} {'energy':>8s} {'forces':>8s} {'density':>8s} {'LDOS':>6s} "
    f"{'DOS':>6s} {'training':>9s} {'energy only':>12s} {'with forces':>12s}\n"
    f"{'':10s} {'':9s}  {'':14s} {'meV/atom':>8s} {'meV/Å':>8s} {'%':>8s} {'%':>6s} {'%':>6s} {'CPU s':>9s} "
    f"{'µs/point':>12s} {'µs/point':>12s}"
)


def recipe_of(kind: str, options: argparse.Namespace, size: int) -> Recipe:
    """The recipe of a bundled model with the steps that are asked for, judged only at the end."""
    name = "be-se3" if kind == "SE(3)" else "be"
    recipe = load_recipe(BUNDLED / "recipes" / f"{name}.toml")
    epochs = -(-options.steps // size)
    training = replace(recipe.training, epochs=epochs, validate_every=epochs, learning_rate=1e-3)
    training = replace(training, weights=replace(training.weights, ldos_points=1000))
    data = ("be-small-cells.npz", "be-ldos-small-cells")
    return replace(recipe, data=data, training=training, seed=options.seed)


def cells(recipe: Recipe) -> tuple[list[Snapshot], list[Snapshot]]:
    """Cells to learn from, in random order but those with LDOS first, and cells held back."""
    training, held_back = ([item for item in part if item.family in FAMILIES] for part in split_data(recipe))
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(1 + recipe.seed)).tolist()
    return sorted((training[place] for place in order), key=lambda item: item.ldos is None), held_back


def train_snap(recipe: Recipe, training: Sequence[Snapshot]) -> LDOSModel:
    """The first two stages of a training, for a descriptor without Jacobian: all steps on the LDOS."""
    settings, generator = recipe.model, torch.Generator().manual_seed(recipe.seed)
    numbers = {atomic_numbers[symbol]: charge for symbol, charge in settings.valence.items()}
    snap = SNAP(tuple(numbers))
    with_ldos = [item for item in training if item.ldos is not None]
    scaler = fit_scaler(snap, with_ldos, 80, floor=settings.whitening_floor, progress=False)  # type: ignore[arg-type]
    model = stages.build_model(recipe, snap, scaler, generator)
    ready = prepare_snapshots(
        with_ldos,
        snap,  # type: ignore[arg-type]
        scaler,
        numbers,
        energies=settings.energies,
        broadening=settings.broadening,
        spacing=settings.grid_spacing,
        jacobian=None,
        progress=False,
    )
    points = LDOSPoints.gather(ready)
    assert points is not None
    stages.start_linear(model, points)
    plan = replace(recipe.training, ldos_steps=recipe.training.ldos_steps + recipe.training.epochs * len(training))
    stages._train_on_ldos(model, points, plan, generator, False)
    return model.eval()


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
    recipe = recipe_of(kind, options, size)
    training, held_back = cells(recipe)
    training = training[:size]
    start = time.process_time()
    if kind == "SNAP":
        model = train_snap(recipe, training)
    else:
        model, _ = stages.train_model(recipe, training, held_back, progress=options.progress)
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
    held_back = cells(recipe_of(KINDS[0], options, 1))[1]
    print(f"{len(held_back)} cells held back; {options.steps} steps, seed {options.seed}\n{HEADER}")
    for size in options.sizes:
        for kind in options.kinds:
            print(run(kind, size, options), flush=True)


if __name__ == "__main__":
    main()
