"""Features of points from their settings, and settings that make none."""

from __future__ import annotations

import pytest

from ase_ldos.networks.registry import make_point_features


def test_settings_that_make_nothing_are_named() -> None:
    known = "compressed_power_spectrum, power_spectrum, se3_transformer, snap"
    with pytest.raises(ValueError, match=rf"unknown kind 'tea leaves'.*known: {known}"):
        make_point_features({"kind": "tea leaves", "species": [4]})
    with pytest.raises(ValueError, match="unknown kind None"):
        make_point_features({"species": [4]})
    for kind in ("power_spectrum", "se3_transformer"):
        with pytest.raises(ValueError, match=rf"settings of '{kind}' do not fit: .*colour"):
            make_point_features({"kind": kind, "species": [4], "colour": "blue"})
