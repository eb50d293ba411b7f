"""A pw.x for tests: a shell script that takes no time and writes what a calculation of Be2 leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_ldos.units import BOHR

#: All structures have this cell, whose density the script writes.
CELL = bulk("Be", "hcp", a=2.25, c=3.54)


def structures(n: int) -> list[Atoms]:
    """Cells of Be2 that differ by a displacement."""
    frames = []
    for i in range(n):
        atoms = CELL.copy()
        atoms.positions[0, 0] += 0.001 * i
        atoms.info["name"] = f"be{i}"
        frames.append(atoms)
    return frames


def install(folder: Path, *, before: str = "") -> Path:
    """Write ``pw.x`` into a folder; returns the file that gets a line, the working folder, for each of its calls.

    Args:
        folder: made if need be; put it first into the PATH.
        before: shell commands before it finishes.
    """
    save = folder / "save"
    save.mkdir(parents=True, exist_ok=True)
    n_electrons = 4.0
    state = (
        '<ks_energies><k_point weight="2.0">0 0 0</k_point><eigenvalues size="3">-0.1 0.0 0.2</eigenvalues>'
        '<occupations size="3">1.0 1.0 0.0</occupations></ks_energies>'
    )
    parts = "".join(f"<{key}>{value}</{key}>" for key, value in _PARTS.items())
    (save / "data-file-schema.xml").write_text(
        '<espresso><general_info><creator NAME="PWSCF" VERSION="9.9"/></general_info><output>'
        f'<total_energy>{parts}</total_energy><basis_set><fft_grid nr1="6" nr2="6" nr3="9"/></basis_set>'
        f"<band_structure><fermi_energy>0.1</fermi_energy><nelec>{n_electrons}</nelec>{state}</band_structure>"
        '<forces rank="2" dims="3 2">0 0 0 0 0 0</forces><stress rank="2" dims="3 3">0 0 0 0 0 0 0 0 0</stress>'
        "</output></espresso>"
    )
    mean = n_electrons / (CELL.get_volume() / BOHR**3)
    records = [
        np.array([0, 1, 1], "<i4").tobytes(),
        np.zeros(9, "<f8").tobytes(),
        np.zeros(3, "<i4").tobytes(),
        np.array([mean], "<c16").tobytes(),
    ]
    with (save / "charge-density.dat").open("wb") as file:
        for record in records:
            size = len(record).to_bytes(4, "little")
            file.write(size + record + size)
    calls = folder / "calls"
    script = folder / "pw.x"
    script.write_text(
        f"#!/bin/sh\npwd >> {calls}\nmkdir -p pwscf.save\n{before}\ncp {save}/* pwscf.save/\necho JOB DONE\n"
    )
    script.chmod(0o755)
    return calls


#: Parts of the total energy, Ha.
_PARTS = {"etot": -2.0, "ehart": 0.1, "etxc": -0.5, "ewald": -1.0, "demet": 0.0}


def search_path(folder: Path) -> str:
    """The PATH with the folder before all others."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
