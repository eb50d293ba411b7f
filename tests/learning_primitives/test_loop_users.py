"""One loop for all: a perceptron, the colours and an LDOS model are trained by the same function."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from ase_ldos.dataset.npz import Snapshot
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.learning_primitives import colors, perceptron
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.networks.mlp import MLP
from ase_ldos.training.loop import History, fit
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, LossWeights, ModelWithOffsets
from ase_ldos.training.precompute import fit_scaler, prepare_snapshot

ENERGIES = np.linspace(-8.0, 12.0, 41)
SIDE = 2.3  # Å, of the cubic cell with one beryllium atom


def one_atom() -> Snapshot:
    """A made-up beryllium: bell-shaped states, those nearer to the nucleus lower in energy."""
    axis = np.arange(8) / 8 * SIDE
    distance = np.stack(np.meshgrid(*[np.minimum(axis, SIDE - axis)] * 3, indexing="ij"))
    square = (distance**2).sum(axis=0)
    ldos = np.zeros((8, 8, 8, len(ENERGIES)))
    for level, width in ((-4.0, 0.8), (0.0, 1.2), (4.0, 2.0), (8.0, 3.0)):
        bell = np.exp(-square / width**2)
        state = np.exp(-((ENERGIES - level) ** 2) / (2 * 1.2**2)) / (1.2 * np.sqrt(2 * np.pi))
        ldos += 2 * bell[..., None] * state / (bell.mean() * SIDE**3)
    return Snapshot(
        name="be_1",
        numbers=np.array([4]),
        cell=SIDE * np.eye(3),
        positions=np.zeros((1, 3)),
        energies=ENERGIES,
        ldos=ldos,
        ldos_scale=1.0,
        ldos_sigma=1.2,
        dos=ldos.mean(axis=(0, 1, 2)) * SIDE**3,
        electronic_temperature=5000.0,
    )


def train_ldos() -> History:
    """LDOS and DOS of the atom above, from its mean LDOS as the start."""
    generator, snapshot = torch.Generator().manual_seed(1), one_atom()
    descriptor = PowerSpectrum((4,), cutoff=3.5, n_radial=4, lmax=1)
    scaler = fit_scaler(descriptor, [snapshot], 4, progress=False)
    ready = prepare_snapshot(snapshot, descriptor, scaler, {4: 2.0}, energies=ENERGIES, broadening=1.5, jacobian=None)
    assert ready.labels.ldos is not None
    network = MLP(4, len(ENERGIES), (16,), skip=True, generator=generator)
    network.set_linear(torch.zeros(len(ENERGIES), 4), ready.labels.ldos.mean(dim=0))
    metadata = ModelMetadata("tiny", {"Be": 2.0}, electronic_temperature=5000.0, broadening=1.5)
    nodes = torch.as_tensor(ENERGIES)
    model = LDOSModel(descriptor, network, nodes, metadata, mean=scaler.mean, projection=scaler.projection)
    loss = LDOSLoss(LossWeights(ldos=1.0, dos=1.0, ldos_points=200), generator, LDOSPoints.gather([ready]))
    trained = ModelWithOffsets(model, [ready.group])
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    return fit(trained, [ready], loss, optimizer, epochs=60, generator=generator, ema_decay=0.9, progress=False)


def test_perceptron_colors_and_ldos_go_through_the_same_loop() -> None:
    histories: list[History] = []

    def spy(*args: Any, **kwargs: Any) -> History:  # noqa: ANN401
        histories.append(fit(*args, **kwargs))
        return histories[-1]

    with patch.object(perceptron, "fit", spy), patch.object(colors, "fit", spy):
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        perceptron.train_perceptron(x, x.amax(dim=1), "logistic", epochs=50)
        colors.train_colors(colors.cube_corners(), colors.cube_corners(), copies=8, epochs=20)
    histories.append(train_ldos())
    assert len(histories) == 3
    for history in histories:
        loss = history.column("loss")
        assert loss[-1] < 0.5 * loss[0]
        assert history.best_epoch is not None
        assert history.stopped == "epochs"
    assert histories[-1].column("ldos")[-1] < 0.1  # relative error of the LDOS
    assert histories[-1].column("dos")[-1] == pytest.approx(0.0, abs=0.02)
