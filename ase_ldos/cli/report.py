"""``ase-ldos report``: a structure or a trajectory as one HTML file to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ase_ldos.files import check_output

if TYPE_CHECKING:
    from ase import Atoms


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="structure or trajectory in any format that ASE reads")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="HTML", help="default: report.html")
    parser.add_argument("--model", default="be", help="bundled model or model file (default: be)")
    parser.add_argument("--index", default=":", help="which structures of the file, as ASE counts (default: all)")
    parser.add_argument("--pictures", type=int, default=50, help="of the film of a trajectory, at most (default: 50)")
    parser.add_argument("--interval", type=float, metavar="FS", help="time between two structures of the file")
    parser.add_argument("--title", default="", help="of the page (default: the formula)")
    parser.add_argument("--temperature", type=float, metavar="K", help="electronic temperature (default: the model's)")
    parser.add_argument("--spacing", type=float, metavar="Å", help="target distance of grid points")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: cuda where there is a device)")


def run(args: argparse.Namespace) -> int:
    """Predict and write the report.

    Raises:
        ValueError: numbers that make no sense, or a file that ASE cannot read.
        OSError: no such file, or the report cannot be written.
    """
    if args.pictures < 2:
        raise ValueError("a film needs at least 2 pictures")
    if args.interval is not None and not args.interval > 0:
        raise ValueError("the interval must be positive")
    check_output(args.out)
    frames = _read(args.file, args.index)
    from ase_ldos.calculator.calculator import LDOSCalculator
    from ase_ldos.web.report import film_of_trajectory, write_report

    calculator = LDOSCalculator(
        args.model, device=args.device, electronic_temperature=args.temperature, grid_spacing=args.spacing
    )
    interval, unit = (1.0, "step") if args.interval is None else (args.interval, "fs")
    atoms, film = film_of_trajectory(frames, calculator, pictures=args.pictures, interval=interval)
    write_report(args.out, atoms, calculator, title=args.title, source=args.file.name, film=film, film_unit=unit)
    print(f"{args.out}: {atoms.get_chemical_formula()}, {len(film)} of {len(frames)} structures; open it in a browser")
    return 0


def _read(path: Path, index: str) -> list[Atoms]:
    """Structures of a file.

    Raises:
        ValueError: ASE cannot read it.
        FileNotFoundError: there is no such file.
    """
    from ase import Atoms
    from ase.io import read

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        frames = read(path, index=index)
    except Exception as error:  # the readers of some seventy formats raise anything
        raise ValueError(f"ASE cannot read {path}: {type(error).__name__} {error}") from error
    frames = [frames] if isinstance(frames, Atoms) else list(frames)
    if not frames:
        raise ValueError(f"{path} holds no structures at index {index}")
    return frames
