"""Density and LDOS as openPMD files in HDF5, which describe their own units (https://www.openPMD.org).

Needs the extra ``openpmd``: ``pip install 'ase-ldos[openpmd]'``.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import ase_ldos
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.files import PathLike, atomic_write, check_output
from ase_ldos.units import ELECTRONVOLT

_ANGSTROM = 1e-10  # m


def write_openpmd(path: PathLike, snapshot: Snapshot) -> None:
    """Write structure, density (mesh ``density``) and LDOS (mesh ``LDOS``, a component for each energy).

    Numbers are in Å and eV as everywhere here; ``unitSI`` and ``unitDimension`` tell how to convert them. The cell's
    vectors stand in the meshes' attribute ``latticeVectors`` (Å, rows, flat), since openPMD itself knows only
    rectangular grids; energies are in ``energies`` (eV).

    Args:
        path: the file, ``.h5``.
        snapshot: with a density, an LDOS, or both.

    Raises:
        ValueError: openpmd-api is not installed, the name does not end in ``.h5``, or there is nothing to write.
        OSError: the folder cannot be written to, or the disk has no space for the file.
    """
    path = Path(path)
    if path.suffix != ".h5":
        raise ValueError(f"openPMD files are written as HDF5, with a name in .h5; the name given is {path.name!r}")
    if snapshot.density is None and snapshot.ldos is None:
        raise ValueError(f"{snapshot.name} has neither density nor LDOS")
    io = _openpmd()
    n_values = sum(0 if field is None else field.size for field in (snapshot.density, snapshot.ldos))
    # its library ends the process where the disk gets full
    check_output(path, 8 * n_values + 2**20)
    with atomic_write(path) as draft:
        series = io.Series(str(draft), io.Access.create)
        series.set_software("ase-ldos", ase_ldos.__version__)
        iteration = series.iterations[0]
        iteration.set_attribute("name", snapshot.name)
        _write_atoms(io, iteration, snapshot)
        if snapshot.density is not None:
            mesh = _mesh(io, iteration, snapshot, "density", {"L": -3})
            _store(io, mesh[io.Mesh_Record_Component.SCALAR], snapshot.density, _ANGSTROM**-3)
            series.flush()
        if snapshot.ldos is not None and snapshot.energies is not None:
            mesh = _mesh(io, iteration, snapshot, "LDOS", {"L": -5, "M": -1, "T": 2})
            mesh.set_attribute("energies", snapshot.energies.tolist())
            unit = 1 / (ELECTRONVOLT * _ANGSTROM**3)
            for i in range(len(snapshot.energies)):
                values = snapshot.ldos[..., i].astype(np.float32) * np.float32(snapshot.ldos_scale or 1.0)
                _store(io, mesh[str(i)], values, unit)
                series.flush()
        series.close()


def _openpmd() -> ModuleType:
    try:
        import openpmd_api
    except ImportError as error:
        raise ValueError("openPMD files need openpmd-api; install it with: pip install 'ase-ldos[openpmd]'") from error
    return openpmd_api


def _dimension(io: ModuleType, powers: dict[str, float]) -> dict[Any, float]:
    return {getattr(io.Unit_Dimension, base): power for base, power in powers.items()}


def _store(io: ModuleType, component: Any, values: np.ndarray, unit: float) -> None:  # noqa: ANN401
    values = np.ascontiguousarray(values)
    component.unit_SI = unit
    component.reset_dataset(io.Dataset(values.dtype, values.shape))
    component.store_chunk(values)


def _mesh(io: ModuleType, iteration: Any, snapshot: Snapshot, name: str, powers: dict[str, float]) -> Any:  # noqa: ANN401
    """A mesh on the snapshot's grid; points lie at the corners of the voxels."""
    assert snapshot.shape is not None
    mesh = iteration.meshes[name]
    vectors = snapshot.cell / np.array(snapshot.shape)[:, None]
    orthogonal = np.allclose(vectors @ vectors.T, np.diag(np.diag(vectors @ vectors.T)), atol=1e-9)
    # Geometry.other stands for every grid that is none of openPMD's own
    mesh.geometry = io.Geometry.cartesian if orthogonal else io.Geometry.other
    mesh.data_order = "C"
    mesh.axis_labels = ["a", "b", "c"]
    mesh.grid_spacing = [math.sqrt(v @ v) for v in vectors]
    mesh.grid_global_offset = [0.0, 0.0, 0.0]
    mesh.grid_unit_SI = _ANGSTROM
    mesh.unit_dimension = _dimension(io, powers)
    mesh.set_attribute("latticeVectors", snapshot.cell.ravel().tolist())
    return mesh


def _write_atoms(io: ModuleType, iteration: Any, snapshot: Snapshot) -> None:  # noqa: ANN401
    atoms = iteration.particles["atoms"]
    for name in ("position", "positionOffset"):
        record = atoms[name]
        record.unit_dimension = _dimension(io, {"L": 1})
        for axis, label in enumerate("xyz"):
            values = snapshot.positions[:, axis].astype(float)
            _store(io, record[label], values if name == "position" else np.zeros_like(values), _ANGSTROM)
    numbers = snapshot.numbers.astype(np.int64)
    _store(io, atoms["atomicNumber"][io.Mesh_Record_Component.SCALAR], numbers, 1.0)
