"""A labelled structure in few bytes: fields on the grid as whole multiples of a step in a basis where most vanish.

LDOS and density are smooth in space, and the LDOS in energy, where it is a sum of Gaussians. So an orthonormal
transform, Hartley's over the periodic grid (real minus imaginary part of Fourier's, its own inverse) and the cosine
transform over the energies, leaves few large numbers; all are rounded to multiples of one step. As the transform is
orthonormal, the root mean square error of a field is that of the rounding, and the step is chosen for it: 0.1 % of
the LDOS and 0.002 % of the density. Of a cell of 16 atoms with 8,000 points
and 121 energies a file takes 0.35 MB instead of 1.2 MB as packed float16.

A file is a zip archive named ``NAME.npz``:

    snapshot.json   format and version, steps and shapes of the fields, and all labels without an axis of grid or energy
    energies.npy    and, where they are known, dos.npy, ldos.npy, density.npy: whole numbers for the last two

States (``eigenvalues`` and ``k_weights``, also of the dense mesh) are left out; ``known_below`` stays.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_ldos.dataset.schema import SHAPES
from ase_ldos.dataset.snapshot import Snapshot, snapshot_from_arrays, snapshot_to_arrays
from ase_ldos.files import PathLike, atomic_write

FORMAT, VERSION = "ase-ldos compact", 1
#: Root mean square error over root mean square of a field, at most.
ERRORS = {"ldos": 1e-3, "density": 2e-5}
#: Values of a field on its grid, at most: larger structures belong into a data set, whose fields stay on the disk.
LARGEST_FIELD = 2**28
#: Unit of a float16 LDOS, 1/(eV Å³), for values up to 63; resolution 5e-4 of each value.
_LDOS_SCALE = 2.0**-10
#: What Python and NumPy raise when they read damaged archives; RuntimeError where its bytes ask for a password.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError),
    *(ValueError, TypeError, KeyError, AttributeError),
)
_ENTRY = "snapshot.json"
_STATES = ("eigenvalues", "k_weights", "eigenvalues_dense", "k_weights_dense")
_CURVES = ("energies", "dos")


def save_compact(path: PathLike, snapshot: Snapshot) -> None:
    """Write one snapshot in the compact form; equal snapshots give equal files.

    Args:
        path: the file, ``.npz``.
        snapshot: what to write.

    Raises:
        ValueError: the name does not end in ``.npz``.
        OSError: the folder is missing or the disk full.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"a snapshot is written as .npz; the name given is {path.name!r}")
    labels = snapshot_to_arrays(snapshot)
    if snapshot.complete_below is not None:
        labels["known_below"] = np.array(snapshot.complete_below)
    if snapshot.has_ldos:
        labels["ldos"] = snapshot.ldos_values()
    fields = {key: _encode(labels[key], ERRORS[key]) for key in ERRORS if key in labels}
    arrays = {key: coefficients for key, (coefficients, _) in fields.items()}
    types = {"energies": np.float64, "dos": np.float32}
    arrays |= {key: labels[key].astype(types[key]) for key in _CURVES if key in labels}
    entry = {
        "format": FORMAT,
        "version": VERSION,
        "fields": {key: {"step": step, "shape": list(labels[key].shape)} for key, (_, step) in fields.items()},
        "labels": {key: v.tolist() for key, v in labels.items() if key not in {*arrays, *_STATES, "ldos_scale"}},
    }
    with atomic_write(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_BZIP2) as archive:
        # the date of the entries is ZipInfo's constant, so that equal contents give equal files
        archive.writestr(_info(_ENTRY), json.dumps(entry, sort_keys=True))
        for key, array in arrays.items():
            with archive.open(_info(f"{key}.npy"), "w") as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def is_compact(path: PathLike) -> bool:
    """Whether a file is an archive of this kind, of whatever version."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _ENTRY in archive.namelist()
    except UNREADABLE:
        return False


def load_compact(path: PathLike) -> Snapshot:
    """Read what :func:`save_compact` wrote; the LDOS becomes float16 again.

    Raises:
        ValueError: another version, unknown keys, a field larger than :data:`LARGEST_FIELD` values, or a file that is
            cut off or damaged; one sentence names the file.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entry = json.loads(archive.read(_ENTRY))
            arrays = _read_labels(entry)
            for key in archive.namelist():
                if key != _ENTRY:
                    arrays[key.removesuffix(".npy")] = _read_member(archive, key, entry)
        if "ldos" in arrays:
            arrays |= in_half_precision(arrays["ldos"])
    except UNREADABLE as error:
        raise ValueError(f"{path} is not a readable compact snapshot: {error}") from error
    return snapshot_from_arrays(path.stem, arrays, str(path))


