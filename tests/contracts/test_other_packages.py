"""One of each added from outside: a package that is installed beside this one and that nobody imports."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ENTRY_POINTS = """
[ase_ldos.descriptors]
bell = other_package.bell:Bell

[ase_ldos.networks]
learned_bell = other_package.learned_bell:LearnedBell

[ase_ldos.functionals]
slater = other_package.slater:SLATER

[ase_ldos.commands]
count = other_package.count

[ase_ldos.quantities]
largest_density = other_package.largest_density:LARGEST_DENSITY
"""

MODULES = {
    "bell": '''
import torch

from ase_ldos.descriptors.protocol import Descriptor


class Bell(Descriptor):
    """Sum of (1 − r²/r_c²)³ over the atoms of each species."""

    def __init__(self, species, *, cutoff=3.0):
        self.species, self.cutoff = tuple(species), float(cutoff)

    @property
    def n_features(self):
        return len(self.species)

    def settings(self):
        return {"kind": "bell", "species": list(self.species), "cutoff": self.cutoff}

    def __call__(self, points, atoms, atom_state):
        distance = (points[:, None] - atoms).square().sum(dim=-1)
        bells = torch.relu(1 - distance / self.cutoff**2) ** 3
        return torch.stack([bells @ (atom_state == index).to(bells) for index in range(len(self.species))], dim=1)
''',
    "learned_bell": '''
import torch
from torch import nn

from ase_ldos.geometry.structure import species_indices


class LearnedBell(nn.Module):
    """(1 − r²/r_c²)³ of all atoms, each weighed by a number that is learned for its species."""

    fixed = None
    n_features = n_learned = 2

    def __init__(self, species, *, generator=None, cutoff=3.0):
        super().__init__()
        self.species, self.cutoff = tuple(species), float(cutoff)
        self.weights = nn.Parameter(1 + torch.rand(len(species), 2, generator=generator))

    def settings(self):
        return {"kind": "learned_bell", "species": list(self.species), "cutoff": self.cutoff}

    def encode_atoms(self, structure):
        return species_indices(structure.numbers, self.species)

    def forward(self, points, atoms, atom_state):
        distance = (points[:, None] - atoms).square().sum(dim=-1)
        return torch.relu(1 - distance / self.cutoff**2) ** 3 @ self.weights[atom_state]

    learned = forward

    def mean_features(self, numbers, volume):
        return None
''',
    "slater": '''
import math

import torch

from ase_ldos.physics.exchange_correlation import EnergyDensity


class Slater:
    """Exchange of the uniform electron gas alone."""

    needs_gradient = False

    def __call__(self, density, sigma):
        energy = -0.75 * (3 / math.pi) ** (1 / 3) * density ** (4 / 3)
        return EnergyDensity(energy, 4 / 3 * energy / density, torch.zeros_like(density))


SLATER = Slater()
''',
    "largest_density": """
from ase_ldos.prediction.quantities import Quantity

LARGEST_DENSITY = Quantity("e/Å³", "largest electron density", lambda model, prediction: prediction.density.max())
""",
    "count": """
def add_arguments(parser):
    parser.add_argument("words", nargs="+")


def run(args):
    print(f"{len(args.words)} words")
    return 0
""",
}

#: Makes a model of its features, saved, loaded and used through ASE; prints energy and largest error of a force.
USE_FEATURES = """
import sys

import torch
from ase.build import bulk

from ase_ldos import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.model_file import load_model, save_model
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import make_point_features

kind, functional, path = sys.argv[1:]
features = make_point_features({"kind": kind, "species": [4], "cutoff": 3.2})
energies = torch.linspace(-5, 12, 40, dtype=torch.float64)
network = MLP(features.n_features, len(energies), hidden=(8,), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    network.head.weight.mul_(0.02)
    network.head.bias.fill_(0.05)
metadata = ModelMetadata("other", {"Be": 2.0}, functional, electronic_temperature=3000.0, grid_spacing=0.5)
save_model(LDOSModel(features, network, energies, metadata).double(), path)
model = load_model(path)
assert model.descriptor.settings() == features.settings()
assert model.metadata.functional == functional
atoms = bulk("Be", "hcp", a=2.27, c=3.57)
atoms.rattle(0.1, seed=1)
atoms.calc = LDOSCalculator(model, device="cpu")
energy, force = atoms.get_potential_energy(), atoms.get_forces()[1, 0]
ends = []
for sign in (1, -1):
    moved = atoms.copy()
    moved.positions[1, 0] += sign * 1e-3
    moved.calc = atoms.calc
    ends.append(moved.get_potential_energy())
assert abs(force) > 1e-3, force
assert abs((ends[1] - ends[0]) / 2e-3 - force) < 1e-4, (ends, force)
print(energy)
"""

#: The quantity by its name, beside what it is the largest of.
USE_QUANTITY = """
from ase.build import bulk

from ase_ldos import LDOSCalculator

atoms = bulk("Be", "hcp", a=2.27, c=3.57)
atoms.calc = LDOSCalculator("be", device="cpu")
atoms.get_potential_energy()
print(atoms.calc.get_quantity("largest_density"), atoms.calc.get_density().max())
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs Python where the other package is installed; returns what it prints."""
    package, installed = tmp_path / "other_package", tmp_path / "other_package-1.0.dist-info"
    package.mkdir()
    installed.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(text)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))

    def start(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


@pytest.mark.parametrize("kind", ["bell", "learned_bell"])
def test_a_descriptor_and_a_network(run: Run, tmp_path: Path, kind: str) -> None:
    assert float(run("-c", USE_FEATURES, kind, "pbe", str(tmp_path / "model.safetensors")))


def test_a_functional(run: Run, tmp_path: Path) -> None:
    arguments = ("-c", USE_FEATURES, "bell")
    slater, lda = (float(run(*arguments, name, str(tmp_path / "model.safetensors"))) for name in ("slater", "lda"))
    # correlation is missing: an eV or so per atom, counted by E_xc − ∫ n v_xc
    assert 0.01 < abs(slater - lda) < 10


def test_a_command(run: Run) -> None:
    assert run("-m", "ase_ldos", "count", "one", "two") == "2 words\n"
    assert "count" in run("-m", "ase_ldos", "--help")


def test_a_quantity(run: Run) -> None:
    found, largest = map(float, run("-c", USE_QUANTITY).split())
    assert found == pytest.approx(largest, rel=1e-6)
