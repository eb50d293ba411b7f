"""A distilled potential: exact derivatives, symmetries, its place in the model file, its calculator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorSetupError, InputError
from safetensors import safe_open

from ase_ldos.descriptors.power_spectrum.descriptor import PowerSpectrum
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.distilled_calculator import DistilledCalculator
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model, save_model


def make_potential(species: tuple[int, ...] = (4,), q: int = 3) -> DistilledPotential:
    """Random coefficients."""
    descriptor = PowerSpectrum(species, cutoff=4.0, n_radial=2, lmax=2)
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    n, s = descriptor.n_features, len(species)
    return DistilledPotential(
        descriptor, draw(n), 0.02 * draw(n, 7), draw(s), draw(s, 7), 0.1 * draw(s, q * (q + 1) // 2), {"forces": 1.0}
    )


def crystal(symbols: tuple[str, ...] = ("Be",), repeat: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.symbols[:] = [symbols[index % len(symbols)] for index in range(len(atoms))]
    atoms.rattle(0.1, seed=2)
    # atoms outside the cell count where they come in again
    atoms.positions[0] -= atoms.cell[0] + 2 * atoms.cell[2]
    return atoms.repeat(repeat)


@pytest.mark.parametrize("q", [0, 3])
def test_forces_and_stress_are_derivatives(q: int) -> None:
    atoms, calculator = crystal(("Be", "Mg")), DistilledCalculator(make_potential((4, 12), q))
    atoms.calc = calculator
    forces, stress, step = atoms.get_forces(), atoms.get_stress(voigt=False), 1e-5
    assert np.abs(forces).max() > 0.01
    for atom, axis in ((0, 2), (1, 0)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(calculator.get_potential_energy(moved))
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), rel=1e-6, abs=1e-8)
    for row, column in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[row, column] += sign * step / 2
            strain[column, row] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(calculator.get_potential_energy(moved))
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert stress[row, column] == pytest.approx(slope, rel=1e-5, abs=1e-9)
    assert np.abs(forces.sum(axis=0)).max() < 1e-12


def test_symmetries_and_boxes() -> None:
    """A cell and a supercell that is handled in several boxes; a rotation; energies are those of the formula."""
    potential = make_potential()
    small, large = crystal(), crystal(repeat=(6, 2, 2))
    energy, forces, stress = potential.evaluate(Structure.from_atoms(small), stress=True)
    others = potential.evaluate(Structure.from_atoms(large), stress=True)
    assert others[0] == pytest.approx(24 * energy, rel=1e-10)
    assert torch.allclose(others[1].unflatten(0, (24, 2)), forces, atol=1e-10)
    assert stress is not None
    assert others[2] is not None
    assert torch.allclose(others[2], stress, atol=1e-10)
    turned = small.copy()
    turned.rotate(37, (1, 2, 3), rotate_cell=True)
    turn = np.linalg.solve(small.cell.array, turned.cell.array)
    found = potential.evaluate(Structure.from_atoms(turned))
    assert found[0] == pytest.approx(energy, rel=1e-10)
    assert torch.allclose(found[1], forces @ torch.as_tensor(turn), atol=1e-10)
    assert found[2] is None


def test_energy_is_the_polynomial() -> None:
    potential, atoms = make_potential(), crystal()
    structure = Structure.from_atoms(atoms)
    images = torch.cartesian_prod(*[torch.arange(-5.0, 6.0, dtype=torch.float64)] * 3) @ structure.cell
    around = (structure.positions[:, None] + images).flatten(0, 1)
    state = torch.zeros(len(around), dtype=torch.int64)
    expected = 0.0
    for place in structure.positions:
        features = potential.descriptor.reference(torch.zeros(1, 3, dtype=torch.float64), around - place, state)[0]
        z = (features - potential.mean) @ potential.projection
        products = [z[a] * z[b] for a in range(3) for b in range(a, 3)]
        expected += float(
            potential.constants[0] + potential.linear[0] @ z + potential.quadratic[0] @ torch.stack(products)
        )
    assert potential.evaluate(structure)[0] == pytest.approx(expected, rel=1e-9)


def test_model_files_with_and_without(be_model: LDOSModel, tmp_path: Path) -> None:
    structure = Structure.from_atoms(crystal())
    for version, potential in ((2, None), (3, make_potential())):
        be_model.distilled, file = potential, tmp_path / f"{version}.safetensors"
        save_model(be_model, file)
        with safe_open(file, framework="pt") as opened:
            assert f'"version": {version}' in opened.metadata()["ase_ldos"]
        found = load_model(file).distilled
        assert (found is None) == (potential is None)
        if found is not None and potential is not None:
            assert found.evaluate(structure)[0] == potential.evaluate(structure)[0]
            assert found.errors == {"forces": 1.0}
            assert load_model(file).float().distilled.mean.dtype == torch.float64
    with pytest.raises(ValueError, match=r"linear of the distilled potential has the shape \[1, 7\]"):
        DistilledPotential.of(
            make_potential((4, 12)).header(), make_potential((4, 12)).tensors() | {"linear": torch.ones(1, 7)}
        )


def test_calculator_says_what_is_wrong(be_model: LDOSModel) -> None:
    with pytest.raises(CalculatorSetupError, match="ase-ldos distill small"):
        DistilledCalculator(be_model)
    with pytest.raises(CalculatorSetupError, match="no model file"):
        DistilledCalculator("nothing.safetensors")
    calculator = DistilledCalculator(make_potential())
    with pytest.raises(InputError, match="atoms contain Mg"):
        calculator.get_potential_energy(crystal(("Be", "Mg")))
    with pytest.raises(InputError, match="periodic"):
        calculator.get_potential_energy(Atoms("Be", cell=[5, 5, 5]))
