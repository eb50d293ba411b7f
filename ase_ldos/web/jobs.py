"""The queue of jobs and the workers that do them.

Two lanes: structures are read and built by a light worker, so that looking at a file does not wait for somebody's long
run; predictions are done by one or more heavy ones, in the order in which they came. A worker that dies or is stopped
is replaced. Finished jobs lie in a folder and are there again after a restart.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from ase_ldos.files import read_json, write_json
from ase_ldos.web.limits import Limits
from ase_ldos.web.tasks import TASKS

log = logging.getLogger(__name__)

#: States in which nothing happens any more.
FINAL = ("done", "failed", "cancelled", "lost")
#: Kinds of jobs that the light worker does, and how long it may take, s.
LIGHT, LIGHT_SECONDS = ("structure",), 30.0
#: A worker has so many seconds to notice that its job is cancelled before it is stopped.
GRACE = 1.5
#: A worker that ends so soon after its start will not do better the next time: wait, s.
RESTART_PAUSE = 2.0


class QueueFullError(Exception):
    """Too many jobs are waiting."""


@dataclass
class Job:
    """One job.

    Attributes:
        number: its name, made here.
        kind: of ``tasks.TASKS``.
        title: for the list.
        request: from the user; the content of uploads goes once it has been read.
        source: number of the job it builds on.
        state: queued, running, done, failed, cancelled, lost.
        part: done, 0 to 1.
        text: what is being done.
        remaining: s.
        error: why it failed.
        created: seconds since 1970, as the next two.
        started: when a worker took it.
        finished: when it ended.
        result: from the task.
    """

    number: str
    kind: str
    title: str
    request: dict[str, Any]
    source: str | None = None
    state: str = "queued"
    part: float = 0.0
    text: str = ""
    remaining: float | None = None
    error: str = ""
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    result: dict[str, Any] = field(default_factory=dict)


class JobQueue:
    """Jobs and workers; every method may be called from any thread.

    Args:
        folder: of the results; made if it is not there.
        models: name → bundled name or path of the file.
        limits: of the server.
        workers: that predict at the same time.
        threads: of each of them.
    """

    def __init__(
        self, folder: Path, models: dict[str, str], limits: Limits, *, workers: int = 1, threads: int | None = None
    ) -> None:
        self.folder, self.models, self.limits = folder, models, limits
        self._threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._cancel: set[str] = set()
        self._closing = False
        folder.mkdir(parents=True, exist_ok=True)
        self._load()
        lanes = [(LIGHT, False)] + [(tuple(set(TASKS) - set(LIGHT)), True)] * workers
        self._lanes = [
            threading.Thread(target=self._serve, args=(kinds, calculates), daemon=True) for kinds, calculates in lanes
        ]
        for lane in self._lanes:
            lane.start()

    def add(self, kind: str, title: str, request: dict[str, Any], source: str | None = None) -> Job:
        """Put a job at the end of the queue.

        Raises:
            QueueFullError: too many are waiting.
            ValueError: an unknown kind, or the job that it builds on is not there or not done.
        """
        if kind not in TASKS:
            raise ValueError(f"kind must be one of {', '.join(TASKS)}")
        with self._changed:
            if source is not None and (source not in self._jobs or self._jobs[source].state != "done"):
                raise ValueError("the job that this one builds on is not there, or not done")
            if sum(job.state == "queued" for job in self._jobs.values()) >= self.limits.queue:
                raise QueueFullError(f"{self.limits.queue} jobs are waiting already; try again later")
            job = Job(secrets.token_hex(8), kind, title, request, source)
            self._jobs[job.number] = job
            self._changed.notify_all()
        return job

    def get(self, number: str) -> Job | None:
        """The job of a number."""
        with self._changed:
            return self._jobs.get(number)

    def list(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._changed:
            return sorted(self._jobs.values(), key=lambda job: -job.created)

    def place(self, job: Job) -> int:
        """How many jobs of the same lane are done before this one."""
        with self._changed:
            return sum(
                other.state in ("queued", "running")
                and (other.kind in LIGHT) == (job.kind in LIGHT)
                and other.created < job.created
                for other in self._jobs.values()
            )

    def file(self, job: Job, name: str) -> Path | None:
        """A file of a finished job, if the job has one of this name."""
        if job.state != "done" or name not in job.result.get("files", []):
            return None
        path = self.folder / job.number / name
        return path if path.is_file() else None

    def cancel(self, number: str) -> bool:
        """Cancel a job that waits or runs; whether there was one."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state in FINAL:
                return False
            if job.state == "queued":
                self._finish(job, "cancelled")
            else:
                self._cancel.add(number)
                job.text = "cancelling"
            self._changed.notify_all()
        return True

    def remove(self, number: str) -> bool:
        """Remove a finished job with its files; whether there was one."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state not in FINAL:
                return False
            del self._jobs[number]
        shutil.rmtree(self.folder / job.number, ignore_errors=True)
        return True

    def close(self) -> None:
        """Stop the workers; what runs is lost, what waits is forgotten."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _load(self) -> None:
        """Take up what an earlier server has finished."""
        for path in sorted(self.folder.glob("*/job.json")):
            try:
                job = Job(**read_json(path))
            except (ValueError, TypeError) as error:
                log.warning("%s is not read: %s", path, error)
                continue
            if job.number == path.parent.name and job.state in FINAL:
                self._jobs[job.number] = job

    def _finish(self, job: Job, state: str, error: str = "") -> None:
        """To be called with the lock held."""
        job.state, job.error, job.finished, job.remaining = state, error, time.time(), None
        self._cancel.discard(job.number)
        structure = job.request.get("structure")
        if isinstance(structure, dict):
            structure.pop("content", None)
        try:
            (self.folder / job.number).mkdir(exist_ok=True)
            write_json(self.folder / job.number / "job.json", asdict(job))
        except OSError as problem:
            log.warning("job %s is not kept: %s", job.number, problem)
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        finished = sorted((job for job in self._jobs.values() if job.state in FINAL), key=lambda job: job.created)
        needed = {job.source for job in self._jobs.values() if job.state not in FINAL}
        for job in finished[: max(0, len(finished) - self.limits.results)]:
            if job.number not in needed:
                del self._jobs[job.number]
                shutil.rmtree(self.folder / job.number, ignore_errors=True)

    def _serve(self, kinds: tuple[str, ...], calculates: bool) -> None:
        """One lane: keep a worker alive and give it the next job."""
        worker: _Worker | None = None
        while True:
            if worker is None or not worker.is_running():
                if worker is not None:
                    worker.stop()
                worker = _Worker(self.limits, self.models, calculates=calculates, threads=self._threads)
                if not worker.wait_until_ready(lambda: self._closing):
                    worker.stop()
                    if self._closing:
                        return
                    log.error("a worker process does not start; trying again")
                    worker = None
                    with self._changed:
                        if self._changed.wait_for(lambda: self._closing, RESTART_PAUSE):
                            return
                    continue
            job = self._next(kinds, worker)
            if job is None:
                if self._closing:
                    worker.stop()
                    return
                continue
            self._carry_out(job, worker)

    def _next(self, kinds: tuple[str, ...], worker: _Worker) -> Job | None:
        """Wait for a job of these kinds, now running; None when closing, or when the worker has died meanwhile."""
        with self._changed:
            while not self._closing and worker.is_running():
                waiting = [job for job in self._jobs.values() if job.state == "queued" and job.kind in kinds]
                if waiting:
                    job = min(waiting, key=lambda job: job.created)
                    job.state, job.started = "running", time.time()
                    return job
                self._changed.wait(1.0)
        return None

    def _carry_out(self, job: Job, worker: _Worker) -> None:
        """Give the job to the worker and follow it to its end."""
        folder = self.folder / job.number
        folder.mkdir(exist_ok=True)
        source = None if job.source is None else str(self.folder / job.source)
        limit = LIGHT_SECONDS if job.kind in LIGHT else self.limits.seconds
        end, cancel_sent = time.monotonic() + limit, None
        worker.send(
            {
                "job": job.number,
                "kind": job.kind,
                "request": job.request,
                "folder": str(folder),
                "source": source,
            }
        )
        while True:
            event = worker.next_event(0.1)
            with self._changed:
                if event is not None and event.get("job") == job.number and event["event"] != "progress":
                    job.result = event.get("result", {})
                    job.part = 1.0 if event["event"] == "done" else job.part
                    self._finish(job, event["event"], event.get("error", ""))
                    return
                if event is not None and event.get("job") == job.number:
                    job.part, job.remaining = event["part"], event["remaining"]
                    job.text = "cancelling" if job.number in self._cancel else event["text"]
                    continue
                if not worker.is_alive():
                    code = worker.exit_code()
                    self._finish(
                        job,
                        "lost",
                        f"the worker process has ended ({code}); this job is lost, and a new worker is started. If it "
                        "happens again, the job may need more memory than there is.",
                    )
                    return
                if self._closing:
                    self._finish(job, "lost", "the server was stopped while this job ran")
                    worker.stop()
                    return
                if job.number in self._cancel and cancel_sent is None:
                    worker.send({"event": "cancel", "job": job.number})
                    cancel_sent = time.monotonic()
                if cancel_sent is not None and time.monotonic() > cancel_sent + GRACE:
                    worker.stop()
                    self._finish(job, "cancelled")
                    return
                if time.monotonic() > end:
                    worker.stop()
                    self._finish(job, "failed", f"stopped after {limit:g} s: this server gives a job no more time")
                    return


