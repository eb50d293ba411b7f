"""Molecular dynamics that resumes after an interruption with the numbers of a run that was never interrupted.

Forces depend on atoms, cell and grid alone, so what has to be kept is the state of the driver: positions, momenta and
cell, the numbers of its thermostat and barostat, the state of its random generator, the step. They are gathered from
the driver itself: every number and array of it and of the parts that ASE's ``ase.md`` gave it. The random generator
must be numpy's ``Generator`` of the driver's own, not numpy's global one.

The grid is chosen from the first cell of a process. Where the cell changes by more than
``ase_ldos.calculator.grid_policy`` lets pass, fix it by ``LDOSCalculator.fix_grid``, in the first run and in the
resumed one.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ase.md.md import MolecularDynamics
from numpy.typing import ArrayLike

from ase_ldos.files import PathLike, atomic_write

FORMAT = "ase-ldos run 1"
#: What a run sets anew, or what is kept apart.
_LEFT_OUT = frozenset({"atoms", "optimizable", "masses", "max_steps", "observers", "comm"})


def save_run(path: PathLike, dynamics: MolecularDynamics, record: Mapping[str, Sequence[ArrayLike]]) -> None:
    """Write the state of a run and what it has recorded so far; the file is whole at any moment.

    Args:
        path: the file, ``.npz``.
        dynamics: the driver, between two steps.
        record: by name, one value or array for each time; all of one shape.

    Raises:
        ValueError: the driver draws from numpy's global generator, which is not its own.
        OSError: the file cannot be written.
    """
    atoms = dynamics.atoms
    arrays: dict[str, Any] = {"format": FORMAT, "driver": type(dynamics).__name__, "numbers": atoms.numbers}
    arrays |= {"positions": atoms.positions, "momenta": atoms.get_momenta(), "cell": atoms.cell.array}
    for name, owner, key in _parts(dynamics):
        value = getattr(owner, key)
        if isinstance(value, np.random.Generator):
            arrays[f"random:{name}"] = json.dumps(value.bit_generator.state)
        elif isinstance(value, (ModuleType, np.random.RandomState)):
            raise ValueError(
                f"the driver's {name} is numpy's global generator; give it rng=numpy.random.default_rng(1)"
            )
        else:
            arrays[f"state:{name}"] = value
    arrays |= {f"record:{name}": np.array(values) for name, values in record.items()}
    with atomic_write(path) as draft, draft.open("wb") as file:  # open: the name need not end in .npz
        np.savez(file, **arrays)


def load_run(path: PathLike, dynamics: MolecularDynamics) -> dict[str, list[Any]]:
    """Put a driver, made as the first one was, into the state of the file; returns what was recorded.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or of another kind, or of another driver, time step or other atoms.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not the file of a run, or is damaged: {error}") from error
    if str(arrays.get("format")) != FORMAT:
        raise ValueError(f"{path} is not the file of a run ({FORMAT})")
    atoms, driver = dynamics.atoms, type(dynamics).__name__
    if str(arrays["driver"]) != driver or not np.array_equal(arrays["numbers"], atoms.numbers):
        raise ValueError(f"{path} holds a run of {arrays['driver']} with {len(arrays['numbers'])} atoms, not this one")
    if arrays["state:dt"] != dynamics.dt:
        raise ValueError(f"{path} has the time step {arrays['state:dt']:.4f}, not {dynamics.dt:.4f} (ASE's units)")
    atoms.set_cell(arrays["cell"])
    atoms.set_positions(arrays["positions"], apply_constraint=False)
    atoms.set_momenta(arrays["momenta"], apply_constraint=False)
    for name, owner, key in list(_parts(dynamics)):
        value = getattr(owner, key)
        if isinstance(value, np.random.Generator):
            value.bit_generator.state = json.loads(str(arrays[f"random:{name}"]))
        elif f"state:{name}" not in arrays:
            raise ValueError(f"{path} does not tell the driver's {name}; it was written by another version of ASE")
        else:
            saved = arrays[f"state:{name}"]
            setattr(owner, key, saved.copy() if isinstance(value, np.ndarray) else type(value)(saved))
    if dynamics.nsteps == 0:
        return {}  # at step 0 ASE's drivers call what records the start once more
    start = "record:"
    return {name.removeprefix(start): list(arrays[name]) for name in arrays if name.startswith(start)}


def _parts(owner: object, prefix: str = "") -> Iterator[tuple[str, object, str]]:
    """Name, owner and attribute of all that makes up the state of a driver, its parts included."""
    for key, value in vars(owner).items():
        if key in _LEFT_OUT:
            continue
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if number or isinstance(value, np.ndarray) or key == "rng":
            yield prefix + key, owner, key
        elif type(value).__module__.startswith("ase.md."):
            yield from _parts(value, f"{prefix}{key}.")
