"""Random requests and damaged files: the server answers each with a sentence, and goes on. Seeded, short."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from ase.build import bulk
from ase.io import write

pytestmark = pytest.mark.slow  # workers are processes that load torch
SEED = 20
WORDS = ["structure", "predict", "md", "window", "be", "file", "build", "example", "be-hcp", "Be", "hcp", ""]
WORDS += ["\ud800", "\0"]
TYPES = ["application/json"] * 5 + ["text/plain", "multipart/form-data; boundary=x"]
DAMAGES = [b"nan", b"1e400", b"-1", b"99999999999", b"\0\0", b"\xff\xfe", b"\n\n"]
FILES = {"a.xyz": "extxyz", "POSCAR": "vasp", "a.cif": "cif", "a.cube": "cube", "a.traj": "traj", "a.xsf": "xsf"}
KEYS = [
    *("kind", "of", "model", "structure", "source", "name", "content", "index", "element", "lattice", "supercell"),
    *("fault", "rattle", "seed", "a", "c", "temperature", "spacing", "steps", "low", "high", "title"),
]


def random_value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(9 if depth < 3 else 7)
    if kind < 2:
        return dice.choice(WORDS)
    if kind == 2:
        return dice.choice([0, -1, 1, 2**31, 2**64, 10**400, -(10**30)])
    if kind == 3:
        return dice.choice([0.5, -0.1, 1e308, float("nan"), float("inf"), -0.0])
    if kind == 4:
        return dice.choice([True, False, None])
    if kind < 7:
        return "".join(chr(dice.randrange(1, 0xD7FF)) for _ in range(dice.randrange(30)))
    if kind == 7:
        return [random_value(dice, depth + 1) for _ in range(dice.randrange(5))]
    return {dice.choice(KEYS): random_value(dice, depth + 1) for _ in range(dice.randrange(6))}


def random_body(dice: random.Random, number: str) -> bytes:
    kind = dice.randrange(6)
    if kind == 0:
        return dice.randbytes(dice.randrange(200))
    if kind == 1:
        return b"[" * dice.choice([10, 100_000]) + b"]" * 10
    request: Any = {"kind": dice.choice(["structure", "predict", "window", "md", "relax"]), "of": number, "model": "be"}
    if request["kind"] in ("md", "relax"):
        request["steps"] = 1
    for _ in range(dice.randrange(1, 4)):
        request[dice.choice(KEYS)] = random_value(dice)
    if kind == 2:
        request["structure"] = {"source": dice.choice(["file", "build", "example"])} | {
            dice.choice(KEYS): random_value(dice) for _ in range(4)
        }
    text = json.dumps(request)
    if kind == 3:
        place = dice.randrange(len(text))
        text = text[:place] + dice.choice('{}[]",:0e\\') + text[place + 1 :]
    return text.encode("utf-8", "surrogatepass")


def test_random_requests_to_every_endpoint(client: Any) -> None:
    dice = random.Random(SEED)
    number = client.make_structure()
    paths = ["/", "/login", "/assets/app.js", "/api/info", "/api/jobs", f"/api/jobs/{number}", "/api/jobs/zzz"]
    paths += [f"/api/jobs/{number}/cancel", f"/api/jobs/{number}/files/structure.extxyz", "/api/jobs//files/", "//"]
    answers: list[int] = []
    for _ in range(250):
        method = dice.choice(["GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"])
        path = "/api/jobs" if method == "POST" and dice.random() < 0.7 else dice.choice(paths)
        if dice.random() < 0.2:
            path += dice.choice(["/../..", "?token=x", "?" + "a" * 3000, "%00", "%ff%fe", "/" * 50, ";x", "%2e%2e%2f"])
        if path.startswith(f"/api/jobs/{number}") and method == "DELETE":
            continue
        headers = {"Content-Type": dice.choice(TYPES)}
        try:
            answer = client.request(method, path, content=random_body(dice, number), headers=headers)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            continue
        assert answer.status_code < 500, (method, path, answer.text)
        answers.append(answer.status_code)
    assert {200, 201, 400, 404, 405, 415} <= set(answers)
    jobs = client.get("/api/jobs").json()
    for job in jobs:
        job = client.wait_for(job, 300)
        assert job["state"] in ("done", "failed", "cancelled"), job
        assert "inside the program" not in job["error"], job
    assert client.make_structure()


@pytest.mark.parametrize(("name", "written"), FILES.items())
def test_damaged_files_are_answered_in_words(client: Any, name: str, written: str, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    atoms = bulk("Be", "hcp", a=2.245, c=3.531)
    write(tmp_path / "whole", atoms, format=written)
    whole = (tmp_path / "whole").read_bytes()
    ends = []
    for _ in range(25):
        content = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(content))
            change = dice.randrange(4)
            if change == 0:
                content[place] = dice.randrange(256)
            elif change == 1:
                del content[place:]
                content += b"\n"
            elif change == 2:
                content[place:place] = dice.choice(DAMAGES)
            else:
                del content[place : place + dice.randrange(1, 40)]
            if not content:
                content = bytearray(b"\n")
        encoded = base64.b64encode(bytes(content)).decode()
        job = client.finish(kind="structure", structure={"source": "file", "name": name, "content": encoded})
        assert job["state"] in ("done", "failed"), job
        assert "inside the program" not in job["error"], job["error"]
        assert job["error"] == "" or len(job["error"]) < 1001
        ends.append(job["state"])
    assert "failed" in ends