def in_half_precision(ldos: np.ndarray) -> dict[str, np.ndarray]:
    """An LDOS in 1/(eV Å³) as a snapshot's ``ldos``, float16, and ``ldos_scale``."""
    scale = max(_LDOS_SCALE, float(np.abs(ldos).max()) / float(np.finfo(np.float16).max))
    return {"ldos": (ldos / np.float32(scale)).astype(np.float16), "ldos_scale": np.array(scale)}


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_BZIP2
    return info


def _read_labels(entry: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Labels of the JSON file, after a look at version and keys."""
    if (entry["format"], entry["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"it is {entry['format']!r} of version {entry['version']}; this release reads {FORMAT!r} of {VERSION}"
        )
    unknown = sorted(entry["labels"].keys() - (SHAPES.keys() - {*ERRORS, *_CURVES, *_STATES}))
    unknown += sorted(entry["fields"].keys() - ERRORS.keys())
    if unknown:
        raise ValueError(f"the key {unknown[0]!r} is unknown")
    return {key: np.array(value) for key, value in entry["labels"].items()}


def _read_member(archive: zipfile.ZipFile, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """One array; its size is looked at before it is read."""
    key = name.removesuffix(".npy")
    field = entry["fields"].get(key)
    if field is None and key not in _CURVES:
        raise ValueError(f"the key {key!r} is unknown")
    with archive.open(name) as member:
        # NumPy writes version 1.0 of its header for arrays of numbers
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"{name} has a header of another version than 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    wanted = [shape[0]] if field is None and len(shape) == 1 else [] if field is None else list(field["shape"])
    if not all(isinstance(n, int) and n > 0 for n in wanted) or math.prod(wanted) > LARGEST_FIELD:
        raise ValueError(
            f"{key} has the shape {wanted}; at least 1 along each axis and at most {LARGEST_FIELD} values fit"
        )
    fits = len(shape) == len(wanted) > 0 and list(shape[:3]) == wanted[:3] and list(shape[3:]) <= wanted[3:]
    if not fits or dtype.kind != ("f" if field is None else "i"):
        raise ValueError(f"{name} holds {dtype} {shape}; numbers for the shape {wanted} are expected")
    with archive.open(name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    if field is None:
        return array
    step = float(field["step"])
    # far beyond any density, and far below what single precision holds
    if not 0 < step * max(1.0, float(np.abs(array.astype(float)).max())) < 1e30:
        raise ValueError(f"{key} has the step {step}; a positive finite step is expected")
    return _decode(array, step, wanted)


def _hartley(field: np.ndarray) -> np.ndarray:
    """Hartley's transform over the first three axes, orthonormal and its own inverse."""
    from scipy.fft import fftn

    fourier = fftn(field, axes=(0, 1, 2), norm="ortho")
    return np.asarray(fourier.real - fourier.imag)


def _encode(field: np.ndarray, error: float) -> tuple[np.ndarray, float]:
    """Whole numbers and their step; energies (the fourth axis, if any) whose numbers are all zero are left out."""
    from scipy.fft import dct

    coefficients = _hartley(field.astype(np.float64))
    if field.ndim == 4:
        coefficients = dct(coefficients, axis=3, norm="ortho")
    bound = error * math.sqrt(np.mean(coefficients**2))
    if bound == 0:
        return np.zeros((*field.shape[:3], *(1 for _ in field.shape[3:])), np.int16), 1.0
    # rounding errs by half a step at most, so this step is fine enough; many numbers vanish with less than that
    step, factor = 2 * bound, 64.0
    while factor > 1.01:
        left = coefficients - step * factor * np.rint(coefficients / (step * factor))
        if np.mean(left**2) <= bound**2:
            step *= factor
        factor = math.sqrt(factor)
    codes = np.rint(coefficients / step)
    if field.ndim == 4:
        codes = codes[..., : int(np.flatnonzero(codes.any(axis=(0, 1, 2)))[-1]) + 1]
    return codes.astype(np.int16 if np.abs(codes).max() < 2**15 else np.int32), step


def _decode(codes: np.ndarray, step: float, shape: Sequence[int]) -> np.ndarray:
    """The field of a shape, float32, of what :func:`_encode` gave."""
    from scipy.fft import idct

    field = _hartley(codes * np.float32(step))
    return field if len(shape) == 3 else np.asarray(idct(field, n=shape[3], axis=3, norm="ortho"))
