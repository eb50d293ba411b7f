"""Training on LDOS, energies and forces: the same physics as ``predict``, right gradients, resumable runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_ldos.cli.main import main
from ase_ldos.communicator import Communicator
from ase_ldos.dataset.folder import write_dataset
from ase_ldos.dataset.npz import Snapshot, load_snapshots, save_snapshot
from ase_ldos.dataset.provenance import content_hash, write_record
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.physics.core_charge import CoreCharge
from ase_ldos.prediction.predict import predict, predict_ldos
from ase_ldos.training.losses import (
    LDOSLoss,
    LDOSPoints,
    LossWeights,
    Trainee,
    evaluate_snapshot,
    relative_square,
)
from ase_ldos.training.precompute import JacobianProduct, Scaler, TrainingSnapshot, fit_scaler, prepare_snapshot, voigt
from ase_ldos.training.provenance import core_charges, describe_sources
from ase_ldos.training.settings import Recipe, load_recipe, split_data
from ase_ldos.training.train import start_linear, train_model

RECIPE = """
name = "toy"
data = ["data"]
hold_back = 3
hold_back_offset = 2

[model]
valence = { Be = 2.0 }
broadening = 0.3
window = [-5.0, 12.0]
spacing = 0.2881355932203390
descriptor = { cutoff = 4.2, n_radial = 3, lmax = 2 }
n_inputs = 20
hidden = [16]
electronic_temperature = 3000.0
grid_spacing = 0.45

