"""``ase-ldos evaluate``: a model's errors on reference data."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_ldos.dataset.snapshot import Snapshot
    from ase_ldos.model.ldos_model import LDOSModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos evaluate``."""
    parser.add_argument("model", help="bundled name or model file")
    parser.add_argument("data", nargs="+", help="snapshot files (.npz) or folders of them")
    add_selection(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print errors as JSON")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that tells where to work."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: cuda where there is a device)")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that tell which snapshots were held back."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--held-out", action="store_true", help="only what the model file says was held back")
    which.add_argument("--every", type=int, metavar="N", help="only every N-th snapshot of each source, by name")
    parser.add_argument("--offset", type=int, default=1, help="number of the first one with --every (default 1)")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print the table."""
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.devices import find_device
    from ase_ldos.model.model_file import load_model
    from ase_ldos.training.evaluate import evaluate_model, format_table, summarise

    model = load_model(args.model).to(find_device(args.device))
    sources = [load_snapshots(source) for source in args.data]
    if args.held_out or args.every is not None:
        snapshots = split(model, sources, args)[1]
    else:
        snapshots = [snapshot for source in sources for snapshot in source]
    learned = learned_among(model, snapshots)
    if learned and not args.json:
        sys.stderr.write(
            f"{len(learned)} of these {len(snapshots)} snapshots, {learned[0]} for one, have names that "
            f"{model.metadata.name!r} was trained on; --held-out leaves them out\n"
        )
    errors = evaluate_model(model, snapshots, progress=not args.json)
    if args.json:
        table = {error.name: error.values for error in errors}
        sys.stdout.write(json.dumps({"snapshots": table, "summary": summarise(errors)}, indent=1) + "\n")
    else:
        sys.stdout.write(format_table(errors) + "\n")
    return 0


def learned_among(model: LDOSModel, snapshots: list[Snapshot]) -> list[str]:
    """Names of the snapshots that the model file lists as learned from."""
    learned = set(model.metadata.provenance.get("training", ()))
    return [snapshot.name for snapshot in snapshots if snapshot.name in learned]


def split(
    model: LDOSModel, sources: list[list[Snapshot]], args: argparse.Namespace
) -> tuple[list[Snapshot], list[Snapshot]]:
    """Snapshots to learn from and held back: by ``--every`` and ``--offset``, else as the model file tells.

    Raises:
        ValueError: the model file does not tell, or nothing is held back.
    """
    from ase_ldos.training.provenance import held_out_names

    if args.every is None:
        learned, held_out = held_out_names(model)
        snapshots = [snapshot for source in sources for snapshot in source]
        parts = tuple([item for item in snapshots if item.name in names] for names in (learned, held_out))
        if not parts[1]:
            raise ValueError(
                f"none of these {len(snapshots)} snapshots was held back from the training of {model.metadata.name!r}"
            )
        return parts[0], parts[1]
    if args.every < 1 or args.offset < 0:
        raise ValueError(f"--every {args.every} must be at least 1 and --offset {args.offset} at least 0")
    training: list[Snapshot] = []
    held_back: list[Snapshot] = []
    for source in sources:
        for number, snapshot in enumerate(sorted(source, key=lambda item: item.name)):
            chosen = number >= args.offset and (number - args.offset) % args.every == 0
            (held_back if chosen else training).append(snapshot)
    if not held_back:
        raise ValueError(
            f"--every {args.every} with --offset {args.offset} holds back none of these {len(training)} snapshots"
        )
    return training, held_back
