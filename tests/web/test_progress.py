"""Remaining time and cancellation of jobs, block by block."""

from __future__ import annotations

from pathlib import Path

import pytest
from ase.build import bulk

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.web.limits import Limits
from ase_ldos.web.progress import CancelledError, JobClock, Progress
from ase_ldos.web.tasks import Workshop, run_task

Told = list[tuple[float, str, float | None]]


def make_progress(told: Told, *, cancel_after: int = 10**9) -> Progress:
    return Progress(lambda *what: told.append(what), lambda: len(told) >= cancel_after)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_remaining_time_is_exact_where_the_shares_are_right(clock: Clock) -> None:
    """Two walks of 4 blocks, the second three times as slow, and a view as long as both: 32 s in all."""
    told: Told = []
    job = JobClock(make_progress(told), {"density of states": 1, "forces": 3}, last={"view": 4}, clock=clock)
    for name, seconds in (("density of states", 1), ("forces", 3)):
        for block in range(1, 5):
            clock.now += seconds
            job(name, block, 4)
            part, text, remaining = told[-1]
            assert remaining == pytest.approx(132 - clock.now)
            assert part == pytest.approx((clock.now - 100) / 32)
            assert text == f"{name}: {block} of 4 blocks"
    job.begin_last("files")
    clock.now += 16
    job("view", 1, 1)
    assert told[-1] == (1.0, "files", 0.0)
    assert job.measured == {"density of states": 4.0, "forces": 12.0, "view": 16.0}


def test_a_slow_machine_is_noticed_and_a_second_walk_does_not_move_the_bar_back(clock: Clock) -> None:
    told: Told = []
    job = JobClock(make_progress(told), {"density of states": 1}, last={"view": 1}, clock=clock)
    clock.now += 50
    job("density of states", 1, 2)
    assert told[-1][2] == pytest.approx(150)
    clock.now += 50
    job("density of states", 2, 2)
    job("sample", 1, 9)  # unknown: not told
    job("density of states", 1, 2)
    assert [part for part, *_ in told] == [0.25, 0.5, 0.5]


def test_steps_of_a_run_are_counted_and_blocks_within_them(clock: Clock) -> None:
    told: Told = []
    job = JobClock(make_progress(told), {"forces": 2}, last={"view": 2}, predictions=9, clock=clock)
    job.next_prediction(0, "step 0")
    assert told[-1] == (0.0, "step 0", None)
    clock.now += 5
    job("forces", 1, 2)
    assert told[-1] == (pytest.approx(1 / 20), "step 0", pytest.approx(95))
    clock.now += 5
    job("forces", 2, 2)
    job.next_prediction(1, "step 1")
    assert told[-1] == (pytest.approx(0.1), "step 1", pytest.approx(90))
    job.begin_last("files")  # at rest before the last step
    assert told[-1][0] == pytest.approx(0.9)


def test_a_prediction_is_cancelled_between_two_blocks_and_the_calculator_goes_on(bundled: str) -> None:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    calculator = LDOSCalculator(bundled, chunk_size=200)
    told: Told = []
    expected = {"density of states": 1.0, "forces": 3.0}
    calculator.progress = JobClock(make_progress(told, cancel_after=3), expected, last={"view": 1.0})
    with pytest.raises(CancelledError):
        calculator.calculate(atoms, ["energy", "forces"])
    assert len(told) == 3
    assert calculator.results == {}
    told.clear()
    calculator.progress = JobClock(make_progress(told), expected, last={"view": 1.0})
    calculator.calculate(atoms, ["energy", "forces"])
    parts = [part for part, *_ in told]
    n_blocks = len(parts) // 2
    assert n_blocks > 3
    assert parts == sorted(parts)
    assert parts[n_blocks - 1] == pytest.approx(0.2)
    assert parts[-1] == pytest.approx(0.8)
    assert all(remaining is not None and remaining > 0 for *_, remaining in told)
    calculator.progress = False
    alone = LDOSCalculator(bundled, chunk_size=200)
    alone.calculate(atoms, ["energy"])
    assert calculator.results["energy"] == alone.results["energy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "fields"), [("predict", {"forces": False}), ("predict", {}), ("relax", {"steps": 2}), ("md", {"steps": 2})]
)
def test_every_job_tells_its_remaining_time(kind: str, fields: dict[str, object], bundled: str, tmp_path: Path) -> None:
    workshop = Workshop(Limits(), {bundled: bundled})
    (tmp_path / "s").mkdir()
    spec = {"structure": {"source": "example", "name": "be-hcp"}}
    run_task("structure", spec, tmp_path / "s", None, workshop, make_progress([]))
    (tmp_path / "j").mkdir()
    told: Told = []
    request = {"model": bundled, "spacing": 0.35, **fields}
    run_task(kind, request, tmp_path / "j", tmp_path / "s", workshop, make_progress(told))
    parts = [part for part, *_ in told]
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1.0)
    assert told[-1][2] == 0.0
    assert [remaining for *_, remaining in told].count(None) <= 1
    assert len(told) >= 4
