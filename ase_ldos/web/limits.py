"""What a server lets its users ask for; said on the page before anything is started."""

from __future__ import annotations

from dataclasses import dataclass

#: Grid points for each atom that is allowed: a cell with much vacuum has more points than a crystal of as many atoms.
POINTS_PER_ATOM = 1500


@dataclass(frozen=True)
class Limits:
    """Limits of a server; each is answered with a sentence, not with a crash.

    Attributes:
        atoms: of a structure.
        steps: of a relaxation or a run of dynamics.
        seconds: that one job may take.
        memory: of a worker process, bytes.
        upload: size of a request, bytes.
        queue: jobs that wait.
        results: finished jobs that are kept; the oldest go first.
    """

    atoms: int = 4096
    steps: int = 2000
    seconds: float = 3600.0
    memory: int = 8 * 2**30
    upload: int = 10 * 2**20
    queue: int = 64
    results: int = 200

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing."""
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"the limit of {name} is {value}; it must be positive")

    @property
    def grid_points(self) -> int:
        """Of a grid."""
        return POINTS_PER_ATOM * self.atoms
