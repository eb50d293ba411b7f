"""``ase-ldos evaluate``: a model's errors on reference data."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase_ldos.dataset.snapshot import Snapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos evaluate``."""
    parser.add_argument("model", help="bundled name or model file")
    parser.add_argument("data", nargs="+", help="snapshot files (.npz) or folders of them")
    parser.add_argument("--every", type=int, metavar="N", help="only every N-th snapshot, by name (held-back ones)")
    parser.add_argument("--offset", type=int, default=1, help="number of the first one with --every (default 1)")
    parser.add_argument("--json", action="store_true", help="print errors as JSON")


def run(args: argparse.Namespace) -> int:
    """Predict, compare, print the table."""
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.model.model_file import load_model
    from ase_ldos.training.evaluate import evaluate_model, format_table, summarise

    model = load_model(args.model)
    snapshots = [snapshot for source in args.data for snapshot in select(load_snapshots(source), args)]
    errors = evaluate_model(model, snapshots, progress=not args.json)
    if args.json:
        table = {error.name: error.values for error in errors}
        sys.stdout.write(json.dumps({"snapshots": table, "summary": summarise(errors)}, indent=1) + "\n")
    else:
        sys.stdout.write(format_table(errors) + "\n")
    return 0


def select(snapshots: list[Snapshot], args: argparse.Namespace) -> list[Snapshot]:
    """The held-back snapshots, where ``--every`` asks for them."""
    if args.every is None:
        return snapshots
    if args.every < 1 or args.offset < 0:
        raise ValueError(f"--every {args.every} must be at least 1 and --offset {args.offset} at least 0")
    return sorted(snapshots, key=lambda snapshot: snapshot.name)[args.offset :: args.every]
