"""``ase-ldos label``: reference data by Quantum ESPRESSO."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ase_ldos.cli.structure_files import read_structures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos label``."""
    parser.add_argument("structures", nargs="+", type=Path, help="files that ASE reads; all frames are taken")
    parser.add_argument("--recipe", required=True, help="DFT set-up, a TOML file")
    parser.add_argument("--out", required=True, help="folder of the data set")
    parser.add_argument("--pseudo-dir", help="folder of the pseudopotentials (default: as the recipe says)")
    parser.add_argument("--workers", type=int, default=1, help="calculations side by side")
    parser.add_argument("--cores", type=int, default=1, help="cores for each worker")
    parser.add_argument("--launcher", default="", help="put before pw.x, e.g. 'mpirun -n 4' or 'srun -n 64'")
    parser.add_argument("--no-ldos", action="store_true", help="no LDOS, though the recipe has a table [ldos]")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="write files several times smaller: LDOS within 0.1 %%, density within 0.002 %%, no eigenvalues",
    )
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare stress and forces of a new set-up with energies, on the first structure (default: yes)",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    parser.add_argument(
        "--slurm", metavar="OPTIONS", help="submit an array of this command by sbatch, e.g. '--time=24:00:00 -n 64'"
    )
    parser.add_argument("--jobs", type=int, default=1, help="jobs of the array (default: 1)")
    parser.epilog = "Any number of these commands may run on one folder, on all machines that share it."


def run(args: argparse.Namespace) -> int:
    """Label; 1 if a structure failed or was interrupted."""
    if args.slurm is not None:
        return _submit(args)
    from tqdm import tqdm

    from ase_ldos.labelling.dft_settings import load_recipe
    from ase_ldos.labelling.run import FAILURES, label_structures, name_structures, read_failures

    recipe = load_recipe(args.recipe, pseudo_dir=args.pseudo_dir)
    if args.no_ldos:
        recipe = replace(recipe, ldos=None)
    structures = [atoms for path in args.structures for atoms in read_structures(path)]
    names = name_structures(structures).keys()
    there = {name for name in names if (Path(args.out) / f"{name}.npz").exists()}
    given_up = set() if args.retry_failed else names & read_failures(Path(args.out)).keys()
    with tqdm(total=len(names - there - given_up), unit="structure", smoothing=0.1) as bar:

        def show(name: str, reason: str | None) -> None:
            if reason is not None:
                bar.write(f"{name} failed: {reason}")
            bar.update()

        report = label_structures(
            structures,
            recipe,
            args.out,
            workers=args.workers,
            cores_per_worker=args.cores,
            launcher=args.launcher,
            retry_failed=args.retry_failed,
            check=args.check,
            compact=args.compact,
            progress=show,
        )
    failed = f", {len(report.failed)} failed (see {Path(args.out) / FAILURES})" if report.failed else ""
    if report.interrupted:
        failed += f", {len(report.interrupted)} were interrupted (the same command takes them again)"
    sys.stdout.write(f"{len(report.finished)} labelled, {len(report.found)} were there{failed}\n")
    return 1 if report.failed or report.interrupted else 0


def _submit(args: argparse.Namespace) -> int:
    """Submit the same command as an array of jobs."""
    from ase_ldos.labelling.dft_settings import load_recipe
    from ase_ldos.labelling.run import name_structures
    from ase_ldos.labelling.slurm import submit_array

    load_recipe(args.recipe, pseudo_dir=args.pseudo_dir)  # what is wrong with these is told now, not by a job
    name_structures([atoms for path in args.structures for atoms in read_structures(path)])
    command = [sys.executable, "-m", "ase_ldos", "label", *(str(path.resolve()) for path in args.structures)]
    command += ["--recipe", str(Path(args.recipe).resolve()), "--out", str(Path(args.out).resolve())]
    command += ["--workers", str(args.workers), "--cores", str(args.cores)]
    command += ["--pseudo-dir", str(Path(args.pseudo_dir).resolve())] if args.pseudo_dir else []
    command += [f"--launcher={args.launcher}"] if args.launcher else []
    for name in ("no_ldos", "compact", "retry_failed"):
        command += [f"--{name.replace('_', '-')}"] if getattr(args, name) else []
    command += [] if args.check else ["--no-check"]
    job = submit_array(command, args.slurm, args.jobs, args.out)
    sys.stdout.write(f"submitted job {job}: an array of {args.jobs} (see {Path(args.out) / 'label.sbatch'})\n")
    return 0
