"""The queue: limits of time, memory and number, and what is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ase_ldos.web.jobs import FINAL, Job, JobQueue, QueueFullError
from ase_ldos.web.limits import Limits

pytestmark = pytest.mark.slow  # workers are processes that load torch
EXAMPLE = {"structure": {"source": "example", "name": "be-hcp"}}


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[Callable[..., JobQueue]]:
    queues: list[JobQueue] = []

    def make(**limits: Any) -> JobQueue:
        queues.append(JobQueue(tmp_path, {"be": "be"}, Limits(**limits), threads=1))
        return queues[-1]

    yield make
    for queue in queues:
        queue.close()


def wait_for(job: Job, seconds: float = 90) -> Job:
    end = time.monotonic() + seconds
    while job.state not in FINAL:
        assert time.monotonic() < end
        time.sleep(0.05)
    return job


def test_a_job_that_takes_too_long_is_stopped(make_queue: Callable[..., JobQueue], bundled: str) -> None:
    queue = make_queue(seconds=1.0)
    structure = wait_for(queue.add("structure", "a", dict(EXAMPLE)))
    job = wait_for(queue.add("md", "b", {"model": bundled, "steps": 2000}, structure.number))
    assert job.state == "failed"
    assert "stopped after 1 s" in job.error


def test_a_worker_without_memory_loses_its_job_and_not_the_server(
    make_queue: Callable[..., JobQueue], bundled: str
) -> None:
    queue = make_queue(memory=200 * 2**20)
    structure = wait_for(queue.add("structure", "a", dict(EXAMPLE)))
    job = wait_for(queue.add("predict", "b", {"model": bundled}, structure.number))
    assert job.state in ("failed", "lost")
    assert "memory" in job.error
    assert wait_for(queue.add("structure", "c", dict(EXAMPLE))).state == "done"


def test_a_full_queue_and_unknown_jobs_are_refused(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(queue=2)
    first = queue.add("structure", "a", dict(EXAMPLE))
    # predictions wait: their worker has not even started
    for _ in range(2):
        queue.add("predict", "a", {}, wait_for(first).number)
    with pytest.raises(QueueFullError, match="2 jobs are waiting"):
        queue.add("structure", "a", dict(EXAMPLE))
    with pytest.raises(ValueError, match="kind must be one of"):
        queue.add("shell", "a", {})
    with pytest.raises(ValueError, match="not there"):
        queue.add("predict", "a", {}, "0000000000000000")


def test_only_the_newest_results_are_kept_and_uploads_are_not(
    make_queue: Callable[..., JobQueue], tmp_path: Path
) -> None:
    queue = make_queue(results=3)
    for _ in range(5):
        job = wait_for(queue.add("structure", "a", dict(EXAMPLE)))
    upload = {"structure": {"source": "file", "name": "a.xyz", "content": "MQo="}}
    failed = wait_for(queue.add("structure", "b", upload))
    assert failed.state == "failed"
    assert "content" not in failed.request["structure"]
    assert [kept.number for kept in queue.list()][:2] == [failed.number, job.number]
    assert len(queue.list()) == len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["atoms", "memory", "seconds"])
def test_limits_that_allow_nothing_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})
