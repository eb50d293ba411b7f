"""The example of extrapolation: it warns where the cell is compressed, once, and only there."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from ase_ldos import load_model, load_snapshots, save_model
from ase_ldos.training.calibrate import calibrate

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "md_examples" / "extrapolation.py"


@pytest.mark.slow
def test_compressed_beryllium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str) -> None:
    """With the bundled model, calibrated on the small cells of the package whatever its own file says."""
    items = load_snapshots(REPOSITORY / "ase_ldos" / "models" / "be" / "labels" / "small")
    model = load_model(bundled)
    unseen = set(model.metadata.provenance["held back"])  # by name: labels are still added
    parts = ([item for item in items if (item.name in unseen) == held_back] for held_back in (False, True))
    calibrate(model, *parts, progress=False)
    save_model(model, tmp_path / "calibrated.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--model", "calibrated.safetensors"])
    names = runpy.run_path(str(SCRIPT))
    distances, threshold = names["farthest"], model.metadata.extrapolation["threshold"]
    assert np.all(np.diff(distances) > 0)
    assert distances[0] < threshold < distances[-2]
    assert len(names["said"]) == 1
    first = float(names["said"][0].split("V/V0 = ")[1].split(":")[0])
    assert first == names["volumes"][distances > threshold][0]
    # the displaced atom is seen from within the cutoff only
    seen = names["distances"] > threshold
    assert seen[0]
    assert names["away"][seen].max() < model.descriptor.cutoff + 0.9
    beyond = names["away"] > model.descriptor.cutoff + 0.9
    assert names["distances"][beyond] == pytest.approx(distances[0], abs=0.02)


def test_model_without_a_range_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: str) -> None:
    model = load_model(bundled)
    model.metadata.extrapolation.clear()
    save_model(model, tmp_path / "plain.safetensors")
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--model", str(tmp_path / "plain.safetensors")])
    with pytest.raises(SystemExit, match="does not know its training range"):
        runpy.run_path(str(SCRIPT))
