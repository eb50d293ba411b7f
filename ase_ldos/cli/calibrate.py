"""``ase-ldos calibrate``: the range of a model's training data, to warn beyond it, and its error bars."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ase_ldos.cli.evaluate import add_device, add_selection, learned_among, split
from ase_ldos.files import atomic_write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos calibrate``."""
    parser.add_argument("model", help="bundled name or model file, which tells what was learned and what held back")
    parser.add_argument("data", nargs="+", help="snapshot files or folders with these structures")
    add_selection(parser)
    parser.add_argument(
        "--force-error",
        type=float,
        metavar="EV/Å",
        help="warn where forces are as wrong as this (default: twice the error over all held-back atoms)",
    )
    parser.add_argument(
        "--force-samples",
        type=int,
        default=8,
        metavar="N",
        help="samples of the last layer for error bars of forces, each as dear as a force step (default 8; 0: none)",
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw how reliable the error bars are")
    add_device(parser)
    parser.add_argument("--out", help="model file to write (default: the model's own file)")


def run(args: argparse.Namespace) -> int:
    """Find range and error bars, and write them into the model file."""
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.devices import find_device
    from ase_ldos.files import check_output
    from ase_ldos.model.model_file import find_model, load_model, save_model
    from ase_ldos.training.calibrate import calibrate
    from ase_ldos.training.calibrate_uncertainty import calibrate_uncertainty, format_reliability, reliability_figure

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
    calibrate(model, training, held_back, force_error=args.force_error)
    found = model.metadata.extrapolation
    largest = f"{found['largest']:.3f} is the largest of {found['structures']:.0f} held-back structures"
    lines = [f"threshold {found['threshold']:.3f}; {largest} (median {found['median']:.3f})"]
    if "force_error" in found:
        lines += [
            f"forces are off by {1000 * found['force_error_at_1']:.1f} meV/Å x distance^"
            f"{found['force_error_power']:.2f}, {1000 * found['force_error']:.1f} meV/Å are accepted"
        ]
    try:
        reliability = calibrate_uncertainty(model, training, held_back, force_samples=args.force_samples)
    except ValueError as error:
        lines += [f"no error bars: {error}"]
    else:
        lines += [format_reliability(reliability)]
        if args.plot is not None:
            with atomic_write(args.plot) as draft:
                reliability_figure(reliability, title=model.metadata.name).savefig(draft, dpi=100)
    save_model(model, out)
    sys.stdout.write("\n".join([*lines, f"wrote {out}"]) + "\n")
    return 0
