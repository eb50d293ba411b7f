"""The bundled models: their own record of errors holds on the held-back structures that the package carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from ase_ldos import LDOSCalculator
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.model.model_file import BUNDLED, list_models, load_model
from ase_ldos.training.evaluate import evaluate_model, summarise

#: The repository's folder of models: an installed package has no labels.
MODELS = Path(__file__).resolve().parents[2] / "ase_ldos" / "models"
#: Labels of each model, with the largest errors in meV/atom, meV/Å and % of the density.
LABELS = {
    "be": (("be/labels/small",), 10.0, 100.0, 1.5),
    "be-se3": (("be/labels/small",), 10.0, 100.0, 1.5),
    "al": (("al/labels/solid.npz", "al/labels/liquid.npz"), 10.0, 200.0, 2.0),
}


def test_every_bundled_model_is_looked_at() -> None:
    assert set(list_models()) == set(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_a_model_file_tells_where_it_comes_from(name: str) -> None:
    metadata = load_model(name).metadata
    assert set(metadata.errors) >= {"energy", "forces", "stress", "density", "dos", "ldos"}
    assert metadata.extrapolation["threshold"] > 0
    learned, held_back = (set(metadata.provenance[key]) for key in ("training", "held back"))
    assert not learned & held_back
    assert 4 * len(held_back) < len(learned) < 6 * len(held_back)
    assert (BUNDLED / name / "training.toml").is_file()


@pytest.mark.parametrize(("name", "source"), [(name, source) for name, row in LABELS.items() for source in row[0]])
def test_errors_on_structures_that_were_held_back(name: str, source: str) -> None:
    model = load_model(name)
    _, energy, forces, density = LABELS[name]
    snapshots = load_snapshots(MODELS / source)
    unseen = [snapshot for snapshot in snapshots if snapshot.name in model.metadata.provenance["held back"]]
    small = sorted(unseen, key=lambda snapshot: len(snapshot.numbers))[:6]
    assert len(small) > 2
    found = summarise(evaluate_model(model, small, progress=False))
    assert found["energy"] < energy
    assert found["forces"] < forces
    assert found["density"] < density
    # not for nothing: the forces are some volts per Å
    assert np.sqrt(np.mean([np.mean(snapshot.forces**2) for snapshot in small])) > 3e-3 * forces


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "energy", "forces"),
    [("be/labels/close-pairs-test", 8.0, 120.0), ("be/labels/disputed-test", 8.0, 100.0)],
)
def test_structures_that_no_model_has_seen(source: str, energy: float, forces: float) -> None:
    """Labelled after both models were trained; used since only to turn down weights that had been trained further."""
    snapshots = load_snapshots(MODELS / f"{source}.npz")
    names = {snapshot.name for snapshot in snapshots}
    found = {}
    for name in ("be", "be-se3"):
        model = load_model(name)
        assert not names & {*model.metadata.provenance["training"], *model.metadata.provenance["held back"]}
        found[name] = summarise(evaluate_model(model, snapshots, progress=False))
        assert found[name]["energy"] < energy
    assert found["be-se3"]["forces"] < 0.95 * found["be"]["forces"] < forces


@pytest.mark.parametrize("name", LABELS)
def test_calculators_by_name_give_forces_that_are_derivatives(name: str) -> None:
    # elements of the three models at their lattice constants
    atoms = bulk("Al", cubic=True) if name == "al" else bulk("Be", a=2.245, c=3.531).repeat((2, 1, 1))
    atoms.rattle(0.05, seed=2)
    atoms.calc = LDOSCalculator(name, dtype="float64")
    force = atoms.get_forces()[1, 2]
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, 2] += sign * 1e-3
        moved.calc = atoms.calc
        energies.append(moved.get_potential_energy())
    assert abs(force) > 0.02
    assert (energies[1] - energies[0]) / 2e-3 == pytest.approx(force, abs=2e-4)
