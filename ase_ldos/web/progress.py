"""How far a job is, how long it still takes, and whether it is still wanted: asked and told after every block.

A prediction walks over the grid once for the density of states, once more for forces, and what the page draws takes
its time too. These stages differ in their pace, so that one of them does not tell when all are done: the share of each
in the whole is expected from earlier jobs, at first from a guess; the pace is that of this very job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate


class CancelledError(Exception):
    """The user has cancelled the job."""


@dataclass
class Progress:
    """Tells the server how far a job is, and finds out whether it is still wanted.

    Attributes:
        tell: gets the part that is done (0 to 1), what is being done, and the remaining time, s, or None.
        is_cancelled: whether the user has cancelled.
    """

    tell: Callable[[float, str, float | None], None]
    is_cancelled: Callable[[], bool]

    def check(self) -> None:
        """Go on only with what is wanted.

        Raises:
            CancelledError: the job is not wanted any more.
        """
        if self.is_cancelled():
            raise CancelledError


class JobClock:
    """Remaining time of a job from the blocks that are done; may be given to ``LDOSCalculator.progress``.

    Args:
        progress: of the job.
        stages: of each prediction, in their order → expected time; only the ratios count.
        last: stages that come once, at the end of the job, in the same unit.
        predictions: of the job, at most.
        text: what is being done; default is the stage and its blocks.
        clock: gives the time, s.

    Attributes:
        measured: stage → time that it took, s, the last time if it came more than once.
    """

    def __init__(
        self,
        progress: Progress,
        stages: Mapping[str, float],
        *,
        last: Mapping[str, float],
        predictions: int = 1,
        text: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress, self._clock, self._text = progress, clock, text
        self._each = sum(stages.values())
        self._before = _starts(stages)
        self._before_last = _starts(last, predictions * self._each)
        self._shares = {**stages, **last}
        self._total, self._finished, self._past = predictions * self._each + sum(last.values()), 0, 0.0
        self._started = self._stage_started = clock()
        self.measured: dict[str, float] = {}

    def __call__(self, name: str, done: int, of: int) -> None:
        """So many blocks of a stage are done; of a stage that nobody expected it is only asked whether to go on.

        Raises:
            CancelledError: the job is not wanted any more.
        """
        self._progress.check()
        if name not in self._shares:
            return
        start = self._before_last.get(name)
        if start is None:
            start = self._finished * self._each + self._before[name]
        if done == of:
            now = self._clock()
            self.measured[name], self._stage_started = now - self._stage_started, now
        self._tell(start + self._shares[name] * done / of, self._text or f"{name}: {done:,} of {of:,} blocks")

    def next_prediction(self, finished: int, text: str) -> None:
        """A step of a run is done.

        Args:
            finished: predictions so far.
            text: what is being done from now on.

        Raises:
            CancelledError: the job is not wanted any more.
        """
        self._progress.check()
        self._finished, self._text, self._stage_started = finished, text, self._clock()
        self._tell(finished * self._each, text)

    def begin_last(self, text: str) -> None:
        """The predictions are done, perhaps earlier than after as many as were expected.

        Args:
            text: what is being done from now on.

        Raises:
            CancelledError: the job is not wanted any more.
        """
        self._progress.check()
        self._text, self._stage_started = text, self._clock()
        self._tell(min(self._before_last.values()), text)

    def _tell(self, past: float, text: str) -> None:
        # what is walked over a second time does not move the bar back
        self._past = max(self._past, past)
        passed = self._clock() - self._started
        remaining = passed / self._past * (self._total - self._past) if self._past > 0 else None
        self._progress.tell(self._past / self._total, text, remaining)


def _starts(shares: Mapping[str, float], first: float = 0.0) -> dict[str, float]:
    """Sum of what comes before each."""
    return dict(zip(shares, accumulate(shares.values(), initial=first)))
