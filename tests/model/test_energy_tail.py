"""States above the window: exact where the LDOS is that of free electrons, derivatives, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ase import Atoms

from ase_ldos.model.energy_tail import with_free_states
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.prediction.predict import predict


def test_a_free_electron_ldos_goes_on_as_it_is(be_model: LDOSModel) -> None:
    energies = be_model.energies
    shape = (energies - energies[0]).clamp(min=1e-3).sqrt()
    with torch.no_grad():  # at each point √(ε − ε₀) times a number of its own
        be_model.network.head.weight.copy_(shape[:, None] * be_model.network.head.weight.mean(dim=0))
        be_model.network.head.bias.copy_(shape * be_model.network.head.bias.mean())
    longer = with_free_states(be_model, 20.0)
    weight, bias = longer.head
    exact = (longer.energies - energies[0]).clamp(min=1e-3).sqrt()
    torch.testing.assert_close(bias / bias[-1], exact / exact[-1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weight[:, 0] / weight[-1, 0], exact / exact[-1], rtol=1e-9, atol=1e-12)


def test_cold_electrons_do_not_notice(be_atoms: Atoms, be_model: LDOSModel) -> None:
    longer = with_free_states(be_model, 25.0)
    one, other = (predict(model, be_atoms, forces=True) for model in (be_model, longer))
    assert other.free_energy == pytest.approx(one.free_energy, abs=1e-6)
    assert one.forces is not None
    assert other.forces is not None
    torch.testing.assert_close(other.forces, one.forces, rtol=0, atol=1e-5)
    assert longer.energies[-1] == pytest.approx(25.0, abs=0.3)
    assert longer.metadata == replace(be_model.metadata, name=longer.metadata.name)


def test_hot_electrons_fit_in_and_the_entropy_is_the_slope(be_atoms: Atoms, be_model: LDOSModel) -> None:
    T, h = 40000.0, 20.0
    with pytest.raises(ValueError, match="beyond the energy window"):
        predict(be_model, be_atoms, electronic_temperature=T)
    longer = with_free_states(be_model, 45.0)
    found = predict(longer, be_atoms, electronic_temperature=T)
    high, low = (predict(longer, be_atoms, electronic_temperature=t).free_energy for t in (T + h, T - h))
    entropy = -float(found.energies.entropy_term) / T
    assert entropy == pytest.approx(-(high - low) / (2 * h), rel=1e-6)


@pytest.mark.parametrize(
    ("highest", "averaged", "message"), [(5.0, 2.0, "reach 12 eV"), (20.0, 0.0, "at least one node")]
)
def test_what_cannot_be_continued_is_refused(
    be_model: LDOSModel, highest: float, averaged: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        with_free_states(be_model, highest, averaged=averaged)
