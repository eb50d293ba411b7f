"""The command ``ase-ldos train``: from settings to a model file that carries its own errors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ase_ldos.cli.evaluate import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos train``."""
    parser.add_argument("settings", help="TOML file; see ase_ldos/models/be/training.toml")
    parser.add_argument("--out", help="model file (default: the model's name with .safetensors)")
    parser.add_argument("--data", nargs="+", help="snapshot files or folders instead of those of the settings")
    parser.add_argument(
        "--init-from", metavar="MODEL", help="start from the weights of this model (its projection stays)"
    )
    parser.add_argument("--epochs", type=int, help="of every stage on whole snapshots, instead of the settings'")
    parser.add_argument("--checkpoint", help="file from which an interrupted training resumes (default: none is kept)")
    parser.add_argument(
        "--inputs",
        metavar="FOLDER",
        help="keep inputs and derivatives in files here, where trainings on the same cells share them and memory has "
        "no room for all",
    )
    add_device(parser)
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds after which no epoch starts")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate on the snapshots held back, write the model with its errors."""
    from ase_ldos.communicator import Communicator
    from ase_ldos.training.evaluate import format_table
    from ase_ldos.training.settings import load_settings
    from ase_ldos.training.train import train_model

    communicator = Communicator.from_torchrun()
    settings = load_settings(args.settings)
    out = Path(args.out or f"{settings.name}.safetensors")
    trained = train_model(
        settings,
        out=out,
        checkpoint=args.checkpoint,
        init_from=args.init_from,
        data=args.data,
        epochs=args.epochs,
        time_limit=args.time_limit,
        communicator=communicator,
        device=args.device,
        inputs_folder=args.inputs,
    )
    communicator.close()
    if not communicator.is_root:
        return 0
    sys.stdout.write(format_table(trained.errors) + f"\nwrote {out}\n")
    if trained.failure:
        sys.stderr.write(f"ase-ldos train: {trained.failure}; {out} has the best weights until then\n")
        return 1
    if not trained.finished:
        stage = list(trained.histories)[-1]
        resume = f"the same command resumes from {args.checkpoint}" if args.checkpoint else "no checkpoint was kept"
        sys.stdout.write(f"the time limit ended the training in stage {stage!r}; {resume}\n")
    return 0
