"""What a set-up of labels leaves open: the same structures by that and by a finer one.

Run: python dft_floor.py [COARSE FINE]. Compares the labels that both folders have by the measures of ``ase-ldos
evaluate`` and prints a table in Markdown; without folders, beryllium's ``small`` (``dft.toml``, 0.165 1/Å) with
``floor`` (``dft-floor.toml``, 0.11 1/Å).
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from ase_ldos.dataset.broadening import broaden
from ase_ldos.dataset.npz import Snapshot, load_snapshot
from ase_ldos.units import GIGAPASCAL

FOLDER = Path(__file__).resolve().parents[2] / "ase_ldos" / "models" / "be" / "labels"
SIGMA = 0.3  # eV, of the models
COLUMNS = {
    "energy": "energy, meV/atom",
    "forces": "forces, meV/Å",
    "stress": "stress, GPa",
    "density": "density, %",
    "dos": "DOS, %",
    "dos_occupied": "DOS below μ, %",
    "ldos": "LDOS, %",
    "ldos_occupied": "LDOS below μ, %",
    "level": "μ, eV",
    "level_broad": "μ at σ = 0.3 eV, eV",
}


def relative(one: np.ndarray, other: np.ndarray) -> float:
    """|one − other| over |other|, %."""
    return 100 * float(np.linalg.norm(one - other) / np.linalg.norm(other))


def level(dos: np.ndarray, energies: np.ndarray, n_electrons: float, kT: float) -> float:
    """Fermi level of a DOS, eV."""
    import torch

    from ase_ldos.physics.occupation import fermi_level

    return float(fermi_level(torch.as_tensor(dos), torch.as_tensor(energies), n_electrons, kT))


def compare(coarse: Snapshot, fine: Snapshot) -> dict[str, float]:
    """Errors of the coarse mesh, at the models' broadening, up to where both know all states."""
    pair = (coarse, fine)
    top = min(float(snapshot.complete_below or 0.0) for snapshot in pair) - 2 * SIGMA
    energies = np.asarray(fine.energies)
    known, occupied = energies <= top, energies <= float(fine.fermi_level or 0.0)
    add = math.sqrt(SIGMA**2 - float(fine.ldos_sigma or 0.0) ** 2)
    ldos = [broaden(snapshot.ldos_values(), energies, add) for snapshot in pair]
    dos = [broaden(np.asarray(snapshot.dos, dtype=float), energies, add) for snapshot in pair]
    kT = 8.617333262e-5 * float(fine.electronic_temperature or 0.0)
    levels = [level(values, energies, float(fine.n_electrons or 0.0), kT) for values in dos]
    stress, forces = (np.asarray(getattr(coarse, key)) - np.asarray(getattr(fine, key)) for key in ("stress", "forces"))
    density = np.abs(np.asarray(coarse.density) - np.asarray(fine.density)).sum() / np.asarray(fine.density).sum()
    return {
        "energy": 1000 * (float(coarse.free_energy or 0) - float(fine.free_energy or 0)) / len(fine),
        "forces": 1000 * float(np.sqrt(np.mean(forces**2))),
        "stress": GIGAPASCAL * float(np.sqrt(np.mean(stress**2))),
        "density": 100 * float(density),
        "dos": relative(dos[0][known], dos[1][known]),
        "dos_occupied": relative(dos[0][occupied], dos[1][occupied]),
        "ldos": relative(ldos[0][..., known], ldos[1][..., known]),
        "ldos_occupied": relative(ldos[0][..., occupied], ldos[1][..., occupied]),
        "level": float(coarse.fermi_level or 0) - float(fine.fermi_level or 0),
        "level_broad": levels[0] - levels[1],
    }


def floor_table(coarse: Path, fine: Path) -> str:
    """The errors of every structure that both folders have, in Markdown.

    Raises:
        ValueError: they have none in common.
    """
    names = sorted({path.stem for path in coarse.glob("*.npz")} & {path.stem for path in fine.glob("*.npz")})
    if not names:
        raise ValueError(f"{coarse} and {fine} have no label of one name")
    columns = [compare(load_snapshot(coarse / f"{name}.npz"), load_snapshot(fine / f"{name}.npz")) for name in names]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for key, heading in COLUMNS.items():
        style = "+.3g" if key in ("energy", "level", "level_broad") else ".3g"
        lines.append(f"| {heading} | " + " | ".join(f"{errors[key]:{style}}" for errors in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of the coarse and of the fine labels")
    folders = parser.parse_args().folders or [FOLDER / "small", FOLDER / "floor"]
    if len(folders) != 2:
        parser.error(f"two folders are compared; {len(folders)} are given")
    print(floor_table(*folders))
