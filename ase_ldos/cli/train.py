"""The command ``ase-ldos train``: from a recipe to a model file that carries its own errors."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from ase_ldos.communicator import Communicator
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.training.calibrate import calibrate
from ase_ldos.training.evaluate import evaluate_model, format_table, summarise
from ase_ldos.training.provenance import describe_sources
from ase_ldos.training.settings import load_recipe, split_data
from ase_ldos.training.train import train_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos train``."""
    parser.add_argument("recipe", help="TOML file; see ase_ldos/models/be/training.toml")
    parser.add_argument("--out", help="model file (default: the recipe's name with .safetensors)")
    parser.add_argument("--data", nargs="+", help="snapshot files or folders instead of the recipe's")
    parser.add_argument("--start", metavar="MODEL", help="go on from this model's weights")
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--checkpoint", help="file from which a killed run goes on (default: none is kept)")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds for the last stage")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate on the held-back snapshots, write the model with its errors."""
    communicator = Communicator.from_torchrun()
    recipe = load_recipe(args.recipe)
    if args.data:
        recipe = replace(recipe, data=tuple(args.data))
    plan = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    changes = {key: value for key, value in plan.items() if value is not None}
    recipe = replace(recipe, training=replace(recipe.training, **changes))
    out = Path(args.out or f"{recipe.name}.safetensors")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"the folder {out.parent} of the model file does not exist")
    sources = describe_sources(recipe)
    training, validation = split_data(recipe)
    checkpoint = Path(args.checkpoint) if args.checkpoint else None
    start = load_model(args.start) if args.start else None
    model, history = train_model(
        recipe,
        training,
        validation,
        start=start,
        checkpoint=checkpoint,
        time_limit=args.time_limit,
        communicator=communicator,
    )
    communicator.close()
    if not communicator.is_root:
        return 0
    calibrate(model, training, validation)
    errors = evaluate_model(model, validation)
    model.metadata = replace(
        model.metadata,
        errors=summarise(errors),
        provenance={
            "recipe": Path(args.recipe).name,
            **sources,
            "training": sorted(snapshot.name for snapshot in training),
            "held back": sorted(snapshot.name for snapshot in validation),
            "epochs": len(history.records),
            "started from": start.metadata.provenance if start else None,
            "torch": version("torch"),
            "ase-ldos": version("ase-ldos"),
        },
    )
    save_model(model, out)
    sys.stdout.write(format_table(errors) + f"\nwrote {out}\n")
    return 0
