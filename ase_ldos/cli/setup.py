"""``ase-ldos setup``: measure a DFT set-up for a new material and write both recipes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_ldos.labelling.convergence import SetupMeasurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos setup``."""
    parser.add_argument("structures", nargs="+", type=Path, help="files that ASE reads: one or two crystals")
    parser.add_argument("--out", type=Path, required=True, help="folder of recipes, potentials and measurements")
    add_dft_arguments(parser)


def add_dft_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``setup`` and ``learn`` share."""
    parser.add_argument("--name", help="of the model (default: the chemical formula)")
    parser.add_argument(
        "--pseudo", nargs="+", type=Path, default=[], metavar="UPF", help="your own potentials (default: GTH)"
    )
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="of the electrons (default: 300)")
    parser.add_argument("--workers", type=int, default=1, help="calculations side by side (default: 1)")
    parser.add_argument("--launcher", default="", help="put before pw.x, e.g. 'mpirun -n 4'")
    goals = parser.add_argument_group("how well the set-up shall be converged")
    goals.add_argument(
        "--energy", type=float, default=1.0, metavar="meV", help="differences of A, per atom (default: 1)"
    )
    goals.add_argument("--force", type=float, default=8.0, metavar="meV/Å", help="default: 8")
    goals.add_argument(
        "--pulay",
        type=float,
        default=0.5,
        metavar="GPa",
        help="Pulay stress, corrected for to first order (default: 0.5)",
    )
    goals.add_argument(
        "--dos", type=float, default=10.0, metavar="PERCENT", help="the DOS of two k-meshes (default: 10 %%)"
    )
    goals.add_argument(
        "--grid",
        type=float,
        default=0.5,
        metavar="meV",
        help="A per atom from DFT's density on the grid (default: 0.5)",
    )
    goals.add_argument(
        "--above", type=float, default=4.0, metavar="eV", help="window above the Fermi level (default: 4)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write, say where."""
    from ase_ldos.active_learning.setup import DFT_RECIPE, PAGE, TRAINING_RECIPE

    measured = measure(args)
    minutes = measured.cpu_seconds / 60
    print(
        f"wrote {args.out / DFT_RECIPE}, {args.out / TRAINING_RECIPE} and {args.out / PAGE} ({minutes:.1f} CPU minutes)"
    )
    return 0 if all(series.met for series in measured.series) else 1


def measure(args: argparse.Namespace, init_from: str | None = None) -> SetupMeasurement:
    """Measure the set-up that the arguments ask for; of that of a model's labels the k-mesh alone."""
    from ase_ldos.active_learning.setup import set_up, set_up_like
    from ase_ldos.cli.structure_files import read_structures
    from ase_ldos.labelling.convergence import ConvergenceTargets
    from ase_ldos.labelling.subprocesses import CalculationError
    from ase_ldos.model.model_file import load_model

    structures = [atoms for path in args.structures for atoms in read_structures(path)]
    targets = ConvergenceTargets(
        energy=args.energy, force=args.force, pulay=args.pulay, grid_energy=args.grid, dos=args.dos, above=args.above
    )
    common: dict[str, Any] = {
        "name": args.name or structures[0].get_chemical_formula(empirical=True),
        "pseudopotentials": args.pseudo,
        "targets": targets,
        "workers": args.workers,
        "launcher": args.launcher,
        "progress": lambda line: print(line, flush=True),
    }
    try:
        if init_from is not None:
            return set_up_like(load_model(init_from), structures, args.out, **common)
        return set_up(structures, args.out, electronic_temperature=args.temperature, **common)
    except CalculationError as error:
        raise ValueError(str(error)) from error
