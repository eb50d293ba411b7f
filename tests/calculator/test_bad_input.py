"""Bad input to the calculator: ASE's errors, one clear sentence each. The command line is in test_cli.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculatorError, CalculatorSetupError, InputError

from ase_ldos.calculator.calculator import LDOSCalculator, OutOfMemoryError
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import save_model


def hcp() -> Atoms:
    return bulk("Be", "hcp", a=2.27, c=3.57)


def with_cell(cell: object) -> Atoms:
    atoms = hcp()
    atoms.set_cell(cell)
    return atoms


def with_positions(*positions: object) -> Atoms:
    atoms = hcp()
    atoms.set_positions(positions)
    return atoms


def with_pbc(pbc: object) -> Atoms:
    atoms = hcp()
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(
    ("atoms", "sentence"),
    [
        (bulk("Mg"), "the model knows Be; the atoms contain Mg"),
        (with_pbc(False), r"\[False, False, False\]; all three must be True"),
        (with_pbc([True, True, False]), r"\[True, True, False\]; all three must be True"),
        (with_cell(np.zeros((3, 3))), "the cell is singular"),
        (with_cell([[3, 0, 0], [0, 3, 0], [3, 3, 1e-9]]), "the cell is singular"),
        (with_cell(0.3 * np.eye(3)), r"Å³ per atom; at least 1.0 is expected \(are lengths in Å\?\)"),
        (with_positions([0, 0, 0], [0, np.nan, 1]), "contain NaN or infinity"),
        (with_positions([0, 0, 0], [0, np.inf, 1]), "contain NaN or infinity"),
        (with_cell([[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]]), "contain NaN or infinity"),
        (
            with_positions([0, 0, 0], [0, 0, 0]),
            "atoms 0 and 1 are 0.000 Å apart; the model knows no distances below 1.0",
        ),
        (with_positions([0, 0, 0], [0, 0, 3.0]), "0.570 Å apart"),
        (Atoms(cell=3 * np.eye(3), pbc=True), "the structure has no atoms"),
    ],
)
def test_atoms_that_are_no_periodic_piece_of_matter(be_model: LDOSModel, atoms: Atoms, sentence: str) -> None:
    atoms = atoms.copy()
    atoms.calc = LDOSCalculator(be_model, device="cpu")
    with pytest.raises(InputError, match=sentence) as caught:
        atoms.get_potential_energy()
    assert "\n" not in str(caught.value)
    assert atoms.calc.results == {}


def test_no_atoms_at_all(be_model: LDOSModel) -> None:
    with pytest.raises(InputError, match="there are no atoms to calculate"):
        LDOSCalculator(be_model, device="cpu").calculate()


@pytest.mark.parametrize("value", [0, -300, np.nan, np.inf, "hot", True])
def test_electronic_temperature_that_is_none(be_model: LDOSModel, value: object) -> None:
    with pytest.raises(CalculatorSetupError, match=r"electronic_temperature is .*; it must be a positive number of K"):
        LDOSCalculator(be_model, device="cpu", electronic_temperature=value)  # type: ignore[arg-type]


def test_electronic_temperature_beyond_the_window(be_model: LDOSModel) -> None:
    atoms = hcp()
    atoms.calc = LDOSCalculator(be_model, device="cpu", electronic_temperature=1e5)
    with pytest.raises(
        InputError, match=r"100000 K is beyond the energy window -5 to 12 eV.* at most (\d+) K"
    ) as caught:
        atoms.get_potential_energy()
    hottest = re.search(r"at most (\d+) K", str(caught.value))
    assert hottest is not None
    atoms.calc.set(electronic_temperature=0.99 * float(hottest[1]))
    assert np.isfinite(atoms.get_potential_energy())


def test_too_few_states(be_model: LDOSModel) -> None:
    be_model.network.head.bias.fill_(0.001)
    be_model.network.head.weight.fill_(0.0)
    atoms = hcp()
    atoms.calc = LDOSCalculator(be_model, device="cpu")
    with pytest.raises(InputError, match=r"holds 0.27\d* states, too few for 4 electrons"):
        atoms.get_forces()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"grid_spacing": 0}, "grid_spacing is 0; it must be a positive number of Å"),
        ({"grid_spacing": -0.2}, "grid_spacing is -0.2"),
        ({"chunk_size": 0}, "chunk_size is 0; it must be a positive number of grid points"),
        ({"chunk_size": 2.5}, "chunk_size is 2.5; it must be a whole number"),
        ({"dtype": "float16"}, "dtype is 'float16'; it must be float32 or float64"),
        ({"kernels": "triton"}, "triton"),  # on the CPU, or not installed
        ({"kernels": "cuda"}, "kernels is 'cuda'; it must be torch or triton"),
        ({"cuda_graphs": True}, "cuda_graphs=True needs a CUDA device; the model is on cpu"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_options_that_make_no_sense(be_model: LDOSModel, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(CalculatorSetupError, match=sentence):
        LDOSCalculator(be_model, **{"device": "cpu", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["cutoff", "atom_cutoff", "lmax"])
def test_what_a_model_was_built_with_cannot_be_set(either_model: LDOSModel, name: str) -> None:
    calculator = LDOSCalculator(either_model, device="cpu")
    with pytest.raises(CalculatorSetupError, match=f"'{name}' cannot be set: a model keeps what it was trained with"):
        calculator.set(**{name: 3})


def test_model_files(tmp_path: Path) -> None:
    with pytest.raises(CalculatorSetupError, match="no bundled model of that name"):
        LDOSCalculator("unobtainium")
    (tmp_path / "broken.safetensors").write_bytes(b"PK\x03\x04 not tensors")
    with pytest.raises(CalculatorSetupError, match="is damaged"):
        LDOSCalculator(tmp_path / "broken.safetensors")


OUT_OF_MEMORY = """
import resource, sys
import torch
from ase.build import bulk
from ase_ldos.calculator.calculator import LDOSCalculator, OutOfMemoryError

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

torch.set_num_threads(1)
atoms = bulk("Be", "hcp", a=2.27, c=3.57).repeat((2, 2, 2))
atoms.calc = LDOSCalculator(sys.argv[1], device="cpu", grid_spacing=0.33, chunk_size=100)
atoms.get_forces()
atoms.calc.set(chunk_size=10**6)
resource.setrlimit(resource.RLIMIT_AS, (used() + 60 * 2**20,) * 2)
try:
    atoms.get_forces()
except OutOfMemoryError as error:
    print(error)
    fitting = int(str(error).split(": chunk_size=")[1].split()[0])
    atoms.calc.set(chunk_size=fitting)
    print("energy", atoms.get_forces().shape, fitting)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_out_of_memory_names_a_chunk_that_fits(be_model: LDOSModel, tmp_path: Path) -> None:
    save_model(be_model, tmp_path / "small.safetensors")
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path / "small.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    message, proof = run.stdout.splitlines()
    assert message.startswith("out of memory with chunk_size=")
    assert proof.startswith("energy (16, 3) ")


def test_the_memory_error_is_both_kinds() -> None:
    assert issubclass(OutOfMemoryError, MemoryError)
    assert issubclass(OutOfMemoryError, CalculatorError)
