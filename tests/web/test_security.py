"""The gate before the server, without a server: token, host, origin, size."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
starlette_responses = pytest.importorskip("starlette.responses")

from ase_ldos.web.security import BodyTooLargeError, Gate, TokenGuard  # noqa: E402


async def inside(scope: Any, receive: Any, send: Any) -> None:
    """What is behind the gate: tells how much it was sent."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await starlette_responses.PlainTextResponse(str(size))(scope, receive, send)


def ask(gate: Gate, method: str = "GET", path: str = "/api/info", **options: Any) -> Any:
    async def answer() -> Any:
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8425") as client:
            return await client.request(method, path, **options)

    return asyncio.run(answer())


@pytest.fixture
def guard() -> TokenGuard:
    return TokenGuard("secret", 8425)


@pytest.fixture
def gate(guard: TokenGuard) -> Gate:
    return Gate(inside, guard, ["127.0.0.1", "::1", "ldos.example.org"], ["/login"], 1000)


KNOWN = {"Authorization": "Bearer secret"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (KNOWN, 200),
        ({"Authorization": "token secret"}, 200),
        ({"Authorization": "token secret2"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"Authorization": "token \u00e9"}, 401),
        ({"Cookie": "ase-ldos-8425=secret"}, 401),
        ({"Cookie": "a=b; ;;=; \x01"}, 401),
        (KNOWN | {"Host": "ldos.example.org"}, 200),
        (KNOWN | {"Host": "LDOS.example.org:443"}, 200),
        (KNOWN | {"Host": "[::1]:8425"}, 200),
        (KNOWN | {"Host": "example.org"}, 421),
        (KNOWN | {"Origin": "http://127.0.0.1:8425"}, 200),
        (KNOWN | {"Origin": "http://127.0.0.1:9999"}, 403),
        (KNOWN | {"Origin": "null"}, 403),
        (KNOWN | {"Host": "ldos.example.org", "Origin": "https://ldos.example.org"}, 200),
        (KNOWN | {"Content-Length": "x"}, 413),
    ],
)
def test_who_is_let_in(gate: Gate, headers: dict[str, str], status: int) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = ask(gate, headers=encoded)
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_cookie_lets_in_and_does_not_hold_the_token(gate: Gate, guard: TokenGuard) -> None:
    assert "secret" not in guard.cookie_value
    assert ask(gate, headers={"Cookie": f"{guard.cookie_name}={guard.cookie_value}"}).status_code == 200
    assert TokenGuard("other", 8425).cookie_value != guard.cookie_value
    assert ask(gate, path="/login").status_code == 200


def test_without_a_token_everybody_is_let_in() -> None:
    assert ask(Gate(inside, TokenGuard(None), ["127.0.0.1"], [], 1000)).status_code == 200


def test_bodies_are_limited_whatever_they_say_of_themselves(gate: Gate) -> None:
    assert ask(gate, "POST", headers=KNOWN, content=b"a" * 1000).text == "1000"
    assert ask(gate, "POST", headers=KNOWN, content=b"a" * 1001).status_code == 413

    async def chunks() -> Any:
        for _ in range(11):
            yield b"a" * 100

    with pytest.raises(BodyTooLargeError):
        ask(gate, "POST", headers=KNOWN, content=chunks())
