"""The command ``ase-ldos``: finds the subcommand and turns its errors into one sentence.

A subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int``; only the one that is asked for is
imported, so that ``ase-ldos --help`` answers without loading torch. Another package adds one by an entry point, see
``COMMANDS``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import IO, Any, Protocol, cast

import ase_ldos
from ase_ldos.ending import exit_on_signals
from ase_ldos.registry import Registry


class Command(Protocol):
    """What a subcommand is, usually a module."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the arguments."""

    def run(self, args: argparse.Namespace, /) -> int:
        """Do it; returns the exit code."""


@dataclass(frozen=True)
class LazyCommand:
    """A command whose module is imported when it is used.

    Attributes:
        module: its full name.
        purpose: what the command does, for the list in ``ase-ldos --help``.
    """

    module: str
    purpose: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the module's arguments."""
        parser.description = f"{self.purpose[0].upper()}{self.purpose[1:]}."
        self._load().add_arguments(parser)

    def run(self, args: argparse.Namespace, /) -> int:
        """Run the module."""
        return self._load().run(args)

    def _load(self) -> Command:
        return import_module(self.module)


_OWN: dict[str, Command] = {
    "demo": LazyCommand("ase_ldos.cli.demo", "run molecular dynamics of beryllium and draw what came out"),
    "predict": LazyCommand("ase_ldos.cli.predict", "predict energies, forces, DOS and density of a structure file"),
    "md": LazyCommand("ase_ldos.cli.md", "run molecular dynamics of a structure with its electrons on record"),
    "info": LazyCommand("ase_ldos.cli.info", "tell what a model is for and how good it is"),
    "train": LazyCommand("ase_ldos.cli.train", "train a model from a recipe (TOML)"),
    "evaluate": LazyCommand("ase_ldos.cli.evaluate", "measure a model's errors on reference data"),
    "calibrate": LazyCommand("ase_ldos.cli.calibrate", "find the range of a model's training data, to warn beyond it"),
    "distill": LazyCommand(
        "ase_ldos.cli.distill", "make a cheap potential from a model, for multiple time steps and exploring"
    ),
    "heat": LazyCommand("ase_ldos.cli.heat", "teach a model its free energy at other electronic temperatures"),
    "label": LazyCommand("ase_ldos.cli.label", "make reference data with Quantum ESPRESSO"),
    "setup": LazyCommand("ase_ldos.cli.setup", "measure a DFT set-up for a new material and write both recipes"),
    "learn": LazyCommand("ase_ldos.cli.learn", "make a model of a new material: set-up, labels, training, exploration"),
    "pseudo": LazyCommand("ase_ldos.cli.pseudo", "write GTH pseudopotentials as UPF files for Quantum ESPRESSO"),
    "serve": LazyCommand("ase_ldos.cli.serve", "show a page in the browser to try models and look at predictions"),
    "report": LazyCommand("ase_ldos.cli.report", "write a prediction or a trajectory as one HTML file to look at"),
    "bench": LazyCommand("ase_ldos.cli.bench", "measure what this machine should reach and what it does reach"),
    "convert": LazyCommand("ase_ldos.cli.convert", "convert reference data of other programs"),
}
#: Subcommands by name. Other packages add theirs by entry points of the group ``ase_ldos.commands``, each a module
#: with ``add_arguments`` and ``run``.
COMMANDS: Registry[Command] = Registry("command", "ase_ldos.commands", _OWN)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 after an error, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    _wait_without_much_spinning()
    # a rank that waits for others in a library could not look at a signal; torchrun's must end it at once
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    with _patient_output(), exit_on_signals() if alone else nullcontext():
        return _run(argv)


#: Turns of a waiting thread before it sleeps, by tests/benchmarks/thread_waits.py.
_SPINS = "3000"


def _wait_without_much_spinning() -> None:
    """Let threads of this process and of its children spin for a moment, then sleep, while they wait for each other.

    OpenMP's threads spin. Where cores have other work too (a second process, a job of somebody else) they spin against
    the very thread that they wait for, and a calculation may take ten times as long; where they sleep at once, it takes
    one and a half times as long on idle cores. GNU's library takes a number of turns; others know the policy alone.
    Nothing happens where the user has chosen, or torch is loaded already.
    """
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
    if "torch" not in sys.modules and not any(name in os.environ for name in chosen):
        os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"] = "PASSIVE", _SPINS


def _run(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        _main_parser().parse_args(argv or ["--help"])
        return 0
    name, arguments = argv[0], argv[1:]
    try:
        command = COMMANDS[name]
        parser = argparse.ArgumentParser(prog=f"ase-ldos {name}")
        command.add_arguments(parser)
        return int(command.run(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        print(f"ase-ldos {name}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"ase-ldos {name}: error: {_sentence(error)}", file=sys.stderr)
        return 2


class _PatientStream:
    """An output that no character and no lost reader can make fail: results must not be lost to a screen.

    What the encoding does not have is written by its number; when the reader, such as ``head``, has had enough, the
    rest goes nowhere.

    Args:
        stream: the output; None where there is none.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as much of it as can be."""
        if self._stream is not None:
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            try:
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except BrokenPipeError:
                self._lose()
        return len(text)

    def flush(self) -> None:
        """Flush."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except BrokenPipeError:
                self._lose()

    def _lose(self) -> None:
        # Python flushes what is left in the buffer as it ends, and would complain once more
        if self._stream is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)


@contextmanager
def _patient_output() -> Iterator[None]:
    """Standard output and error that never end a run."""
    out, err = _PatientStream(sys.stdout), _PatientStream(sys.stderr)
    try:
        with redirect_stdout(cast("IO[str]", out)), redirect_stderr(cast("IO[str]", err)):
            yield
    finally:
        out.flush()
        err.flush()


def _sentence(error: Exception) -> str:
    """The message in one line, without the number of an error of the system."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return " ".join(text.split())


def _main_parser() -> argparse.ArgumentParser:
    # the package's own in their order; those of others are not loaded for the list
    purposes = {name: command.purpose for name, command in _OWN.items() if isinstance(command, LazyCommand)}
    purposes |= {name: "added by another package" for name in COMMANDS if name not in purposes}
    width = max(map(len, purposes))
    listing = "\n".join(f"  {name:{width}}  {purpose}" for name, purpose in purposes.items())
    parser = argparse.ArgumentParser(
        prog="ase-ldos",
        description="Local density of states by machine learning, for molecular dynamics with ASE.",
        epilog=f"commands:\n{listing}\n\n'ase-ldos COMMAND --help' tells the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ase-ldos {ase_ldos.__version__}")
    parser.add_argument("command", choices=list(purposes), metavar="COMMAND", help="one of the commands below")
    return parser


def _is_expected(error: Exception) -> bool:
    """Whether the user can mend the error: bad input, numbers that run away, a file, a process that is lost."""
    from ase.calculators.calculator import CalculatorError

    lost = sys.modules.get("ase_ldos.communicator")
    if lost is not None and isinstance(error, lost.RankLostError):
        return True
    return isinstance(error, (ValueError, OSError, CalculatorError, FloatingPointError))


if __name__ == "__main__":
    sys.exit(main())
