"""Training on LDOS, energies and forces: the same physics as ``predict``, right gradients, resumable runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from predicted_labels import labelled
from recipes import recipe_head, recipe_with_labels

from ase_ldos.checkpoint import read_checkpoint
from ase_ldos.cli.main import main
from ase_ldos.communicator import Communicator
from ase_ldos.dataset.folder import write_dataset
from ase_ldos.dataset.npz import Snapshot, load_snapshots, save_snapshot
from ase_ldos.dataset.provenance import content_hash, write_record
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.geometry.grid import Grid
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.toml_settings import build
from ase_ldos.training.losses import (
    LDOSLoss,
    LDOSPoints,
    LossWeights,
    ModelWithOffsets,
    evaluate_snapshot,
    relative_square,
)
from ase_ldos.training.precompute import JacobianProduct, Scaler, TrainingSnapshot, fit_scaler, prepare_snapshot, voigt
from ase_ldos.training.provenance import core_charges, describe_sources
from ase_ldos.training.settings import (
    SnapshotStage,
    TrainingData,
    TrainingSettings,
    ValidationSettings,
    load_data,
    load_settings,
)
from ase_ldos.training.train import TrainedModel, start_linear, train_model, train_stages

RECIPE = (
    recipe_head()
    + """
[[stages]]
name = "ldos"
steps = 30

