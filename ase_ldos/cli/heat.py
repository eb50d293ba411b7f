"""``ase-ldos heat``: a finished model learns how its free energy changes with the electronic temperature."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

#: Quantity of ``ThermalData.errors`` → its heading.
_COLUMNS = {"energy": "A (meV/atom)", "forces": "forces (meV/Å)", "pressure": "pressure (GPa)"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos heat``."""
    parser.add_argument("model", help="bundled name or model file")
    parser.add_argument(
        "data",
        nargs="+",
        type=Path,
        metavar="DATA",
        help="labels, files or folders, of the same structures at the model's own electronic temperature and at others",
    )
    parser.add_argument("--out", type=Path, help="model file to write (default: the model's own file)")
    parser.add_argument(
        "--ridge", type=float, help="how much large changes cost (default: the best on structures left out in turn)"
    )


def run(args: argparse.Namespace) -> int:
    """Fit, print the errors on structures that were left out, write the model."""
    from ase_ldos.dataset.npz import load_snapshots
    from ase_ldos.files import check_output
    from ase_ldos.model.model_file import find_model, load_model, save_model
    from ase_ldos.training.thermal import ThermalData

    if args.ridge is not None and not args.ridge > 0:
        raise ValueError(f"--ridge is {args.ridge}; it must be positive")
    out = find_model(args.model) if args.out is None else args.out
    check_output(out, find_model(args.model).stat().st_size)
    model = load_model(args.model)
    data = ThermalData(model, [label for path in args.data for label in load_snapshots(path)])
    model.thermal_correction = data.learn(ridge=args.ridge)
    save_model(model, out)
    lines = ["errors of changes on each structure, learned from the others: before > after"]
    lines.append(f"{'T (K)':>8}" + "".join(f"{heading:>22}" for heading in _COLUMNS.values()))
    for temperature, found in model.thermal_correction.errors.items():
        pairs = (f"{found[f'plain_{name}']:.2f} > {found[name]:.2f}" for name in _COLUMNS)
        lines.append(f"{temperature:>8}" + "".join(f"{pair:>22}" for pair in pairs))
    lines.append(f"ridge {model.thermal_correction.provenance['ridge']:g}")
    sys.stdout.write("\n".join([*lines, f"wrote {out}", ""]))
    return 0
