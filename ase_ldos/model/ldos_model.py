"""The model: descriptor, scaler, network and energy grid, with all that is needed to use them; one file on disk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.geometry.structure import Structure
from ase_ldos.networks.mlp import MLP
from ase_ldos.networks.registry import Surroundings, make_surroundings, prepare_atoms
from ase_ldos.physics.core_charge import CoreCharge, core_density

FORMAT = "ase-ldos model"
VERSION = 1
BUNDLED = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is for and where it comes from.

    Attributes:
        name: short name, for people.
        valence: electrons per atom that the LDOS holds, by chemical symbol.
        functional: ``"pbe"`` or ``"lda"``.
        electronic_temperature: that of the training data and the default of a prediction, K.
        smearing: standard deviation of the Gaussian that broadens the LDOS, eV.
        grid_spacing: distance of grid points it was trained on and that a prediction aims at, Å.
        fermi_level: a typical μ, eV, from which the search for the Fermi level starts.
        core_charges: partial core charges of pseudopotentials that have one, by chemical symbol.
        minimum_distance: closest pair of atoms that the model accepts, Å.
        errors: measured on held-back structures: names and units as in ``evaluate.COLUMNS``.
        novelty: distances of held-back structures from the training data: ``threshold`` (the largest), ``median``,
            number of ``structures``; empty if not calibrated, see ``ase_ldos.model.extrapolation``.
        provenance: data, recipe, versions; for people.
    """

    name: str
    valence: dict[str, float]
    functional: str = "pbe"
    electronic_temperature: float = 300.0
    smearing: float = 0.0
    grid_spacing: float = 0.25
    fermi_level: float = 0.0
    core_charges: dict[str, CoreCharge] = field(default_factory=dict)
    minimum_distance: float = 1.0
    errors: dict[str, float] = field(default_factory=dict)
    novelty: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


class LDOSModel(nn.Module):
    """Maps the atoms around a point to the LDOS of that point: d(ε, r) = W h(r) + c.

    h(r), the hidden features, are the network's last layer before its linear head; everything that is linear in the
    LDOS needs only their sums over points, so the array grid × energy is never built unless it is asked for.

    Args:
        descriptor: of the surroundings of a point: fixed, or a graph network that is trained with the rest.
        network: maps scaled features to energies; its ``features`` are h, its ``head`` gives W and c.
        energies: nodes of the energy grid, eV, ``[energy]``.
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
    novelty_mean: Tensor | None
    novelty_whitening: Tensor | None

    def __init__(
        self,
        descriptor: Surroundings,
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
        self._folded = False
        dtype = network.head.weight.dtype
        self.register_buffer("mean", mean.to(dtype).clone())
        self.register_buffer("projection", projection.to(dtype).clone())
        self.register_buffer("novelty_mean", None)
        self.register_buffer("novelty_whitening", None)
        # not a buffer: it stays float64 whatever the network's dtype
        self._energies = energies.detach().to("cpu", torch.float64).clone()

    @property
    def energies(self) -> Tensor:
        """Nodes of the energy grid, eV, float64 ``[energy]``, on the model's device."""
        return self._energies.to(self.mean.device)

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

    def prepare(self, structure: Structure) -> Tensor:
        """What the points need to know of each atom, ``[atom, ...]``, once per structure; see ``prepare_atoms``."""
        return prepare_atoms(self.descriptor, structure)

    def inputs(self, block: Block, known: Tensor) -> Tensor:
        """The network's inputs at the points of a block, ``[grid, input]``.

        Args:
            block: points and images.
            known: of the images, ``prepare(structure)[block.owners]``.
        """
        features = self.descriptor(block.points, block.atoms, known)
        if self._folded:
            return features
        return (features - self.mean.to(features)) @ self.projection.to(features)

    def hidden(self, block: Block, known: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden features h at the points of a block, ``[grid, hidden]``; arguments as of ``inputs``, ``features``."""
        return self.network.features(self.inputs(block, known), out)

    def folded(self) -> LDOSModel:
        """The same map without the step of the scaler: mean and projection are in the first layer and in the head.

        For predictions, which it makes faster; its h holds the descriptor's features in place of the scaled ones. The
        products are made in float64; float32 errors stay what they were.
        """
        if self._folded:
            return self
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
        model._folded = True
        return model.to(device=self.device, dtype=self.dtype)

    def charges(self, numbers: Tensor) -> Tensor:
        """Valence charges of atoms, e, float64 ``[atom]``, of elements that the model knows."""
        table = {atomic_numbers[symbol]: charge for symbol, charge in self.metadata.valence.items()}
        return torch.tensor([table[int(n)] for n in numbers], dtype=torch.float64, device=numbers.device)

    def core_density(self, structure: Structure, grid: Grid) -> Tensor | None:
        """Partial core charge of the atoms, e/Å³, ``[nx, ny, nz]``; ``None`` if they have none."""
        return core_density(structure, grid, self.metadata.core_charges)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header holds everything else as JSON; atomically."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "descriptor": self.descriptor.settings(),
            "network": self.network.settings(),
            "ldos_scale": self.ldos_scale,
            "metadata": asdict(self.metadata),
        }
        tensors = {name: value.contiguous().cpu() for name, value in self.state_dict().items()}
        tensors["energies"] = self._energies
        path = Path(path)
        partial = path.with_name(path.name + ".part")
        save_file(tensors, partial, metadata={"ase_ldos": json.dumps(header)})
        partial.replace(path)

    @classmethod
    def load(cls, name: str | Path) -> LDOSModel:
        """Read a bundled model by its name (``"be"``) or a model file by its path.

        Raises:
            FileNotFoundError: neither a bundled model nor a file.
            ValueError: the file is damaged, not a model of this package, or of another version.
        """
        path = model_path(name)
        tensors, header = _read(path)
        try:
            dtype = tensors["mean"].dtype
            descriptor = make_surroundings(header["descriptor"])
            known = {item.name for item in fields(ModelMetadata)}
            table = {key: value for key, value in header["metadata"].items() if key in known}
            cores = {symbol: CoreCharge.from_table(core) for symbol, core in table.pop("core_charges", {}).items()}
            metadata = ModelMetadata(**table, core_charges=cores)
            model = cls(
                descriptor.to(dtype) if isinstance(descriptor, nn.Module) else descriptor,
                MLP(**header["network"]).to(dtype),
                tensors.pop("energies"),
                metadata,
                mean=tensors["mean"],
                projection=tensors["projection"],
                ldos_scale=header["ldos_scale"],
            )
            if "novelty_mean" in tensors:
                model.novelty_mean, model.novelty_whitening = tensors["novelty_mean"], tensors["novelty_whitening"]
            model.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is a damaged model file: {error}") from error
        return model.eval()


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def model_path(name: str | Path) -> Path:
    """The file behind a bundled model's name or a path.

    Raises:
        FileNotFoundError: there is neither; the message lists the bundled models.
    """
    bundled = BUNDLED / f"{name}.safetensors"
    if isinstance(name, str) and "/" not in name and bundled.is_file():
        return bundled
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"no model file {name} and no bundled model of that name ({', '.join(bundled_models())})"
        )
    return path


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a model file, with one clear message for everything that can be wrong."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            header = json.loads((file.metadata() or {}).get("ase_ldos", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a model file of ase-ldos, or is damaged: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a model of ase-ldos")
    if header.get("version") != VERSION:
        raise ValueError(f"{path} has model format {header.get('version')}; this version of ase-ldos reads {VERSION}")
    return tensors, header
