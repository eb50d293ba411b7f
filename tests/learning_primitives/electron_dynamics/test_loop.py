"""Whatever learns here is trained by the loop that trains LDOS models."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from ase_ldos.learning_primitives import color_regression
from ase_ldos.learning_primitives.electron_dynamics import density_propagator, pinn
from ase_ldos.learning_primitives.electron_dynamics.exact_solutions import OscillatorSuperposition
from ase_ldos.learning_primitives.electron_dynamics.grid import Grid1D
from ase_ldos.learning_primitives.electron_dynamics.kohn_sham import KohnShamSystem
from ase_ldos.training.loop import History, fit


def test_all_go_through_the_same_loop() -> None:
    histories: list[History] = []

    def spy(*args: Any, **kwargs: Any) -> History:  # noqa: ANN401
        histories.append(fit(*args, **kwargs))
        return histories[-1]

    grid = Grid1D(12.0, 32)
    orbitals = OscillatorSuperposition((0, 1))(grid.x, 0.0)[None, None]

    def start(parameters: torch.Tensor) -> pinn.Start:
        external = (grid.x**2 / 2).expand(len(parameters), -1)
        return pinn.Start(KohnShamSystem(grid, external, 1, "independent"), orbitals.expand(len(parameters), -1, -1))

    generator = torch.Generator().manual_seed(1)
    bonds = torch.full((8,), 1.6, dtype=torch.float64)
    pulses = density_propagator.random_pulses(8, 4.0, generator)
    data = density_propagator.simulate_diatomics(Grid1D(24.0, 48), bonds, pulses, n_intervals=8)
    with (
        patch.object(pinn, "fit", spy),
        patch.object(density_propagator, "fit", spy),
        patch.object(color_regression, "fit", spy),
    ):
        pinn.train_orbitals(pinn.OrbitalNetwork(start, 1.0, hidden=(16, 16)), epochs=6, steps=10, n_times=8)
        propagator = density_propagator.DensityPropagator(4, modes=8, width=8, n_layers=2)
        density_propagator.train_propagator(propagator, data, data, epochs=20, batch_size=4)
        color_regression.train_regressor("cmyk", epochs=3, steps=40)
    assert len(histories) == 3
    for history in histories:
        loss = history.column("loss")
        assert loss[-1] < 0.8 * loss[0]
        assert history.best_epoch is not None
        assert history.stopped == "epochs"
