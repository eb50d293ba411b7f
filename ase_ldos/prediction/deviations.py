"""Standard deviations of what is predicted: the posterior of the last layer (``model.last_layer``) through the physics.

What is linear in a small change δd(ε, r) of the LDOS follows from sums over the grid of whitened features
s(r) = Rᵀφ(r), without samples and without the array grid × energy. With S = Σ_r s(r), Λ = Σ_r λ(r) s(r), B of the
posterior, a, b and λ of the gradient of A (``free_energy_gradient``) and N' = ∂N/∂μ (b of μ and n that of the
temperature asked for):

    δA    = Σ_ε,r [a(ε) + λ(r) b(ε)] δd(ε, r)         var A    = |Bᵀa ⊗ S + Bᵀb ⊗ Λ|²
    δD(ε) = v Σ_r δd(ε, r)                            var D(ε) = v² |B_ε|² |S|²
    δμ    = −Σ_ε b δD / N'                            var μ    = v² |Bᵀb|² |S|² / N'²
    δn(r) = Σ_ε b δd(ε, r) + (∂n(r)/∂μ) δμ            var n(r) = |Bᵀb|² |s(r) − (∂n(r)/∂μ) v S / N'|²

(v: volume of a grid point). The number of electrons does not deviate: μ follows. Each is multiplied by the factor that
calibration found for it. With forces the sums are made on the way back; without, or where a checkpoint is kept, in one
more walk over the grid. CPU time with forces is 6 to 10 % more (16 atoms of beryllium 0.246 s in place of 0.232 s, 8 of
aluminium 0.101 s in place of 0.092 s), of an energy alone twice as much.

The deviation of forces is not linear in sums. It is that of atoms as far from the training data as this one is, in
structures that were held back; ``prediction.committee`` takes it from samples of the last layer instead, one whole
prediction for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_ldos.geometry.grid_batches import BlockBatch
from ase_ldos.geometry.grid_blocks import Block
from ase_ldos.model.extrapolation import atom_distances, force_deviation
from ase_ldos.model.last_layer import whiten
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.physics.occupation import number_weights
from ase_ldos.prediction.free_energy_gradient import Electrons, FreeEnergyGradient
from ase_ldos.prediction.gather import gather_fields
from ase_ldos.prediction.grid_pass import GridEvaluator


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of a prediction, calibrated on held-back structures; tensors in float64.

    Attributes:
        free_energy: of A, eV (of the whole structure).
        fermi_level: of μ, eV.
        dos: of D, 1/eV, ``[energy]``.
        density: of n, e/Å³, ``[nx, ny, nz]``.
        forces: of each component, eV/Å, ``[atom, 3]``; None where calibration had no forces.
    """

    free_energy: float
    fermi_level: float
    dos: Tensor
    density: Tensor
    forces: Tensor | None = None


class DeviationSums:
    """The sums over the grid that standard deviations need, block by block.

    Args:
        evaluator: of the prediction.
        gradient: of its free energy.
        electrons: Σ_r d and μ.
        hidden_sum: Σ_r h(r), float64 ``[hidden]``.
        response: ∂n(r)/∂μ at the request's temperature at the points of this rank's blocks, ``[own grid]``.

    Attributes:
        weighted: Λ of the blocks so far, float64 ``[hidden + 1]``.
    """

    def __init__(
        self,
        evaluator: GridEvaluator,
        gradient: FreeEnergyGradient,
        electrons: Electrons,
        hidden_sum: Tensor,
        response: Tensor,
    ) -> None:
        self._evaluator, self._gradient, self._electrons = evaluator, gradient, electrons
        model, grid = evaluator.model, evaluator.grid
        assert model.uncertainty_hidden is not None
        assert model.uncertainty_energies is not None
        # what is small is on the CPU, as all of the electrons are
        root = model.uncertainty_hidden.double().cpu()
        self._energies = model.uncertainty_energies.double().cpu()
        self._sum = hidden_sum[: len(root) - 1] @ root[:-1] + root[-1] * grid.n_points
        level, kT = electrons.fermi_levels[-1], electrons.thermal_energies[-1]
        self._number, slope_weights = number_weights(model.energies.cpu(), level, kT)
        self._slope = float(slope_weights @ electrons.ldos_sum) * float(grid.voxel_volume)
        # δμ per change of Σ_ε b δd(ε, r) that is s · (what multiplies it)
        self._shift = self._sum * float(grid.voxel_volume) / self._slope
        self._response, self._place = response, 0
        n_points = sum(block.n_points for block in evaluator.own_ranges)
        self._field = torch.empty(1, n_points, dtype=model.dtype, device=model.device)
        self.weighted = torch.zeros_like(self._sum, device=model.device)

    def add(self, block: Block | BlockBatch, hidden: Tensor) -> None:
        """Add a block's points, in the order of the rank's blocks."""
        white = whiten(self._evaluator.model, hidden)
        self.weighted += self._gradient.potential[block.flat].double() @ white.double()
        part = slice(self._place, self._place + len(white))
        moved = torch.addr(white, self._response[part].to(white), self._shift.to(white), alpha=-1)
        self._field[0, part] = torch.linalg.vector_norm(moved, dim=1)
        self._place = part.stop

    def walk(self) -> None:
        """Over all blocks, where no forces need a walk of their own, or where that walk may resume in its middle."""
        with torch.no_grad():
            for _, block in self._evaluator.blocks("uncertainty"):
                self.add(block, self._evaluator.hidden(block))

    def finish(self, model: LDOSModel) -> Uncertainty:
        """The standard deviations, on all ranks; ``model`` is the one before its scaler was fused."""
        evaluator, factors = self._evaluator, model.metadata.uncertainty
        grid, communicator = evaluator.grid, evaluator.communicator
        communicator.all_reduce(self.weighted)
        volume = float(grid.voxel_volume)
        constant, number = (self._gradient.by_energy @ self._energies).unbind()
        width, number_width = float(self._sum.norm()) * volume, float((self._number @ self._energies).norm())
        field = gather_fields(self._field, grid, evaluator.ranges, communicator)
        density = self.weighted.new_empty(grid.n_points) if field is None else field[0].double()
        communicator.broadcast(density)
        free_energy = torch.outer(constant, self._sum) + torch.outer(number, self.weighted.cpu())
        structure = evaluator.structure
        knows_forces = "force_error_at_1" in model.metadata.extrapolation
        forces = force_deviation(model.metadata, atom_distances(model, structure)) if knows_forces else None
        return Uncertainty(
            free_energy=float(free_energy.norm()) * factors["free_energy"],
            fermi_level=number_width * width / self._slope * factors["fermi_level"],
            dos=self._energies.norm(dim=1) * (width * factors["dos"]),
            density=(density * (number_width * factors["density"])).reshape(grid.shape),
            forces=None if forces is None else forces[:, None].repeat(1, 3),
        )
