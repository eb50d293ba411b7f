"""What a process has set for itself does not reach the calculator: one kind of fault, case by case."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from torch_settings import TORCH_SETTINGS

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.model.ldos_model import LDOSModel


def crystal() -> Atoms:
    atoms = bulk("Be", "hcp", a=2.27, c=3.57)
    atoms.rattle(0.08, seed=3)
    return atoms


def results(model: LDOSModel) -> dict[str, np.ndarray]:
    atoms = crystal()
    atoms.calc = LDOSCalculator(model, dtype="float32", device="cpu")
    found = {"forces": atoms.get_forces(), "stress": atoms.get_stress(), "energy": atoms.get_potential_energy()}
    return {name: np.asarray(value) for name, value in found.items()} | {"ldos": atoms.calc.get_ldos()}


@pytest.mark.parametrize("case", TORCH_SETTINGS)
def test_results_do_not_depend_on_the_process(case: str, either_model: LDOSModel) -> None:
    expected = results(either_model)
    with TORCH_SETTINGS[case]():
        found = results(either_model)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def _energy_in_child(queue: multiprocessing.Queue[float], calculator: LDOSCalculator) -> None:
    atoms = crystal()
    atoms.calc = calculator
    queue.put(float(atoms.get_potential_energy()))


def test_a_forked_worker_works_after_its_parent_has(be_model: LDOSModel) -> None:
    """It waited for threads that a fork does not copy."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        atoms = crystal()
        atoms.calc = LDOSCalculator(be_model)
        expected = atoms.get_potential_energy()
        context = multiprocessing.get_context("fork")
        queue: multiprocessing.Queue[float] = context.Queue()
        child = context.Process(target=_energy_in_child, args=(queue, LDOSCalculator(be_model)))
        child.start()
        try:
            assert queue.get(timeout=60) == pytest.approx(expected, abs=1e-9)
        finally:
            child.kill()
            child.join()
    finally:
        torch.set_num_threads(before)


def test_one_calculator_in_several_threads(be_model: LDOSModel) -> None:
    calculator, crystals = LDOSCalculator(be_model), [bulk("Be", "hcp", a=2.2 + 0.02 * n, c=3.57) for n in range(4)]
    expected = [calculator.get_potential_energy(atoms) for atoms in crystals]
    found = [0.0] * len(crystals)

    def work(number: int) -> None:
        # each thread a calculator of its own, all of one model
        found[number] = LDOSCalculator(be_model).get_potential_energy(crystals[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(crystals))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("edge", "parameters", "message"),
    [
        (None, {"grid_spacing": 1e-4}, r"asks for some .* points"),
        (1e4, {}, r"asks for some .* points"),
        (None, {"electronic_temperature": 1e-100}, "not finite numbers"),
    ],
    ids=["spacing", "cell", "temperature"],
)
def test_the_impossible_is_refused_at_once(
    edge: float | None, parameters: dict[str, float], message: str, be_model: LDOSModel
) -> None:
    atoms = crystal()
    if edge is not None:
        atoms.set_cell(np.diag([edge] * 3))
    atoms.calc = LDOSCalculator(be_model, **parameters)
    with pytest.raises(InputError, match=message):
        atoms.get_potential_energy()


def test_results_belong_to_the_caller(be_model: LDOSModel) -> None:
    atoms = crystal()
    calculator = atoms.calc = LDOSCalculator(be_model)
    forces, density = atoms.get_forces(), calculator.get_density()
    expected = forces.copy(), density.copy()
    density -= density.mean()
    calculator.results["forces"] *= 0
    np.testing.assert_array_equal(calculator.get_density(), expected[1])
    prediction = calculator.prediction
    assert prediction.forces is not None
    np.testing.assert_array_equal(prediction.forces.numpy(), expected[0])


def test_a_grid_far_coarser_than_the_models_is_warned_of(be_model: LDOSModel) -> None:
    spacing = be_model.metadata.grid_spacing
    LDOSCalculator(be_model, grid_spacing=1.9 * spacing)
    with pytest.warns(UserWarning, match=r"grid_spacing 1\.8 Å is 4\.0 times"):
        calculator = LDOSCalculator(be_model, grid_spacing=4 * spacing)
    with pytest.warns(UserWarning, match="grid_spacing"):
        calculator.set(grid_spacing=3 * spacing)
