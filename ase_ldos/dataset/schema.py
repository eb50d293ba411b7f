"""The keys of a snapshot file, their shapes, and the check that a file keeps to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: Shape of every key; equal words must have equal lengths within one snapshot.
SHAPES: dict[str, tuple[str | int, ...]] = {
    "numbers": ("atom",),
    "cell": (3, 3),
    "positions": ("atom", 3),
    "energies": ("energy",),
    "ldos": ("nx", "ny", "nz", "energy"),
    "ldos_scale": (),
    "ldos_sigma": (),
    "dos": ("energy",),
    "density": ("nx", "ny", "nz"),
    "free_energy": (),
    "band_energy": (),
    "smearing_TS": (),
    "one_electron": (),
    "hartree": (),
    "xc": (),
    "ewald": (),
    "fermi_level": (),
    "fermi_level_dense": (),
    "forces": ("atom", 3),
    "stress": (3, 3),
    "pressure": (),
    "kpoints": (3,),
    "k_weights": ("k",),
    "eigenvalues": ("k", "band"),
    "kpoints_dense": (3,),
    "k_weights_dense": ("k_dense",),
    "eigenvalues_dense": ("k_dense", "band_dense"),
    "electronic_temperature": (),
    "gap": (),
    "known_below": (),
    "energy_defect": (),
    "ldos_energy_defect": (),
    "fft_grid": (3,),
    "ecutwfc_Ry": (),
    "valence": (),
    "group": (),
}
REQUIRED = ("numbers", "cell", "positions")
#: Keys that hold a text instead of numbers.
TEXTS = frozenset({"group"})
#: Keys that make sense only together.
TOGETHER = (("ldos", ("energies", "ldos_scale")), ("dos", ("energies",)), ("eigenvalues", ("k_weights",)))


def check_arrays(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Check the arrays of a snapshot against the table above.

    Args:
        arrays: what the file holds.
        source: the file's name for messages.

    Raises:
        ValueError: a key is missing, misshaped, not a number or not finite; one sentence names file, key and what
            was expected.
    """
    for key in REQUIRED:
        if key not in arrays:
            raise ValueError(f"{source}: key {key!r} is missing; a snapshot needs {', '.join(REQUIRED)}")
    for key, others in TOGETHER:
        missing = [other for other in others if other not in arrays]
        if key in arrays and missing:
            raise ValueError(f"{source}: key {missing[0]!r} is missing; it is needed beside {key!r}")
    lengths: dict[str | int, int] = {}
    for key, words in SHAPES.items():
        if key in arrays:
            expected = tuple(lengths.get(word, word) if isinstance(word, str) else word for word in words)
            _check_array(key, arrays[key], expected, source)
            lengths |= dict(zip(words, arrays[key].shape))
    if "energies" in arrays and np.any(np.diff(arrays["energies"]) <= 0):
        raise ValueError(f"{source}: key 'energies' does not increase; an increasing energy grid is expected")


def _check_array(key: str, array: np.ndarray, expected: tuple[str | int, ...], source: str) -> None:
    fits = array.ndim == len(expected) and all(isinstance(e, str) or e == n for e, n in zip(expected, array.shape))
    if not fits or array.dtype.kind not in ("U" if key in TEXTS else "fiu"):
        raise ValueError(
            f"{source}: key {key!r} has shape {array.shape} and type {array.dtype}; "
            f"{'a text' if key in TEXTS else 'numbers'} of shape ({', '.join(str(e) for e in expected)}) are expected"
        )
    # a memory-mapped array was checked when it was written; looking at all of it would read all of it
    if key not in TEXTS and not isinstance(array, np.memmap) and not np.all(np.isfinite(array)):
        raise ValueError(f"{source}: key {key!r} contains NaN or infinity; all values must be finite")
