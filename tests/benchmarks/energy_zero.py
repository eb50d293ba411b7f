"""What one zero of energy gains at densities that no model has seen: beryllium, labels of the repository.

    python tests/benchmarks/energy_zero.py [--steps 400] [--alignments none band_energy fermi_level]

Each model learns the LDOS alone of cells of 7.2 to 8.3 Å³ per atom. Tested are what was held back, crystals strained by
1 or 2 %, and hcp compressed to 5.8 to 6.9 Å³. The DOS is compared up to 2 eV above the Fermi level.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ase_ldos.dataset.broadening import on_model_energies
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict
from ase_ldos.training.settings import LDOSStage, TrainingData, load_settings
from ase_ldos.training.train import train_stages

BE = Path(__file__).resolve().parents[2] / "ase_ldos" / "models" / "be"
#: About the same window of energies for all, those of DFT or aligned ones.
WINDOWS = {"none": (-5.0, 11.0), "band_energy": (-11.5, 4.0), "fermi_level": (-13.5, 2.0)}


def volume(snapshot: Snapshot) -> float:
    """Å³ per atom."""
    return abs(float(np.linalg.det(snapshot.cell))) / len(snapshot)


def errors(model: LDOSModel, snapshot: Snapshot) -> tuple[float, float, float, float]:
    """Of DOS (%), Fermi level (eV), density (%) and free energy (meV/atom)."""
    found = predict(
        model, snapshot.structure, grid_shape=snapshot.shape, electronic_temperature=snapshot.electronic_temperature
    )
    assert snapshot.density is not None
    assert snapshot.free_energy is not None
    level = snapshot.fermi_level if snapshot.fermi_level_dense is None else snapshot.fermi_level_dense
    assert level is not None
    energies = found.energy_grid.numpy()
    values, known = on_model_energies(snapshot, np.asarray(snapshot.dos), energies, model.metadata.broadening)
    near = min(known, int((energies < level + 2).sum()))
    dos = found.dos[:near].numpy() - values[:near]
    wrong = np.abs(found.density.numpy() - snapshot.density).sum() / snapshot.density.sum()
    energy = 1000 * (found.free_energy - snapshot.free_energy) / len(snapshot)
    return (
        100 * float(np.linalg.norm(dos) / np.linalg.norm(values[:near])),
        found.fermi_level - level,
        100 * wrong,
        energy,
    )


def main() -> None:
    """Train with each alignment and print root mean squares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--alignments", nargs="+", choices=WINDOWS, default=["none", "band_energy"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    labels = [s for name in ("small", "close-pairs", "slid") for s in load_snapshots(BE / "labels" / name)]
    with_ldos = [snapshot for snapshot in labels if snapshot.has_ldos]
    data = TrainingData({"x": [s for i, s in enumerate(with_ldos) if i % 8 != 3]}, {"x": with_ldos[3::8]})
    tests: dict[str, Sequence[Snapshot]] = {
        "held back": data.validation["x"],
        "strained": load_snapshots(BE / "labels" / "strained")[::9],
        "compressed": [s for s in load_snapshots(BE / "labels" / "reference") if volume(s) < 7.1][:6],
    }
    settings = load_settings(BE / "training.toml")
    print(f"{'alignment':12} {'tested on':12}{'number':>7}{'DOS, %':>9}{'mu, eV':>9}{'n, %':>8}{'A, meV/atom':>13}")
    for name in args.alignments:
        chosen = replace(settings.model, alignment=name, energy_window=WINDOWS[name])
        recipe = replace(settings, model=chosen, data=("x",), stages=(LDOSStage("ldos", args.steps, 2e-3),))
        model = train_stages(recipe, data, progress=False).model
        for kind, snapshots in tests.items():
            table = np.array([errors(model, snapshot) for snapshot in snapshots])
            dos, level, density, energy = np.sqrt((table**2).mean(axis=0))
            print(f"{name:12} {kind:12}{len(table):7d}{dos:9.1f}{level:9.3f}{density:8.2f}{energy:13.0f}", flush=True)


if __name__ == "__main__":
    main()
