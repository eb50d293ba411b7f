"""How far one LDOS carries: models that saw one electronic temperature against DFT at others.

Run: python hot_electrons.py [MODEL ...] [--without STRUCTURE ...]. For each model and temperature, over the structures
of ``labels/hot``, which were held back from its training: the change of free energy, of −TS, μ and pressure from the
temperature of the model's own labels (``labels/small`` and ``labels/solid``), by DFT and by the model, and errors of
forces and density. In the heading, the highest temperature that the model's window of energies allows. Below, the same
with free states above the window (``ase_ldos.model.energy_tail``), and, to see what these are worth, with the window of
`be` cut off at 12 eV.

First, the same with what the model can learn of its free energy at these temperatures (``ase_ldos.training.thermal``),
of each structure from all others; whatever the model's file holds of that is left out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import torch

import ase_ldos
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.energy_tail import with_free_states
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.physics.occupation import highest_temperature
from ase_ldos.prediction.predict import Prediction, predict
from ase_ldos.training.thermal import ThermalData
from ase_ldos.units import GIGAPASCAL

MODELS = Path(ase_ldos.__file__).parent / "models"
#: Folder of the labels at a model's own temperature.
OWN = {"be": "small", "be-se3": "small", "al": "solid"}
#: Top of the free states, eV.
HIGHEST = 32.0
HEADER = (
    f"{'T':>6}{'cells':>6}{'dA DFT':>9}{'model':>9}{'error':>7}{'d(-TS) DFT':>12}{'model':>9}"
    f"{'forces':>9}{'error':>7}{'density':>9}{'dmu DFT':>9}{'model':>8}{'dp DFT':>9}{'model':>8}"
    f"{'gamma DFT':>11}{'model':>8}"
)
UNITS = (
    f"{'K':>6}{'':>6}{'meV/atom':>9}{'':>9}{'RMS':>7}{'meV/atom':>12}{'':>9}{'meV/Å':>9}{'RMS':>7}{'%':>9}{'eV':>9}"
    f"{'':>8}{'GPa':>9}{'':>8}"
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["be", "be-se3", "al"], metavar="MODEL")
    parser.add_argument("--without", nargs="+", default=[], metavar="STRUCTURE", help="leave these out")
    options = parser.parse_args()
    for name in options.models:
        model, folder = load_model(name), MODELS / name.removesuffix("-se3") / "labels"
        hot = [snapshot for snapshot in load_snapshots(folder / "hot") if _stem(snapshot) not in options.without]
        own = {snapshot.name: snapshot for snapshot in load_snapshots(folder / OWN[name])}
        own |= {_stem(s): s for s in hot if float(s.electronic_temperature or 0) < 1000}
        labels = [(own.get(_stem(snapshot)), snapshot) for snapshot in hot]
        pairs = [(base, snapshot) for base, snapshot in labels if base is not None and base is not snapshot]
        model.thermal_correction = None
        if not model.descriptor.n_learned:
            held = [label for pair in pairs if holds(model, pair[1]) for label in pair]
            data = ThermalData(model, held, progress=False)
            report(f"{name}, each structure learned from the others", model, pairs, data)
        report(name, model, pairs)
        report(f"{name}, with free states from {model.energies[-1]:g} to {HIGHEST:g} eV", tail(model), pairs)
        if name == "be":
            report(f"{name}, cut off at 12 eV, with free states from there", tail(cut(model, 12.0)), pairs)


def tail(model: LDOSModel) -> LDOSModel:
    """The model with free states up to HIGHEST."""
    return with_free_states(model, HIGHEST)


def cut(model: LDOSModel, highest: float) -> LDOSModel:
    """The model without its states above an energy, eV."""
    keep = model.energies <= highest
    network = MLP(**(model.network.settings() | {"n_outputs": int(keep.sum())})).to(model.dtype)
    state = model.network.state_dict()
    network.load_state_dict(state | {name: state[name][keep] for name in ("head.weight", "head.bias")})
    shorter = LDOSModel(
        model.descriptor,
        network,
        model.energies[keep],
        model.metadata,
        mean=model.mean,
        projection=model.projection,
        ldos_scale=model.ldos_scale,
    )
    return shorter.eval().requires_grad_(False)


def of(model: LDOSModel, snapshot: Snapshot, data: ThermalData | None = None) -> Prediction:
    """The prediction of a snapshot at its temperature on its grid, with what the data say of others if given."""
    model.thermal_correction = None if data is None else data.fit(without=snapshot.name)
    structure = Structure.from_arrays(snapshot.numbers, snapshot.positions, snapshot.cell)
    return predict(
        model,
        structure,
        forces=True,
        stress=True,
        grid_shape=snapshot.shape,
        electronic_temperature=snapshot.electronic_temperature,
    )


def holds(model: LDOSModel, snapshot: Snapshot) -> bool:
    """Whether the model's energy window holds a label's electrons."""
    try:
        of(model, snapshot)
    except ValueError as error:
        if "energy window" not in str(error):
            raise
        return False
    return True


def report(
    title: str, model: LDOSModel, pairs: list[tuple[Snapshot, Snapshot]], data: ThermalData | None = None
) -> None:
    """A model's table; with ``data`` each structure is learned from the others."""
    bases = {_stem(base): (base, of(model, base)) for base, _ in pairs}
    highest = [highest_temperature(found.dos, found.energy_grid, 1e-9 + _electrons(b)) for b, found in bases.values()]
    own = next(iter(bases.values()))[0].electronic_temperature
    print(
        f"\n{title}: learned at {model.metadata.electronic_temperature:.0f} K; its window allows {min(highest):.0f} K"
    )
    print(f"changes from {own:.0f} K\n{HEADER}\n{UNITS}")
    rows = [(base, base, found) for base, found in bases.values()]
    for base, snapshot in pairs:
        try:
            rows.append((base, snapshot, of(model, snapshot, data)))
        except ValueError as error:
            if not any(reason in str(error) for reason in ("energy window", "learned up to")):
                raise
    for temperature in sorted({round(float(row[1].electronic_temperature or 0)) for row in rows}):
        chosen = [row for row in rows if round(float(row[1].electronic_temperature or 0)) == temperature]
        print(line(temperature, [compare(base, bases[_stem(base)][1], label, found) for base, label, found in chosen]))


