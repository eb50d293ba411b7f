"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from gth_potentials import POTENTIALS, write_gth

from ase_ldos.descriptors.power_spectrum.compressed import CompressedPowerSpectrum
from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.descriptors.protocol import PointFeatures
from ase_ldos.formats.gth import find_potential, write_upf
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import list_models
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.se3_transformer.network import SE3Transformer

#: Most processes that share the tests: each takes some seconds to start, and half a GB.
MOST_WORKERS = 8
DATA = Path(__file__).parent / "data_files"


def pytest_configure() -> None:
    """One thread for each process: several of them share the tests, and what tests start runs beside them."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core where the whole suite runs; none where files are named, which end sooner without."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Measure times only where they are asked for, by ``--benchmark-only``."""
    if config.getoption("benchmark_only", default=False):
        return
    measured = [item for item in items if "benchmark" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=measured)
    items[:] = [item for item in items if item not in measured]


@pytest.fixture(scope="session")
def be_files() -> list[Path]:
    """Snapshots of beryllium, sorted by name: ``hcp2`` with LDOS, ``sheared2`` without (``make_beryllium.py``)."""
    return sorted((DATA / "be").glob("*.npz"))


@pytest.fixture(scope="session")
def find_labels() -> Callable[[str], Path]:
    """Finds labels of the bundled models by the name of their file or folder; an installed package lacks them."""
    models = Path(__file__).parents[1] / "ase_ldos" / "models"

    def find(name: str) -> Path:
        found = [path for path in sorted(models.rglob(f"{name}*")) if name in (path.name, path.stem)]
        if not found:
            raise FileNotFoundError(f"there are no labels {name} among those of the bundled models")
        return found[0]

    return find


@pytest.fixture(scope="session")
def snap_reference() -> Path:
    """SNAP columns from LAMMPS (``make_snap_reference.py``)."""
    return DATA / "snap_lammps.npz"


@pytest.fixture(scope="session")
def dft_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pseudopotentials of beryllium and aluminium."""
    folder = tmp_path_factory.mktemp("pseudopotentials")
    for symbol in POTENTIALS:
        write_gth(folder, symbol)
    return folder


@pytest.fixture(scope="session")
def pseudo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pseudopotentials that the package writes itself."""
    folder = tmp_path_factory.mktemp("pseudo")
    for name in ("Be", "Al"):
        write_upf(find_potential(name), folder)
    return folder


def small_model(
    symbols: tuple[str, ...] = ("Be",), *, cutoff: float = 4.2, kind: str = "power_spectrum", lmax: int = 2
) -> LDOSModel:
    """A deterministic model with random weights, float64, that gives any compact structure a plausible LDOS."""
    generator = torch.Generator().manual_seed(7)
    species = tuple(atomic_numbers[s] for s in symbols)
    descriptor: PointFeatures
    if kind == "se3_transformer":
        sizes = {"lmax": lmax, "channels": 4, "heads": 2, "n_radial": 3, "fields": 4, "point_heads": 2}
        descriptor = SE3Transformer(species, cutoff=cutoff, atom_cutoff=3.6, **sizes, generator=generator).double()
    elif kind == "compressed_power_spectrum":
        channels = {symbol: [1.0, 0.5 - place] for place, symbol in enumerate(symbols)}
        descriptor = CompressedPowerSpectrum(species, channels=channels, cutoff=cutoff, n_radial=3, lmax=lmax)
    else:
        descriptor = PowerSpectrum(species, cutoff=cutoff, n_radial=3, lmax=lmax)
    network = MLP(10, 60, hidden=(16, 16), generator=generator).double()
    # features of points among typical atoms, so that the inputs of the network are of order one
    points = 2 * torch.rand(200, 3, generator=generator, dtype=torch.float64) - 1
    atoms = 10 * torch.rand(125, 3, generator=generator, dtype=torch.float64) - 5
    numbers = torch.tensor(species)[torch.arange(125) % len(symbols)]
    with torch.no_grad():
        cell = 10 * torch.eye(3, dtype=torch.float64)
        features = descriptor(points, atoms, descriptor.encode_atoms(Structure(numbers, atoms, cell)))
    mix = torch.randn(descriptor.n_features, 10, generator=generator, dtype=torch.float64)
    projection = 2 * mix / features.std(dim=0)[:, None] / descriptor.n_features**0.5
    with torch.no_grad():
        hidden = network.features((features - features.mean(dim=0)) @ projection)
        network.head.weight.mul_(0.012)
        network.head.bias.copy_(0.035 - network.head.weight @ hidden.mean(dim=0))
    metadata = ModelMetadata(
        name="small",
        valence=dict.fromkeys(symbols, 2.0),
        electronic_temperature=3000.0,
        grid_spacing=0.45,
        fermi_level=4.0,
    )
    energies = torch.linspace(-5, 12, 60, dtype=torch.float64)
    model = LDOSModel(descriptor, network, energies, metadata, mean=features.mean(dim=0), projection=projection)
    return model.eval().requires_grad_(False)


@pytest.fixture
def compressed_model() -> LDOSModel:
    """A small model of beryllium and magnesium with the power spectrum of two pseudo-species."""
    return small_model(("Be", "Mg"), kind="compressed_power_spectrum")


@pytest.fixture
def be_model() -> LDOSModel:
    """The small model of beryllium."""
    return small_model()


@pytest.fixture(params=["power_spectrum", "se3_transformer"])
def either_model(request: pytest.FixtureRequest) -> LDOSModel:
    """A small model of beryllium with a fixed descriptor, and one with the graph network."""
    return small_model(kind=request.param)


@pytest.fixture
def make_model() -> Callable[..., LDOSModel]:
    """Makes small models: see ``small_model``."""
    return small_model


@pytest.fixture
def alloy_model() -> LDOSModel:
    """The small model of beryllium and magnesium."""
    return small_model(("Be", "Mg"))


@pytest.fixture(params=["cubic", "hcp", "skewed"])
def be_atoms(request: pytest.FixtureRequest) -> Atoms:
    """Rattled beryllium in a cubic, a hexagonal and a triclinic cell."""
    if request.param == "cubic":
        atoms = bulk("Be", "bcc", a=2.5, cubic=True).repeat((2, 1, 1))
    else:
        atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    if request.param == "skewed":
        shear = np.array([[1.02, 0.1, -0.07], [0.05, 0.98, 0.12], [0.2, -0.11, 1.01]])
        atoms.set_cell(atoms.cell[:] @ shear, scale_atoms=True)
    atoms.rattle(0.08, seed=3)
    return atoms


@pytest.fixture
def bundled() -> str:
    """Name of the bundled model, where it is there."""
    if "be" not in list_models():
        pytest.skip("the bundled model be is not in this checkout")
    return "be"
