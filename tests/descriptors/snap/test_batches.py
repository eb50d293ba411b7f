"""SNAP of many blocks at once against one block after the other: values, forces, virial."""

from __future__ import annotations

import pytest
from batch_checks import check_batches

from ase_ldos.descriptors.snap.descriptor import SNAP


@pytest.mark.parametrize("species", [(4,), (4, 12)])
def test_values_and_derivatives_of_blocks(species: tuple[int, ...]) -> None:
    snap = SNAP(species, twojmax=3, cutoff=3.1, weights=[1.0, 0.6][: len(species)])
    check_batches(snap, tolerance=1e-10)
