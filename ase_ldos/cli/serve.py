"""``ase-ldos serve``: a page in the browser to try the models and look at their predictions."""

from __future__ import annotations

import argparse
import logging
import math
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from ase_ldos.files import check_output_folder
from ase_ldos.web.limits import Limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8425, help="0 takes any that is free (default: 8425)")
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument("--token", help="that users must know (default: a new one at every start)")
    tokens.add_argument(
        "--token-file", type=Path, metavar="FILE", help="that holds the token: a command's options are seen by others"
    )
    tokens.add_argument(
        "--no-token", action="store_true", help="let everybody in; only behind a proxy that asks for passwords itself"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers call this server, such as that of a reverse proxy; may be repeated",
    )
    parser.add_argument("--prefix", default="", metavar="PATH", help="under which a reverse proxy shows the page")
    parser.add_argument(
        "--model", action="append", default=[], metavar="FILE", help="offer this model file too; may be repeated"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where results are kept over a restart (default: a temporary one)",
    )
    parser.add_argument("--workers", type=int, default=1, help="predictions at the same time (default: 1)")
    parser.add_argument("--threads", type=int, help="of each worker (default: all cores, shared by the workers)")
    parser.add_argument("--max-atoms", type=int, default=4096, help="of a structure (default: 4096)")
    parser.add_argument("--max-memory", type=float, default=8.0, metavar="GIB", help="of a worker (default: 8)")
    parser.add_argument("--max-minutes", type=float, default=60.0, help="of a run (default: 60)")
    parser.add_argument("--max-steps", type=int, default=2000, help="of a relaxation or dynamics (default: 2000)")
    parser.add_argument("--max-upload", type=float, default=10.0, metavar="MIB", help="of a file (default: 10)")
    parser.add_argument("--max-results", type=int, default=200, help="that are kept (default: 200)")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted.

    Raises:
        ValueError: an option that makes no sense, or the extra ``web`` is not installed.
        OSError: the address is taken.
    """
    try:
        import uvicorn

        from ase_ldos.web.server import make_app
    except ImportError as error:
        raise ValueError(f"the page needs more packages ({error}): pip install 'ase-ldos[web]'") from error
    from ase_ldos.web.jobs import JobQueue

    limits = _limits(args)
    if args.workers < 1 or (args.threads is not None and args.threads < 1):
        raise ValueError("workers and threads must be at least 1")
    models = _models(args.model)
    token = _token(args)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(args.host, args.port))
        port = listener.getsockname()[1]
        folder = args.folder or Path(stack.enter_context(TemporaryDirectory(prefix="ase-ldos-serve-")))
        jobs = JobQueue(folder, models, limits, workers=args.workers, threads=args.threads)
        stack.callback(jobs.close)
        hosts = [*args.allow_host, *([] if args.host in ("0.0.0.0", "::") else [args.host])]  # noqa: S104 - not bound here
        app = make_app(jobs, token, hosts=hosts, port=port, prefix=args.prefix)
        _print_address(args, port, token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=256,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=64 * 1024,
        )
        server = uvicorn.Server(config)
        # its own way raises the signal again at the end, which would leave the temporary folder behind
        server.capture_signals = lambda: _ends_by_signal(server.handle_exit)  # type: ignore[method-assign]
        server.run(sockets=[listener])
    return 0


@contextmanager
def _ends_by_signal(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let Ctrl-C and a polite kill end the server in order."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _token(args: argparse.Namespace) -> str | None:
    """What users must know; None if that is nothing.

    Raises:
        ValueError: an empty file.
        OSError: the file cannot be read.
    """
    if args.no_token:
        return None
    if args.token_file is None:
        return args.token or secrets.token_urlsafe(24)
    token: str = args.token_file.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"the file {args.token_file} is empty; it must hold the token")
    return token


def _limits(args: argparse.Namespace) -> Limits:
    if not 0 <= args.port <= 65535:
        raise ValueError(f"the port is {args.port}; it must be 1 to 65535, or 0 for any that is free")
    for name in ("max_minutes", "max_upload"):
        if not 0 < getattr(args, name) < math.inf:
            raise ValueError(f"{name.replace('_', '-')} is {getattr(args, name)}; it must be a positive number")
    if args.folder is not None:
        check_output_folder(args.folder)
    if not 0.5 <= args.max_memory < math.inf:
        raise ValueError("max-memory must be at least 0.5 GiB: the program itself needs some 0.3")
    return Limits(
        atoms=args.max_atoms,
        steps=args.max_steps,
        seconds=60 * args.max_minutes,
        memory=int(args.max_memory * 2**30),
        upload=int(args.max_upload * 2**20),
        results=args.max_results,
    )


def _models(files: list[str]) -> dict[str, str]:
    """Name → bundled name or path.

    Raises:
        ValueError: a file that holds no model, or two models of one name.
    """
    from ase_ldos.model.model_file import list_models, load_model

    models = {name: name for name in list_models()}
    for file in files:
        name = load_model(file).metadata.name
        if name in models:
            raise ValueError(f"there are two models of the name {name!r}")
        models[name] = str(Path(file).resolve())
    return models


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port") from error
    return listener


def _print_address(args: argparse.Namespace, port: int, token: str | None) -> None:
    name = f"[{args.host}]" if ":" in args.host else args.host
    # who gives the token by a file does not want to read it on the screen
    query = "" if token is None or args.token_file is not None else f"?token={token}"
    print(f"ase-ldos is served at\n\n    http://{name}:{port}/{query}\n")
    print(f"On a remote machine, first:  ssh -L {port}:localhost:{port} USER@MACHINE")
    print("Everybody who has this address sees all runs. Ctrl-C ends the server.", flush=True)