class _Worker:
    """A worker process and the thread that reads what it tells."""

    def __init__(self, limits: Limits, models: dict[str, str], *, calculates: bool, threads: int) -> None:
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ase_ldos.web.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        self.send({"limits": vars(limits), "models": models, "calculates": calculates})

    def send(self, message: dict[str, Any]) -> None:
        """A line to the worker; one that has died is noticed elsewhere."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            log.debug("the worker has ended")

    def next_event(self, seconds: float) -> dict[str, Any] | None:
        """What the worker tells within so many seconds."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    def wait_until_ready(self, is_closing: Callable[[], bool]) -> bool:
        """Whether the worker has started."""
        while self.is_alive() and not is_closing():
            if (event := self.next_event(0.2)) is not None and event["event"] == "ready":
                return True
        return False

    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def is_alive(self) -> bool:
        """Whether it runs, or has told something that was not heard yet."""
        return self.is_running() or not self._events.empty()

    def exit_code(self) -> str:
        """How it ended, for people."""
        code = self._process.poll()
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdin is not None:
            with suppress(OSError):  # what was not read any more
                self._process.stdin.close()
        while not self._events.empty():
            self._events.get_nowait()

    def _read(self, source: IO[str]) -> None:
        with source:
            for line in source:
                try:
                    self._events.put(json.loads(line))
                except ValueError:
                    log.warning("a worker said %r", line[:200])
