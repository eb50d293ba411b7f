"""The ASE calculator: names, units, caching and errors of ASE around ``predict``; nothing physical lives here.

How the grid is chosen, and when it changes during a run, is told in ``ase_ldos.calculator.grid_policy``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import (
    Calculator,
    CalculatorError,
    CalculatorSetupError,
    InputError,
    all_changes,
    external_calculators,
    register_calculator_class,
)
from ase.spectrum.dosdata import GridDOSData
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from ase_ldos.calculator.bands import NoBands
from ase_ldos.calculator.grid_policy import GridKeeper
from ase_ldos.calculator.options import check_parameter, make_graphs, prepare_model
from ase_ldos.communicator import Communicator
from ase_ldos.model.extrapolation import ExtrapolationWatch, atom_distances, warning_threshold
from ase_ldos.model.last_layer import check_calibrated
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.prediction.committee import sampled_force_deviations
from ase_ldos.prediction.deviations import Uncertainty
from ase_ldos.prediction.grid_pass import BlockObserver
from ase_ldos.prediction.grid_walk import default_points
from ase_ldos.prediction.local_density import atomic_dos, local_density
from ase_ldos.prediction.memory import is_out_of_memory, largest_fitting_block
from ase_ldos.prediction.predict import Prediction, fulfil_request, predict_ldos
from ase_ldos.prediction.quantities import evaluate_quantity
from ase_ldos.prediction.request import PredictionRequest, Thresholds, check_structure
from ase_ldos.torch_state import standard_torch_state

Result = TypeVar("Result")
#: A grid this many times coarser than the model's is warned of. A rattled cell of beryllium is off by 1, 9 and 118
#: meV/atom at 2, 2.8 and 4 times the spacing of `be`.
COARSE = 2.0


class OutOfMemoryError(CalculatorError, MemoryError):
    """The calculation does not fit into memory; the message names a ``chunk_size`` that does."""


class LDOSCalculator(NoBands, Calculator):
    """Energy, forces, stress, density and density of states from a predicted local density of states.

    ``energy`` and ``free_energy`` are both A, Mermin's free energy at the electronic temperature: forces and stress
    are its exact derivatives. The terms of A, and E = A + TS, are in ``prediction.energies``.

    Args:
        model: name of a bundled model (``"be"``), path of a model file, or a model, which is copied.
        device: ``"auto"`` (CUDA where there is a device, else the CPU) or any name that torch knows. Without a number,
            each process of torchrun takes its own GPU.
        dtype: of descriptor and network, ``"float32"`` or ``"float64"``; default is the model's. Sums and energies
            are float64 in any case.
        electronic_temperature: K; default is the model's.
        grid_spacing: target distance of grid points, Å; default is the model's.
        chunk_size: grid points that are handled at once; memory grows with it. Default: a block that suits a CPU's
            cache, or a batch of blocks on a GPU.
        accepted_force_error: eV/Å; atoms are warned of where held-back structures as far from the training data have
            forces as wrong as this. Default: what the model was calibrated with.
        remove_net_force: subtract the mean force from all forces, as DFT codes do. The grid does not move with the
            atoms, so that A depends a little on where they lie between its points, and the forces, its exact
            derivatives, do not add up to zero. Without their mean the centre of mass stays at rest and acoustic
            phonons at Γ come closer to zero; but forces are then no longer exact derivatives: for phonons and
            relaxations, not for NVE.
        kernels: what evaluates a power spectrum on a GPU: ``"torch"``, or ``"triton"``, which needs that package (torch
            for CUDA brings it) and keeps less in memory.
        cuda_graphs: record what the grid of a small cell needs on a GPU once, as a CUDA graph, and replay it at each
            step (``prediction.batch_graphs``); results are the same up to rounding, memory of a batch stays in use.

    Attributes:
        communicator: ranks that share the work, see ``ase_ldos.calculator.parallel``.
        progress: show bars in calculations that take long; or a function that is told of each block of grid points
            that is done, see ``predict``.
        uncertainty: give standard deviations with each calculation, in ``prediction.uncertainty``.

    Raises:
        CalculatorSetupError: no such model, a damaged one, or a parameter that makes no sense.
    """

    name = "ldos"
    nolabel = True
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012
    discard_results_on_any_change = True

    def __init__(
        self,
        model: str | Path | LDOSModel,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype | None = None,
        electronic_temperature: float | None = None,
        grid_spacing: float | None = None,
        chunk_size: int | None = None,
        accepted_force_error: float | None = None,
        remove_net_force: bool = False,
        kernels: str = "torch",
        cuda_graphs: bool = False,
    ) -> None:
        self.communicator, self.uncertainty = Communicator(), False
        self.progress: bool | BlockObserver = False
        self._prediction: Prediction | None = None
        self._wants_stress = False
        self._grid = GridKeeper()
        self._model = prepare_model(model, device, dtype, kernels)
        self._graphs = make_graphs(self._model) if cuda_graphs else None
        metadata = self._model.metadata
        self.accepted_force_error = _checked_force_error(metadata, accepted_force_error)
        self._watch = ExtrapolationWatch(self._model, self.accepted_force_error)
        super().__init__()
        # only plain types, so that trajectories and databases can store them
        self.parameters["model"] = metadata.name if isinstance(model, LDOSModel) else str(model)
        self.parameters["device"] = str(self._model.device)
        self.parameters["dtype"] = str(self._model.dtype).removeprefix("torch.")
        self.parameters["kernels"] = kernels
        self.parameters["cuda_graphs"] = bool(cuda_graphs)
        self.parameters["remove_net_force"] = bool(remove_net_force)
        points = default_points(self._model.device)
        defaults = (metadata.electronic_temperature, metadata.grid_spacing, points)
        given = (electronic_temperature, grid_spacing, chunk_size)
        names = ("electronic_temperature", "grid_spacing", "chunk_size")
        self.set(**{n: default if value is None else value for n, default, value in zip(names, defaults, given)})

    @property
    def model(self) -> LDOSModel:
        """The calculator's own copy of the model."""
        return self._model

    @property
    def prediction(self) -> Prediction:
        """Everything the last calculation found: energy terms, μ, DOS, density, grid.

        Raises:
            CalculatorError: nothing has been calculated yet.
        """
        if self._prediction is None:
            raise CalculatorError("nothing has been calculated yet; ask the atoms for their potential energy first")
        return self._prediction

    @property
    def grid_shape(self) -> tuple[int, int, int] | None:
        """Numbers of grid points along the lattice vectors; None before the first calculation."""
        return self._grid.shape

    def fix_grid(self, shape: tuple[int, int, int] | None) -> None:
        """Use a grid of this shape whatever the cell is; None chooses by the target spacing again.

        Raises:
            CalculatorSetupError: not three positive integers.
        """
        try:
            self._grid = GridKeeper(shape)
        except ValueError as error:
            raise CalculatorSetupError(str(error)) from error
        self.reset()

    def set(self, **kwargs: object) -> dict[str, Any]:
        """Change ``electronic_temperature`` (K), ``grid_spacing`` (Å) or ``chunk_size``; see the class.

        Raises:
            CalculatorSetupError: an unknown parameter or a value that makes no sense.
        """
        checked = {name: check_parameter(name, value) for name, value in kwargs.items()}
        changed: dict[str, Any] = super().set(**checked)
        if "grid_spacing" in changed:
            self._grid.forget()
            self._warn_of_coarse_grid()
        return changed

    def _warn_of_coarse_grid(self) -> None:
        """The model learned from points as close as its own spacing; sums over far fewer are another energy."""
        spacing, own = self.parameters["grid_spacing"], self._model.metadata.grid_spacing
        if spacing > COARSE * own:
            warnings.warn(
                f"grid_spacing {spacing:g} Å is {spacing / own:.1f} times the model's own, {own:g} Å: energies and "
                "forces may be off by more than the model's error; compare with its own spacing",
                stacklevel=3,
            )

    def reset(self) -> None:
        """Forget the last calculation; the grid stays."""
        super().reset()
        self._prediction = None

    @standard_torch_state()
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = all_changes,
    ) -> None:
        """Predict; forces and stress only if one of them is among the properties.

        Once the stress has been asked for, it is found together with the forces: a run under a barostat, which asks
        for one after the other at every step, then needs one calculation per step.

        Atoms in surroundings unlike any of the model's training data are warned of, once per run
        (``ase_ldos.model.extrapolation.ExtrapolationWarning``).

        Raises:
            InputError: these atoms are not what the model is for; the message says why.
            OutOfMemoryError: a smaller chunk is needed; the message says which.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError("there are no atoms to calculate; pass an Atoms object")
        self.results, self._prediction = {}, None
        self._wants_stress |= "stress" in properties
        forces = "forces" in properties or "stress" in properties
        with _input_errors():
            structure = check_structure(self._model, self.atoms)
            grid = self._grid.choose(structure, self.parameters["grid_spacing"])
        self._watch.look(structure)
        request = PredictionRequest(
            structure,
            grid.shape,
            electronic_temperature=self.parameters["electronic_temperature"],
            chunk_size=self.parameters["chunk_size"],
            forces=forces,
            stress=forces and self._wants_stress,
            uncertainty=self.uncertainty,
            thresholds=Thresholds.for_device(self._model.device),
        )

        def run() -> Prediction:
            if self.communicator.is_root and self.communicator.size > 1:
                request.broadcast(self.communicator)
            return fulfil_request(
                self._model,
                request,
                communicator=self.communicator,
                progress=self.progress,
                graphs=self._graphs,
            )

        with _input_errors():
            prediction = self._within_memory(run, request)
        self._prediction = prediction
        self.results = {"energy": prediction.free_energy, "free_energy": prediction.free_energy}
        if prediction.forces is not None:
            forces_found = _copy(prediction.forces)
            if self.parameters["remove_net_force"]:
                forces_found -= forces_found.mean(axis=0)
            self.results["forces"] = forces_found
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress.cpu().numpy())

    def get_density(self, atoms: Atoms | None = None) -> np.ndarray:
        """Valence electron density n, e/Å³, ``[nx, ny, nz]``, of ``atoms`` (default: the last calculation's)."""
        return _copy(self._current(atoms).density)

    def get_pseudo_density(self, spin: int | None = None, pad: bool = True) -> np.ndarray:  # noqa: ARG002
        """The density under the name and with the arguments that ASE's tools (STM, cube) use; spin is summed over."""
        if spin is not None:
            raise ValueError(f"spin is {spin}, but the model's states hold both spins; leave it out")
        return self.get_density()

    def get_dos(self, atoms: Atoms | None = None) -> GridDOSData:
        """Density of states, 1/eV, spins summed, at the nodes of the model's energy grid."""
        prediction = self._current(atoms)
        energies = prediction.energy_grid.cpu().numpy()
        # GridDOSData wants even steps; where the nodes are even this changes nothing
        even = np.linspace(energies[0], energies[-1], len(energies))
        info = {"label": f"{self.parameters['model']} LDOS", "fermi_level": f"{prediction.fermi_level:.6f}"}
        return GridDOSData(even, np.interp(even, energies, prediction.dos.cpu().numpy()), info=info)

    def get_fermi_level(self, atoms: Atoms | None = None) -> float:
        """Fermi level μ at the electronic temperature, eV."""
        return self._current(atoms).fermi_level

    @standard_torch_state()
    def get_ldos(self, atoms: Atoms | None = None) -> np.ndarray:
        """The local density of states, 1/(eV Å³), ``[nx, ny, nz, energy]``: large, and evaluated at every call."""

        def evaluate(request: PredictionRequest) -> Tensor:
            return predict_ldos(self._model, request.structure, request.grid_shape, chunk_size=request.chunk_size)

        return self._evaluate_again(evaluate, atoms)

    def get_quantity(self, name: str, atoms: Atoms | None = None) -> float | np.ndarray:
        """A derived quantity by its name, in the unit that ``prediction.quantities.QUANTITIES`` tells.

        For example ``"electronic_heat_capacity"``, or one that another package has registered.

        Raises:
            ValueError: there is no such quantity; the message names those that are known.
        """
        return evaluate_quantity(name, self._model, self._current(atoms))

    @standard_torch_state()
    def get_local_density(self, window: tuple[float, float], atoms: Atoms | None = None) -> np.ndarray:
        """LDOS integrated over an energy window (eV), states/Å³, spins summed, ``[nx, ny, nz]``.

        Evaluated at every call, without the array grid × energy. A narrow window about the Fermi level is what a
        scanning tunnelling microscope sees.

        Raises:
            InputError: the window's ends are in the wrong order, or it lies outside the model's energies.
        """

        def evaluate(request: PredictionRequest) -> Tensor:
            structure, grid = request.structure, request.grid
            return local_density(self._model, structure, grid, window, chunk_size=request.chunk_size)

        with _input_errors():
            return self._evaluate_again(evaluate, atoms)

    @standard_torch_state()
    def get_atomic_dos(self, atoms: Atoms | None = None) -> np.ndarray:
        """Density of states of each atom's Voronoi cell, 1/eV, ``[atom, energy]``; evaluated at every call."""

        def evaluate(request: PredictionRequest) -> Tensor:
            return atomic_dos(self._model, request.structure, request.grid, chunk_size=request.chunk_size)

        return self._evaluate_again(evaluate, atoms)

    @standard_torch_state()
    def get_extrapolation(self, atoms: Atoms | None = None) -> np.ndarray:
        """Distance of each atom's surroundings from the training data, ``[atom]``; see ``model.extrapolation``.

        Raises:
            InputError: these atoms are not what the model is for, or the model does not know its training range.
        """
        with _input_errors():
            structure = check_structure(self._model, self.get_atoms() if atoms is None else atoms)
            return atom_distances(self._model, structure).cpu().numpy()

    @standard_torch_state()
    def get_uncertainty(self, atoms: Atoms | None = None, *, force_samples: int = 0) -> Uncertainty:
        """Standard deviations of A, μ, DOS, density and forces; see ``prediction.deviations`` and ``.committee``.

        Where ``uncertainty`` was not set before the calculation, it is repeated, without forces.

        Args:
            atoms: default: the last calculation's.
            force_samples: 0: deviations of forces by the distance from the training data, all three components alike;
                2 or more: from so many samples of the last layer, each of which costs as much as a force step.

        Raises:
            InputError: the model was not calibrated for this; see ``ase-ldos calibrate --help``.
        """
        with _input_errors():
            check_calibrated(self._model)
            prediction = self._current(atoms)
            request = self._request_again(uncertainty=True)
            found = prediction.uncertainty
            if found is None:
                found = self._within_memory(lambda: fulfil_request(self._model, request), request).uncertainty
                self._prediction = replace(prediction, uncertainty=found)
            assert found is not None
            if force_samples == 0:
                return found
            sampled = replace(request, uncertainty=False, forces=True)

            def sample() -> Tensor:
                return sampled_force_deviations(self._model, sampled, force_samples, progress=self.progress is True)

            return replace(found, forces=self._within_memory(sample, sampled))

    def view(self, atoms: Atoms | None = None) -> object:
        """A page to look at density, DOS and states in space, shown by Jupyter below the cell, offline.

        Args:
            atoms: default: the last calculation's.
        """
        # by name, because the viewer is built upon the calculator
        viewer = import_module("ase_ldos.web.notebook")
        return viewer.view(self, self.get_atoms() if atoms is None else atoms)

    def _current(self, atoms: Atoms | None) -> Prediction:
        """The prediction of the atoms, or the last one."""
        if atoms is not None:
            self.get_property("energy", atoms)
        return self.prediction

    def _evaluate_again(self, evaluate: Callable[[PredictionRequest], Tensor], atoms: Atoms | None) -> np.ndarray:
        """What a function gives for the atoms (default: the last calculation's) on the grid of their prediction."""
        self._current(atoms)
        request = self._request_again()
        return self._within_memory(lambda: evaluate(request), request).cpu().numpy()

    def _request_again(self, *, uncertainty: bool = False) -> PredictionRequest:
        """For the last calculation's atoms, on its grid and at its temperature, without forces."""
        return PredictionRequest(
            check_structure(self._model, self.get_atoms()),
            self.prediction.grid.shape,
            self.prediction.electronic_temperature,
            chunk_size=self.parameters["chunk_size"],
            thresholds=Thresholds.for_device(self._model.device),
            uncertainty=uncertainty,
        )

    def _within_memory(self, run: Callable[[], Result], request: PredictionRequest) -> Result:
        """Call ``run``; turn a failed allocation into an error that says which ``chunk_size`` fits."""
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # only here, after the except clause, is the memory free that the failed call's frames held
        size = min(request.chunk_size, request.grid.n_points)
        fitting = largest_fitting_block(self._model, request)
        advice = (
            "even the smallest chunk does not fit, take a coarser grid_spacing or a machine with more memory"
            if fitting is None
            else f"chunk_size={fitting} fits"
        )
        where = f"chunk_size={size} on a grid of {request.grid_shape}"
        raise OutOfMemoryError(f"out of memory with {where}: {advice} ({reason})")


def _checked_force_error(metadata: ModelMetadata, force_error: float | None) -> float | None:
    """The accepted force error, if the model can tell where it is passed.

    Raises:
        CalculatorSetupError: it is not positive, or the model cannot.
    """
    if force_error is not None:
        try:
            warning_threshold(metadata, force_error)
        except ValueError as error:
            raise CalculatorSetupError(str(error)) from error
    return force_error


def _copy(values: Tensor) -> np.ndarray:
    """An array of the caller's own: what is done to it does not change the prediction."""
    return values.detach().to("cpu", copy=True).numpy()


@contextmanager
def _input_errors() -> Iterator[None]:
    """Turn the package's ``ValueError`` into ASE's ``InputError``."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


if LDOSCalculator.name not in external_calculators:
    register_calculator_class(LDOSCalculator.name, LDOSCalculator)
