"""The total free energy: its terms, their sum, and what else is made of them. Nowhere else are they added up.

    A = E_b − TS − E_H[n] + E_xc[n + n_core] − ∫ n v_xc[n + n_core] d³r + E_ewald

A is Mermin's free energy (Phys. Rev. 137, A1441 (1965)) of Kohn-Sham electrons, written with the band energy: E_b holds
the potentials of ions, Hartree and exchange-correlation, so that no pseudopotential integral is needed. It counts the
Hartree energy twice and ∫ n v_xc in place of E_xc, which the next three terms mend. ``TERMS`` lists terms, signs and
formulas; predictions (density walked through in blocks), training (one graph) and comparisons with DFT's LDOS all
collect them in an ``Energies``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ase_ldos.physics.density_functionals import DensityEnergies
from ase_ldos.physics.occupation import OccupationWeights


class Term(NamedTuple):
    """A term of the free energy.

    Attributes:
        sign: with which it enters the sum.
        heading: in the table, sign included.
        formula: what it is.
    """

    sign: int
    heading: str
    formula: str


#: Terms of A by name, in the order in which they are added and printed; the names are the fields of ``Energies``.
TERMS: dict[str, Term] = {
    "band": Term(1, "band energy", "E_b = ∫ ε f D dε"),
    "entropy_term": Term(1, "entropy term -TS", "−TS = kT ∫ [f ln f + (1−f) ln(1−f)] D dε"),
    "hartree": Term(-1, "minus Hartree", "E_H = ½ ∫∫ e² n(r) n(r')/|r−r'| d³r d³r', G = 0 dropped"),
    "xc": Term(1, "exchange-correlation", "E_xc[n + n_core]"),
    "xc_potential": Term(-1, "minus n v_xc", "∫ n v_xc[n + n_core] d³r"),
    "ewald": Term(1, "ion-ion", "½ Σ e² q_i q_j/r_ij over all images, in a neutralising background"),
}


@dataclass(frozen=True)
class Energies:
    """The terms of A, each a scalar tensor in eV; formulas in ``TERMS``. Printed, it is a table.

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

    @classmethod
    def collect(
        cls,
        dos: Tensor,
        weights: OccupationWeights,
        density: DensityEnergies,
        ewald: Tensor,
        n_atoms: int | None = None,
    ) -> Energies:
        """Terms from the density of states, those of the density, and that of the ions; with a graph if they have one.

        Args:
            dos: D, 1/eV, float64 ``[energy]``.
            weights: of its nodes at the Fermi level.
            density: E_H, E_xc and ∫ n v_xc, eV.
            ewald: of the ions, eV.
            n_atoms: for the table.
        """
        terms = (density.hartree, density.xc, density.xc_potential)
        return cls(weights.band @ dos, weights.entropy @ dos, *terms, ewald, n_atoms)

    @classmethod
    def from_terms(cls, terms: Tensor, n_atoms: int | None = None) -> Energies:
        """The inverse of ``terms``; eV, in the order of ``TERMS``, ``[6]``."""
        return cls(**dict(zip(TERMS, terms.unbind())), n_atoms=n_atoms)

    def terms(self) -> Tensor:
        """All terms without a graph, eV, in the order of ``TERMS``, ``[6]``."""
        return torch.stack([getattr(self, name).detach() for name in TERMS])

    @property
    def free_energy(self) -> Tensor:
        """A, Mermin's free energy: the one whose derivatives the forces are, eV."""
        total = torch.zeros_like(self.band)
        for name, term in TERMS.items():
            total = total + term.sign * getattr(self, name)
        return total

    @property
    def internal_energy(self) -> Tensor:
        """E = A + TS, eV."""
        return self.free_energy - self.entropy_term

    @property
    def extrapolated(self) -> Tensor:
        """(E + A)/2, the estimate of the energy at zero electronic temperature, eV.

        Source: M. J. Gillan, J. Phys.: Condens. Matter 1, 689 (1989).
        """
        return self.free_energy - self.entropy_term / 2

    def __str__(self) -> str:
        terms = [(term.heading, term.sign * getattr(self, name)) for name, term in TERMS.items()]
        sums = [
            ("free energy A", self.free_energy),
            ("internal energy A + TS", self.internal_energy),
            ("zero-smearing estimate", self.extrapolated),
        ]
        lines = [f"{'':24}{'eV':>16}" + (f"{'eV/atom':>16}" if self.n_atoms else "")]
        for name, tensor in terms + sums:
            value = float(tensor.detach())
            lines.append(f"{name:24}{value:16.6f}" + (f"{value / self.n_atoms:16.6f}" if self.n_atoms else ""))
        lines.insert(1 + len(terms), "-" * len(lines[0]))
        return "\n".join(lines)
