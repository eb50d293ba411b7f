"""A worker process: takes jobs as lines of JSON, tells progress and results as lines of JSON.

Started by the server as ``python -m ase_ldos.web.worker``. What is parsed and calculated on behalf of users happens
here, under limits that the system enforces; when it dies the server says that its job is lost and starts another. It
ends by itself when the server does (its input ends).
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from ase.calculators.calculator import CalculatorError

from ase_ldos.web.limits import Limits
from ase_ldos.web.progress import CancelledError, Progress
from ase_ldos.web.tasks import Workshop, run_task

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until the input ends."""
    # what libraries print must not get between the lines of the protocol
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    cancelled: set[str] = set()
    first = json.loads(sys.stdin.readline())
    workshop = Workshop(Limits(**first["limits"]), first["models"])
    threading.Thread(target=_read, args=(sys.stdin, jobs, cancelled), daemon=True).start()
    if first["calculates"]:
        import ase_ldos.calculator.calculator  # noqa: F401 - before the limits: what is there counts less
    _set_limits(workshop.limits)
    tell = _Teller(output)
    tell({"event": "ready"})
    while True:
        job = jobs.get()
        tell(_answer(job, workshop, tell, cancelled) | {"job": job["job"]})


class _Teller:
    """Writes events, also from the thread of a clock."""

    def __init__(self, output: TextIO) -> None:
        self._output, self._lock = output, threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._output.write(json.dumps(event) + "\n")
            self._output.flush()


def _answer(job: dict[str, Any], workshop: Workshop, tell: _Teller, cancelled: set[str]) -> dict[str, Any]:
    """Do the job; errors become sentences."""
    number = job["job"]
    last_time, last_stage = 0.0, ""

    def report(part: float, text: str, remaining: float | None) -> None:
        nonlocal last_time, last_stage
        stage = text.partition(":")[0]
        if time.monotonic() - last_time > 0.2 or part in (0.0, 1.0) or stage != last_stage:
            last_time, last_stage = time.monotonic(), stage
            tell({"event": "progress", "job": number, "part": part, "text": text, "remaining": remaining})

    progress = Progress(report, lambda: number in cancelled)
    source = None if job["source"] is None else Path(job["source"])
    try:
        result = run_task(job["kind"], job["request"], Path(job["folder"]), source, workshop, progress)
    except CancelledError:
        return {"event": "cancelled"}
    except MemoryError as error:
        workshop.calculators.clear()
        limit = workshop.limits.memory / 2**30
        reason = " ".join(str(error).split())[:300]
        return {"event": "failed", "error": f"out of memory: this server gives a job {limit:.3g} GiB. {reason}"}
    except (ValueError, OSError, CalculatorError) as error:
        return {"event": "failed", "error": " ".join(str(error).split())[:1000]}
    except Exception as error:
        log.exception("job %s failed", number)
        return {"event": "failed", "error": f"an error inside the program: {type(error).__name__}: {error}"[:1000]}
    return {"event": "done", "result": result}


def _read(source: TextIO, jobs: queue.Queue[dict[str, Any]], cancelled: set[str]) -> None:
    """Take jobs and cancellations from the server; without a server there is nothing left to do."""
    for line in source:
        message = json.loads(line)
        if message.get("event") == "cancel":
            cancelled.add(message["job"])
        else:
            jobs.put(message)
    os._exit(0)


def _set_limits(limits: Limits) -> None:
    """Let the system refuse memory beyond the limit, core dumps, and huge files."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, value in ((resource.RLIMIT_DATA, limits.memory), (resource.RLIMIT_FSIZE, 4 * 2**30)):
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (wanted, hard))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    main()
