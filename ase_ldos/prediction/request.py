"""What is to be predicted: the arguments of ``predict`` as one object, which travels between ranks as plain tensors."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, field, fields

import torch
from ase import Atoms

from ase_ldos.communicator import Communicator
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import DEFAULT_BLOCK
from ase_ldos.geometry.neighbours import check_distances
from ase_ldos.geometry.structure import Structure, species_indices
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.density_functionals import BLOCK_POINTS, GPU_BLOCK_POINTS, SINGLE_FROM
from ase_ldos.physics.ewald import MESH_FROM
from ase_ldos.prediction.grid_walk import default_points
from ase_ldos.units import BOLTZMANN


@dataclass(frozen=True)
class Thresholds:
    """Sizes from which on large systems are handled in other ways than small ones; the defaults suit one node.

    Attributes:
        keep_bytes: hidden features of all points are kept until μ is known up to this many bytes; beyond, the density
            is interpolated in μ.
        sample_step: where no guess of μ is given, one block in so many is a sample of the grid,
        sample_minimum: but no fewer than this many blocks.
        misplaced: largest part of the electrons that the interpolation in μ may put wrong before it is repeated.
        density_block: points of the grid at which terms of the density are evaluated at once.
        single_from: points of the grid from which on the density is transformed in float32.
        mesh_from: atoms from which on Ewald's waves are summed on a mesh.
    """

    keep_bytes: int = 512 * 2**20
    sample_step: int = 24
    sample_minimum: int = 64
    misplaced: float = 1e-7
    density_block: int = BLOCK_POINTS
    single_from: int = SINGLE_FROM
    mesh_from: int = MESH_FROM

    @classmethod
    def for_device(cls, device: torch.device) -> Thresholds:
        """Those that suit a device: a GPU has no cache to stay in, and wants few, large calls."""
        return cls(density_block=GPU_BLOCK_POINTS, keep_bytes=2**30) if device.type == "cuda" else cls()


@dataclass(frozen=True)
class PredictionRequest:
    """One prediction; ``for_model`` fills in what a model knows better.

    Attributes:
        structure: the atoms, float64.
        grid_shape: numbers of grid points along the lattice vectors.
        electronic_temperature: K.
        chunk_size: grid points of a block, which are handled at once.
        forces: wanted?
        stress: wanted?
        fermi_guess: a Fermi level near the right one, eV, such as the last step's; None: there is none.
        thresholds: sizes from which on large systems are handled in other ways.
        uncertainty: are standard deviations wanted?

    Raises:
        ValueError: a grid or blocks without points.
    """

    structure: Structure
    grid_shape: tuple[int, int, int]
    electronic_temperature: float
    chunk_size: int = DEFAULT_BLOCK
    forces: bool = False
    stress: bool = False
    fermi_guess: float | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    uncertainty: bool = False

    def __post_init__(self) -> None:
        """Refuse a grid or blocks without points."""
        if len(self.grid_shape) != 3 or min(self.grid_shape) < 1:
            raise ValueError(f"grid_shape is {self.grid_shape}; it must be three positive integers")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size is {self.chunk_size}; it must be a positive number of grid points")

    @classmethod
    def for_model(
        cls,
        model: LDOSModel,
        structure: Structure,
        *,
        grid_shape: tuple[int, int, int] | None = None,
        electronic_temperature: float | None = None,
        chunk_size: int | None = None,
        forces: bool = False,
        stress: bool = False,
        fermi_guess: float | None = None,
        thresholds: Thresholds | None = None,
        uncertainty: bool = False,
    ) -> PredictionRequest:
        """A request with the model's own grid spacing and electronic temperature where none are given."""
        metadata = model.metadata
        if grid_shape is None:
            grid_shape = Grid.with_spacing(structure.cell, metadata.grid_spacing).shape
        return cls(
            structure,
            grid_shape,
            metadata.electronic_temperature if electronic_temperature is None else electronic_temperature,
            default_points(model.device) if chunk_size is None else chunk_size,
            forces,
            stress,
            fermi_guess,
            Thresholds.for_device(model.device) if thresholds is None else thresholds,
            uncertainty,
        )

    @property
    def grid(self) -> Grid:
        """Where the LDOS is evaluated."""
        return Grid(self.structure.cell, self.grid_shape)

    @property
    def thermal_energy(self) -> float:
        """Boltzmann's constant times the electronic temperature, kT, eV."""
        return BOLTZMANN * self.electronic_temperature

    @property
    def needs_gradient(self) -> bool:
        """Whether derivatives of the free energy with respect to the atoms are wanted."""
        return self.forces or self.stress

    @property
    def differentiates(self) -> bool:
        """Whether the derivative of the free energy with respect to the LDOS is needed."""
        return self.needs_gradient or self.uncertainty

    def broadcast(self, communicator: Communicator) -> None:
        """Send it from rank 0 to the others, which wait in ``receive``; no pickle travels between ranks."""
        guess = math.nan if self.fermi_guess is None else self.fermi_guess
        wanted = (self.forces, self.stress, self.uncertainty)
        # every whole number here is below 2⁵³, and so exact in float64
        numbers = (len(self.structure), *self.grid_shape, self.electronic_temperature, self.chunk_size, *wanted, guess)
        communicator.broadcast(torch.tensor([*numbers, *astuple(self.thresholds)], dtype=torch.float64))
        for tensor in (self.structure.numbers, self.structure.positions, self.structure.cell):
            communicator.broadcast(tensor.detach().cpu().contiguous())

    @classmethod
    def receive(cls, communicator: Communicator) -> PredictionRequest | None:
        """Wait for the next request of rank 0; None where it has no more."""
        first = communicator.broadcast(torch.zeros(_N_NUMBERS, dtype=torch.float64)).tolist()
        n_atoms, nx, ny, nz = (int(number) for number in first[:4])
        if n_atoms == 0:
            return None
        temperature, chunk_size, forces, stress, uncertainty, guess = first[4:10]
        whole = [type(limit) is int for limit in astuple(Thresholds())]
        thresholds = Thresholds(*(int(value) if is_whole else value for value, is_whole in zip(first[10:], whole)))
        numbers = communicator.broadcast(torch.zeros(n_atoms, dtype=torch.int64))
        positions, cell = (communicator.broadcast(torch.zeros(n, 3, dtype=torch.float64)) for n in (n_atoms, 3))
        return cls(
            Structure(numbers, positions, cell),
            (nx, ny, nz),
            temperature,
            int(chunk_size),
            bool(forces),
            bool(stress),
            None if math.isnan(guess) else guess,
            thresholds,
            bool(uncertainty),
        )


#: Numbers that travel ahead of a request's tensors; the first is that of atoms, 0 where no request follows.
_N_NUMBERS = 10 + len(fields(Thresholds))


def broadcast_end(communicator: Communicator) -> None:
    """Tell the other ranks, which wait in ``PredictionRequest.receive``, that no more requests will come."""
    communicator.broadcast(torch.zeros(_N_NUMBERS, dtype=torch.float64))


def check_structure(model: LDOSModel, atoms: Atoms) -> Structure:
    """ASE atoms as tensors on the CPU, where small things are found, if they are what the model is for.

    Raises:
        ValueError: no periodic piece of matter, elements that the model does not know, or atoms closer than it knows.
    """
    structure = Structure.from_atoms(atoms)
    species_indices(structure.numbers, model.descriptor.species)
    check_distances(structure, model.metadata.minimum_distance)
    return structure
