"""``ase-ldos learn``: a model of a new material in one command."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from ase_ldos.cli.setup import add_dft_arguments, measure

#: Options that are fields of ``LearnSettings``, with what they say.
_OPTIONS = {
    "cpu_hours": ("H", "no step begins after this much CPU time"),
    "max_labels": ("N", "at most so many structures are learned from"),
    "rounds": ("N", "at most so many"),
    "models": ("N", "whose disagreement chooses structures"),
    "test": ("N", "cells of the test set"),
    "first": ("N", "rattled cells of the first round"),
    "per_round": ("N", "cells labelled in each later round"),
    "cell_atoms": ("N", "of the largest cell that is labelled; 0: so many that none is near its own images"),
    "explore_atoms": ("N", "of the cell of the dynamics that explores; 0: of the largest cell that is labelled"),
    "explore_ps": ("PS", "length of the dynamics at one temperature and pressure"),
    "timestep": ("FS", "of the dynamics; 0: by the lightest atom"),
    "training_steps": ("N", "of the first training; later ones take half"),
    "final_atoms": ("N", "of the dynamics that the finished model has to pass"),
    "final_ps": ("PS", "its length"),
    "final_temperature": ("K", "its temperature"),
    "seed": ("N", "of all randomness"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``ase-ldos learn``."""
    from ase_ldos.active_learning.settings import LearnSettings

    defaults = {item.name: item.default for item in fields(LearnSettings)}
    parser.add_argument("structures", nargs="+", type=Path, help="files that ASE reads: one or a few crystals at rest")
    parser.add_argument("--out", type=Path, required=True, help="folder; the same command resumes from it")
    goals = parser.add_argument_group("what is asked of the model")
    goals.add_argument("--temperatures", type=float, nargs="+", default=defaults["temperatures"], metavar="K")
    goals.add_argument("--pressures", type=float, nargs="+", default=defaults["pressures"], metavar="GPa")
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/Å"), ("density", "PERCENT")):
        goals.add_argument(
            f"--goal-{name}", type=float, default=defaults[name], metavar=unit, help=f"default: {defaults[name]:g}"
        )
    limits = parser.add_argument_group("limits and sizes")
    for name, (metavar, text) in _OPTIONS.items():
        value = defaults[name]
        limits.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=value,
            metavar=metavar,
            help=f"{text} (default: {value:g})",
        )
    limits.add_argument("--vacancies", action="store_true", help="first cells with a missing atom too")
    limits.add_argument("--surfaces", action="store_true", help="first cells with surfaces too")
    limits.add_argument("--no-reference", action="store_true", help="no elastic constants of DFT for the report")
    limits.add_argument("--init-from", metavar="MODEL", help="begin from this model, in the set-up of its labels")
    add_dft_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Set up, learn, report; 1 if the goals were not reached, or the dynamics of the finished model was stopped."""
    from ase_ldos.active_learning.learn import REPORT, learn
    from ase_ldos.active_learning.settings import LearnSettings
    from ase_ldos.active_learning.setup import DFT_RECIPE, RECORD, TRAINING_RECIPE
    from ase_ldos.cli.structure_files import read_structures
    from ase_ldos.files import read_json
    from ase_ldos.simulation.primitive_cell import primitive_cell

    settings = LearnSettings(
        temperatures=tuple(args.temperatures),
        pressures=tuple(args.pressures),
        energy=args.goal_energy,
        forces=args.goal_forces,
        density=args.goal_density,
        reference=not args.no_reference,
        vacancies=args.vacancies,
        surfaces=args.surfaces,
        **{name: getattr(args, name) for name in _OPTIONS},
    )
    crystals = [primitive_cell(atoms) for path in args.structures for atoms in read_structures(path)]
    if not all((args.out / name).exists() for name in (DFT_RECIPE, TRAINING_RECIPE)):
        measure(args, args.init_from)
    cost = float(read_json(args.out / RECORD)["cpu_seconds"]) if (args.out / RECORD).exists() else 0.0
    state = learn(
        crystals,
        args.out,
        settings,
        workers=args.workers,
        launcher=args.launcher,
        init_from=args.init_from,
        setup_cpu_seconds=cost,
        progress=lambda line: print(line, flush=True),
        bars=True,
    )
    last = [item for item in state.rounds if item.finished][-1:]
    met = bool(last) and settings.met_by(last[0].test)
    passed = state.dynamics.get("passed")
    dynamics = {True: "passed", False: "stopped by an alarm", None: "not run"}[passed]
    print(f"goals on the test set {'met' if met else 'not met'}, last dynamics {dynamics}; look at {args.out / REPORT}")
    return 0 if met and passed is not False else 1
