"""``ase-ldos distill``: a cheap potential of the atoms alone, made from a model and kept in its file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ase_ldos.cli.structure_files import read_structures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos distill``."""
    parser.add_argument("model", help="bundled name or model file")
    parser.add_argument(
        "structures",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="periodic cells of what is to be simulated, some 16 to 64 atoms each, in any format that ASE reads "
        "(default: the crystal of the model's element)",
    )
    parser.add_argument(
        "--index", default="-1", help="which structures of each file, as ASE counts (default: the last)"
    )
    parser.add_argument("--out", type=Path, help="model file to write (default: the model's own file)")
    parser.add_argument(
        "--temperature", type=float, metavar="K", help="of the dynamics (default: the model's electronic temperature)"
    )
    parser.add_argument("--number", type=int, default=80, help="of structures the model is asked for (default: 80)")
    parser.add_argument("--rounds", type=int, default=3, help="of the potential's own dynamics (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Distil, print the errors, write the model with its potential."""
    frames = [atoms for path in args.structures for atoms in read_structures(path, args.index)]
    from ase_ldos.files import check_output
    from ase_ldos.model.model_file import find_model, load_model, save_model
    from ase_ldos.training.distill import distill

    out = find_model(args.model) if args.out is None else args.out
    check_output(out, find_model(args.model).stat().st_size)
    model = load_model(args.model)
    model.distilled = distill(
        model, frames, temperature=args.temperature, n_structures=args.number, rounds=args.rounds, seed=args.seed
    )
    save_model(model, out)
    sys.stdout.write(f"against the model, on structures left out: {model.distilled.error_words}\nwrote {out}\n")
    return 0
