"""The main path: structure → hidden features → DOS → μ → density → energies → forces and stress.

The grid is walked in blocks. The way out (``grid_pass``) sums the hidden features (hence D and μ) and gives the
density; the global physics (``free_energy_gradient``) gives energies and the gradient of A in the LDOS,
g(ε, r) = a(ε) + λ(r) b(ε); the way back (``backward``) pulls it through network and descriptor. With the linear head
d = W h + c it acts on the hidden features as Wᵀa + λ(r) Wᵀb, so that no array grid × energy is ever built. Forces and
stress are exact derivatives of the discrete sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ase import Atoms
from torch import Tensor
from torch.profiler import record_function

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.last_layer import check_calibrated
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.free_energy import Energies
from ase_ldos.physics.heat_capacity import electronic_entropy
from ase_ldos.prediction.backward import pull_back
from ase_ldos.prediction.batch_graphs import BatchGraphs
from ase_ldos.prediction.checkpointing import PredictionCheckpoint
from ase_ldos.prediction.deviations import DeviationSums, Uncertainty
from ase_ldos.prediction.free_energy_gradient import Electrons, find_gradient
from ase_ldos.prediction.gather import gather_fields
from ase_ldos.prediction.grid_pass import BlockObserver, GridEvaluator, choose_strategy
from ase_ldos.prediction.grid_walk import GridWalk
from ase_ldos.prediction.request import PredictionRequest, Thresholds, check_structure
from ase_ldos.torch_state import standard_torch_state


@dataclass(frozen=True)
class Prediction:
    """What a model says about a structure; tensors in eV, Å, e, float64.

    The density lies on the model's device, all else on the CPU.

    Attributes:
        energies: the terms of the free energy.
        fermi_level: μ, eV.
        electronic_temperature: K.
        entropy: S = −∂A/∂T of the electrons at fixed atoms, eV/K.
        learned_heat_capacity: what ``model.thermal_correction`` adds to T ∂S/∂T of the occupations, eV/K.
        energy_grid: nodes, eV, ``[energy]``.
        dos: D, 1/eV, ``[energy]``.
        density: n at the electronic temperature, e/Å³, ``[nx, ny, nz]``.
        grid: of the density.
        forces: −∂A/∂R, eV/Å, ``[atom, 3]``, if wanted.
        stress: (1/V) ∂A/∂ε, eV/Å³, ``[3, 3]``, tension positive, if wanted.
        uncertainty: standard deviations, if wanted.
    """

    energies: Energies
    fermi_level: float
    electronic_temperature: float
    entropy: float
    learned_heat_capacity: float
    energy_grid: Tensor
    dos: Tensor
    density: Tensor
    grid: Grid
    forces: Tensor | None = None
    stress: Tensor | None = None
    uncertainty: Uncertainty | None = None

    @property
    def free_energy(self) -> float:
        """A, eV."""
        return float(self.energies.free_energy)


@standard_torch_state()
def predict(
    model: LDOSModel,
    atoms: Atoms | Structure,
    *,
    forces: bool = False,
    stress: bool = False,
    electronic_temperature: float | None = None,
    grid_shape: tuple[int, int, int] | None = None,
    chunk_size: int | None = None,
    fermi_guess: float | None = None,
    thresholds: Thresholds | None = None,
    uncertainty: bool = False,
    communicator: Communicator | None = None,
    checkpoint: Path | None = None,
    progress: bool | BlockObserver = False,
) -> Prediction:
    """Predict energies, Fermi level, DOS and density of a structure, and forces and stress if wanted.

    Args:
        model: on the device where it shall work.
        atoms: ASE atoms, which are checked (periodic matter, elements and distances that the model knows), or a
            ``Structure`` in float64, which is taken as it is, apart from its elements.
        forces: give forces.
        stress: give the stress. Without either, no backward pass is run.
        electronic_temperature: K; default is the model's. A model that has learned how its free energy changes with it
            (``model.thermal_correction``) refuses what is above all that it has learned.
        grid_shape: numbers of grid points along the lattice vectors; default is the model's spacing.
        chunk_size: grid points of a block, which are handled at once: memory grows with it.
        fermi_guess: a Fermi level near the right one, eV, such as the last step's.
        thresholds: from which sizes on large systems are handled in other ways.
        uncertainty: give standard deviations, see ``prediction.deviations``.
        communicator: ranks that share the grid; each calls this with the same arguments and gets the same result.
        checkpoint: folder from which an interrupted calculation resumes, to the same numbers; it is not removed at the
            end.
        progress: show progress bars with the remaining time, or a function that is told of each block of each walk
            over the grid, on rank 0: name, blocks that are done, of how many. What it raises ends the prediction.

    Raises:
        ValueError: atoms that the model is not for, uncertainty from a model that is not calibrated, an electronic
            temperature that is not positive or beyond the energy window, too few states below the window's top, a
            checkpoint of another calculation.
        RankLostError: another rank has ended.
    """
    structure = check_structure(model, atoms) if isinstance(atoms, Atoms) else atoms.to("cpu")
    request = PredictionRequest.for_model(
        model,
        structure,
        grid_shape=grid_shape,
        electronic_temperature=electronic_temperature,
        chunk_size=chunk_size,
        forces=forces,
        stress=stress,
        fermi_guess=fermi_guess,
        thresholds=thresholds,
        uncertainty=uncertainty,
    )
    return fulfil_request(model, request, communicator=communicator, checkpoint=checkpoint, progress=progress)


@standard_torch_state()
def fulfil_request(
    model: LDOSModel,
    request: PredictionRequest,
    *,
    communicator: Communicator | None = None,
    checkpoint: Path | None = None,
    progress: bool | BlockObserver = False,
    graphs: BatchGraphs | None = None,
) -> Prediction:
    """The prediction of a request, on the model's device; arguments and errors as of ``predict``.

    ``graphs``, kept from step to step, record what batches of a small grid need on a GPU (``batch_graphs``).
    """
    communicator = Communicator() if communicator is None else communicator
    if model.thermal_correction is not None:
        model.thermal_correction.check(request.electronic_temperature)
    # no rank without a block
    chunk_size = min(request.chunk_size, max(1, request.grid.n_points // communicator.size))
    if request.uncertainty:
        check_calibrated(model)
    request = replace(request, structure=request.structure.to("cpu"), chunk_size=chunk_size)
    original, grid, model = model, request.grid, model.with_fused_scaler()
    with PredictionCheckpoint.of(checkpoint, model, request, communicator) as kept:
        evaluator = GridEvaluator(
            model, request, communicator=communicator, checkpoint=kept, progress=progress, graphs=graphs
        )
        strategy = choose_strategy(evaluator)
        with torch.no_grad(), record_function("ase_ldos::density_of_states"):
            hidden_sum, fermi_levels = strategy.sum_hidden()
        with torch.no_grad(), record_function("ase_ldos::density"):
            own = strategy.density(fermi_levels)
            fields = gather_fields(own, grid, evaluator.ranges, communicator)
            response = own[-1].clone() if request.uncertainty else own.new_empty(0)
            del strategy, own
        with record_function("ase_ldos::energies"):
            ldos_sum, heat = evaluator.ldos_sum(hidden_sum), evaluator.thermal_energies
            electrons = Electrons(ldos_sum, fermi_levels, heat, evaluator.charges, hidden_sum)
            gradient, density = find_gradient(model, request, electrons, fields, communicator)
            del fields
        forces, stress, deviations, uncertainty = None, None, None, None
        if request.uncertainty:
            deviations = DeviationSums(evaluator, gradient, electrons, hidden_sum, response)
        if request.needs_gradient:
            with record_function("ase_ldos::forces"):
                shown = deviations if checkpoint is None else None
                forces, stress = pull_back(evaluator, gradient, strained=request.stress, deviations=shown)
        if deviations is not None:
            with record_function("ase_ldos::uncertainty"):
                if not request.needs_gradient or checkpoint is not None:
                    deviations.walk()
                uncertainty = deviations.finish(original)
    entropy, learned_heat_capacity = _thermal_slopes(model, request, electrons)
    found = Prediction(
        energies=Energies.from_terms(gradient.terms, len(request.structure)),
        fermi_level=fermi_levels[-1] + float(model.energy_shift(request.structure)),
        electronic_temperature=request.electronic_temperature,
        entropy=entropy,
        learned_heat_capacity=learned_heat_capacity,
        energy_grid=model.energies_on_cpu + model.energy_shift(request.structure),
        dos=evaluator.dos(hidden_sum),
        density=density.reshape(grid.shape),
        grid=grid,
        forces=forces if request.forces else None,
        stress=stress if request.stress else None,
        uncertainty=uncertainty,
    )
    _refuse_non_finite(found)
    return found


def _thermal_slopes(model: LDOSModel, request: PredictionRequest, electrons: Electrons) -> tuple[float, float]:
    """S = −∂A/∂T and what is learned of C = T ∂S/∂T, at fixed atoms, eV/K."""
    temperature, grid = request.electronic_temperature, request.grid
    dos = electrons.ldos_sum * grid.voxel_volume
    entropy = float(electronic_entropy(dos, model.energies_on_cpu, electrons.fermi_levels[-1], temperature))
    if model.thermal_correction is None:
        return entropy, 0.0
    change = model.thermal_correction.integrate(temperature, electrons.hidden_sum, grid.n_points, grid.voxel_volume)
    return entropy - float(change[1]), -temperature * float(change[2])


def _refuse_non_finite(found: Prediction) -> None:
    """The one place where numbers that are none are stopped, wherever they came from.

    Raises:
        ValueError: which quantity it is.
    """
    quantities = {
        "energy terms": found.energies.terms(),
        "DOS": found.dos,
        "forces": found.forces,
        "stress": found.stress,
    }
    for name, value in quantities.items():
        if value is not None and not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"the {name} predicted at {found.electronic_temperature:g} K are not finite numbers: the model, the "
                "electronic temperature or the structure is out of all bounds"
            )


@standard_torch_state()
def predict_ldos(
    model: LDOSModel,
    structure: Structure,
    grid_shape: tuple[int, int, int] | None = None,
    *,
    chunk_size: int | None = None,
) -> Tensor:
    """The whole LDOS, 1/(eV Å³), in the model's dtype, ``[nx, ny, nz, energy]``: the one large array there is.

    Args:
        model: on the device that is to work, and where the result will be.
        structure: the atoms.
        grid_shape: numbers of grid points along the lattice vectors; default is the model's spacing.
        chunk_size: grid points that are handled at once.
    """
    request = PredictionRequest.for_model(model, structure.to("cpu"), grid_shape=grid_shape, chunk_size=chunk_size)
    grid = request.grid
    weight, bias = (part.to(model.dtype) for part in model.head)
    ldos = torch.empty(grid.n_points, len(bias), dtype=model.dtype, device=model.device)
    with torch.no_grad():
        walk = GridWalk(model, request.structure, grid, request.chunk_size)
        for block in walk.blocks():
            ldos[block.flat] = torch.addmm(bias, walk.hidden(block), weight.T)
    return ldos.reshape(*grid.shape, -1)
