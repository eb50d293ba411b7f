"""What DFT says of beryllium's crystals, faults and phonons, from the labels.

Run: python dft_references.py. With two arguments, other labels than those of ``reference`` and ``faults`` are read,
packed or in a folder, of the same names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import GPa

from ase_ldos.dataset.npz import PathLike, Snapshot, load_snapshots
from ase_ldos.labelling.reference_labels import labelled_atoms
from ase_ldos.simulation.elasticity import elastic_response
from ase_ldos.simulation.stacking import fault_energy

FOLDER = Path(__file__).resolve().parents[2] / "ase_ldos" / "models" / "be" / "labels"
MEV_TO_THZ = 0.2417989242
#: Strain tensors of unit size by mode, and the constant that E″/V is in a hexagonal crystal.
MODES = {
    "xx": (np.diag([1.0, 0, 0]), "C11"),
    "yy": (np.diag([0, 1.0, 0]), "C11"),
    "zz": (np.diag([0, 0, 1.0]), "C33"),
    "yz": (np.array([[0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]]), "4 C44"),
    "xy": (np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0]]), "4 C66"),
    "v": (np.eye(3), "9 B"),
}


def load(path: PathLike) -> dict[str, Snapshot]:
    """Labels by name."""
    return {snapshot.name: snapshot for snapshot in load_snapshots(path)}


def atoms(labels: dict[str, Snapshot]) -> dict[str, Atoms]:
    """Labels by name, as atoms that answer with them."""
    return {name: labelled_atoms(snapshot) for name, snapshot in labels.items()}


def curvatures(series: dict[float, Snapshot], shape: np.ndarray) -> tuple[float, float]:
    """E″/V at no strain, GPa, of cells with the atoms' places fixed: from energies and from stresses.

    Energies by least squares with a cubic, slopes V tr(σ S (1 + e S)⁻¹) likewise with a parabola.
    """
    steps = np.array(sorted(series))
    volume = abs(np.linalg.det(series[0.0].cell))
    energies, slopes = [], []
    for step in steps:
        snapshot = series[step]
        energies.append(snapshot.free_energy)
        work = np.trace(np.asarray(snapshot.stress) @ shape @ np.linalg.inv(np.eye(3) + step * shape))
        slopes.append(abs(np.linalg.det(snapshot.cell)) * work)
    scaled = steps / 0.01  # for the fit's condition
    from_energies = 2 * np.polyfit(scaled, np.array(energies) - energies[2], 3)[1] / 0.01**2
    from_stresses = np.polyfit(scaled, np.array(slopes), 2)[1] / 0.01
    return from_energies / volume / GPa, from_stresses / volume / GPa


def print_crystal(labels: dict[str, Atoms]) -> None:
    """Lattice at rest, elastic constants with the atoms at rest, phonons at Γ, of hcp."""
    cell = labels["hcp"]
    response = elastic_response(cell, labels, "elastic_")
    strain = np.linalg.solve(response.elastic * GPa, -cell.get_stress())
    a, _, c = cell.cell.lengths()
    print("hcp, elastic constants from stresses, atoms at rest")
    print(f"  a {a * (1 + strain[0]):.4f} Å, c/a {c / a * (1 + strain[2] - strain[0]):.4f}")
    C = response.elastic
    values = {"B": response.bulk_modulus, "C11": C[0, 0], "C12": C[0, 1], "C13": C[0, 2]}
    values |= {"C33": C[2, 2], "C44": C[3, 3], "C66": C[5, 5]}
    print("  " + ", ".join(f"{name} {value:.1f}" for name, value in values.items()) + " GPa")
    print(f"  clamped: C11 {response.clamped[0, 0]:.1f}, C66 {response.clamped[5, 5]:.1f} GPa")
    optical = MEV_TO_THZ * response.phonons[3:]
    print(f"  optical phonons at Γ: E2g {optical[:2].mean():.2f}, B1g {optical[2]:.2f} THz")


def print_strained(labels: dict[str, Snapshot]) -> None:
    """E″/V of every crystal and mode from energies beside stresses."""
    print("crystal, mode: E″/V from energies and from stresses, GPa, atoms' places fixed")
    for crystal in ("hcp2", "fcc3", "dhcp4"):
        for mode, (shape, constant) in MODES.items():
            names = {step: f"{crystal}_{mode}{round(100 * step):+d}" for step in (-0.02, -0.01, 0.01, 0.02)}
            series = {step: labels[name] for step, name in names.items()} | {0.0: labels[f"{crystal}_0"]}
            one, other = curvatures(series, shape)
            print(f"  {crystal:5} {mode:2} {constant:5} {one:8.1f} {other:8.1f} {one - other:+6.1f}")


def print_faults(labels: dict[str, Atoms]) -> None:
    """Energies of polytypes, faults and slides."""
    hcp, fcc = labels["hcp"], labels["fcc"]
    per_atom = {name: labels[name].get_potential_energy() / len(labels[name]) for name in ("hcp", "dhcp", "fcc")}
    print(
        "above hcp, meV/atom: "
        + ", ".join(f"{n} {1000 * (per_atom[n] - per_atom['hcp']):.1f}" for n in ("dhcp", "fcc"))
    )
    found = {name: fault_energy(labels[f"fault_{name}"], hcp) for name in ("I1", "I2", "E")}
    found |= {name: fault_energy(labels[f"fault_{name}"], fcc) for name in ("intrinsic", "extrinsic")}
    print("faults, mJ/m²: " + ", ".join(f"{name} {energy:.0f}" for name, energy in found.items()))
    for kind in ("gsf", "relaxed"):
        curve = {
            slide: fault_energy(labels[f"{kind}_{slide}"], labels["gsf_0.00"])
            for slide in ("0.25", "0.50", "0.75", "1.00")
        }
        print(f"slides, {kind}, mJ/m²: " + ", ".join(f"{slide} {energy:.0f}" for slide, energy in curve.items()))


if __name__ == "__main__":
    reference, faults = sys.argv[1:] or (FOLDER / "reference", FOLDER / "faults")
    print_crystal(atoms(load(reference)))
    print_faults(atoms(load(faults)))
    if not sys.argv[1:]:
        print_strained(load(FOLDER / "strained"))
