"""What is asked of ``ase-ldos learn``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ase_ldos.toml_settings import NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class LearnSettings:
    """Goals, limits and sizes of an active learning.

    Attributes:
        temperatures: of the ions in the dynamics that explores, K.
        pressures: of it, GPa; the cell is scaled to the model's volume at rest under each.
        energy, forces, density: asked errors, meV/atom, meV/Å (root mean squares) and %.
        cpu_hours: no step begins after this much CPU time, DFT included.
        max_labels: no structure is labelled beyond this number.
        rounds: at most so many trainings.
        models: trained with different seeds, whose disagreement chooses structures; the first one is the result.
        test: cells of the test set, which is chosen first and never learned from.
        first: rattled cells of the first round, beside the symmetric ones; every other one of the largest size.
        per_round: cells labelled in each later round.
        cell_atoms: of the largest cell that is labelled; 0: of each crystal the smallest cell in which no atom is near
            its own images.
        explore_atoms: of the cell of the dynamics that explores; 0: that of the largest cell that is labelled.
        explore_ps: length of the dynamics at one temperature and pressure; where alarms end a trajectory early, others
            follow.
        timestep: fs; 0: by the lightest atom.
        training_steps: optimiser steps on whole snapshots in the first round; half of them where a model trains on.
        final_atoms, final_ps, final_temperature: of the dynamics that the finished model has to pass.
        reference: whether DFT's elastic constants and phonons are calculated for the report.
        vacancies, surfaces: whether the first cells hold such.
        seed: of all randomness.
    """

    temperatures: tuple[PositiveFloat, ...] = (300.0, 900.0)
    pressures: tuple[float, ...] = (0.0,)
    energy: PositiveFloat = 4.0
    forces: PositiveFloat = 60.0
    density: PositiveFloat = 1.0
    cpu_hours: PositiveFloat = 4.0
    max_labels: PositiveInt = 200
    rounds: PositiveInt = 12
    models: PositiveInt = 2
    test: PositiveInt = 12
    first: PositiveInt = 40
    per_round: PositiveInt = 8
    cell_atoms: NonNegativeInt = 0
    explore_atoms: NonNegativeInt = 0
    explore_ps: PositiveFloat = 1.0
    timestep: float = 0.0
    training_steps: PositiveInt = 10000
    final_atoms: PositiveInt = 64
    final_ps: PositiveFloat = 5.0
    final_temperature: PositiveFloat = 600.0
    reference: bool = True
    vacancies: bool = False
    surfaces: bool = False
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        numbers = asdict(self)
        may_be_zero = {"timestep", "seed", "pressures", "reference", "vacancies", "surfaces"}
        may_be_zero |= {"cell_atoms", "explore_atoms"}
        for name, value in numbers.items():
            values = value if isinstance(value, tuple) else (value,)
            if not values:
                raise ValueError(f"{name} is empty; give at least one")
            if name not in may_be_zero and any(not item > 0 for item in values):
                raise ValueError(f"{name} is {value}; it must be positive")
        if self.models < 2:
            raise ValueError(f"models is {self.models}; the disagreement of at least 2 chooses structures")

    @property
    def goals(self) -> dict[str, float]:
        """The asked errors by the names that measured ones have."""
        return {"energy": self.energy, "forces": self.forces, "density": self.density}

    def met_by(self, errors: Mapping[str, float]) -> bool:
        """Whether measured errors, all of them known, are within the goals."""
        return all(errors.get(name, math.inf) <= goal for name, goal in self.goals.items())

    def fixed(self) -> dict[str, object]:
        """What must stay when a learning resumes: goals and limits may change, what was drawn with these may not."""
        names = ("models", "test", "first", "cell_atoms", "vacancies", "surfaces", "seed")
        return {name: getattr(self, name) for name in names}
