"""Training of the graph network: the physics of ``predict``, right gradients, an exact graft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from predicted_labels import labelled
from recipes import recipe_head
from safetensors.torch import load_file

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.cli.main import main
from ase_ldos.dataset.npz import Snapshot, save_snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.se3_transformer.network import SE3Transformer
from ase_ldos.prediction.predict import predict
from ase_ldos.training.learned_features import complete_inputs, fixed_scaler, whole_scaler
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, LossWeights, ModelWithOffsets, evaluate_snapshot
from ase_ldos.training.precompute import Scaler, TrainingSnapshot, fit_scaler, prepare_snapshot, voigt
from ase_ldos.training.settings import TrainingSettings, load_data, load_settings
from ase_ldos.training.train import train_stages

RECIPE = (
    recipe_head(descriptor="DESCRIPTOR", n_components="INPUTS")
    + """
[[stages]]
name = "ldos"
steps = 30

[[stages]]
name = "everything"
epochs = EPOCHS
learning_rate = 3e-3
validate_every = 1
weights = { ldos_points = 200 }
"""
)
NETWORK = (
    'kind = "se3_transformer", cutoff = 4.2, atom_cutoff = 3.6, lmax = 1, channels = 4, heads = 2, layers = 1, '
    "n_radial = 3, n_radial_atoms = 4, fields = 4, moments = 0"
)
SPECTRUM = ", spectrum_radial = 3, spectrum_lmax = 2"
ALONE = 'kind = "power_spectrum", cutoff = 4.2, n_radial = 3, lmax = 2'
SIZES: dict[str, Any] = {"channels": 4, "heads": 2, "n_radial": 3, "fields": 4, "moments": 1, "point_heads": 2}


def graph_model(be_model: LDOSModel, spectrum: bool) -> LDOSModel:
    """A graph network with random weights in float64 and the energies of ``be_model``."""
    generator = torch.Generator().manual_seed(1)
    options = {"spectrum_radial": 3, "spectrum_lmax": 2} if spectrum else {}
    net = SE3Transformer((4,), cutoff=4.2, atom_cutoff=3.6, **SIZES, **options, generator=generator).double()
    snapshots, fixed = [labelled(be_model, 1)], Scaler(*(torch.zeros(s, dtype=torch.float64) for s in ((0,), (0, 0))))
    if net.spectrum is not None:
        fixed = fit_scaler(net.spectrum, snapshots, 6, floor=1e-2, progress=False)
    scaler = whole_scaler(net, fixed, snapshots, 0.45)
    network = MLP(scaler.projection.shape[1], 60, (16,), skip=True, generator=generator).double()
    with torch.no_grad():
        network.head.weight.copy_(2e-3 * torch.randn(network.head.weight.shape, generator=generator))
        network.head.bias.fill_(0.035)
    metadata = replace(be_model.metadata, name="graph")
    return LDOSModel(
        net, network, be_model.energies, metadata, mean=scaler.mean, projection=scaler.projection
    ).requires_grad_(False)


def prepared(model: LDOSModel, snapshot: Snapshot) -> TrainingSnapshot:
    ready = prepare_snapshot(
        snapshot,
        model.descriptor.fixed,
        fixed_scaler(model),
        {4: 2.0},
        energies=model.energies.numpy(),
        broadening=0.3,
        spacing=0.45,
        jacobian=torch.float64,
    )
    return replace(ready, inputs=ready.inputs.double())


@pytest.fixture(params=[False, True], ids=["learned", "with spectrum"])
def model(request: pytest.FixtureRequest, be_model: LDOSModel) -> LDOSModel:
    """The graph network without and with the fixed power spectrum."""
    return graph_model(be_model, request.param)


@pytest.fixture
def make_recipe(be_model: LDOSModel, tmp_path: Path) -> Callable[..., TrainingSettings]:
    """Recipes with six snapshots in their folder."""
    (tmp_path / "data").mkdir()
    for seed in range(6):
        snapshot = labelled(be_model, seed)
        save_snapshot(tmp_path / "data" / f"{snapshot.name}.npz", snapshot)

    def make(descriptor: str, inputs: int, epochs: int = 6) -> TrainingSettings:
        text = RECIPE.replace("DESCRIPTOR", descriptor).replace("INPUTS", str(inputs)).replace("EPOCHS", str(epochs))
        (tmp_path / "toy.toml").write_text(text)
        return load_settings(tmp_path / "toy.toml")

    return make


def test_training_sees_the_physics_of_predict(model: LDOSModel, be_model: LDOSModel) -> None:
    snapshot = labelled(be_model, 3)
    ready = prepared(model, snapshot)
    expected = predict(model, ready.structure, forces=True, stress=True, grid_shape=ready.grid.shape)
    found = evaluate_snapshot(model, ready)
    # fixed inputs are kept in float32; without them nothing is rounded
    close = 2e-5 if ready.inputs.shape[1] else 1e-9
    for part in (expected, found):
        assert part.forces is not None
        assert part.stress is not None
    assert float(expected.forces.abs().max()) > 0.1
    assert float(found.free_energy.detach()) == pytest.approx(expected.free_energy, abs=close)
    np.testing.assert_allclose(found.forces.detach(), expected.forces, atol=close)
    np.testing.assert_allclose(found.stress.detach(), voigt(expected.stress), atol=close)
    np.testing.assert_allclose(found.density.detach(), expected.density.flatten(), atol=close)


def test_gradient_of_the_loss_is_its_finite_difference(model: LDOSModel, be_model: LDOSModel) -> None:
    """In weights of layers, readout and perceptron, with forces, stress and LDOS in the loss."""
    ready, other = (prepared(model, labelled(be_model, seed)) for seed in (3, 4))
    ready = replace(ready, labels=replace(other.labels, ldos=ready.labels.ldos))
    trained = ModelWithOffsets(model.requires_grad_(True), [ready.group])
    points = LDOSPoints.gather([ready])
    weights = LossWeights(stress=3.0, ldos_points=50)

    def loss() -> torch.Tensor:
        trained.errors.zero_()
        return LDOSLoss(weights, torch.Generator().manual_seed(0), points)(trained, ready)[0]

    net = model.descriptor
    assert isinstance(net, SE3Transformer)
    parts = [net.embedding, *net.layers.parameters(), *net.readout.parameters(), *model.network.parameters()]
    gradients = torch.autograd.grad(loss(), parts, allow_unused=True)
    chosen = [(p, g) for p, g in zip(parts, gradients) if g is not None and float(g.norm()) > 0]
    assert len(chosen) > 0.9 * len(parts)
    # along the gradient itself, each part by its own scale
    directions = [(p, g / g.norm() * max(float(p.detach().norm()), 0.1)) for p, g in chosen]
    expected = sum(float((g * d).sum()) for (_, g), (_, d) in zip(chosen, directions))
    values, h, place = [], 1e-5, 0
    for step in (-2, -1, 1, 2):
        with torch.no_grad():
            for parameter, direction in directions:
                parameter.add_((step - place) * h * direction)
        place = step
        values.append(float(loss().detach()))
    a, b, c, d = values
    assert expected == pytest.approx((a - 8 * b + 8 * c - d) / (12 * h), rel=1e-5)


def test_inputs_of_scattered_points_are_those_of_the_grid(model: LDOSModel, be_model: LDOSModel) -> None:
    first, second = (prepared(model, labelled(be_model, seed)) for seed in (1, 2))
    points = LDOSPoints.gather([first, second])
    assert points is not None
    complete = points.completed(model)
    found, ldos = points.draw(model, 40, torch.Generator().manual_seed(3))
    # every drawn point is a point of the grid, with its own label
    distance = torch.cdist(found, complete.inputs)
    assert float(distance.min(dim=1).values.max().detach()) < 1e-6
    assert torch.equal(ldos, complete.ldos[distance.argmin(dim=1)])
    expected = complete_inputs(model, first.inputs, first.structure, first.grid)
    torch.testing.assert_close(complete.inputs[: first.grid.n_points], expected)


@pytest.mark.parametrize(("descriptor", "inputs"), [(NETWORK, 0), (NETWORK + SPECTRUM, 20)])
def test_training_learns_resumes_and_starts_from_a_model(
    make_recipe: Callable[..., TrainingSettings], tmp_path: Path, descriptor: str, inputs: int
) -> None:
    recipe = make_recipe(descriptor, inputs, epochs=3)
    data = load_data(recipe)
    trained = train_stages(recipe, data, progress=False)
    model, history = trained.model, trained.histories["everything"]
    first, last = (history.records[place].validation for place in (0, -1))
    assert last["loss"] < 0.9 * first["loss"]
    assert {"energy", "forces", "stress", "density", "dos", "ldos"} <= last.keys()
    checkpoint = tmp_path / "run.ck"
    for _ in recipe.stages:
        halted = train_stages(recipe, data, checkpoint=checkpoint, time_limit=1e-9, progress=False)
    assert len(halted.histories["everything"].records) == 1
    resumed = train_stages(recipe, data, checkpoint=checkpoint, progress=False).histories["everything"]
    assert [r.train["loss"] for r in resumed.records] == [r.train["loss"] for r in history.records]
    gentle = replace(recipe, stages=(replace(recipe.stages[1], learning_rate=1e-5, epochs=1),))
    longer = train_stages(gentle, data, start=model, progress=False).histories["everything"]
    assert longer.records[0].validation["loss"] == pytest.approx(history.best, rel=0.2)


def test_graft_starts_from_what_the_power_spectrum_knows(make_recipe: Callable[..., TrainingSettings]) -> None:
    alone = make_recipe(ALONE, 20, epochs=2)
    data = load_data(alone)
    start = train_stages(alone, data, progress=False).model
    graph = make_recipe(NETWORK + SPECTRUM, 20)
    still = replace(graph, stages=(replace(graph.stages[1], epochs=1, learning_rate=1e-12),))
    grown = train_stages(still, data, start=start, progress=False).model
    assert isinstance(grown.descriptor, SE3Transformer)
    structure = data.validation["data"][0].structure
    before, after = (predict(m.double(), structure, forces=True) for m in (start, grown))
    assert before.forces is not None
    assert after.forces is not None
    assert after.free_energy == pytest.approx(before.free_energy, abs=1e-5)
    np.testing.assert_allclose(after.forces, before.forces, atol=1e-5)
    # and the learned features are not idle for long
    quick = graph.with_epochs(1)
    moved = train_stages(quick, data, start=start, progress=False).model
    columns = moved.network.layers[0].weight[:, 20:]  # type: ignore[union-attr]
    assert columns.shape[1] == 4
    assert float(columns.detach().abs().min()) > 0


@pytest.mark.parametrize(
    ("descriptor", "inputs"),
    [
        (NETWORK + ", spectrum_radial = 3, spectrum_lmax = 1", 20),
        (NETWORK.replace("4.2", "4.0") + SPECTRUM, 20),
        (NETWORK, 20),
        (NETWORK + SPECTRUM, 19),
    ],
    ids=["lmax", "cutoff", "no spectrum", "inputs"],
)
def test_a_start_that_was_built_otherwise(
    make_recipe: Callable[..., TrainingSettings], be_model: LDOSModel, descriptor: str, inputs: int
) -> None:
    alone = make_recipe(ALONE, 20, epochs=1)
    data = load_data(alone)
    start = train_stages(alone, data, progress=False).model
    with pytest.raises(ValueError, match="the model to start from is not of these settings"):
        train_stages(make_recipe(descriptor, inputs), data, start=start, progress=False)


def test_a_graph_network_of_another_lmax(make_recipe: Callable[..., TrainingSettings]) -> None:
    recipe = make_recipe(NETWORK, 0, epochs=1)
    data = load_data(recipe)
    model = train_stages(recipe, data, progress=False).model
    other = make_recipe(NETWORK.replace("lmax = 1", "lmax = 2"), 0)
    with pytest.raises(ValueError, match="the model to start from is not of these settings"):
        train_stages(other, data, start=model, progress=False)


def test_inputs_that_mix_fixed_and_learned_features(be_model: LDOSModel) -> None:
    model = graph_model(be_model, spectrum=True)
    model.projection[0, -1] = 1.0
    with pytest.raises(ValueError, match="mix fixed and learned features"):
        fixed_scaler(model)


@pytest.mark.filterwarnings("ignore::ase_ldos.model.extrapolation.ExtrapolationWarning")
def test_command_line_calculator_and_evaluation(
    make_recipe: Callable[..., TrainingSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_recipe(NETWORK + SPECTRUM, 20, epochs=1)
    out = tmp_path / "toy.safetensors"
    assert main(["train", str(tmp_path / "toy.toml"), "--out", str(out)]) == 0
    assert "RMS" in capsys.readouterr().out
    assert main(["evaluate", str(out), str(tmp_path / "data"), "--held-out"]) == 0
    assert "be_02" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    n_weights = sum(
        value.numel() for name, value in load_file(out).items() if name.startswith(("descriptor", "network"))
    )
    assert f"{n_weights} parameters, float32" in capsys.readouterr().out
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.05, seed=2)
    atoms.calc = LDOSCalculator(out, device="cpu", dtype="float64")
    atoms.calc.fix_grid((6, 6, 8))
    force, h, energies = atoms.get_forces()[0, 2], 1e-3, []
    for step in (h, -h):
        atoms.positions[0, 2] += step
        energies.append(atoms.get_potential_energy())
        atoms.positions[0, 2] -= step
    assert force == pytest.approx(-(energies[0] - energies[1]) / (2 * h), abs=1e-5)


def test_an_isolated_atom_feels_nothing(model: LDOSModel) -> None:
    model.mean.zero_()  # else vacuum, where all features are zero, is far from what the random network takes
    atoms = Atoms("Be", [[1.0, 2.0, 3.0]], cell=[9.0, 9.0, 9.0], pbc=True)
    atoms.calc = LDOSCalculator(model, device="cpu")
    atoms.calc.fix_grid((12, 12, 12))
    # the grid breaks the symmetry of an atom beside its points, on a point it does not
    atoms.set_scaled_positions([[0.25, 0.5, 0.75]])
    np.testing.assert_allclose(atoms.get_forces(), 0, atol=1e-9)
    assert np.isfinite(atoms.get_potential_energy())
