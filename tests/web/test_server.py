"""The server from outside: who is let in, what is refused, and a run from a structure to its files."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from ase_ldos.calculator.calculator import LDOSCalculator
from ase_ldos.formats.cube import read_cube

pytestmark = pytest.mark.slow  # workers are processes that load torch
API = ["/api/info", "/api/jobs", "/api/jobs/0123456789abcdef", "/api/jobs/0123456789abcdef/files/view.json"]


@pytest.mark.parametrize("path", [*API, "/assets/app.js", "/nothing", "/docs", "/api/jobs/x/cancel"])
def test_without_the_token_nothing_is_told(server: Any, path: str) -> None:
    for headers in ({}, {"Authorization": "token wrong"}, {"Authorization": "x"}, {"Cookie": "ase-ldos-0=1"}):
        assert httpx.get(server.url + path, headers=headers).status_code == 401
        assert httpx.post(server.url + path, headers=headers, json={}).status_code == 401


def test_the_token_becomes_a_cookie_and_leaves_the_address(server: Any) -> None:
    with httpx.Client(base_url=server.url) as browser:
        assert browser.get("/").status_code == 401
        assert "Token" in browser.get("/login").text
        assert browser.post("/login", data={"token": "wrong"}).status_code == 401
        assert "not the token" in browser.get("/", params={"token": "wrong"}).text
        response = browser.get("/", params={"token": server.token})
        assert (response.status_code, response.headers["location"]) == (303, "/")
        cookie = response.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert server.token not in cookie
        assert browser.get("/").status_code == 200
        assert browser.get("/api/info").json()["limits"]["atoms"] == 64
    with httpx.Client(base_url=server.url) as browser:
        assert browser.post("/login", data={"token": server.token}).status_code == 303
        assert browser.get("/api/jobs").status_code == 200


def test_other_names_origins_and_sites_are_refused(server: Any, client: Any) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::2]"):
        assert client.get("/api/info", headers={"Host": host}).status_code in (400, 421), host
    assert client.get("/api/info", headers={"Host": "localhost:1"}).status_code == 200
    for origin in ("http://evil.example", "null", "https://127.0.0.1:1", "http://127.0.0.1"):
        assert client.post("/api/jobs", headers={"Origin": origin}, json={}).status_code == 403, origin
    assert client.post("/api/jobs", headers={"Origin": server.url}, json={}).status_code == 400
    assert client.post("/api/jobs", headers={"Sec-Fetch-Site": "cross-site"}, json={}).status_code == 403
    # what a form of another page could send
    body = json.dumps({"kind": "structure", "structure": {"source": "example", "name": "be-hcp"}})
    assert client.post("/api/jobs", content=body, headers={"Content-Type": "text/plain"}).status_code == 415


def test_every_answer_carries_the_rules_for_browsers(server: Any, client: Any) -> None:
    answers = [client.get(path) for path in ("/", "/assets/app.js", *API)]
    answers += [httpx.get(server.url + "/api/info"), client.get("/", headers={"Host": "evil.example"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2f..%2fserver.py", "%2e%2e/server.py", "vendor/3Dmol-min.js", "a\0b"]
)
def test_no_path_of_a_request_reaches_the_disk(client: Any, name: str) -> None:
    number = client.make_structure()
    assert client.get(f"/api/jobs/{number}/files/structure.extxyz").status_code == 200
    for path in (f"/assets/{name}", f"/api/jobs/{name}/files/job.json", f"/api/jobs/{number}/files/{name}"):
        assert client.get(httpx.URL(client.base_url, raw_path=path.replace("\0", "%00").encode())).status_code == 404
    # the server's own notes are no files of the job
    assert client.get(f"/api/jobs/{number}/files/job.json").status_code == 404


def test_uploads_are_limited_in_size_and_kind(client: Any) -> None:
    large = {"source": "file", "name": "a.xyz", "content": "A" * 400_000}
    assert client.post("/api/jobs", json={"kind": "structure", "structure": large}).status_code == 413

    def chunks() -> Any:
        for _ in range(40):
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    assert client.post("/api/jobs", content=chunks(), headers=headers).status_code == 413
    for name, content in (("a.pkl", b"\x80\x04K\x01."), ("a.py", b"import os"), ("a.json", b"{}"), ("a.db", b"x")):
        encoded = base64.b64encode(content).decode()
        job = client.submit(kind="structure", structure={"source": "file", "name": name, "content": encoded})
        job = client.wait_for(job)
        assert job["state"] == "failed"
        assert "this server reads" in job["error"]


def test_too_many_atoms_are_refused_in_words(client: Any) -> None:
    spec = {"source": "build", "element": "Be", "lattice": "hcp", "supercell": [9, 9, 9]}
    job = client.finish(kind="structure", structure=spec)
    assert (job["state"], "1458 atoms; this server takes at most 64" in job["error"]) == ("failed", True)
    vacuum = io.StringIO()
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    atoms.set_cell([300, 300, 300])
    write(vacuum, atoms, format="extxyz")
    content = base64.b64encode(vacuum.getvalue().encode()).decode()
    structure = client.make_structure(source="file", name="vacuum.xyz", content=content)
    job = client.finish(kind="predict", of=structure, model="be")
    assert "grid points; this server takes at most" in job["error"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "nonsense"}, "model must be one of"),
        ({"model": "../be"}, "model must be one of"),
        ({"of": "0123456789abcdef"}, "not there"),
        ({"of": None}, "number of a finished job"),
        ({"of": 7}, "number of a job"),
        ({"kind": "shell"}, "kind must be one of"),
        ({"kind": "window", "low": 3.0, "high": 1.0}, "high must be between"),
        ({"kind": "window", "low": None, "high": 1.0}, "low must be a number"),
    ],
)
def test_wrong_requests_are_answered_with_a_sentence(client: Any, change: dict[str, Any], sentence: str) -> None:
    request = {"kind": "predict", "of": client.make_structure(), "model": "be"} | change
    response = client.post("/api/jobs", json=request)
    assert response.status_code == 400
    assert sentence in response.json()["error"]


@pytest.mark.parametrize("change", [{"temperature": -5}, {"temperature": "hot"}, {"spacing": 1e-9}, {"spacing": True}])
def test_settings_without_sense_fail_in_words(client: Any, change: dict[str, Any]) -> None:
    request = {"kind": "predict", "of": client.make_structure(), "model": "be"} | change
    job = client.finish(**request)
    assert job["state"] == "failed"
    assert next(iter(change)) in job["error"]


def test_a_prediction_and_its_files(client: Any, bundled: str, tmp_path: Path) -> None:
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    atoms.rattle(0.05, seed=1)
    text = io.StringIO()
    write(text, atoms, format="vasp")
    content = base64.b64encode(text.getvalue().encode()).decode()
    structure = client.make_structure(source="file", name="POSCAR", content=content)
    assert client.get(f"/api/jobs/{structure}").json()["result"]["formula"] == "Be2"
    job = client.submit(kind="predict", of=structure, model=bundled, temperature=1000, title="mine")
    job = client.wait_for(job)
    assert job["state"] == "done", job["error"]
    assert job["title"] == "mine"
    files = {name: client.get(f"/api/jobs/{job['number']}/files/{name}") for name in job["result"]["files"]}
    for name, response in files.items():
        assert response.status_code == 200, name
        (tmp_path / name).write_bytes(response.content)
        if name != "view.json":
            assert f"Be2-predict-{name}" in response.headers["content-disposition"]

    calculator = LDOSCalculator(bundled, electronic_temperature=1000)
    found = read(tmp_path / "structure.extxyz")
    energy = calculator.get_potential_energy(found)
    assert energy == pytest.approx(found.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(found.get_forces(), calculator.get_forces(found), atol=1e-4)
    np.testing.assert_allclose(read_cube(tmp_path / "density.cube")[1], calculator.get_density(), atol=1e-5)
    with np.load(tmp_path / "result.npz") as arrays:
        np.testing.assert_allclose(arrays["density"], calculator.get_density(), atol=1e-5)
        assert float(arrays["fermi_level"]) == pytest.approx(calculator.get_fermi_level(), abs=1e-5)
    document = json.loads((tmp_path / "view.json").read_text())
    assert document["energies"][6]["energy"] == pytest.approx(energy, abs=1e-5)
    # the script does the same
    run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(run.stdout.split()[0]) == pytest.approx(energy, abs=1e-4)

    window = {"low": 5.0, "high": 7.3, "temperature": 1000, "model": bundled}
    job = client.finish(kind="window", of=job["number"], **window)
    (tmp_path / "window.cube").write_bytes(client.get(f"/api/jobs/{job['number']}/files/window.cube").content)
    states = read_cube(tmp_path / "window.cube")[1]
    np.testing.assert_allclose(states, calculator.get_local_density((5.0, 7.3), found), atol=1e-5)
    assert client.delete(f"/api/jobs/{job['number']}").status_code == 204
    assert client.get(f"/api/jobs/{job['number']}/files/window.cube").status_code == 404


@pytest.mark.parametrize("kind", ["relax", "md"])
def test_a_run_leaves_a_trajectory_and_a_film(
    client: Any, server: Any, bundled: str, kind: str, tmp_path: Path
) -> None:
    structure = client.make_structure(source="build", element="Be", lattice="hcp", rattle=0.1)
    settings = {"steps": 3, "fmax": 0.001, "cell": True} if kind == "relax" else {"steps": 3, "ion_temperature": 600}
    job = client.finish(kind=kind, of=structure, model=bundled, **settings)
    assert job["state"] == "done", job["error"]
    (tmp_path / "t.extxyz").write_bytes(client.get(f"/api/jobs/{job['number']}/files/trajectory.extxyz").content)
    frames = read(tmp_path / "t.extxyz", index=":")
    assert len(frames) == 4
    film = client.get(f"/api/jobs/{job['number']}/files/view.json").json()["film"]
    energies = [frame.get_potential_energy() for frame in frames]
    np.testing.assert_allclose(film["potential"], energies, atol=1e-5)
    if kind == "relax":
        assert energies[-1] < energies[0]
        assert film["unit"] == "step"
    else:
        total = np.array(film["potential"]) + np.array(film["kinetic"])
        assert np.ptp(total) < 0.1 * np.ptp(film["kinetic"])
        assert film["time"] == [0.0, 1.0, 2.0, 3.0]


def test_waiting_and_running_jobs_can_be_cancelled(client: Any, bundled: str) -> None:
    structure = client.make_structure()
    long = {"kind": "md", "of": structure, "model": bundled, "steps": 5000}
    running, waiting = client.submit(**long), client.submit(**long)
    while (job := client.get(f"/api/jobs/{running['number']}").json())["part"] == 0:
        assert job["state"] in ("queued", "running"), job["error"]
        time.sleep(0.1)
    assert job["remaining"] > 0
    assert "step" in job["text"]
    assert client.get(f"/api/jobs/{waiting['number']}").json()["ahead"] == 1
    for job in (waiting, running):
        assert client.post(f"/api/jobs/{job['number']}/cancel").status_code == 204
        assert client.wait_for(job)["state"] == "cancelled"
        assert client.post(f"/api/jobs/{job['number']}/cancel").status_code == 404
    # the worker is there for the next
    job = client.submit(kind="predict", of=structure, model=bundled)
    assert client.wait_for(job)["state"] == "done"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_a_killed_worker_is_replaced_and_its_job_said_to_be_lost(client: Any, server: Any, bundled: str) -> None:
    structure = client.make_structure()
    job = client.submit(kind="md", of=structure, model=bundled, steps=5000)
    while client.get(f"/api/jobs/{job['number']}").json()["part"] == 0:
        time.sleep(0.1)
    for number in server.children():
        os.kill(number, signal.SIGKILL)
    job = client.wait_for(job)
    assert job["state"] == "lost"
    assert "signal 9" in job["error"]
    structure = client.make_structure()
    job = client.submit(kind="predict", of=structure, model=bundled)
    assert client.wait_for(job)["state"] == "done"


def test_ten_users_at_once_get_a_queue(server: Any, bundled: str) -> None:
    ends: list[str] = []

    def use() -> None:
        with server.client() as client:
            structure = client.make_structure()
            request = {"kind": "predict", "of": structure, "model": bundled, "forces": False}
            ends.append(client.wait_for(client.submit(**request), 300)["state"])

    users = [threading.Thread(target=use) for _ in range(10)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert ends == ["done"] * 10


def test_results_are_there_after_a_restart(start_server: Callable[..., Any], tmp_path: Path) -> None:
    first = start_server(folder=tmp_path)
    with first.client() as client:
        job = client.get(f"/api/jobs/{client.make_structure()}").json()
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(timeout=30) == 0
    (tmp_path / "0123456789abcdef").mkdir()
    (tmp_path / "0123456789abcdef" / "job.json").write_text("{}")
    second = start_server("--prefix", "/ldos", "--allow-host", "ldos.example.org", folder=tmp_path)
    with second.client() as client:
        again = client.get(f"/api/jobs/{job['number']}").json()
        assert again["result"] == job["result"]
        assert "Be" in client.get(f"/api/jobs/{job['number']}/files/structure.extxyz").text
        assert client.get("/api/jobs/0123456789abcdef").status_code == 404
    # as a reverse proxy asks that takes the prefix away
    headers = {"Host": "ldos.example.org", "X-Forwarded-Proto": "https"}
    response = httpx.get(second.url, params={"token": second.token}, headers=headers)
    assert (response.status_code, response.headers["location"]) == (303, "/ldos/")
    cookie = response.headers["set-cookie"].lower()
    assert "path=/ldos/" in cookie
    assert "secure" in cookie
