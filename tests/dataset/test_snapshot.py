"""The gap of a snapshot's states."""

from __future__ import annotations

import numpy as np
import pytest

from ase_ldos.dataset.snapshot import band_gap


def test_gap_of_states_is_indirect_and_negative_where_bands_overlap() -> None:
    states = np.array([[-5.0, 0.0, 3.0], [-4.0, 1.0, 2.5]])
    assert band_gap(states, 4.0) == pytest.approx(1.5)
    assert band_gap(states, 2.0) == pytest.approx(4.0)
    # an odd electron leaves the second band half filled: its whole width overlaps
    assert band_gap(states, 3.0) == pytest.approx(-1.0)
    assert band_gap(np.array([[0.0, 2.0], [3.0, 4.0]]), 2.0) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="3 bands hold 6 electrons; a gap needs an empty one"):
        band_gap(states, 6.0)