[[stages]]
name = "everything"
epochs = 6
learning_rate = 3e-3
validate_every = 2
weights = { ldos_points = 200 }
"""
)


def prepared(model: LDOSModel, snapshot: Snapshot, jacobian: torch.dtype = torch.float64) -> TrainingSnapshot:
    assert isinstance(model.descriptor, PowerSpectrum)
    scaler = Scaler(model.mean, model.projection)
    ready = prepare_snapshot(
        snapshot,
        model.descriptor,
        scaler,
        {4: 2.0},
        energies=model.energies.numpy(),
        broadening=0.3,
        spacing=0.45,
        jacobian=jacobian,
    )
    return replace(ready, inputs=ready.inputs.double())


def gaussian_core(width: float = 0.3, charge: float = 1.5) -> CoreCharge:
    g = 0.05 * np.arange(801)
    values = charge * np.exp(-0.5 * (g * width) ** 2)
    return CoreCharge(0.05, tuple(values.tolist()), tuple((-g * width**2 * values).tolist()))


@pytest.fixture
def toy(be_model: LDOSModel, tmp_path: Path) -> TrainingSettings:
    """A recipe with six snapshots in its folder, two of them without LDOS."""
    return recipe_with_labels(be_model, tmp_path, "toy", RECIPE, 6, frozenset({1, 4}))


@pytest.mark.parametrize("core", [False, True], ids=["", "core charge"])
def test_training_sees_the_physics_of_predict(be_model: LDOSModel, core: bool) -> None:
    if core:
        be_model.metadata = replace(be_model.metadata, core_charges={"Be": gaussian_core()})
    snapshot = labelled(be_model, 3)
    found = evaluate_snapshot(be_model, prepared(be_model, snapshot))
    assert found.forces is not None
    assert found.stress is not None
    assert float(found.free_energy.detach()) == pytest.approx(snapshot.free_energy, abs=2e-5)
    np.testing.assert_allclose(found.forces.detach(), snapshot.forces, atol=2e-5)
    assert snapshot.stress is not None
    np.testing.assert_allclose(found.stress.detach(), voigt(torch.as_tensor(snapshot.stress)), atol=2e-6)
    np.testing.assert_allclose(found.density.detach(), np.ravel(snapshot.density), atol=1e-6)


def test_unknown_energies_neither_count_nor_pull(be_model: LDOSModel) -> None:
    """A label that ends lower gives the loss of its known part, with finite gradients, and least squares of it."""
    torch.manual_seed(0)
    inputs, reference = torch.randn(200, be_model.network.n_inputs), torch.rand(200, len(be_model.energies))
    cut = reference.clone()
    cut[:150, 40:] = torch.nan
    found = torch.rand_like(reference).requires_grad_()
    loss = relative_square(found, cut)
    known = cut.isfinite()
    assert float(loss.detach()) == pytest.approx(
        float(((found - reference)[known].square().sum() / reference[known].square().sum()).detach())
    )
    (slope,) = torch.autograd.grad(loss, found)
    assert bool((slope[~known] == 0).all())
    assert bool(slope.isfinite().all())

    network = MLP(inputs.shape[1], len(be_model.energies), (8,), skip=True)
    model = LDOSModel(
        be_model.descriptor,
        network,
        be_model.energies,
        be_model.metadata,
        mean=be_model.mean,
        projection=be_model.projection,
    )
    start_linear(model, LDOSPoints(inputs, cut))
    columns = torch.cat((inputs, torch.ones(200, 1)), dim=1).double()
    low = torch.linalg.lstsq(columns, reference[:, :40].double()).solution
    high = torch.linalg.lstsq(columns[150:], reference[150:, 40:].double()).solution
    expected = columns @ torch.cat((low, high), dim=1)
    torch.testing.assert_close(network(inputs).double(), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no LDOS reaches the top"):
        start_linear(model, LDOSPoints(inputs[:150], cut[:150]))


def test_half_precision_of_the_jacobian_does_not_show(be_model: LDOSModel) -> None:
    """Forces change by less than 0.1 meV/Å."""
    snapshot = labelled(be_model, 3)
    found = [evaluate_snapshot(be_model, prepared(be_model, snapshot, kind)) for kind in (torch.float64, torch.float16)]
    forces = [part.forces.detach() for part in found if part.forces is not None]
    assert float((forces[1] - forces[0]).abs().max()) < 1e-4
    assert float(forces[0].abs().max()) > 0.1


def test_product_with_the_jacobian_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JacobianProduct, "COLUMNS", 7)
    jacobian = torch.arange(60.0, dtype=torch.float64).reshape(3, 20).sin()
    vector = torch.linspace(-1, 2, 20, dtype=torch.float64, requires_grad=True)
    product = JacobianProduct.apply(jacobian, vector)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(product, jacobian @ vector)
    torch.autograd.gradcheck(lambda x: JacobianProduct.apply(jacobian, x), vector)  # type: ignore[no-untyped-call]


def test_gradient_of_the_loss_is_its_finite_difference(be_model: LDOSModel) -> None:
    ready = prepared(be_model, labelled(be_model, 3))
    other = prepared(be_model, labelled(be_model, 4))
    ready = replace(ready, labels=replace(other.labels, ldos=ready.labels.ldos))
    be_model.requires_grad_(True)
    trained = ModelWithOffsets(be_model, [ready.group])

    def loss() -> torch.Tensor:
        points = LDOSPoints(ready.inputs, ready.labels.ldos + 0.001)
        weights = LossWeights(stress=3.0, ldos_points=50)
        return LDOSLoss(weights, torch.Generator().manual_seed(0), points)(trained, replace(ready, group="other"))[0]

    trained.groups["other"] = 0  # shares the only offset, which is zero
    for parameter in (be_model.network.head.weight, be_model.network.layers[0].weight):
        (gradient,) = torch.autograd.grad(loss(), parameter)
        direction = gradient / gradient.norm()
        values = []
        for step in (1e-5, -1e-5):
            trained.errors.zero_()
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter.sub_(step * direction)
            trained.errors.zero_()
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_forces_of_a_share_of_the_snapshots_are_those_of_all_on_average(be_model: LDOSModel) -> None:
    ready = prepared(be_model, labelled(be_model, 3))
    assert ready.labels.forces is not None
    ready = replace(
        ready, labels=replace(ready.labels, forces=ready.labels.forces + 0.1, density=None, dos=None, ldos=None)
    )
    trained = ModelWithOffsets(be_model, [ready.group])

    def losses(share: float, number: int) -> torch.Tensor:
        loss = LDOSLoss(LossWeights(stress=3.0, force_share=share), torch.Generator().manual_seed(0))
        return torch.stack([loss(trained, ready)[0].detach() for _ in range(number)])

    (whole,) = losses(1.0, 1)
    some = losses(0.25, 200)
    with_forces = some > 0.5 * some.max()
    assert 30 < int(with_forces.sum()) < 70
    # what a snapshot without forces has is its energy; with them it has those four times
    torch.testing.assert_close(
        some[with_forces], (some.min() + 4 * (whole - some.min())).expand(int(with_forces.sum()))
    )
    with pytest.raises(ValueError, match="force_share"):
        build(LossWeights, {"force_share": 0.0}, "weights")


def test_offsets_follow_a_family_within_the_noise_of_k_meshes(be_model: LDOSModel) -> None:
    trained = ModelWithOffsets(be_model, ["hcp", "hcp", "hcp", "fcc"], largest=0.005)
    for _ in range(100):
        trained.follow("hcp", 0.003)
        trained.follow("fcc", -1.0)
    mean = (3 * 0.003 - 0.005) / 4
    assert trained.offset("hcp") == pytest.approx(0.003 - mean, abs=1e-5)
    assert trained.offset("fcc") == pytest.approx(-0.005 - mean, abs=1e-5)
    assert trained.offset("bcc") == 0.0


def test_training_learns_from_data_with_and_without_ldos(toy: TrainingSettings) -> None:
    data = load_data(toy)
    assert [snapshot.name for snapshot in data.validation["data"]] == ["be_02", "be_05"]
    assert {snapshot.ldos is None for snapshot in data.training["data"]} == {True, False}
    history = train_stages(toy, data, progress=False).histories["everything"]
    first, last = (history.records[place].validation for place in (1, -1))
    assert last["loss"] < 0.7 * first["loss"]
    assert {"energy", "forces", "stress", "density", "dos", "ldos"} <= last.keys()


STAGES = """
[[stages]]
name = "again"
epochs = 4
learning_rate = 1e-3
data = ["data"]
batch_size = 2
weights = { energy = 500.0, ldos_points = 100 }
"""


def losses(trained: TrainedModel) -> dict[str, list[float]]:
    return {name: [r.train["loss"] for r in history.records] for name, history in trained.histories.items()}


def same_weights(first: LDOSModel, second: LDOSModel) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


KILLED = """
import sys
from pathlib import Path
from ase_ldos.training.settings import load_data, load_settings
from ase_ldos.training.train import train_stages
settings = load_settings(sys.argv[1])
train_stages(settings, load_data(settings), checkpoint=Path(sys.argv[2]), progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "epochs"), [("everything", 2), ("again", 1)])
def test_a_killed_training_resumes_with_the_same_numbers(
    toy: TrainingSettings, tmp_path: Path, stage: str, epochs: int
) -> None:
    """SIGKILL in the second or third stage; the stages before are not taken again, the rest has the same numbers."""
    path, checkpoint = tmp_path / "toy.toml", tmp_path / "run.ck"
    path.write_text(RECIPE.replace("epochs = 6", "epochs = 4") + STAGES)
    settings = load_settings(path)
    whole = train_stages(settings, load_data(settings), progress=False)
    assert list(whole.histories) == ["ldos", "everything", "again"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(checkpoint)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if checkpoint.exists():
                state = read_checkpoint(checkpoint)
                if state["context"]["stage"] == stage and len(state["history"]["records"]) >= epochs:
                    break
            time.sleep(0.002)
        assert process.poll() is None, "the training ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = read_checkpoint(checkpoint)
    assert state["context"]["stage"] != "again" or len(state["history"]["records"]) < 4
    resumed = train_stages(settings, load_data(settings), checkpoint=checkpoint, progress=False)
    assert resumed.finished
    assert losses(resumed) == losses(whole)
    assert same_weights(resumed.model, whole.model)
    # and nothing is left to do
    again = train_stages(settings, load_data(settings), checkpoint=checkpoint, time_limit=1e-9, progress=False)
    assert losses(again) == losses(whole)
    assert same_weights(again.model, whole.model)


def test_a_time_limit_ends_between_stages_and_the_rest_follows(toy: TrainingSettings, tmp_path: Path) -> None:
    whole = train_stages(toy, load_data(toy), progress=False)
    checkpoint = tmp_path / "run.ck"
    first = train_stages(toy, load_data(toy), checkpoint=checkpoint, time_limit=1e-9, progress=False)
    assert not first.finished
    assert list(first.histories) == ["ldos"]
    second = train_stages(toy, load_data(toy), checkpoint=checkpoint, time_limit=1e-9, progress=False)
    assert not second.finished
    assert len(second.histories["everything"].records) == 1
    resumed = train_stages(toy, load_data(toy), checkpoint=checkpoint, progress=False)
    assert resumed.finished
    assert losses(resumed) == losses(whole)


def test_a_checkpoint_belongs_to_settings_data_and_initial_weights(toy: TrainingSettings, tmp_path: Path) -> None:
    checkpoint, data = tmp_path / "run.ck", load_data(toy)
    model = train_stages(toy, data, checkpoint=checkpoint, time_limit=1e-9, progress=False).model

    def resume(settings: TrainingSettings, data: TrainingData, start: LDOSModel | None = None) -> None:
        train_stages(settings, data, start=start, checkpoint=checkpoint, progress=False)

    with pytest.raises(ValueError, match=r"\(settings\.seed is 0 there and 1 here\)"):
        resume(replace(toy, seed=1), data)
    items = data.training["data"]
    changed = TrainingData({"data": [*items[:-1], replace(items[-1], free_energy=0.0)]}, data.validation)
    with pytest.raises(ValueError, match=r"\(data\.data is another\)"):
        resume(toy, changed)
    with pytest.raises(ValueError, match="belongs to another training"):
        resume(toy, data, model)


@pytest.mark.parametrize("name", ["", "none/toy.safetensors", "/proc/self/toy.safetensors"])
def test_a_model_that_cannot_be_written_is_told_before_the_training(
    name: str, toy: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ase_ldos.training.train.train_stages", lambda *_, **__: pytest.fail("it began to train"))
    with pytest.raises(OSError, match="cannot write"):
        train_model(toy, out=tmp_path / name, progress=False)
    with pytest.raises(OSError, match="cannot write"):
        train_model(toy, checkpoint=tmp_path if not name else Path("/proc/self/x.ck"), progress=False)


def test_a_trained_model_is_kept_where_it_can_be(
    toy: TrainingSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder vanishes during the training: the model is written elsewhere, and the error says where."""
    place, here = tmp_path / "place", tmp_path / "here"
    place.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    stages = train_stages

    def vanish(*arguments: object, **options: object) -> TrainedModel:
        place.rmdir()
        return stages(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("ase_ldos.training.train.train_stages", vanish)
    with pytest.raises(OSError, match=rf"the model is kept as {here}/toy-\d+\.safetensors"):
        train_model(toy.with_epochs(1), out=place / "toy.safetensors", progress=False)
    (kept,) = here.iterdir()
    assert load_model(kept).metadata.errors


def test_a_training_that_runs_away_ends_in_one_sentence(
    toy: TrainingSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tmp_path / "toy.toml").read_text()
    (tmp_path / "toy.toml").write_text(re.sub(r"learning_rate = \S+", "learning_rate = 1e30", text))
    assert main(["train", str(tmp_path / "toy.toml"), "--out", str(tmp_path / "toy.safetensors")]) == 2
    last = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("ase-ldos train: error: the ")
    assert "lower the learning rate" in last or "is not finite" in last
    assert not (tmp_path / "toy.safetensors").exists()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "cutoff = 4.2",
            "cutoff = 200.0",
            "the descriptor's cutoff of 200 Å a point of .* sees some .* atoms; at most 1e",
        ),
        ("energy_spacing = 0.288", "energy_spacing = 1e-9 #", "must rise and hold two energies or more, at most 10000"),
        ("hidden = [16]", "hidden = [1000000000]", "hidden asks for 1000000000 values side by side; at most 65536"),
        ("n_components = 20", "n_components = 100000000", "n_components asks for 100000000 values side by side"),
    ],
)
def test_recipes_that_fit_nowhere_are_refused(
    toy: TrainingSettings, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert old in RECIPE
    (tmp_path / "toy.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        train_model(tmp_path / "toy.toml", progress=False)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_time_limit_is_positive(limit: float, toy: TrainingSettings) -> None:
    with pytest.raises(ValueError, match="it must be positive"):
        train_model(toy, time_limit=limit, progress=False)


def test_more_epochs_go_on_from_the_checkpoint(toy: TrainingSettings, tmp_path: Path) -> None:
    """The epochs there are stay, the next one has the learning rate that it has in the longer cycle from the start."""
    checkpoint, data = tmp_path / "run.ck", load_data(toy)
    first = train_stages(toy.with_epochs(2), data, checkpoint=checkpoint, progress=False)
    assert first.finished
    longer = train_stages(toy.with_epochs(4), data, checkpoint=checkpoint, progress=False)
    whole = train_stages(toy.with_epochs(4), data, progress=False)
    assert longer.finished
    assert losses(longer)["ldos"] == losses(first)["ldos"]
    assert losses(longer)["everything"][:2] == losses(first)["everything"]
    assert len(longer.histories["everything"].records) == 4
    rates, expected = (
        [record.learning_rate for record in trained.histories["everything"].records[2:]] for trained in (longer, whole)
    )
    assert rates == pytest.approx(expected, rel=1e-9)
    # fewer epochs than there are: nothing is left to do
    again = train_stages(toy.with_epochs(1), data, checkpoint=checkpoint, progress=False)
    assert losses(again) == losses(longer)
    assert same_weights(again.model, longer.model)


def test_a_stage_that_another_followed_gets_no_more_epochs(toy: TrainingSettings, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "toy.toml", tmp_path / "run.ck"
    path.write_text(RECIPE.replace("epochs = 6", "epochs = 1") + STAGES)
    settings = load_settings(path)
    train_stages(settings, load_data(settings), checkpoint=checkpoint, progress=False)
    with pytest.raises(ValueError, match=r"beyond stage 'everything', which had 1 epochs and has 3 here"):
        train_stages(settings.with_epochs(3), load_data(settings), checkpoint=checkpoint, progress=False)


def test_stages_learn_from_their_own_label_sets(toy: TrainingSettings, be_model: LDOSModel) -> None:
    """Energies of a second set shift nothing in a stage that does not name it."""
    (toy.folder / "other").mkdir()
    for seed in range(10, 13):
        snapshot = replace(labelled(be_model, seed), name=f"other_{seed}")
        save_snapshot(toy.folder / "other" / f"{snapshot.name}.npz", snapshot)
    both = replace(toy, data=("data", "other"))
    data = load_data(both)
    assert len(data.chosen(None)[0]) == 6
    assert [item.name for item in data.chosen(("other",))[1]] == ["other_12"]
    short = replace(toy.stages[1], epochs=1, data=("data",))
    trained = train_stages(replace(both, stages=(short, replace(short, name="all", data=None))), data, progress=False)
    lengths = {name: len(history.records) for name, history in trained.histories.items()}
    assert lengths == {"everything": 1, "all": 1}
    with pytest.raises(ValueError, match="stage 'everything' has data 'there'; it must name some of data, other"):
        replace(both, stages=(replace(short, data=("there",)),))


def test_training_starts_from_the_weights_of_a_model(toy: TrainingSettings, be_model: LDOSModel) -> None:
    data = load_data(toy)
    first = train_stages(toy, data, progress=False)
    history = first.histories["everything"]
    gentle = replace(toy, stages=(replace(toy.stages[1], learning_rate=1e-4),))
    longer = train_stages(gentle, data, start=first.model, progress=False).histories["everything"]
    early = next(place for place, record in enumerate(history.records) if record.validation)
    assert longer.records[early].validation["loss"] < 0.7 * history.records[early].validation["loss"]
    with pytest.raises(ValueError, match="is not of these settings"):
        train_stages(toy, data, start=be_model, progress=False)


def test_scaler_whitens_the_features(be_model: LDOSModel) -> None:
    assert isinstance(be_model.descriptor, PowerSpectrum)
    snapshots = [labelled(be_model, seed) for seed in (1, 2)]
    scaler = fit_scaler(be_model.descriptor, snapshots, 8, floor=0.0, progress=False)
    charges, energies = {4: 2.0}, be_model.energies.numpy()
    inputs = torch.cat(
        [
            prepare_snapshot(
                s, be_model.descriptor, scaler, charges, energies=energies, broadening=0.3, jacobian=None
            ).inputs
            for s in snapshots
        ]
    ).double()
    np.testing.assert_allclose(inputs.mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(inputs.T @ inputs / len(inputs), np.eye(8), atol=1e-3)


def test_grid_of_a_snapshot_without_fields(be_model: LDOSModel) -> None:
    snapshot = replace(labelled(be_model, 1, with_ldos=False), density=None)
    ready = prepared(be_model, snapshot)
    assert ready.grid.shape == Grid.with_spacing(ready.structure.cell, 0.45).shape


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "toy"', 'nome = "toy"', "key 'nome' is unknown"),
        ("broadening = 0.3\n", "\n", r"\[model\]: key 'broadening' is missing"),
        ("every = 3", "every = 1", "at least every second"),
        ("offset = 2", "offset = 3", r"\[validation\]|it must be below every, 3"),
        ("epochs = 6", "epochs = [", "not a TOML file"),
        ("ldos_points", "points", "key 'points' is unknown"),
        ("{ ldos_points = 200 }", "{ energy = -10 }", r"everything, table 'weights': key 'energy' is -10; it must be"),
        ("learning_rate = 3e-3", "learning_rate = 0", "key 'learning_rate' is 0; it must be a positive number"),
        ("3000.0", "-5", r"\[model\]: key 'electronic_temperature' is -5; it must be a positive number"),
        ("lmax = 2", "lmax = 2.5", r"\[model\]: descriptor: key 'lmax' is 2\.5; it must be a whole number"),
        ("lmax = 2", "lmaks = 2", "descriptor: key 'lmaks' is unknown; known are cutoff, n_radial, lmax"),
        ("cutoff = 4.2", 'cutoff = "abc"', "descriptor: key 'cutoff' is 'abc'; it must be a number"),
        ("cutoff = 4.2", "cutoff = -1", "cutoff is -1 Å; it must be positive"),
        ("cutoff = 4.2", 'kind = "nonsense"', "unknown kind 'nonsense' of descriptor or network"),
        ("hidden = [16]", "hidden = [16.5]", "key 'hidden', value 1, is 16.5; it must be a whole number"),
        ("hidden = [16]", 'functional = "nonsense"', "functional is 'nonsense'; it must be one of"),
        ("[-5.0, 12.0]", "[12.0, -5.0]", "the window must rise"),
        ("{ Be = 2.0 }", "{ Xy = 2.0 }", "valence names 'Xy'; it must name chemical elements"),
        ("steps = 30", "steps = 30\nepochs = 3", r"\[\[stages\]\] ldos: give either steps .* or epochs"),
        ("steps = 30", "steps = 30\nema_decay = 0.9", r"\[\[stages\]\] ldos: key 'ema_decay' is unknown"),
        ('"everything"', '"ldos"', "two stages are named 'ldos'"),
        ("[[stages]]", "[stages]", "not a TOML file"),
    ],
)
def test_bad_recipes_are_named(toy: TrainingSettings, old: str, new: str, message: str) -> None:
    path = toy.folder / "bad.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_settings(path)


def test_data_that_cannot_be_trained_on(toy: TrainingSettings, be_model: LDOSModel) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no nowhere, .* `ase-ldos label STRUCTURES --recipe .*dft"):
        load_data(replace(toy, data=("nowhere",)))
    with pytest.raises(ValueError, match=r"snapshot 'be_00' is in data and in \./data; rename one"):
        load_data(replace(toy, data=("data", "./data")))
    without = [snapshot for snapshot in load_snapshots(toy.folder / "data") if snapshot.ldos is None]
    with pytest.raises(ValueError, match="stage 'ldos' has 0 training snapshots with LDOS"):
        train_stages(toy, TrainingData({"data": without}, {"data": without}), progress=False)
    broad = replace(labelled(be_model, 1), ldos_sigma=0.5)
    with pytest.raises(ValueError, match="broader than the model's"):
        prepared(be_model, broad)


def test_command_writes_a_model_that_tells_its_data(
    toy: TrainingSettings, be_model: LDOSModel, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy.folder / "data"
    (data / "be_05.npz").rename(toy.folder / "single.npz")
    write_dataset(toy.folder / "set", [labelled(be_model, seed) for seed in (7, 8)])
    sources = [str(data), str(toy.folder / "single.npz"), str(toy.folder / "set")]
    out = toy.folder / "toy.safetensors"
    arguments = ["train", str(toy.folder / "toy.toml"), "--epochs", "1", "--out", str(out), "--data", *sources]
    assert main([*arguments, "--inputs", str(toy.folder / "inputs")]) == 0
    assert list((toy.folder / "inputs").glob("*.safetensors"))
    capsys.readouterr()
    provenance = load_model(out).metadata.provenance
    assert provenance["data"] == [{"name": Path(source).name, "sha256": content_hash(source)} for source in sources]
    assert main(["info", str(out), "--provenance"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{Path(source).name} (SHA-256 {content_hash(source)[:12]}…)" in printed for source in sources)


def test_core_charge_of_the_labels_must_be_in_the_recipe(toy: TrainingSettings) -> None:
    folder = Path("/usr/share/espresso/pseudo")
    if not (folder / "Mg.pz-n-vbc.UPF").exists():
        pytest.skip("quantum-espresso-data with Mg.pz-n-vbc.UPF is not installed")
    pseudo = {"file": "Mg.pz-n-vbc.UPF", "core_charge": True}
    write_record(toy.folder / "data", {"pseudopotentials": {"Mg": pseudo}})
    with pytest.raises(ValueError, match=r'add pseudopotentials = \{ Mg = "Mg\.pz-n-vbc\.UPF" \} to \[model\]'):
        describe_sources(toy)
    local = replace(toy.model, valence={"Mg": 2.0}, pseudopotentials={"Mg": str(folder / "Mg.pz-n-vbc.UPF")})
    with pytest.raises(ValueError, match=r"functional 'lda-pz', which is unknown; known: lda, pbe, pbesol"):
        describe_sources(replace(toy, model=local))
    text = (folder / "Mg.pz-n-vbc.UPF").read_text(encoding="utf-8")
    files = {"Mg": str(toy.folder / "Mg.UPF")}
    Path(files["Mg"]).write_text(text.replace(" SLA  PZ   NOGX NOGC", "PBE"), encoding="utf-8")
    ready = replace(toy, model=replace(local, pseudopotentials=files))
    assert describe_sources(ready)["pseudopotentials"] == [
        {"name": "Mg.UPF", "sha256": read_pseudopotential(files["Mg"]).sha256}
    ]
    with pytest.raises(ValueError, match=r"functional 'pbe', the model 'lda'; they must agree"):
        core_charges(replace(ready, model=replace(ready.model, functional="lda")))
    write_record(toy.folder / "data", {"pseudopotentials": {"Mg": pseudo | {"functional": "blyp"}}})
    with pytest.raises(ValueError, match=r"data \(Mg\.pz-n-vbc\.UPF\) has .* 'blyp', which is unknown"):
        describe_sources(ready)
    with pytest.raises(ValueError, match="functional is 'nonsense'; it must be one of lda, pbe, pbesol"):
        replace(toy.model, functional="nonsense")
    assert core_charges(ready)["Mg"].values[0] > 0.5
    with pytest.raises(ValueError, match="of Mg with 2 valence electrons; the settings have Mg with 10"):
        core_charges(replace(ready, model=replace(ready.model, valence={"Mg": 10.0})))


SHARED = """
import json
import torch
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.communicator import Communicator
from ase_ldos.model.model_file import load_model
from ase_ldos.training.precompute import Scaler, prepare_snapshots
from ase_ldos.training.loop import fit
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, LossWeights, ModelWithOffsets
from ase_ldos.training.data_parallel import SharedLoss
from ase_ldos.training.settings import load_data, load_settings
from ase_ldos.training.train import train_stages

communicator = Communicator.from_torchrun()
recipe = load_settings("toy.toml")
trained = train_stages(recipe, load_data(recipe), communicator=communicator, progress=False)
model = trained.model
losses = [record.train for record in trained.histories["everything"].records]
double = load_model("model.safetensors")
ready = prepare_snapshots(
    load_snapshots("data"), double.descriptor, Scaler(double.mean, double.projection), {4: 2.0},
    energies=double.energies.numpy(), broadening=0.3, spacing=0.45, progress=False,
)
trained = ModelWithOffsets(double, [snapshot.group for snapshot in ready])
weights = LossWeights(ldos_points=50, force_share=0.7)
loss = LDOSLoss(weights, torch.Generator().manual_seed(1), LDOSPoints.gather(ready))
optimizer = torch.optim.SGD(trained.parameters(), lr=3e-6)
history = fit(
    trained, [ready[:3], ready[3:4], ready[4:]], SharedLoss(loss, communicator), optimizer, epochs=2, progress=False,
    communicator=communicator,
)
exact = [[record.train["loss"] for record in history.records], double.network.head.weight.flatten().tolist()]
with open(f"of{communicator.size}rank{communicator.rank}.json", "w") as file:
    json.dump([losses, model.network.head.weight.flatten().tolist(), *exact], file)
"""


@pytest.mark.slow
def test_ranks_train_what_one_process_trains(toy: TrainingSettings, be_model: LDOSModel) -> None:
    """The same steps on one rank and on two, of three snapshots, of one and of two; in float64 to 1e-10.

    In float32 the second epoch already shows the other order of the sums: SOAP's first steps follow signs.
    """
    path = toy.folder / "toy.toml"
    path.write_text(RECIPE.replace("epochs = 6", "epochs = 2\nbatch_size = 3"))
    save_model(be_model, toy.folder / "model.safetensors")
    (toy.folder / "script.py").write_text(SHARED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]):
        command = [sys.executable, *launcher, "script.py"]
        done = subprocess.run(command, cwd=toy.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    names = ("of1rank0", "of2rank0", "of2rank1")
    one, first, second = (json.loads((toy.folder / f"{name}.json").read_text()) for name in names)
    assert first == second
    assert first[0][0].keys() == one[0][0].keys()
    for name, value in one[0][0].items():
        assert first[0][0][name] == pytest.approx(value, rel=1e-5), name
    assert one[2][1] != one[2][0]
    for mine, whole in zip(first[2:], one[2:]):
        np.testing.assert_allclose(mine, whole, rtol=1e-10)


def test_more_ranks_than_snapshots_of_a_step(toy: TrainingSettings) -> None:
    with pytest.raises(ValueError, match="2 ranks need that many"):
        train_stages(toy, load_data(toy), progress=False, communicator=Communicator(0, 2))


def test_a_split_by_names_stays_when_labels_are_added(toy: TrainingSettings, be_model: LDOSModel) -> None:
    chosen = replace(toy, validation=ValidationSettings(names=("be_01", "be_04")))
    before = load_data(chosen)
    assert [s.name for s in before.validation["data"]] == ["be_01", "be_04"]
    save_snapshot(toy.folder / "data/be_00a.npz", replace(labelled(be_model, 9), name="be_00a"))
    after = load_data(chosen)
    assert [s.name for s in after.validation["data"]] == ["be_01", "be_04"]
    assert len(after.training["data"]) == len(before.training["data"]) + 1
    with pytest.raises(ValueError, match=r"validation names 'be_77', which is in none of data"):
        load_data(replace(toy, validation=ValidationSettings(names=("be_77",))))
    with pytest.raises(ValueError, match="names holds 'a' twice"):
        ValidationSettings(names=("a", "a"))


def test_patience_ends_a_stage_and_the_training_counts_as_finished(toy: TrainingSettings) -> None:
    ldos, everything = toy.stages
    assert isinstance(everything, SnapshotStage)
    # a rate that spoils the weights: the first validation stays the best
    patient = replace(everything, epochs=40, validate_every=1, patience=2, learning_rate=0.3)
    trained = train_stages(replace(toy, stages=(ldos, patient)), load_data(toy), progress=False)
    history = trained.histories["everything"]
    assert history.stopped == "patience"
    assert len(history.records) < 40
    assert trained.finished


def test_an_error_of_the_electrons_names_the_structure_and_keeps_the_work(
    toy: TrainingSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the third epoch on no structure's electrons fit: the weights of the second are written, and the reason."""
    from ase_ldos.training import losses

    solve, calls = losses.fermi_level, [0]

    def failing(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > 16:  # two epochs of four snapshots each, and their validations
            raise ValueError("the energy window holds 3 states, too few for 4 electrons")
        return solve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(losses, "fermi_level", failing)
    out = tmp_path / "toy.safetensors"
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(tmp_path / "toy.toml"), "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert "stage 'everything' broke off: structure 'be_0" in told
    assert "too few for 4 electrons; if only the network is at fault, lower the stage's learning_rate" in told
    assert f"{out} has the best weights until then" in told
    model = load_model(out)
    assert model.metadata.provenance["finished"] is False
    assert model.metadata.extrapolation["threshold"] > 0


def test_a_model_is_written_before_it_is_measured(
    toy: TrainingSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no structure is held back")

    monkeypatch.setattr("ase_ldos.training.train.calibrate", broken)
    with pytest.raises(ValueError, match="no structure is held back"):
        train_model(replace(toy, stages=toy.stages[:1]), out=tmp_path / "toy.safetensors", progress=False)
    model = load_model(tmp_path / "toy.safetensors")
    assert model.metadata.provenance["training"] == ["be_00", "be_01", "be_03", "be_04"]


def test_a_model_that_goes_on_takes_the_name_of_its_settings_and_keeps_its_projection(toy: TrainingSettings) -> None:
    data = load_data(toy)
    first = train_stages(replace(toy, stages=toy.stages[:1]), data, progress=False).model
    projection = first.projection.clone()
    renamed = replace(toy, name="second", model=replace(toy.model, electronic_temperature=4000.0))
    second = train_stages(renamed, data, start=first, progress=False).model
    assert second.metadata.name == "second"
    assert second.metadata.electronic_temperature == 4000.0
    assert torch.equal(second.projection, projection)
