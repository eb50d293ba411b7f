"""What is read, what a good file of it is, and what reading it means."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from mutations import mutate_arrays, mutate_json
from safetensors import safe_open
from safetensors.torch import save_file

from ase_ldos.checkpoint import read_checkpoint, write_checkpoint
from ase_ldos.dataset.compact import save_compact
from ase_ldos.dataset.npz import load_snapshots, pack_snapshots, save_snapshot
from ase_ldos.dataset.snapshot import Snapshot
from ase_ldos.formats.convert import read_any
from ase_ldos.formats.cube import read_cube, write_cube
from ase_ldos.formats.pseudopotential import read_pseudopotential
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.prediction.predict import predict

MutateBytes = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        name: of the kind.
        suffix: of its files.
        good: content of a good one.
        read: reads a file and looks at the result.
        mutate: mutations that know the format; half of the cases get these, the others lose or change bytes.
    """

    name: str
    suffix: str
    good: Callable[[], bytes]
    read: Callable[[Path], None]
    mutate: Callable[[bytes, np.random.Generator], bytes] | None = None

    def mutated(self, rng: np.random.Generator, path: Path, mutate_bytes: MutateBytes) -> None:
        """Write a case."""
        structured = self.mutate is not None and rng.random() < 0.5
        mutate = self.mutate if structured and self.mutate is not None else mutate_bytes
        path.write_bytes(mutate(self.good(), rng))


def snapshot() -> Snapshot:
    """A small snapshot with every label."""
    rng = np.random.default_rng(0)
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    shape, energies = (4, 4, 6), np.linspace(-4, 4, 9)
    ldos = rng.uniform(0, 60, (*shape, 9)).astype(np.float16)
    return Snapshot(
        name="hcp2_00",
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        positions=atoms.positions,
        energies=energies,
        ldos=ldos,
        ldos_scale=2.0**-10,
        ldos_sigma=0.2,
        dos=rng.uniform(0, 1, 9),
        density=rng.uniform(0, 1, shape).astype(np.float32),
        free_energy=-60.0,
        fermi_level=8.0,
        forces=rng.normal(size=(2, 3)),
        stress=np.eye(3) * 0.01,
        kpoints=np.array([2, 2, 2]),
        k_weights=np.full(4, 0.5),
        eigenvalues=rng.normal(size=(4, 5)),
        electronic_temperature=300.0,
        fft_grid=np.array([8, 8, 12]),
        ecutwfc_Ry=30.0,
        valence=2.0,
    )


def _check_snapshots(path: Path) -> None:
    for item in load_snapshots(path):
        for key, value in vars(item).items():
            array = np.asarray(value) if value is not None and key != "name" else np.zeros(0)
            if array.dtype.kind in "fc" and not np.all(np.isfinite(array)):
                raise AssertionError(f"{key} of {item.name} is not finite")


def _file(write: Callable[[Path], object], suffix: str) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        write(path)
        return path.read_bytes()


def _npz_mutation(data: bytes, rng: np.random.Generator) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(data)
        with np.load(path) as archive:
            arrays = mutate_arrays(dict(archive), rng)
        np.savez_compressed(path, **arrays)
        return path.read_bytes()


