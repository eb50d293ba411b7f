"""Distillation: least squares find a potential of their own kind; a model's potential comes close to the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.prediction.predict import predict
from ase_ldos.simulation.sampling import rattled, strained
from ase_ldos.training.distill import _Fit, _Label, distill, reference_crystal


def crystal(symbols: tuple[str, ...] = ("Be",)) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 1, 1))
    atoms.symbols[:] = [symbols[index % len(symbols)] for index in range(4)]
    return atoms


@pytest.mark.parametrize("symbols", [("Be",), ("Be", "Mg")])
def test_a_potential_of_its_kind_is_found(symbols: tuple[str, ...]) -> None:
    """Labels by a quadratic potential: the errors on structures left out nearly vanish, and so do those elsewhere."""
    rng, species = np.random.default_rng(0), (4, 12)[: len(symbols)]
    descriptor = PowerSpectrum(species, cutoff=4.0, n_radial=2, lmax=1)

    def draw() -> Structure:
        return Structure.from_atoms(rattled(strained(crystal(symbols), rng), 0.1, rng))

    zero = Structure.from_atoms(crystal(symbols))
    n = len(symbols)
    blank = [_Label(draw(), 0.0, torch.zeros(4, 3).double(), torch.zeros(6).double()) for _ in range(40)]
    fit = _Fit.of(descriptor, blank)
    random = torch.Generator().manual_seed(1)
    n_components = fit.projection.shape[1]
    teacher = DistilledPotential(
        descriptor,
        fit.mean,
        fit.projection,
        -5.0 * torch.ones(n, dtype=torch.float64),
        torch.randn(n, n_components, generator=random, dtype=torch.float64),
        0.3 * torch.randn(n, 15, generator=random, dtype=torch.float64),
    )
    for blank_label in blank:
        energy, forces, stress = teacher.evaluate(blank_label.structure, stress=True)
        assert stress is not None
        voigt = stress.flatten()[[0, 4, 8, 5, 2, 1]] * blank_label.structure.volume
        fit.add(_Label(blank_label.structure, energy, forces, voigt))
    student = fit.solve()
    assert student.errors["typical_forces"] > 100
    assert student.errors["forces"] < 0.01 * student.errors["typical_forces"]
    assert student.errors["energy"] < 1
    new = draw()
    right, found = teacher.evaluate(new), student.evaluate(new)
    assert torch.allclose(found[1], right[1], atol=0.01 * float(right[1].abs().max()))
    assert abs(student.evaluate(zero)[0] - teacher.evaluate(zero)[0]) < 0.01


def test_errors_are_those_of_the_model(be_model: LDOSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reproducible, without a trace in torch's state; better than no forces at all on new structures."""
    for name in ("EQUILIBRATION", "INTERVAL"):
        monkeypatch.setattr(f"ase_ldos.training.distill.{name}", 10.0)
    state = torch.random.get_rng_state()
    kept = [
        distill(be_model, [crystal()], temperature=100, n_structures=10, rounds=1, progress=False) for _ in range(2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(kept[0].tensors().values(), kept[1].tensors().values()))
    assert be_model.distilled is None
    errors = kept[0].errors
    assert errors["structures"] == 5
    assert errors["forces"] < 0.7 * errors["typical_forces"]
    atoms = rattled(crystal(), 0.05, np.random.default_rng(9))
    atoms.calc = DistilledCalculator(kept[0])
    forces = predict(be_model, atoms, forces=True).forces
    assert forces is not None
    off = np.sqrt(np.mean((atoms.get_forces() - forces.numpy()) ** 2))
    assert off < 0.6 * np.sqrt(np.mean(forces.numpy() ** 2))


def test_what_cannot_be_distilled_is_named(be_model: LDOSModel, alloy_model: LDOSModel) -> None:
    with pytest.raises(ValueError, match="at least 10 structures"):
        distill(be_model, [crystal()], n_structures=5)
    with pytest.raises(ValueError, match="one in each"):
        distill(be_model, [crystal()], n_structures=12, rounds=8)
    with pytest.raises(ValueError, match="temperature is -1 K"):
        distill(be_model, [crystal()], temperature=-1)
    with pytest.raises(ValueError, match="give structures to start from"):
        distill(alloy_model)
    with pytest.raises(ValueError, match="atoms contain Mg"):
        distill(be_model, [crystal(("Be", "Mg"))])


@pytest.mark.slow
def test_bundled_model(bundled: str) -> None:
    """The default crystal, at the model's volume; forces within a tenth of typical ones."""
    model = load_model(bundled)
    atoms = reference_crystal(model)
    assert len(atoms) >= 12
    assert atoms.get_volume() / len(atoms) == pytest.approx(7.7, rel=0.03)
    errors = distill(model, [atoms], n_structures=24, rounds=1, progress=False).errors
    # measured: 3 % with 60 structures
    assert errors["forces"] < 0.1 * errors["typical_forces"]
    assert errors["energy"] < 2