[training]
ldos_steps = 30
epochs = 6
learning_rate = 3e-3
validate_every = 2
weights = { ldos_points = 200 }
"""


def rattled(seed: int) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.25, c=3.55)
    atoms.rattle(0.08, seed=seed)
    return atoms


def labelled(model: LDOSModel, seed: int, *, with_ldos: bool = True) -> Snapshot:
    """A snapshot whose labels are what ``model`` predicts."""
    atoms = rattled(seed)
    structure = Structure.from_atoms(atoms)
    found = predict(model, structure, forces=True, stress=True)
    assert found.forces is not None
    assert found.stress is not None
    ldos = {
        "energies": model.energies.numpy(),
        "ldos": predict_ldos(model, structure).numpy().astype(np.float32),
        "ldos_scale": 1.0,
        "ldos_sigma": 0.3,
        "dos": found.dos.numpy(),
    }
    return Snapshot(
        name=f"be_{seed:02d}",
        numbers=atoms.numbers,
        cell=atoms.cell[:],
        positions=atoms.positions,
        density=found.density.numpy(),
        free_energy=found.free_energy,
        forces=found.forces.numpy(),
        stress=found.stress.numpy(),
        electronic_temperature=3000.0,
        **(ldos if with_ldos else {}),
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
def toy(be_model: LDOSModel, tmp_path: Path) -> Recipe:
    """A recipe with six snapshots in its folder, two of them without LDOS."""
    (tmp_path / "data").mkdir()
    for seed in range(6):
        snapshot = labelled(be_model, seed, with_ldos=seed % 3 != 1)
        save_snapshot(tmp_path / "data" / f"{snapshot.name}.npz", snapshot)
    (tmp_path / "toy.toml").write_text(RECIPE)
    return load_recipe(tmp_path / "toy.toml")


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
    trainee = Trainee(be_model, [ready.family])

    def loss() -> torch.Tensor:
        points = LDOSPoints(ready.inputs, ready.labels.ldos + 0.001)
        weights = LossWeights(stress=3.0, ldos_points=50)
        return LDOSLoss(weights, torch.Generator().manual_seed(0), points)(trainee, replace(ready, family="other"))[0]

    trainee.families["other"] = 0  # shares the only offset, which is zero
    for parameter in (be_model.network.head.weight, be_model.network.layers[0].weight):
        (gradient,) = torch.autograd.grad(loss(), parameter)
        direction = gradient / gradient.norm()
        values = []
        for step in (1e-5, -1e-5):
            trainee.errors.zero_()
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter.sub_(step * direction)
            trainee.errors.zero_()
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_offsets_follow_a_family_within_the_noise_of_k_meshes(be_model: LDOSModel) -> None:
    trainee = Trainee(be_model, ["hcp", "hcp", "hcp", "fcc"])
    for _ in range(100):
        trainee.follow("hcp", 0.003)
        trainee.follow("fcc", -1.0)
    mean = (3 * 0.003 - Trainee.SPREAD) / 4
    assert trainee.offset("hcp") == pytest.approx(0.003 - mean, abs=1e-5)
    assert trainee.offset("fcc") == pytest.approx(-Trainee.SPREAD - mean, abs=1e-5)
    assert trainee.offset("bcc") == 0.0


def test_training_learns_from_data_with_and_without_ldos(toy: Recipe) -> None:
    training, validation = split_data(toy)
    assert [snapshot.name for snapshot in validation] == ["be_02", "be_05"]
    assert {snapshot.ldos is None for snapshot in training} == {True, False}
    _, history = train_model(toy, training, validation, progress=False)
    first, last = (history.records[place].validation for place in (1, -1))
    assert last["loss"] < 0.7 * first["loss"]
    assert {"energy", "forces", "stress", "density", "dos", "ldos"} <= last.keys()


def test_resumed_run_has_the_same_losses(toy: Recipe, tmp_path: Path) -> None:
    training, validation = split_data(toy)
    whole = train_model(toy, training, validation, progress=False)[1]
    checkpoint = tmp_path / "run.ck"
    # stops after the first epochs, as a killed run would
    train_model(toy, training, validation, checkpoint=checkpoint, time_limit=1e-9, progress=False)
    resumed = train_model(toy, training, validation, checkpoint=checkpoint, progress=False)[1]
    assert [r.train["loss"] for r in resumed.records] == [r.train["loss"] for r in whole.records]


def test_training_goes_on_from_a_model(toy: Recipe, be_model: LDOSModel) -> None:
    training, validation = split_data(toy)
    first, history = train_model(toy, training, validation, progress=False)
    gentle = replace(toy, training=replace(toy.training, learning_rate=1e-4))
    _, longer = train_model(gentle, training, validation, start=first, progress=False)
    early = next(place for place, record in enumerate(history.records) if record.validation)
    assert longer.records[early].validation["loss"] < 0.7 * history.records[early].validation["loss"]
    with pytest.raises(ValueError, match="is not of this recipe"):
        train_model(toy, training, validation, start=be_model, progress=False)


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
        ("broadening = 0.3", "", r"\[model\]: key 'broadening' is missing"),
        ("hold_back = 3", "hold_back = 1", "at least every second"),
        ("epochs = 6", "epochs = [", "not a TOML file"),
        ("ldos_points", "points", "key 'points' is unknown"),
    ],
)
def test_bad_recipes_are_named(toy: Recipe, old: str, new: str, message: str) -> None:
    path = toy.folder / "bad.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_data_that_cannot_be_trained_on(toy: Recipe, be_model: LDOSModel) -> None:
    with pytest.raises(FileNotFoundError, match="there is no nowhere"):
        split_data(replace(toy, data=("nowhere",)))
    without = [snapshot for snapshot in load_snapshots(toy.folder / "data") if snapshot.ldos is None]
    with pytest.raises(ValueError, match="0 training snapshots with LDOS"):
        train_model(toy, without, without, progress=False)
    training, validation = split_data(toy)
    snap = replace(toy, model=replace(toy.model, descriptor={"kind": "snap", "twojmax": 2}))
    with pytest.raises(ValueError, match="has no Jacobian"):
        train_model(snap, training, validation, progress=False)
    broad = replace(labelled(be_model, 1), ldos_sigma=0.5)
    with pytest.raises(ValueError, match="broader than the model's"):
        prepared(be_model, broad)


def test_command_writes_a_model_that_tells_its_data(
    toy: Recipe, be_model: LDOSModel, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy.folder / "data"
    (data / "be_05.npz").rename(toy.folder / "single.npz")
    write_dataset(toy.folder / "set", [labelled(be_model, seed) for seed in (7, 8)])
    sources = [str(data), str(toy.folder / "single.npz"), str(toy.folder / "set")]
    out = toy.folder / "toy.safetensors"
    arguments = ["train", str(toy.folder / "toy.toml"), "--epochs", "1", "--out", str(out), "--data", *sources]
    assert main(arguments) == 0
    capsys.readouterr()
    provenance = load_model(out).metadata.provenance
    assert provenance["data"] == [{"name": Path(source).name, "sha256": content_hash(source)} for source in sources]
    assert main(["info", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(f"{Path(source).name} (SHA-256 {content_hash(source)[:12]}…)" in printed for source in sources)


def test_core_charge_of_the_labels_must_be_in_the_recipe(toy: Recipe) -> None:
    folder = Path("/usr/share/espresso/pseudo")
    if not (folder / "Mg.pz-n-vbc.UPF").exists():
        pytest.skip("quantum-espresso-data with Mg.pz-n-vbc.UPF is not installed")
    pseudo = {"file": "Mg.pz-n-vbc.UPF", "core_charge": True}
    write_record(toy.folder / "data", {"pseudopotentials": {"Mg": pseudo}})
    with pytest.raises(ValueError, match=r'add pseudopotentials = \{ Mg = "Mg\.pz-n-vbc\.UPF" \} to the recipe'):
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
    with pytest.raises(ValueError, match="unknown exchange-correlation functional 'nonsense'; known: lda, pbe, pbesol"):
        replace(toy.model, functional="nonsense")
    assert core_charges(ready)["Mg"].values[0] > 0.5
    with pytest.raises(ValueError, match="of Mg with 2 valence electrons; the recipe has Mg with 10"):
        core_charges(replace(ready, model=replace(ready.model, valence={"Mg": 10.0})))


SHARED = """
import json
import torch
from ase_ldos.dataset.npz import load_snapshots
from ase_ldos.communicator import Communicator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.training.precompute import Scaler, prepare_snapshots
from ase_ldos.training.loop import fit
from ase_ldos.training.losses import LDOSLoss, LDOSPoints, LossWeights, Trainee
from ase_ldos.training.data_parallel import SharedLoss
from ase_ldos.training.settings import load_recipe, split_data
from ase_ldos.training.train import train_model

