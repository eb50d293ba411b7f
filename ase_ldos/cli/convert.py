"""``ase-ldos convert``: reference data of one format into another, and models of MALA."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from ase_ldos.formats.convert import WRITERS, convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos convert``."""
    parser.add_argument(
        "sources",
        nargs="+",
        help="snapshots (.npz), folders, data sets, MALA's .info.json, LDOS cubes, extxyz; or MALA's model .zip",
    )
    parser.add_argument("--to", required=True, choices=[*WRITERS, "model"], help="format to write")
    parser.add_argument("--out", required=True, help="folder; a file for packed, extxyz and model")
    parser.add_argument(
        "--energies",
        nargs=3,
        type=float,
        metavar=("FIRST", "SPACING", "NUMBER"),
        help="energy grid in eV of cube and MALA files",
    )
    parser.add_argument("--ldos-bits", type=int, help="keep so many of the ten bits of an LDOS' numbers: smaller files")


def run(args: argparse.Namespace) -> int:
    """Read, convert, write."""
    if args.to == "model":
        from ase_ldos.model.import_mala import read_mala_model
        from ase_ldos.model.model_file import save_model

        if len(args.sources) != 1:
            raise ValueError(f"one model is converted at a time; {len(args.sources)} are given")
        save_model(read_mala_model(args.sources[0]), args.out)
        sys.stdout.write(f"wrote {args.out}\n")
        return 0
    energies = None
    if args.energies is not None:
        energies = _energy_grid(*args.energies)
    written = convert(args.sources, args.out, args.to, energies=energies, ldos_bits=args.ldos_bits, progress=True)
    sys.stdout.write(f"wrote {len(written)} structures to {args.out}\n")
    return 0


def _energy_grid(first: float, spacing: float, number: float) -> np.ndarray:
    """The grid that ``--energies`` tells, eV.

    Raises:
        ValueError: it is none.
    """
    if not (np.isfinite(first) and 0 < spacing < np.inf and number in range(1, 10**5)):
        raise ValueError(
            f"--energies {first:g} {spacing:g} {number:g} is no energy grid: the first energy and a positive spacing "
            "in eV are expected, then how many there are, a whole number below 100000"
        )
    return first + spacing * np.arange(int(number))
