"""The model: descriptor, scaler, network and energy grid, with all that is needed to use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from ase_ldos.descriptors.protocol import BatchedFeatures, PointFeatures
from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.geometry.structure import Structure
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.metadata import ModelMetadata
from ase_ldos.model.thermal_correction import ThermalCorrection
from ase_ldos.networks.mlp import MLP
from ase_ldos.physics.core_charge import core_density


class LDOSModel(nn.Module):
    """Maps the atoms around a point to the LDOS of that point: d(ε, r) = W h(r) + c.

    h(r), the hidden features, are the network's last layer before its linear head; everything that is linear in the
    LDOS needs only their sums over points, so the array grid × energy is never built unless it is asked for.

    Args:
        descriptor: of the surroundings of a point: fixed, or a graph network that is trained with the rest.
        network: maps scaled features to energies; its ``features`` are h, its ``head`` gives W and c.
        energies: nodes of the energy grid, eV, ``[energy]``; where the metadata has level constants, those of the
            network, to which a structure's ``energy_shift`` is added.
        metadata: what the model is for.
        mean: of the descriptor's features over the training points, ``[feature]``.
        projection: principal components, scaled: inputs are (x − mean) · projection, ``[feature, input]``.
        ldos_scale: unit of the network's output, 1/(eV Å³).

    Raises:
        ValueError: shapes that do not fit together.
    """

    mean: Tensor
    projection: Tensor
    #: Inputs at the places of training atoms: mean ``[species, input]`` and axes over standard deviations
    #: ``[species, input, input]``; None if not calibrated.
    extrapolation_mean: Tensor | None
    extrapolation_whitening: Tensor | None
    #: Of the last layer's posterior, see ``model.last_layer``: R ``[hidden + 1, hidden + 1]`` and B ``[energy, rank]``;
    #: None if not calibrated.
    uncertainty_hidden: Tensor | None
    uncertainty_energies: Tensor | None
    #: A cheap potential of the atoms alone that was distilled from the model; None if there is none.
    distilled: DistilledPotential | None
    #: What it has learned of its free energy at other electronic temperatures; None if nothing.
    thermal_correction: ThermalCorrection | None

    def __init__(
        self,
        descriptor: PointFeatures,
        network: MLP,
        energies: Tensor,
        metadata: ModelMetadata,
        *,
        mean: Tensor | None = None,
        projection: Tensor | None = None,
        ldos_scale: float = 1.0,
    ) -> None:
        super().__init__()
        size = descriptor.n_features
        mean = torch.zeros(size) if mean is None else mean
        projection = torch.eye(size) if projection is None else projection
        if mean.shape != (size,) or projection.shape != (size, network.n_inputs):
            raise ValueError(
                f"mean {list(mean.shape)} and projection {list(projection.shape)} must have shapes [{size}] and "
                f"[{size}, {network.n_inputs}]: the descriptor's features and the network's inputs"
            )
        if energies.shape != (network.n_outputs,):
            raise ValueError(f"the network has {network.n_outputs} outputs, the energy grid {len(energies)} nodes")
        missing = [chemical_symbols[n] for n in descriptor.species if chemical_symbols[n] not in metadata.valence]
        if missing:
            raise ValueError(f"the metadata gives no valence charge for {', '.join(missing)}")
        self.descriptor = descriptor
        self.network = network
        self.metadata = metadata
        self.ldos_scale = float(ldos_scale)
        self._has_fused_scaler = False
        # not a module: it stays float64, on the CPU, whatever the network's
        self.distilled = None
        self.thermal_correction = None
        dtype = network.head.weight.dtype
        self.register_buffer("mean", mean.to(dtype).clone())
        self.register_buffer("projection", projection.to(dtype).clone())
        self.register_buffer("extrapolation_mean", None)
        self.register_buffer("extrapolation_whitening", None)
        self.register_buffer("uncertainty_hidden", None)
        self.register_buffer("uncertainty_energies", None)
        # not a buffer: it stays float64 whatever the network's dtype
        self._energies = energies.detach().to("cpu", torch.float64).clone()
        self._energies_there: Tensor | None = None
        self._fused: tuple[Any, ...] = ()
        self._head_there: tuple[Tensor, Tensor] | None = None

    @property
    def energies(self) -> Tensor:
        """Nodes of the energy grid, eV, float64 ``[energy]``, on the model's device."""
        device = self.mean.device
        if device.type == "cpu":
            return self._energies
        if self._energies_there is None or self._energies_there.device != device:
            self._energies_there = self._energies.to(device)
        return self._energies_there

    def energy_shift(self, structure: Structure) -> Tensor:
        """Σ_a c_a/Ω, eV, float64 scalar, differentiable in the cell: what the network's energies lie below ε."""
        total = torch.zeros((), dtype=torch.float64, device=structure.cell.device)
        for symbol, constant in self.metadata.level_constants.items():
            total = total + constant * (structure.numbers == atomic_numbers[symbol]).sum()
        return total / structure.volume.double()

    def energies_of(self, structure: Structure) -> Tensor:
        """Nodes of the energy grid of a structure's LDOS as the DFT program counts energies, eV ``[energy]``."""
        return self.energies + self.energy_shift(structure).detach()

    @property
    def energies_on_cpu(self) -> Tensor:
        """``energies`` on the CPU, where they are kept: nothing waits for a device."""
        return self._energies

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the network."""
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.mean.device

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        """W ``[energy, hidden]`` and c ``[energy]`` of d = W h + c, 1/(eV Å³), float64."""
        linear = self.network.head
        return linear.weight.double() * self.ldos_scale, linear.bias.double() * self.ldos_scale

    @property
    def head_on_cpu(self) -> tuple[Tensor, Tensor]:
        """``head`` on the CPU, without a graph; of a model with a fused scaler, which does not change, kept."""
        if not self._has_fused_scaler:
            weight, bias = self.head
            return weight.detach().cpu(), bias.detach().cpu()
        if self._head_there is None:
            weight, bias = self.head
            self._head_there = (weight.detach().cpu(), bias.detach().cpu())
        return self._head_there

    def encode_atoms(self, structure: Structure) -> Tensor:
        """The state of each atom, ``[atom, ...]``, once per structure; see ``PointFeatures``."""
        return self.descriptor.encode_atoms(structure)

    def inputs(self, block: Block | BlockBatch, atom_state: Tensor | None) -> Tensor:
        """The network's inputs at the points of a block, or of a batch of blocks, ``[grid, input]``.

        Args:
            block: points and images; a batch only where the descriptor is a ``BatchedFeatures``.
            atom_state: of the images, ``encode_atoms(structure)[block.owners]``; None of a batch if it is the species.
        """
        if isinstance(block, BlockBatch):
            assert isinstance(self.descriptor, BatchedFeatures)
            features = self.descriptor.of_batch(block, atom_state)
        else:
            assert atom_state is not None
            features = self.descriptor(block.points, block.atoms, atom_state)
        if self._has_fused_scaler:
            return features
        return (features - self.mean.to(features)) @ self.projection.to(features)

    def hidden(self, block: Block | BlockBatch, atom_state: Tensor | None, out: Tensor | None = None) -> Tensor:
        """Hidden features h at the points of a block, ``[grid, hidden]``; arguments as of ``inputs``, ``features``."""
        return self.network.features(self.inputs(block, atom_state), out)

    def with_fused_scaler(self) -> LDOSModel:
        """The same map without the step of the scaler: mean and projection are in the first layer and in the head.

        For predictions, which it makes faster; its h holds the descriptor's features in place of the scaled ones. The
        products are made in float64; float32 errors stay what they were. Kept until a weight changes.
        """
        if self._has_fused_scaler:
            return self
        # with the tensors themselves, so that no other can take their place in memory
        weights = [*self.parameters(), *self.buffers()]
        state = [(weight, weight.data, weight._version) for weight in weights]
        rest = (self.metadata, self.descriptor, self.ldos_scale, self.thermal_correction)
        if self._fused and _same(self._fused[0], state) and all(a is b for a, b in zip(self._fused[1], rest)):
            kept: LDOSModel = self._fused[2]
            return kept
        model = self._fuse_scaler()
        self._fused = (state, rest, model)
        return model

    def _fuse_scaler(self) -> LDOSModel:
        settings = self.network.settings() | {"n_inputs": self.descriptor.n_features}
        network = MLP(**settings).to(device=self.device, dtype=self.dtype)
        turned, mean = self.projection.double().T, self.mean.double()
        passes_inputs = self.network.skip or not self.network.hidden
        n_hidden = self.network.n_features - self.network.n_inputs
        with torch.no_grad():
            first_layers = ["head."] * passes_inputs + ["layers.0."]
            same = {n: v for n, v in self.network.state_dict().items() if not n.startswith(tuple(first_layers))}
            network.load_state_dict(same, strict=False)
            pairs = [(self.network.head, network.head, n_hidden)] if passes_inputs else []
            if self.network.hidden:
                pairs.append((self.network.layers[0], network.layers[0], 0))  # type: ignore[arg-type]
            for old, new, first in pairs:
                weight = old.weight.double()
                scaled = weight[:, first:] @ turned
                new.weight.copy_(torch.cat((weight[:, :first], scaled), dim=1))
                new.bias.copy_(old.bias.double() - scaled @ mean)
        network.eval().requires_grad_(False)
        # the descriptor is shared, and stays as it is
        model = LDOSModel(self.descriptor, network, self.energies, self.metadata, ldos_scale=self.ldos_scale)
        model._has_fused_scaler = True
        model.thermal_correction = self.thermal_correction
        if self.thermal_correction is not None and passes_inputs:
            scaler = (part.detach().double().cpu() for part in (self.mean, self.projection))
            model.thermal_correction = self.thermal_correction.of_raw_features(*scaler)
        model.uncertainty_energies = self.uncertainty_energies
        if self.uncertainty_hidden is not None:
            root = self.uncertainty_hidden
            if not self.network.hidden:  # the posterior is of the scaled inputs, which are no longer there
                scaled = self.projection.double() @ root[:-1].double()
                root = torch.cat((scaled, root[-1:].double() - mean @ scaled)).to(root)
            model.uncertainty_hidden = root
        return model.to(device=self.device, dtype=self.dtype)

    def charges(self, numbers: Tensor) -> Tensor:
        """Valence charges of atoms, e, float64 ``[atom]``, of elements that the model knows."""
        table = {atomic_numbers[symbol]: charge for symbol, charge in self.metadata.valence.items()}
        return torch.tensor([table[n] for n in numbers.tolist()], dtype=torch.float64, device=numbers.device)

    def core_density(self, structure: Structure, grid: Grid) -> Tensor | None:
        """Partial core charge of the atoms, e/Å³, ``[nx, ny, nz]``, on the model's device; None if they have none."""
        return core_density(structure, grid, self.metadata.core_charges, device=self.device)


def _same(known: Sequence[tuple[Tensor, Tensor, int]], state: Sequence[tuple[Tensor, Tensor, int]]) -> bool:
    """Whether these are the very same tensors, in the same memory, and none was written to."""
    return len(known) == len(state) and all(
        one is other and data.data_ptr() == now.data_ptr() and data.dtype == now.dtype and version == found
        for (one, data, version), (other, now, found) in zip(known, state)
    )
