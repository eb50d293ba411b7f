"""Leases: one holder at a time, dead ones taken over, living ones respected."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ase_ldos.labelling.leases import Leases

HOLD = """
import sys, time
from ase_ldos.labelling.leases import Leases
lease = Leases(sys.argv[1]).take("x")
print("held" if lease else "busy", flush=True)
time.sleep(60)
"""
COUNT = """
import sys, time
from pathlib import Path
from ase_ldos.labelling.leases import Leases
leases, file = Leases(sys.argv[1]), Path(sys.argv[2])
for _ in range(30):
    with leases.held("counter"):
        number = int(file.read_text())
        file.write_text(str(number + 1))
"""


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_name_has_one_holder(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    first = leases.take("x")
    assert first is not None
    assert first.is_held
    assert leases.take("x") is None
    assert leases.holder("x")["pid"] == os.getpid()
    assert leases.holder("x")["host"] == socket.gethostname()
    other = leases.take("y")
    assert other is not None
    other.release()
    first.release()
    assert leases.holder("x") == {}
    again = leases.take("x")
    assert again is not None
    again.release()
    leases.tidy()
    assert not (tmp_path / "leases").exists()


def test_a_folder_in_use_stays(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    with leases.held("x"):
        leases.tidy()
        assert leases.take("x") is None


def test_the_lease_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    leases = Leases(tmp_path / "leases")
    process = start(HOLD, tmp_path / "leases")
    try:
        assert said(process) == "held"
        assert leases.take("x") is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        lease = leases.take("x")
        assert lease is not None
        assert lease.is_held
        lease.release()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_number_that_was_given_again_is_no_holder(tmp_path: Path) -> None:
    """The lease names our own number, which a process had that began at another time."""
    (tmp_path / "x.lease").write_text(
        json.dumps({"token": "t", "host": socket.gethostname(), "pid": os.getpid(), "started": "1"})
    )
    lease = Leases(tmp_path).take("x")
    assert lease is not None
    lease.release()


def test_a_lease_of_another_host_expires_only_without_heartbeats(tmp_path: Path) -> None:
    leases = Leases(tmp_path, heartbeat=0.05, expiry=0.5)
    path = tmp_path / "x.lease"
    path.write_text(json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": "1"}))
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert leases.take("x") is None
        time.sleep(0.02)
    beating.set()
    thread.join()
    began = time.monotonic()
    while (lease := leases.take("x")) is None:
        assert time.monotonic() - began < 20
        time.sleep(0.02)
    lease.release()


def test_a_holder_learns_that_it_was_taken_for_dead(tmp_path: Path) -> None:
    lease = Leases(tmp_path).take("x")
    assert lease is not None
    (tmp_path / "x.lease").write_text(json.dumps({"token": "another", "host": "elsewhere", "pid": 1, "started": "1"}))
    assert not lease.is_held
    lease.release()
    assert (tmp_path / "x.lease").exists()


def test_of_many_who_want_a_dead_lease_one_gets_it(tmp_path: Path) -> None:
    for attempt in range(20):
        path = tmp_path / f"{attempt}.lease"
        path.write_text(json.dumps({"token": "t", "host": socket.gethostname(), "pid": 2**22 + 7, "started": "1"}))
        got: list[object] = []
        barrier = threading.Barrier(6)

        def take(name: str, barrier: threading.Barrier = barrier, got: list[object] = got) -> None:
            barrier.wait()
            got.append(Leases(tmp_path).take(name))

        threads = [threading.Thread(target=take, args=(str(attempt),)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [lease for lease in got if lease is not None]
        assert len(winners) <= 1
        lease = winners[0] if winners else Leases(tmp_path).take(str(attempt))
        assert lease is not None
        lease.release()  # type: ignore[attr-defined]


def test_processes_that_count_under_a_lease_lose_no_step(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [start(COUNT, tmp_path / "leases", counter) for _ in range(3)]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert counter.read_text() == "90"


def test_times_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expire after 10 s and are touched every 6 s"):
        Leases(tmp_path, heartbeat=6, expiry=10)