def _compact_mutation(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes of the JSON file, or of the arrays beside it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.6:
        members["snapshot.json"] = json.dumps(mutate_json(json.loads(members["snapshot.json"]), rng)).encode()
    else:
        arrays = {name: np.load(io.BytesIO(content)) for name, content in members.items() if name.endswith(".npy")}
        # whole numbers as wide as those that the mutations put in
        arrays = {name: array.astype(np.int32) if array.dtype.kind == "i" else array for name, array in arrays.items()}
        members = {"snapshot.json": members["snapshot.json"]}
        for name, array in mutate_arrays(arrays, rng).items():
            stream = io.BytesIO()
            np.save(stream, array)
            members[name] = stream.getvalue()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _safetensors_mutation(key: str) -> Callable[[bytes, np.random.Generator], bytes]:
    """Changes of the JSON in the header, or of the tensors."""

    def mutate(data: bytes, rng: np.random.Generator) -> bytes:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            path.write_bytes(data)
            with safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                header = json.loads(file.metadata()[key])
            if rng.random() < 0.6:
                header = mutate_json(header, rng)
            else:
                arrays = mutate_arrays(arrays, rng)
            kept = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
            tensors = {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in kept.items()}
            save_file(tensors, path, metadata={key: json.dumps(header)})
            return path.read_bytes()

    return mutate


@cache
def _model_bytes() -> bytes:
    return _file(lambda path: save_model(load_model("be"), path), ".safetensors")


def _read_model(path: Path) -> None:
    model = load_model(path).requires_grad_(False)
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    found = predict(model, Structure.from_atoms(atoms))
    if not np.isfinite(found.free_energy):
        raise AssertionError(f"the energy is {found.free_energy}")


def _checkpoint_bytes() -> bytes:
    state = {"epoch": 3, "names": ["a", ("b", None)], "weights": {"w": torch.ones(3, 2)}, 5: True}
    return _file(lambda path: write_checkpoint(path, state), ".safetensors")


def _extxyz() -> bytes:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    lattice = " ".join(f"{x:.6f}" for x in atoms.cell.array.ravel())
    rows = "\n".join(f"Be {x:.6f} {y:.6f} {z:.6f} 0.1 0.0 -0.1" for x, y, z in atoms.positions)
    head = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3:forces:R:3 energy=-60.0 pbc="T T T" name=hcp'
    return f"{len(atoms)}\n{head}\n{rows}\n".encode()


def _upf() -> bytes:
    radii = 0.01 * np.exp(0.05 * np.arange(141))
    table = " ".join(f"{x:.8E}" for x in radii)
    header = 'element="Mg" pseudo_type="NC" core_correction="T" functional="PBE" z_valence="2.0"'
    return (
        f'<UPF version="2.0.1"><PP_INFO>a & b</PP_INFO><PP_HEADER {header}/><PP_MESH><PP_R>{table}</PP_R>'
        f"<PP_RAB>{table}</PP_RAB></PP_MESH><PP_NLCC>{table}</PP_NLCC></UPF>"
    ).encode()


def _gth() -> bytes:
    head = b"Be GTH-PBE\n4 2 20241128 zatom,zion,pspd\n10 11 1 4 2001 0 pspcod,pspxc,lmax\n"
    return head + b"0.3 2 -24.1 17.2\n2\n0.22 0\n0.0 0\n"


def _cube() -> bytes:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    return _file(lambda path: write_cube(path, atoms, np.random.default_rng(0).uniform(0, 1, (4, 4, 5))), ".cube")


def _read_cube(path: Path) -> None:
    atoms, field = read_cube(path)
    if not (np.all(np.isfinite(field)) and np.all(np.isfinite(atoms.positions)) and np.all(np.isfinite(atoms.cell))):
        raise AssertionError("not finite")


def _read_pseudopotential(path: Path) -> None:
    pseudo: Any = read_pseudopotential(path)
    core = [] if pseudo.core is None else [*pseudo.core.values, *pseudo.core.slopes]
    if not np.all(np.isfinite([pseudo.valence, *core])):
        raise AssertionError("not finite")


def _read_extxyz(path: Path) -> None:
    for item in read_any([path]):
        for value in (item.positions, item.cell, item.free_energy, item.forces, item.stress):
            if value is not None and not np.all(np.isfinite(np.asarray(value, dtype=float))):
                raise AssertionError("not finite")


TARGETS = {
    target.name: target
    for target in (
        Target(
            "npz",
            ".npz",
            cache(lambda: _file(lambda p: save_snapshot(p, snapshot()), ".npz")),
            _check_snapshots,
            _npz_mutation,
        ),
        Target(
            "packed",
            ".npz",
            cache(lambda: _file(lambda p: pack_snapshots(p, [snapshot()]), ".npz")),
            _check_snapshots,
            _npz_mutation,
        ),
        Target(
            "compact",
            ".npz",
            cache(lambda: _file(lambda p: save_compact(p, snapshot()), ".npz")),
            _check_snapshots,
            _compact_mutation,
        ),
        Target("model", ".safetensors", _model_bytes, _read_model, _safetensors_mutation("ase_ldos")),
        Target(
            "checkpoint",
            ".safetensors",
            cache(_checkpoint_bytes),
            lambda path: read_checkpoint(path) and None,
            _safetensors_mutation("ase_ldos_checkpoint"),
        ),
        Target("cube", ".cube", cache(_cube), _read_cube),
        Target("extxyz", ".xyz", _extxyz, _read_extxyz),
        Target("upf", ".UPF", _upf, _read_pseudopotential),
        Target("gth", ".gth", _gth, _read_pseudopotential),
    )
}
