"""``ase-ldos calibrate``: the range of a model's training data, to warn beyond it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ase_ldos.cli.evaluate import add_device, add_selection, learned_among, split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos calibrate``."""
    parser.add_argument("model", help="bundled name or model file, which tells what was learned and what held back")
    parser.add_argument("data", nargs="+", help="snapshot files or folders with these structures")
    add_selection(parser)
    add_device(parser)
    parser.add_argument("--out", help="model file to write (default: the model's own file)")


def run(args: argparse.Namespace) -> int:
    """Find the range and write it into the model file."""
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.devices import find_device
    from ase_ldos.files import check_output
    from ase_ldos.model.model_file import find_model, load_model, save_model
    from ase_ldos.training.calibrate import calibrate

    model = load_model(args.model).to(find_device(args.device))
    out = Path(args.out) if args.out else find_model(args.model)
    check_output(out, find_model(args.model).stat().st_size)
    training, held_back = split(model, [load_snapshots(source) for source in args.data], args)
    learned = learned_among(model, held_back)
    if learned:
        raise ValueError(
            f"{len(learned)} of the {len(held_back)} held-back snapshots, {learned[0]} for one, were learned by "
            f"{model.metadata.name!r}; leave out --every to take the split that the model file tells"
        )
    calibrate(model, training, held_back)
    save_model(model, out)
    found = model.metadata.extrapolation
    sys.stdout.write(
        f"threshold {found['threshold']:.3f}, the largest of {found['structures']:.0f} held-back structures "
        f"(median {found['median']:.3f})\nwrote {out}\n"
    )
    return 0
