"""The ASE calculator of a model's distilled potential: energy, forces and stress of the atoms alone.

For the inner steps of ``ase_ldos.simulation.respa``, or alone, to explore cheaply what the model then looks at.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorSetupError, InputError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ase_ldos.geometry.structure import Structure
from ase_ldos.model.distilled_potential import DistilledPotential
from ase_ldos.model.ldos_model import LDOSModel
from ase_ldos.model.model_file import load_model


class DistilledCalculator(Calculator):
    """Energy, forces and stress by a potential that was distilled from an LDOS model.

    The energy approximates the model's free energy A, so that both can be compared; there are no electrons here.

    Args:
        model: a potential, a model that holds one, the name of a bundled model, or the path of a model file.

    Attributes:
        potential: what it evaluates.

    Raises:
        CalculatorSetupError: no such model, or it holds no distilled potential.
    """

    name = "ldos-distilled"
    nolabel = True
    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(self, model: str | Path | LDOSModel | DistilledPotential) -> None:
        super().__init__()
        name = "" if isinstance(model, (LDOSModel, DistilledPotential)) else str(model)
        if isinstance(model, (str, Path)):
            try:
                model = load_model(model)
            except (OSError, ValueError) as error:
                raise CalculatorSetupError(str(error)) from error
        if isinstance(model, LDOSModel):
            name = name or model.metadata.name
            if model.distilled is None:
                raise CalculatorSetupError(
                    f"the model {name!r} holds no distilled potential; make one by `ase-ldos distill {name}`"
                )
            model = model.distilled
        self.potential = model
        self.parameters["model"] = name

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Collection[str] = ("energy",),
        system_changes: Collection[str] = all_changes,
    ) -> None:
        """Evaluate; the stress only if it is among the properties.

        Raises:
            InputError: not periodic matter, or elements that the potential does not know.
        """
        super().calculate(atoms, properties, system_changes)
        if self.atoms is None:
            raise InputError("there are no atoms to calculate; pass an Atoms object")
        try:
            structure = Structure.from_atoms(self.atoms)
            energy, forces, stress = self.potential.evaluate(structure, stress="stress" in properties)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.results = {"energy": energy, "free_energy": energy, "forces": forces.numpy()}
        if stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress.numpy())
