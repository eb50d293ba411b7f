"""The command ``ase-ldos``: finds the subcommand and turns its errors into one sentence.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the one that is asked for is
imported, so that ``ase-ldos --help`` answers without loading torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import ase_ldos

#: Subcommand → its module and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("ase_ldos.cli.demo", "run molecular dynamics of beryllium and draw what came out"),
    "predict": ("ase_ldos.cli.predict", "predict energies, forces, DOS and density of a structure file"),
    "info": ("ase_ldos.cli.info", "tell what a model is for and how good it is"),
    "train": ("ase_ldos.cli.train", "train a model from a recipe (TOML)"),
    "evaluate": ("ase_ldos.cli.evaluate", "measure a model's errors on reference data"),
    "calibrate": ("ase_ldos.cli.calibrate", "find the range of a model's training data, to warn beyond it"),
    "label": ("ase_ldos.cli.label", "make reference data with Quantum ESPRESSO"),
    "serve": ("ase_ldos.cli.serve", "show a page in the browser to try models and look at predictions"),
    "report": ("ase_ldos.cli.report", "write a prediction or a trajectory as one HTML file to look at"),
    "convert": ("ase_ldos.cli.convert", "convert reference data of other programs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 after an error, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] not in COMMANDS:
        _main_parser().parse_args(argv or ["--help"])
        return 0
    name, arguments = argv[0], argv[1:]
    module_name, purpose = COMMANDS[name]
    try:
        module = import_module(module_name)
        parser = argparse.ArgumentParser(prog=f"ase-ldos {name}", description=f"{purpose[0].upper()}{purpose[1:]}.")
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        print(f"ase-ldos {name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"ase-ldos {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _main_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="ase-ldos",
        description="Local density of states by machine learning, for molecular dynamics with ASE.",
        epilog=f"commands:\n{listing}\n\n'ase-ldos COMMAND --help' tells the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ase-ldos {ase_ldos.__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of the commands below")
    return parser


def _is_expected(error: Exception) -> bool:
    """Whether the error is the user's to mend: bad input or a file that cannot be had, not a bug."""
    from ase.calculators.calculator import CalculatorError

    lost = sys.modules.get("ase_ldos.communicator")
    if lost is not None and isinstance(error, lost.RankLostError):
        return True
    return isinstance(error, (ValueError, OSError, CalculatorError))


if __name__ == "__main__":
    sys.exit(main())
