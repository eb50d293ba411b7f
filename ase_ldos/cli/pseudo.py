"""The command ``ase-ldos pseudo``: pseudopotentials as UPF files."""

from __future__ import annotations

import argparse
import sys

from ase_ldos.files import check_output_folder
from ase_ldos.formats.gth import TABLE, find_potential, write_upf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos pseudo``."""
    parser.epilog = f"Built in: {', '.join(TABLE)}. Others need cp2k-data (Debian) or pyscf (pip)."
    parser.add_argument("potentials", nargs="+", metavar="ELEMENT[-qN]", help="e.g. Be, or Be-q2 for 2 electrons")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where the files go (default: here)")


def run(args: argparse.Namespace) -> int:
    """Run ``ase-ldos pseudo``; nothing is written unless all potentials are known."""
    check_output_folder(args.out)
    for potential in [find_potential(name) for name in args.potentials]:
        path = write_upf(potential, args.out)
        sys.stdout.write(f"{path}: {potential.valence} electrons, {len(potential.channels)} channels of projectors\n")
    return 0