def _stem(snapshot: Snapshot) -> str:
    """The structure's name: that of the label without its temperature."""
    return re.sub(r"_\d+K$", "", snapshot.name)


def _energy(found: Prediction) -> float:
    """E = A + TS, eV."""
    return found.free_energy + found.electronic_temperature * found.entropy


def _electrons(snapshot: Snapshot) -> float:
    return float(snapshot.valence or 0) * len(snapshot)


def compare(base: Snapshot, cold: Prediction, label: Snapshot, found: Prediction) -> list[float]:
    """Numbers of one structure, in the order of the table."""
    n = len(label) / 1000
    assert found.forces is not None
    assert found.stress is not None
    assert cold.stress is not None
    assert label.density is not None

    def pressure(stress: np.ndarray | torch.Tensor) -> float:
        return -float(np.trace(np.asarray(stress))) / 3 * GIGAPASCAL

    forces, per_volume = np.asarray(label.forces), GIGAPASCAL / abs(float(np.linalg.det(label.cell)))
    return [
        (label.free_energy - base.free_energy) / n,
        (found.free_energy - cold.free_energy) / n,
        (label.smearing_TS - base.smearing_TS) / n,
        (cold.electronic_temperature * cold.entropy - found.electronic_temperature * found.entropy) / n,
        1000 * float(np.sqrt(np.mean(forces**2))),
        1000 * float(np.sqrt(np.mean((found.forces.numpy() - forces) ** 2))),
        100 * float(np.abs(found.density.numpy() - label.density).sum() / label.density.sum()),
        label.fermi_level - base.fermi_level,
        found.fermi_level - cold.fermi_level,
        pressure(label.stress) - pressure(base.stress),
        pressure(found.stress) - pressure(cold.stress),
        # E = A + TS per volume, in the unit of pressures
        ((label.free_energy - label.smearing_TS) - (base.free_energy - base.smearing_TS)) * per_volume,
        (_energy(found) - _energy(cold)) * per_volume,
    ]


def line(temperature: int, rows: list[list[float]]) -> str:
    """Means over structures, root mean squares of errors and forces."""
    table = np.array(rows)
    A, model, ts, ts_model, _, _, density, mu, mu_model, p, p_model, heat, heat_model = table.mean(axis=0)
    gruneisen = f"{p / heat:11.2f}{p_model / heat_model:8.2f}" if heat else ""
    error = float(np.sqrt(np.mean((table[:, 1] - table[:, 0]) ** 2)))
    forces, off = np.sqrt(np.mean(table[:, 4:6] ** 2, axis=0))
    return (
        f"{temperature:6}{len(rows):6}{A:9.1f}{model:9.1f}{error:7.2f}{ts:12.1f}{ts_model:9.1f}{forces:9.0f}{off:7.1f}"
        f"{density:9.2f}{mu:9.3f}{mu_model:8.3f}{p:9.2f}{p_model:8.2f}{gruneisen}"
    )


if __name__ == "__main__":
    main()
