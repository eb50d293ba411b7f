"""One labelled structure: what a DFT calculation says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_ldos.dataset.schema import SHAPES, check_arrays

if TYPE_CHECKING:
    from ase import Atoms

    from ase_ldos.geometry.structure import Structure


def least_highest_band(eigenvalues: np.ndarray) -> float:
    """Energy below which eigenvalues ``[k, band]`` hold all states: the least of the highest band, in their unit."""
    return float(eigenvalues.max(axis=1).min())


def band_gap(eigenvalues: np.ndarray, n_electrons: float) -> float:
    """Lowest empty minus highest filled of eigenvalues ``[k, band]``, two electrons to a band, in their unit.

    Negative where bands overlap; an odd electron leaves its band half filled, whose width is then the overlap.

    Raises:
        ValueError: no band is empty.
    """
    filled = round(n_electrons) / 2
    if eigenvalues.shape[1] <= filled:
        raise ValueError(f"{eigenvalues.shape[1]} bands hold {n_electrons:g} electrons; a gap needs an empty one")
    return float(eigenvalues[:, math.floor(filled)].min() - eigenvalues[:, math.ceil(filled) - 1].max())


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A structure with its labels; a label that is not known is ``None``.

    The fields are the keys of the ``.npz`` files, in eV, Å, e and K.

    Attributes:
        name: the file's stem, or the name within a packed file.
        numbers: atomic numbers ``[atom]``.
        cell: lattice vectors as rows ``[3, 3]``.
        positions: Cartesian positions ``[atom, 3]``.
        energies: energy grid of LDOS and DOS ``[energy]``, increasing.
        ldos: float16 ``[nx, ny, nz, energy]``; times ``ldos_scale`` it is in 1/(eV Å³), spin included.
        ldos_scale: see ``ldos``.
        ldos_sigma: standard deviation of the Gaussian in LDOS and DOS.
        dos: ``[energy]``, 1/eV.
        density: electron density ``[nx, ny, nz]``, e/Å³.
        free_energy: Mermin's free energy (Quantum ESPRESSO's line ``!``).
        band_energy: ∫ ε f D dε, a part of ``free_energy`` as the next five are.
        smearing_TS: −TS.
        one_electron: kinetic, local and non-local energy.
        hartree: Hartree energy.
        xc: exchange-correlation energy.
        ewald: ion-ion energy.
        fermi_level: Fermi level on the self-consistent k-mesh.
        fermi_level_dense: the same on the dense mesh.
        forces: ``[atom, 3]``.
        stress: ``[3, 3]``, ASE's sign.
        pressure: −tr(stress)/3, eV/Å³, where the rest of the stress is not known.
        kpoints: self-consistent k-mesh ``[3]``.
        k_weights: ``[k]``; they sum to 2.
        eigenvalues: ``[k, band]``.
        kpoints_dense: dense k-mesh ``[3]``.
        k_weights_dense: ``[k_dense]``.
        eigenvalues_dense: ``[k_dense, band_dense]``.
        gap: lowest empty minus highest filled state of the self-consistent mesh; negative where bands overlap.
        known_below: energy below which LDOS and DOS hold all states, where no ``eigenvalues_dense`` tell it.
        energy_defect: free energy from eigenvalues and the stored density by the formula that a model uses, minus
            ``free_energy``: what the density's grid leaves out.
        ldos_energy_defect: the same from the LDOS instead of eigenvalues: what its width adds.
        electronic_temperature: of the Fermi-Dirac occupation.
        fft_grid: the DFT code's own grid ``[3]``.
        ecutwfc_Ry: plane-wave cutoff in Ry.
        valence: electrons per atom of the pseudopotentials, averaged over the atoms.
        group: of the snapshots whose total energies share an error of DFT, as those of one k-mesh do; by default the
            name up to its number (``hcp16_03``: ``hcp16``).
    """

    name: str
    numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    energies: np.ndarray | None = None
    ldos: np.ndarray | None = None
    ldos_scale: float | None = None
    ldos_sigma: float | None = None
    dos: np.ndarray | None = None
    density: np.ndarray | None = None
    free_energy: float | None = None
    band_energy: float | None = None
    smearing_TS: float | None = None  # noqa: N815 (T and S are the physics' names)
    one_electron: float | None = None
    hartree: float | None = None
    xc: float | None = None
    ewald: float | None = None
    fermi_level: float | None = None
    fermi_level_dense: float | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    pressure: float | None = None
    kpoints: np.ndarray | None = None
    k_weights: np.ndarray | None = None
    eigenvalues: np.ndarray | None = None
    kpoints_dense: np.ndarray | None = None
    k_weights_dense: np.ndarray | None = None
    eigenvalues_dense: np.ndarray | None = None
    gap: float | None = None
    known_below: float | None = None
    energy_defect: float | None = None
    ldos_energy_defect: float | None = None
    electronic_temperature: float | None = None
    fft_grid: np.ndarray | None = None
    ecutwfc_Ry: float | None = None  # noqa: N815 (Ry is the unit)
    valence: float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        """Name the group."""
        if not self.group:
            object.__setattr__(self, "group", self.name.rsplit("_", 1)[0])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_ldos(self) -> bool:
        """Whether the local density of states is known."""
        return self.ldos is not None

    @property
    def complete_below(self) -> float | None:
        """Energy below which LDOS and DOS hold all states, if it is known, eV."""
        return self.known_below if self.eigenvalues_dense is None else least_highest_band(self.eigenvalues_dense)

    @property
    def n_electrons(self) -> float | None:
        """Number of valence electrons, if ``valence`` is known."""
        return None if self.valence is None else self.valence * len(self)

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Shape of the grid of LDOS or density."""
        field = self.density if self.ldos is None else self.ldos
        return None if field is None else (field.shape[0], field.shape[1], field.shape[2])

    @property
    def structure(self) -> Structure:
        """The structure as tensors."""
        from ase_ldos.geometry.structure import Structure

        return Structure.from_arrays(self.numbers, self.positions, self.cell)

    def to_atoms(self) -> Atoms:
        """The structure as ASE atoms."""
        from ase import Atoms

        return Atoms(self.numbers, positions=self.positions, cell=self.cell, pbc=True)

    def ldos_values(self) -> np.ndarray:
        """The LDOS in 1/(eV Å³), float32 ``[nx, ny, nz, energy]``.

        Raises:
            ValueError: the snapshot has no LDOS.
        """
        if self.ldos is None or self.ldos_scale is None:
            raise ValueError(f"{self.name} has no LDOS; only energies, forces and density can be learned from it")
        return self.ldos.astype(np.float32) * np.float32(self.ldos_scale)


def snapshot_from_arrays(name: str, arrays: Mapping[str, np.ndarray], source: str) -> Snapshot:
    """Make a snapshot of arrays after checking them; keys that a snapshot does not know are ignored.

    Raises:
        ValueError: a key is missing, misshaped or not finite.
    """
    check_arrays(arrays, source)
    known = {key: arrays[key] for key in SHAPES if key in arrays}
    values: dict[str, Any] = {key: _scalar(value) if SHAPES[key] == () else value for key, value in known.items()}
    if "density" in values and values["density"].dtype == np.float16:
        values["density"] = values["density"].astype(np.float32)
    return Snapshot(name=name, **values)


def _scalar(value: np.ndarray) -> float | str:
    return str(value) if value.dtype.kind == "U" else float(value)


def snapshot_to_arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """All known labels of a snapshot as arrays, without its name."""
    values = {field.name: getattr(snapshot, field.name) for field in fields(snapshot) if field.name != "name"}
    return {key: np.asarray(value) for key, value in values.items() if value is not None}
