"""Descriptors by name, those of other packages included (entry points ``ase_ldos.descriptors``)."""

from __future__ import annotations

from collections.abc import Callable

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.descriptors.snap.descriptor import SNAP
from ase_ldos.registry import Registry

#: Called with the species and the settings as keyword arguments.
DESCRIPTORS: Registry[Callable[..., PointFeatures]] = Registry(
    "descriptor",
    "ase_ldos.descriptors",
    {"power_spectrum": PowerSpectrum, "compressed_power_spectrum": CompressedPowerSpectrum, "snap": SNAP},
)
