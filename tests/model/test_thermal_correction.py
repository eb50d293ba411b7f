"""The learned change of the free energy with the electronic temperature: limits, slopes, scaler, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from thermal_models import HIGHEST, heated

from ase_ldos.cli.main import main
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.model.thermal_correction import ThermalCorrection, temperature_functions

OWN = 3000.0


def test_functions_vanish_at_the_own_temperature_and_start_as_its_square() -> None:
    assert not temperature_functions(OWN, OWN)[0].any()
    zero, one, two = (temperature_functions(t, OWN)[0, 0] for t in (1e-3, 30.0, 60.0))
    assert float((two - zero) / (one - zero)) == pytest.approx(4, rel=1e-3)
    assert bool((temperature_functions(1e6, OWN)[0] < 1).all())


@pytest.mark.parametrize("temperature", [300.0, OWN, 9000.0, 40000.0])
def test_slopes_are_central_differences(temperature: float) -> None:
    h = 1e-3 * temperature
    low, middle, high = (temperature_functions(temperature + k * h, OWN) for k in (-1, 0, 1))
    torch.testing.assert_close(middle[1:], (high[:2] - low[:2]) / (2 * h), rtol=1e-5, atol=1e-15)


def test_a_fused_scaler_gives_the_same_energy_density(be_model: LDOSModel) -> None:
    """Where the features themselves are among the hidden ones, raw or scaled."""
    thermal = heated(be_model).thermal_correction
    assert thermal is not None
    size, n_inputs = 7, be_model.network.n_inputs
    generator = torch.Generator().manual_seed(0)
    mean, x = (torch.randn(n, size, generator=generator, dtype=torch.float64) for n in (1, 5))
    projection = torch.randn(size, n_inputs, generator=generator, dtype=torch.float64)
    hidden = torch.randn(5, thermal.weights.shape[1] - 1 - n_inputs, generator=generator, dtype=torch.float64)
    ones = torch.ones(5, 1, dtype=torch.float64)
    scaled = torch.cat((hidden, (x - mean) @ projection, ones), dim=1) @ thermal.weights.T
    raw = thermal.of_raw_features(mean[0], projection)
    torch.testing.assert_close(torch.cat((hidden, x, ones), dim=1) @ raw.weights.T, scaled)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), HIGHEST + 1])
def test_temperatures_that_were_not_learned_are_refused(be_model: LDOSModel, temperature: float) -> None:
    thermal = heated(be_model).thermal_correction
    assert thermal is not None
    with pytest.raises(ValueError, match="was learned up to 15000 K"):
        thermal.check(temperature)


@pytest.mark.parametrize(
    ("weights", "highest", "message"), [((3, 5), HIGHEST, "shape"), ((2, 5), 200.0, "the higher one last")]
)
def test_corrections_that_make_no_sense_are_refused(weights: tuple[int, int], highest: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThermalCorrection(torch.zeros(weights, dtype=torch.float64), OWN, highest)


def test_files_keep_it_and_say_so(be_model: LDOSModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.safetensors"
    save_model(be_model, path)
    assert load_model(path).thermal_correction is None
    model = heated(be_model)
    save_model(model, path)
    found, expected = load_model(path).thermal_correction, model.thermal_correction
    assert found is not None
    assert expected is not None
    assert torch.equal(found.weights, expected.weights)
    assert found.header() == expected.header()
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["ase_ldos"])["version"] == 4
    assert main(["info", str(path)]) == 0
    assert "3000 K, another temperature may be asked for up to 15000 K (learned)" in capsys.readouterr().out
