"""The server: a page, its files, and an interface of JSON for the page and for scripts.

| path | what |
|---|---|
| ``GET /``, ``GET`` and ``POST /login`` | the page; the token |
| ``GET /assets/NAME`` | scripts and styles, from a fixed list |
| ``GET /api/info`` | models, examples, limits |
| ``GET``, ``POST /api/jobs`` | list; new job ``{"kind", "title", "of", …}`` |
| ``GET``, ``DELETE /api/jobs/NUMBER``, ``POST /api/jobs/NUMBER/cancel`` | one job |
| ``GET /api/jobs/NUMBER/files/NAME`` | a file of a finished job, from the job's own list |

Nothing of a request becomes a path: numbers and names are looked up in what the server knows.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

import ase_ldos
from ase_ldos.model.model_file import load_model
from ase_ldos.web.asset_files import ASSETS, read_asset, read_page
from ase_ldos.web.jobs import FINAL, Job, JobQueue, QueueFullError
from ase_ldos.web.request_fields import take_choice, take_number, take_text
from ase_ldos.web.security import LOOPBACK, BodyTooLargeError, Gate, TokenGuard
from ase_ldos.web.standalone import standalone_page
from ase_ldos.web.structures import EXAMPLES, FAULTS, LATTICES, default_constants
from ase_ldos.web.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

#: Media types of the files of jobs.
FILE_TYPES = {
    "structure.extxyz": "chemical/x-xyz",
    "trajectory.extxyz": "chemical/x-xyz",
    "density.cube": "text/plain",
    "window.cube": "text/plain",
    "result.npz": "application/octet-stream",
    "script.py": "text/x-python",
    "view.json": "application/json",
    "report.html": "text/html",
}
#: What is kept of the request for a job.
_FIELDS = (
    *("structure", "model", "temperature", "spacing", "forces", "fmax", "steps", "cell"),
    *("timestep", "ion_temperature", "thermostat", "seed", "low", "high"),
)
#: What a request may hold beside a file of the largest size: base64 takes a third more.
_BODY_FACTOR, _BODY_EXTRA = 4 / 3, 64 * 1024


def make_app(
    jobs: JobQueue, token: str | None, *, hosts: Collection[str] = (), port: int = 0, prefix: str = ""
) -> Starlette:
    """The application.

    Args:
        jobs: the queue; closed when the application ends.
        token: that users must know; ``None`` lets everybody in.
        hosts: names by which it may be called, beside those of the loopback address; ``"*"`` is any.
        port: for the name of the cookie.
        prefix: path under which a reverse proxy shows it, e.g. ``/ldos``.
    """
    pages = _Pages(jobs, TokenGuard(token, port), prefix.rstrip("/"))
    routes = [
        Route("/", pages.index),
        Route("/login", pages.login, methods=["GET", "POST"]),
        Route("/assets/{name}", pages.asset),
        Route("/api/info", pages.info),
        Route("/api/jobs", pages.list_jobs, methods=["GET"]),
        Route("/api/jobs", pages.add_job, methods=["POST"]),
        Route("/api/jobs/{number}", pages.show_job, methods=["GET"]),
        Route("/api/jobs/{number}", pages.remove_job, methods=["DELETE"]),
        Route("/api/jobs/{number}/cancel", pages.cancel_job, methods=["POST"]),
        Route("/api/jobs/{number}/files/{name}", pages.job_file),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(jobs.close)

    gate = Middleware(
        Gate,
        guard=pages.guard,
        hosts=[*LOOPBACK, *hosts],
        open_paths=["/", "/login", "/assets/style.css"],
        largest_body=int(jobs.limits.upload * _BODY_FACTOR + _BODY_EXTRA),
    )
    return Starlette(
        routes=routes,
        middleware=[gate, Middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)],
        exception_handlers={ValueError: _say(400), QueueFullError: _say(429), BodyTooLargeError: _say(413)},
        lifespan=lifespan,
    )


class _Pages:
    """The answers."""

    def __init__(self, jobs: JobQueue, guard: TokenGuard, prefix: str) -> None:
        self.jobs, self.guard, self._prefix = jobs, guard, prefix
        self._assets = {name: read_asset(name) for name in ASSETS}
        self._index, self._login = read_page("index.html"), read_page("login.html")
        self._models = [_describe_model(name, path) for name, path in jobs.models.items()]

    async def index(self, request: Request) -> Response:
        """The page; a token in the address becomes a cookie and leaves the address."""
        token = request.query_params.get("token")
        if token is not None:
            return self._enter(request, token)
        if not self.guard.admits(request.headers):
            return HTMLResponse(self._login, 401)
        return HTMLResponse(self._index)

    async def login(self, request: Request) -> Response:
        """The form for the token, and what becomes of it."""
        if request.method == "GET":
            return HTMLResponse(self._login)
        body = (await request.body()).decode("utf-8", "replace")
        from urllib.parse import parse_qs

        return self._enter(request, parse_qs(body).get("token", [""])[0].strip())

    def _enter(self, request: Request, token: str) -> Response:
        if not self.guard.is_token(token):
            return HTMLResponse(self._login.replace("<!-- problem -->", "That is not the token."), 401)
        response = RedirectResponse(f"{self._prefix}/", 303)
        response.set_cookie(
            self.guard.cookie_name,
            self.guard.cookie_value,
            path=f"{self._prefix}/",
            httponly=True,
            samesite="strict",
            secure=request.headers.get("x-forwarded-proto", request.url.scheme) == "https",
        )
        return response

    async def asset(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params["name"]
        if name not in self._assets:
            return _not_found()
        return Response(
            self._assets[name], media_type=ASSETS[name][1], headers={"Cache-Control": "private, max-age=300"}
        )

    async def info(self, _request: Request) -> Response:
        """What can be asked for, and its limits."""
        elements = sorted({element for model in self._models for element in model["elements"]})
        return JSONResponse(
            {
                "program": f"ase-ldos {ase_ldos.__version__}",
                "models": self._models,
                "examples": [
                    {"name": name, "title": example["title"], "elements": [example["element"]]}
                    for name, example in EXAMPLES.items()
                ],
                "elements": elements,
                "lattices": list(LATTICES),
                "faults": list(FAULTS),
                "lattice_constants": {
                    element: {lattice: default_constants(element, lattice) for lattice in LATTICES}
                    for element in elements
                },
                "limits": asdict(self.jobs.limits),
            }
        )

    async def list_jobs(self, _request: Request) -> Response:
        """All jobs but the structures that are only looked at."""
        return JSONResponse([self._as_dict(job) for job in self.jobs.list() if job.kind != "structure"])

    async def add_job(self, request: Request) -> Response:
        """Put a job into the queue."""
        if not request.headers.get("content-type", "").startswith("application/json"):
            # a form of another page can send no JSON without asking first
            return JSONResponse({"error": "the request must be application/json"}, 415)
        content = _read_json(await request.body())
        kind = take_choice(content, "kind", None, TASKS)
        source = content.get("of")
        if source is not None and not isinstance(source, str):
            raise ValueError("of must be the number of a job")
        if kind == "structure" and not isinstance(content.get("structure"), dict):
            raise ValueError("structure must be an object")
        if kind != "structure":
            if source is None:
                raise ValueError("of must be the number of a finished job")
            take_choice(content, "model", None, self.jobs.models)
        if kind == "window":
            low = take_number(content, "low", None, -1000.0, 1000.0)
            take_number(content, "high", None, low + 1e-6, 1000.0)
        title = take_text(content, "title", "", 160) or kind
        job = self.jobs.add(kind, title, {name: content[name] for name in _FIELDS if name in content}, source)
        return JSONResponse(self._as_dict(job), 201)

    async def show_job(self, request: Request) -> Response:
        """How far a job is."""
        job = self.jobs.get(request.path_params["number"])
        return _not_found() if job is None else JSONResponse(self._as_dict(job))

    async def cancel_job(self, request: Request) -> Response:
        """Cancel a job that waits or runs."""
        return Response(status_code=204) if self.jobs.cancel(request.path_params["number"]) else _not_found()

    async def remove_job(self, request: Request) -> Response:
        """Remove a finished job."""
        removed = await run_in_threadpool(self.jobs.remove, request.path_params["number"])
        return Response(status_code=204) if removed else _not_found()

    async def job_file(self, request: Request) -> Response:
        """A file of a finished job; the report is made when it is asked for."""
        job, name = self.jobs.get(request.path_params["number"]), request.path_params["name"]
        if job is None or name not in FILE_TYPES:
            return _not_found()
        attachment = {"Content-Disposition": f'attachment; filename="{_file_name(job, name)}"'}
        if name == "report.html":
            document = self.jobs.file(job, "view.json")
            if document is None:
                return _not_found()

            def make() -> str:
                return standalone_page([json.loads(document.read_text(encoding="utf-8"))], job.title)

            page = await run_in_threadpool(make)
            return Response(page, media_type="text/html", headers=attachment)
        path = self.jobs.file(job, name)
        if path is None:
            return _not_found()
        headers = {} if name == "view.json" else attachment
        return FileResponse(path, media_type=FILE_TYPES[name], headers=headers)

    def _as_dict(self, job: Job) -> dict[str, Any]:
        shown = asdict(job)
        structure = shown["request"].pop("structure", None)
        shown["request"]["structure"] = isinstance(structure, dict) and structure.get("name", structure.get("source"))
        shown["ahead"] = 0 if job.state in FINAL else self.jobs.place(job)
        return shown


def _describe_model(name: str, path: str) -> dict[str, Any]:
    metadata = load_model(path).metadata
    return {
        "name": name,
        "elements": sorted(metadata.valence),
        "functional": metadata.functional,
        "temperature": metadata.electronic_temperature,
        "spacing": metadata.grid_spacing,
        "errors": metadata.errors,
    }


def _read_json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
        # numbers beyond all floats and halves of characters can be read, but not be written again
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not plain JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise ValueError("the request must be an object")
    return content


def _file_name(job: Job, name: str) -> str:
    """Under which name the browser keeps a file: formula and kind, letters and digits only."""
    formula = "".join(c for c in str(job.result.get("formula", "structure")) if c.isascii() and c.isalnum())[:40]
    return f"{formula}-{job.kind}-{name}"


def _not_found() -> Response:
    return JSONResponse({"error": "there is no such thing here"}, 404)


def _say(status: int) -> Any:  # noqa: ANN401 - starlette's handler type
    async def answer(_request: Request, error: Exception) -> Response:
        if isinstance(error, ClientDisconnect):
            return PlainTextResponse("", 400)
        return JSONResponse({"error": str(error) or "the request is too large"}, status)

    return answer