communicator = Communicator.from_torchrun()
recipe = load_recipe("toy.toml")
model, history = train_model(recipe, *split_data(recipe), communicator=communicator, progress=False)
losses = [record.train for record in history.records]
double = load_model("model.safetensors")
ready = prepare_snapshots(
    load_snapshots("data"), double.descriptor, Scaler(double.mean, double.projection), {4: 2.0},
    energies=double.energies.numpy(), broadening=0.3, spacing=0.45, progress=False,
)
trainee = Trainee(double, [snapshot.family for snapshot in ready])
loss = LDOSLoss(LossWeights(ldos_points=50), torch.Generator().manual_seed(1), LDOSPoints.gather(ready))
optimizer = torch.optim.SGD(trainee.parameters(), lr=1e-5)
history = fit(
    trainee, [ready[:3], ready[3:4], ready[4:]], SharedLoss(loss, communicator), optimizer, epochs=2, progress=False,
    communicator=communicator,
)
exact = [[record.train["loss"] for record in history.records], double.network.head.weight.flatten().tolist()]
with open(f"of{communicator.size}rank{communicator.rank}.json", "w") as file:
    json.dump([losses, model.network.head.weight.flatten().tolist(), *exact], file)
"""


@pytest.mark.slow
def test_ranks_train_what_one_process_trains(toy: Recipe, be_model: LDOSModel) -> None:
    """The same steps on one rank and on two, of three snapshots, of one and of two; in float64 to 1e-10.

    In float32 the second epoch already shows the other order of the sums: SOAP's first steps follow signs.
    """
    path = toy.folder / "toy.toml"
    path.write_text(RECIPE.replace("epochs = 6", "epochs = 2\nbatch = 3"))
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


def test_more_ranks_than_snapshots_of_a_step(toy: Recipe) -> None:
    training, validation = split_data(toy)
    with pytest.raises(ValueError, match="2 ranks need that many"):
        train_model(toy, training, validation, progress=False, communicator=Communicator(0, 2))
