"""Which process works on what, on a file system that many machines share.

A lease is a small file that exactly one process creates (O_EXCL, atomic on local and network file systems). Its holder
touches it every few seconds. A lease is dead, and may be taken over, if its process on this host is gone, or if it has
not been touched for ``EXPIRY`` seconds by the file server's clock: the clocks of the hosts do not matter. File locks of
the system are not used, because network file systems differ in what they do with them.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ase_ldos.files import PathLike

#: How often a holder touches its lease, and after how long without that it counts as dead, s.
HEARTBEAT, EXPIRY = 10.0, 120.0
#: How often one who waits looks again, s.
POLL = 0.1


class Lease:
    """A lease that this process holds; see :meth:`Leases.take`. Use it in a ``with`` statement, or release it."""

    def __init__(self, path: Path, token: str, heartbeat: float) -> None:
        self.path, self._token, self._heartbeat = path, token, heartbeat
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._touch, name=f"lease {path.name}", daemon=True)
        self._beat.start()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def is_held(self) -> bool:
        """Whether it is still this process's: a process that slept for minutes may have lost it."""
        return _content(self.path).get("token") == self._token

    def release(self) -> None:
        """Give it up; what another process has taken over stays."""
        self._ended.set()
        self._beat.join()
        if self.is_held:
            self.path.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._ended.wait(self._heartbeat):
            if not self.is_held:
                return
            with suppress(OSError):
                os.utime(self.path)


class Leases:
    """The leases of a folder.

    Args:
        folder: made if need be, and removed when the last lease is gone (:meth:`tidy`).
        heartbeat: how often a lease is touched, s.
        expiry: after how long without that it is dead, s.

    Raises:
        ValueError: a lease would expire between two heartbeats.
    """

    def __init__(self, folder: PathLike, *, heartbeat: float = HEARTBEAT, expiry: float = EXPIRY) -> None:
        if not expiry > 2 * heartbeat > 0:
            raise ValueError(
                f"leases expire after {expiry} s and are touched every {heartbeat} s; more than twice is safe"
            )
        self.folder, self.heartbeat, self.expiry = Path(folder), heartbeat, expiry

    def take(self, name: str) -> Lease | None:
        """The lease of a name, or None while a living process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.lease"
        lease = self._create(path)
        if lease is None and self._is_dead(path):
            self._bury(path)
            lease = self._create(path)
        return lease

    @contextmanager
    def held(self, name: str) -> Iterator[Lease]:
        """Wait for a lease, for short work such as changing a file that many write."""
        while (lease := self.take(name)) is None:
            time.sleep(POLL)
        with lease:
            yield lease

    def holder(self, name: str) -> dict[str, Any]:
        """Host, process and begin of who holds a name; empty where nobody does."""
        return _content(self.folder / f"{name}.lease")

    def tidy(self) -> None:
        """Remove the folder if it holds no lease any more."""
        with suppress(OSError):
            for probe in self.folder.glob(".now.*"):
                probe.unlink(missing_ok=True)
            self.folder.rmdir()

    def _create(self, path: Path) -> Lease | None:
        token = uuid.uuid4().hex
        content = {
            "token": token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": _start_time(os.getpid()),
        }
        # written under another name first: a lease that can be seen is complete
        draft = path.with_name(f".{path.name}.{token}")
        try:
            draft.write_text(json.dumps(content), encoding="utf-8")
            os.link(draft, path)  # fails if the name is taken, on network file systems too
        except FileExistsError:
            return None
        except FileNotFoundError:  # another process has just tidied the folder
            self.folder.mkdir(parents=True, exist_ok=True)
            return self._create(path)
        finally:
            draft.unlink(missing_ok=True)
        return Lease(path, token, self.heartbeat)

    def _is_dead(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return False  # released meanwhile; the next look finds it free
        content = _content(path)
        if content.get("host") == socket.gethostname() and content.get("pid") is not None:
            here = _start_time(int(content["pid"]))
            if here is None or here != content.get("started"):
                return True
        return self._now() - touched > self.expiry

    def _now(self) -> float:
        """The file server's time, s."""
        probe = self.folder / f".now.{os.getpid()}.{threading.get_ident()}"
        try:
            probe.write_text("")
            os.utime(probe)
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _bury(self, path: Path) -> None:
        """Remove a dead lease, and no other: one process at a time looks once more and removes it."""
        guard = path.with_name(f".{path.name}.burial")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            # one who died in these few lines leaves the guard behind
            with suppress(FileNotFoundError):
                if self._now() - guard.stat().st_mtime > self.expiry:
                    guard.unlink()
            return
        try:
            if self._is_dead(path):
                path.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)


def _content(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _start_time(pid: int) -> str | None:
    """When a process of this host began, in the system's own words; None if there is no such process.

    It tells a process from a later one of the same number. Without ``/proc`` only the number counts.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return "unknown"
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
