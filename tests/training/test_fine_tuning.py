"""Training that starts from a model of other elements, and elements without data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from predicted_labels import predicted_snapshot

from ase_ldos.dataset.npz import Snapshot, save_snapshot
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model
from ase_ldos.prediction.predict import predict
from ase_ldos.training.settings import TrainingData, TrainingSettings, load_data, load_settings
from ase_ldos.training.train import train_model, train_stages

CHANNELS = {"Be": [1.0, -0.5], "Mg": [1.0, 0.7], "Al": [1.0, 0.1]}
RECIPE = """
name = "tuned"
data = ["data"]
validation = {{ every = 3, offset = 2 }}

[model]
valence = {valence}
broadening = 0.3
energy_window = [-5.0, 12.0]
energy_spacing = 0.2881355932203390
descriptor = {descriptor}
n_components = 12
hidden = [16]
electronic_temperature = 3000.0
grid_spacing = 0.45

[[stages]]
name = "everything"
epochs = 1
weights = {{ ldos_points = 100 }}
"""


def channels(symbols: tuple[str, ...], changed: dict[str, list[float]] | None = None) -> str:
    rows = ", ".join(f"{symbol} = {({**CHANNELS, **(changed or {})})[symbol]}" for symbol in symbols)
    return f'{{ kind = "compressed_power_spectrum", cutoff = 4.2, n_radial = 3, lmax = 1, channels = {{ {rows} }} }}'


def recipe(
    folder: Path, symbols: tuple[str, ...], descriptor: str | None = None, charge: float = 2.0
) -> TrainingSettings:
    valence = "{ " + ", ".join(f"{symbol} = {charge}" for symbol in symbols) + " }"
    text = RECIPE.format(valence=valence, descriptor=descriptor or channels(symbols))
    (folder / "tuned.toml").write_text(text)
    return load_settings(folder / "tuned.toml")


def crystal(symbols: tuple[str, ...], seed: int) -> Atoms:
    atoms = (
        bulk("".join(symbols), "cesiumchloride", a=2.9) if len(symbols) == 2 else bulk(symbols[0], "hcp", a=2.3, c=3.6)
    )
    atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.fixture
def labelled(make_model: Callable[..., LDOSModel]) -> Callable[[tuple[str, ...], int], Snapshot]:
    """Snapshots whose labels are what a random model predicts."""
    teacher = make_model(("Be", "Mg", "Al"), lmax=1)

    def make(symbols: tuple[str, ...], seed: int) -> Snapshot:
        name = f"{''.join(symbols)}_{seed}"
        return predicted_snapshot(name, crystal(symbols, seed), teacher, sigma=0.1)

    return make


Labelled = Callable[[tuple[str, ...], int], Snapshot]


@pytest.fixture
def start(labelled: Labelled, tmp_path: Path) -> LDOSModel:
    """A model of Be and Mg."""
    settings = recipe(tmp_path, ("Be", "Mg"))
    snapshots = [labelled(("Be", "Mg"), seed) for seed in range(3)]
    model = train_stages(settings, TrainingData({"data": snapshots[:2]}, {"data": snapshots[2:]}), progress=False).model
    model.metadata = replace(model.metadata, level_constants={"Be": 5.0, "Mg": 9.0})
    return model


def write(folder: Path, snapshots: list[Snapshot]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    for snapshot in snapshots:
        save_snapshot(folder / "data" / f"{snapshot.name}.npz", snapshot)


def untrained(settings: TrainingSettings, start: LDOSModel) -> LDOSModel:
    """The model at the beginning: after stages of which none has begun."""
    still = replace(settings, stages=tuple(replace(stage, learning_rate=1e-12) for stage in settings.stages))  # type: ignore[arg-type]
    return train_stages(still, load_data(settings), start=start, progress=False).model


@pytest.mark.parametrize("symbols", [("Be",), ("Be", "Al")], ids=["fewer", "one more"])
def test_the_model_keeps_what_it_knows(
    start: LDOSModel, labelled: Labelled, tmp_path: Path, symbols: tuple[str, ...]
) -> None:
    write(tmp_path, [labelled(symbols, seed) for seed in range(3)])
    settings = recipe(tmp_path, symbols)
    atoms = crystal(("Be", "Mg"), 5)
    before = predict(start, atoms, forces=True)
    model = untrained(settings, start)
    expected = (4, 12) if symbols == ("Be",) else (4, 12, 13)
    assert model.descriptor.species == expected
    assert model.metadata.name == "tuned"
    assert model.metadata.valence.keys() == {"Be", "Mg", *symbols}
    after = predict(model, atoms, forces=True)
    assert after.free_energy == pytest.approx(before.free_energy, abs=1e-5)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-5)
    # the constants of old elements stay; Al's are zero, as the settings ask for no alignment
    assert model.metadata.level_constants == {"Be": 5.0, "Mg": 9.0}


def test_file_range_and_errors_of_a_tuned_model(start: LDOSModel, labelled: Labelled, tmp_path: Path) -> None:
    """An element without new data keeps the range that it had."""
    write(tmp_path, [labelled(("Be", "Mg"), seed) for seed in range(4)])
    first = train_model(recipe(tmp_path, ("Be", "Mg")), init_from=start, progress=False).model
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    write(tmp_path, [labelled(("Be", "Al"), seed) for seed in range(4)])
    tuned = train_model(recipe(tmp_path, ("Be", "Al")), init_from=first, out=tmp_path / "m.safetensors", progress=False)
    again = load_model(tmp_path / "m.safetensors")
    assert again.descriptor.settings()["channels"] == CHANNELS
    assert again.extrapolation_mean is not None
    assert first.extrapolation_mean is not None
    assert len(again.extrapolation_mean) == 3
    torch.testing.assert_close(again.extrapolation_mean[1], first.extrapolation_mean[1])
    assert set(tuned.errors[0].values) >= {"energy", "forces", "density", "dos"}


@pytest.mark.parametrize(
    ("symbols", "descriptor", "charge", "message"),
    [
        (("Be",), channels(("Be",), {"Be": [1.0, 0.4]}), 2.0, r"channels of Be are \[1.0, 0.4\]"),
        (("Be",), None, 4.0, "the settings give Be 4 valence electrons, the model to start from has 2"),
        (("Be",), "{ cutoff = 4.2, n_radial = 3, lmax = 1 }", 2.0, "not of these settings: descriptor"),
    ],
)
def test_starts_that_do_not_fit(
    start: LDOSModel,
    labelled: Labelled,
    tmp_path: Path,
    symbols: tuple[str, ...],
    descriptor: str | None,
    charge: float,
    message: str,
) -> None:
    write(tmp_path, [labelled(symbols, seed) for seed in range(3)])
    settings = recipe(tmp_path, symbols, descriptor, charge)
    with pytest.raises(ValueError, match=message):
        train_stages(settings, load_data(settings), start=start, progress=False)


def test_a_power_spectrum_of_elements_takes_no_new_ones(labelled: Labelled, tmp_path: Path) -> None:
    plain = "{ cutoff = 4.2, n_radial = 3, lmax = 1 }"
    write(tmp_path, [labelled(("Be",), seed) for seed in range(3)])
    settings = recipe(tmp_path, ("Be",), plain)
    model = train_stages(settings, load_data(settings), progress=False).model
    write(tmp_path, [labelled(("Be", "Al"), seed) for seed in range(3)])
    larger = recipe(tmp_path, ("Be", "Al"), plain)
    with pytest.raises(ValueError, match="knows Be, not Al; elements can join a model only where"):
        train_stages(larger, load_data(larger), start=model, progress=False)


def test_elements_without_data_and_data_without_elements(labelled: Labelled, tmp_path: Path) -> None:
    write(tmp_path, [labelled(("Be", "Mg"), seed) for seed in range(3)])
    lacking = recipe(tmp_path, ("Be", "Mg", "Al"))
    with pytest.raises(ValueError, match="the settings are for Be, Mg, Al, but no training snapshot has Al"):
        train_stages(lacking, load_data(lacking), progress=False)
    foreign = recipe(tmp_path, ("Be",))
    with pytest.raises(ValueError, match="BeMg_0 has Mg, which the model will not know: it knows Be; add it"):
        train_stages(foreign, load_data(foreign), progress=False)
