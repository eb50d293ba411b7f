"""What a training run gave, epoch by epoch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: counted from 0.
        train: mean over the batches of ``loss``, of every metric that the loss reports and of ``gradient_norm``.
        validation: what the validation returned; empty where none was made.
        learning_rate: of the optimiser's first group at the start of the epoch.
        seconds: wall time of the epoch, validation included.
    """

    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    learning_rate: float
    seconds: float


@dataclass
class History:
    """The record of a run.

    Attributes:
        monitor: name of the number whose smallest value marks the best weights.
        records: one per finished epoch.
        best_epoch: epoch of the best weights; None before the first judged epoch.
        best: value of ``monitor`` there.
        stopped: why the run ended: ``epochs``, ``patience``, ``time limit`` or ``callback``; empty while it runs.
    """

    monitor: str = "loss"
    records: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    best: float = float("inf")
    stopped: str = ""

    def column(self, name: str, *, validation: bool = False) -> list[float]:
        """One number over the epochs, for a plot; NaN where an epoch has none.

        Raises:
            ValueError: no epoch has a number of that name.
        """
        rows = [record.validation if validation else record.train for record in self.records]
        known = sorted({key for row in rows for key in row})
        if name not in known:
            raise ValueError(f"the history has no {name!r}; it has {', '.join(known) or 'no epochs'}")
        return [row.get(name, float("nan")) for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> History:
        """Build the history that ``to_dict`` described.

        Raises:
            ValueError: keys are missing or unknown.
        """
        try:
            records = [EpochRecord(**record) for record in content["records"]]
            return cls(**{**content, "records": records})
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no training history: {error}") from error
