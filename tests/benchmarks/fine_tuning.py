"""A new material from few labels, on from a model or from scratch: ``tests/benchmarks/fine_tuning.py --model MODEL``.

Both learn from the same labels, beryllium's small cells unless told otherwise, and take the same number of steps: the
one on from the weights of a model of many elements with that model's settings, the other from nothing with those that
``ase-ldos setup`` gives a new material. The last weights are judged on every sixth label, which nothing has seen.
Training time is CPU time: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ase_ldos.active_learning.recipes import model_settings, write_training_recipe
from ase_ldos.active_learning.setup import recipes_of
from ase_ldos.dataset.npz import Snapshot, load_snapshots
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.training.evaluate import evaluate_model, summarise
from ase_ldos.training.settings import LDOSStage, SnapshotStage, TrainingData, TrainingSettings, load_settings
from ase_ldos.training.train import train_stages

#: The repository's folder: an installed package has no labels.
MODELS = Path(__file__).resolve().parents[2] / "ase_ldos" / "models"
WIDTHS = {"energy": (8, 1), "forces": (8, 0), "density": (8, 2), "dos": (6, 1)}
HEADER = (
    f"{'labels':>7s}  {'':12s} {'energy':>8s} {'forces':>8s} {'density':>8s} {'DOS':>6s} {'training':>9s}\n"
    f"{'':7s}  {'':12s} {'meV/atom':>8s} {'meV/Å':>8s} {'%':>8s} {'%':>6s} {'CPU s':>9s}"
)


def settings_of(start: LDOSModel, cells: list[Snapshot], steps: int, size: int, tuned: bool) -> TrainingSettings:
    """The settings of a training: the model's own, or those of ``ase-ldos setup`` for the same DFT set-up."""
    with TemporaryDirectory() as folder:
        structures = [cell.to_atoms() for cell in cells]
        recipe, theirs = recipes_of(start, structures, Path(folder))
        write_training_recipe(
            Path(folder) / "training.toml", "tried", theirs if tuned else model_settings(recipe, structures)
        )
        settings = load_settings(Path(folder) / "training.toml")
    long = [stage for stage in settings.stages if isinstance(stage, SnapshotStage)]
    given = sum(stage.epochs for stage in long)
    stages: list[LDOSStage | SnapshotStage] = []
    for stage in settings.stages:
        if isinstance(stage, SnapshotStage):
            epochs = max(1, round(steps * stage.epochs / given / size))
            stages.append(replace(stage, epochs=epochs, validate_every=epochs, patience=None))
        else:
            stages.append(stage)
    return replace(settings, stages=tuple(stages))


def run(
    start: LDOSModel, cells: list[Snapshot], held_back: list[Snapshot], options: argparse.Namespace, tuned: bool
) -> str:
    """One line of the table."""
    settings = settings_of(start, cells + held_back, options.steps, len(cells), tuned)
    data = TrainingData({"labels": cells}, {"labels": held_back})
    began = time.process_time()
    model = train_stages(settings, data, start=start if tuned else None, progress=options.progress).model
    spent = time.process_time() - began
    errors = summarise(evaluate_model(model.requires_grad_(False), held_back, progress=options.progress))
    return f"{row(len(cells), 'from ' + (options.model if tuned else 'scratch'), errors)} {spent:9.0f}"


def row(labels: int, name: str, errors: dict[str, float]) -> str:
    """The part of a line that tells errors."""
    numbers = " ".join(f"{errors[name]:{width}.{digits}f}" for name, (width, digits) in WIDTHS.items())
    return f"{labels:7d}  {name:12s} {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="to begin from: a file or the name of a bundled one")
    parser.add_argument("--labels", type=Path, default=MODELS / "be" / "labels" / "small", help="folder of labels")
    parser.add_argument("--sizes", type=int, nargs="+", default=(5, 10, 20, 50), help="numbers of labels (5 10 20 50)")
    parser.add_argument("--steps", type=int, default=1500, help="of every training (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of labels (default 0)")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    options = parser.parse_args()
    if min(*options.sizes, options.steps) < 1:
        parser.error("sizes and steps must be 1 or more")
    known = sorted((s for s in load_snapshots(options.labels) if s.ldos is not None), key=lambda item: item.name)
    held_back = known[1::6]
    training = [item for item in known if item not in held_back]
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(options.seed)).tolist()
    print(f"{len(held_back)} of {len(known)} labels held back; {options.steps} steps\n{HEADER}")
    before = load_model(options.model)
    errors = summarise(evaluate_model(before, held_back, progress=options.progress))
    print(row(0, options.model, errors), flush=True)
    for size in (size for size in options.sizes if size <= len(training)):
        chosen = [training[place] for place in order[:size]]
        for tuned in (True, False):
            print(run(load_model(options.model), chosen, held_back, options, tuned), flush=True)


if __name__ == "__main__":
    main()
