"""Who may talk to the server: a token, the right host, the right origin; and how much may be said at once.

The dangers are those of any server on one's own machine: another page in the same browser sends requests to it (origin
and cookie rules, no CORS), a name on the internet is pointed at the loopback address (host check), another user of the
same machine calls its port (token).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Names of a machine's own address.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
#: Sent with every answer. 3Dmol.js and uPlot place their elements by style attributes, hence the style rule.
SECURITY_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not "no-referrer": browsers then send the form of the token with "Origin: null", which is refused
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class TokenGuard:
    """Tells whether a request carries the token: in the cookie that the login sets, or in the header.

    Args:
        token: what must be known; ``None`` lets everybody in (behind a proxy that asks for passwords itself).
        port: for the cookie's name: cookies do not know ports, and two servers must not log each other out.
    """

    def __init__(self, token: str | None, port: int = 0) -> None:
        self._token = token
        self.cookie_name = f"ase-ldos-{port}"

    @property
    def cookie_value(self) -> str:
        """What the cookie holds: not the token itself, which it would outlive in the browser's files."""
        return hashlib.sha256(f"ase-ldos cookie {self._token}".encode()).hexdigest()

    def is_token(self, text: str) -> bool:
        """Whether the text is the token."""
        return self._token is None or hmac.compare_digest(text.encode(), self._token.encode())

    def admits(self, headers: Headers) -> bool:
        """Whether the request comes from somebody who knows the token."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() in ("token", "bearer") and self.is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie_name)
        except CookieError:
            return False
        return cookie is not None and hmac.compare_digest(cookie.value.encode(), self.cookie_value.encode())


class Gate:
    """ASGI middleware: host, origin, token, size of the body, and the headers of every answer.

    Args:
        app: what is behind the gate.
        guard: of the token.
        hosts: names by which the server may be called.
        open_paths: that need no token.
        largest_body: bytes.
    """

    def __init__(
        self, app: ASGIApp, guard: TokenGuard, hosts: Collection[str], open_paths: Collection[str], largest_body: int
    ) -> None:
        self._app, self._guard, self._hosts = app, guard, {host.lower() for host in hosts}
        self._open_paths, self._largest_body = frozenset(open_paths), largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                extra = [(k.lower().encode(), v.encode()) for k, v in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in names)]
            await send(message)

        headers = Headers(scope=scope)
        problem = self._problem(scope, headers)
        if problem is not None:
            await problem(scope, receive, send_with_headers)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._largest_body:
                raise BodyTooLargeError
            return message

        await self._app(scope, receive_limited, send_with_headers)

    def _problem(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """Why the request is refused."""
        host = headers.get("host", "")
        if _host_name(host) not in self._hosts and "*" not in self._hosts:
            return PlainTextResponse("this server is not known by that name; see --allow-host\n", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("requests from other origins are refused\n", 403)
        if headers.get("sec-fetch-site", "none") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("requests from other sites are refused\n", 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._largest_body:
            return PlainTextResponse(f"at most {self._largest_body} bytes are taken\n", 413)
        if scope["path"] not in self._open_paths and not self._guard.admits(headers):
            return PlainTextResponse("a token is needed; open the address that the server printed\n", 401)
        return None


class BodyTooLargeError(Exception):
    """The body of a request is larger than it said, or than is allowed."""


def _host_name(host: str) -> str:
    """The name without the port; an IPv6 address without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
