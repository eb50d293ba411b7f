"""A server of its own for these tests, on the loopback address, and a way to talk to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from processes import children_of

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
httpx = pytest.importorskip("httpx")

TOKEN = "token-of-the-tests"
#: Small limits, so that tests can reach them.
OPTIONS = ["--max-atoms", "64", "--max-upload", "0.2", "--max-steps", "5000", "--threads", "1"]


class Client(httpx.Client):
    """Knows the token, and what the tests ask for again and again."""

    def submit(self, **request: Any) -> dict[str, Any]:
        """A new job."""
        response = self.post("/api/jobs", json=request)
        assert response.status_code == 201, response.text
        return response.json()

    def wait_for(self, job: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """The job once it has ended."""
        end = time.monotonic() + seconds
        while job["state"] in ("queued", "running"):
            assert time.monotonic() < end, f"{job} does not end"
            time.sleep(0.1)
            job = self.get(f"/api/jobs/{job['number']}").json()
        return job

    def finish(self, **request: Any) -> dict[str, Any]:
        """A new job once it has ended."""
        return self.wait_for(self.submit(**request))

    def make_structure(self, **spec: Any) -> str:
        """Number of a structure that has been made; default: two atoms of beryllium."""
        job = self.finish(kind="structure", structure=spec or {"source": "example", "name": "be-hcp"})
        assert job["state"] == "done", job["error"]
        return str(job["number"])


@dataclass
class Server:
    """A running server."""

    url: str
    token: str
    folder: Path
    process: subprocess.Popen[str]

    def client(self) -> Client:
        return Client(base_url=self.url, headers={"Authorization": f"token {self.token}"}, timeout=60)

    def children(self) -> list[int]:
        """Process numbers of the workers (Linux)."""
        return children_of(self.process.pid)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers; all end with the tests."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str, folder: Path | None = None) -> Server:
        folder = folder or tmp_path_factory.mktemp("results")
        command = [sys.executable, "-m", "ase_ldos", "serve", "--port", "0", "--token", TOKEN, "--folder", str(folder)]
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, text=True, env=dict(os.environ, OMP_NUM_THREADS="1")
        )
        started.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if (found := re.search(r"(http://127\.0\.0\.1:\d+)/\?token=", line)) is not None:
                break
        else:
            raise AssertionError("the server did not start")
        server = Server(found[1], TOKEN, folder, process)
        for _ in range(200):
            try:
                with server.client() as client:
                    if client.get("/api/info").status_code == 200:
                        return server
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not answer")

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Server]) -> Server:
    return start_server(*OPTIONS)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client
