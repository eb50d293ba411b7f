"""The total free energy as the sum of its terms."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ase_ldos.geometry.grid import Grid
from ase_ldos.geometry.structure import Structure
from ase_ldos.physics.ewald import ewald_energy
from ase_ldos.physics.exchange_correlation import xc_energies
from ase_ldos.physics.hartree import hartree_energy


@dataclass(frozen=True)
class Energies:
    """The terms of A = E_b − TS − E_H + E_xc − ∫ n v_xc + E_ewald, each a scalar tensor in eV.

    Attributes:
        band: E_b = ∫ ε f D dε.
        entropy_term: −TS of the electrons.
        hartree: E_H of the density.
        xc: E_xc of density and core.
        xc_potential: ∫ n v_xc d³r.
        ewald: the ions in a neutralising background.
        n_atoms: for the column per atom when printed, if given.
    """

    band: Tensor
    entropy_term: Tensor
    hartree: Tensor
    xc: Tensor
    xc_potential: Tensor
    ewald: Tensor
    n_atoms: int | None = None

    @property
    def free_energy(self) -> Tensor:
        """A, Mermin's free energy: the one whose derivatives the forces are, eV."""
        return self.band + self.entropy_term - self.hartree + self.xc - self.xc_potential + self.ewald

    @property
    def internal_energy(self) -> Tensor:
        """E = A + TS, eV."""
        return self.free_energy - self.entropy_term

    @property
    def extrapolated(self) -> Tensor:
        """(E + A)/2, the estimate of the energy at zero electronic temperature, eV."""
        return self.free_energy - self.entropy_term / 2

    def __str__(self) -> str:
        rows = (
            ("band energy", self.band),
            ("entropy term -TS", self.entropy_term),
            ("minus Hartree", -self.hartree),
            ("exchange-correlation", self.xc),
            ("minus n v_xc", -self.xc_potential),
            ("ion-ion", self.ewald),
            ("free energy A", self.free_energy),
            ("internal energy A + TS", self.internal_energy),
            ("zero-smearing estimate", self.extrapolated),
        )
        lines = [f"{'':24}{'eV':>16}" + (f"{'eV/atom':>16}" if self.n_atoms else "")]
        for name, tensor in rows:
            value = float(tensor.detach())
            lines.append(f"{name:24}{value:16.6f}" + (f"{value / self.n_atoms:16.6f}" if self.n_atoms else ""))
        lines.insert(7, "-" * len(lines[0]))
        return "\n".join(lines)


def total_energies(
    *,
    band: Tensor,
    entropy_term: Tensor,
    density: Tensor,
    grid: Grid,
    structure: Structure,
    charges: Tensor,
    functional: str,
    core_density: Tensor | None = None,
) -> Energies:
    """Add to band energy and entropy (eV) the terms that depend on density and ions.

    Args:
        band: E_b, eV.
        entropy_term: −TS, eV.
        density: n, e/Å³, ``[nx, ny, nz]``.
        grid: the grid of the density.
        structure: the ions.
        charges: valence charges, e, ``[atom]``.
        functional: "lda" or "pbe".
        core_density: partial core charge, e/Å³, ``[nx, ny, nz]``.
    """
    xc, xc_potential = xc_energies(density, grid, functional, core_density)
    return Energies(
        band=band,
        entropy_term=entropy_term,
        hartree=hartree_energy(density, grid),
        xc=xc,
        xc_potential=xc_potential,
        ewald=ewald_energy(structure, charges),
        n_atoms=len(structure),
    )
