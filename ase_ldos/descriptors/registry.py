"""Descriptors from their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import Descriptor
from ase_ldos.descriptors.snap.descriptor import SNAP

KINDS: dict[str, Callable[..., Descriptor]] = {"power_spectrum": PowerSpectrum, "snap": SNAP}


def make_descriptor(settings: dict[str, Any]) -> Descriptor:
    """Build the descriptor whose ``settings()`` these are.

    Raises:
        ValueError: an unknown kind or settings that do not fit it.
    """
    options = dict(settings)
    kind = options.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"unknown descriptor kind {kind!r}; known: {', '.join(sorted(KINDS))}")
    species = tuple(options.pop("species", ()))
    try:
        return KINDS[kind](species, **options)
    except TypeError as error:
        raise ValueError(f"settings of descriptor {kind!r} do not fit: {error}") from error
