"""Every answer of a running engine has the headers that keep browsers from doing harm with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from tests.api.raw import exchange
from tests.api.world import World, running_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Strict-Transport-Security": "max-age=3600; includeSubDomains",
}
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world() -> AsyncIterator[World]:
    """An engine that is served over TLS by somebody before it."""
    async with running_world(PAYMENTS__SERVER__HSTS_MAX_AGE_S="3600") as running:
        yield running


def is_safe(headers: Mapping[str, str], *, cache: str = "no-store", policy: str = NOTHING_RUNS) -> bool:
    expected = {**ALWAYS, "Cache-Control": cache, "Content-Security-Policy": policy}
    assert {name: headers.get(name) for name in expected} == expected
    assert headers["X-Request-Id"]
    return True


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/circuit-breaker/status", 200),
        ("GET", "/api/payments/nothing", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/api/payments", 405),
        ("POST", "/api/payments", 415),
        ("GET", "/health", 200),
        ("GET", "/ready", 200),
        ("GET", "/metrics", 200),
        ("HEAD", "/health", 200),
        ("OPTIONS", "/health", 405),
    ],
)
async def test_answers_and_refusals(world: World, method: str, path: str, status: int) -> None:
    answer = await world.send(method, path)

    assert answer.status == status
    assert is_safe(answer.headers)


async def test_a_missing_token_and_a_body_that_is_too_large(world: World) -> None:
    json = {"Content-Type": "application/json"}
    refused = await world.send("POST", "/api/payments", auth=None, headers=json, body=b"{}")
    large = await world.send("POST", "/api/payments", headers=json, body=b" " * 70_000)

    assert (refused.status, large.status) == (401, 413)
    assert is_safe(refused.headers)
    assert is_safe(large.headers)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: minus\r\n\r\n", 400),
        (b"POST /api/payments HTTP/1.1\r\nHost: x\r\nExpect: a-miracle\r\nContent-Length: 0\r\n\r\n", 417),
    ],
)
async def test_what_is_no_request_or_goes_no_further(world: World, data: bytes, status: int) -> None:
    """These answers are made before there is a middleware."""
    answer = await exchange(world.engine.port, data)
    names = {name.lower(): name for name in (*ALWAYS, "Cache-Control", "Content-Security-Policy", "X-Request-Id")}

    assert answer.status == status
    assert is_safe({names.get(name, name): text for name, text in answer.headers.items()})


@pytest.mark.parametrize(
    ("path", "cache"),
    [
        ("/docs", "no-cache"),
        ("/docs/init.js", "no-cache"),
        ("/docs/swagger-ui.css", "public, max-age=86400"),
        ("/openapi.json", "no-cache"),
    ],
)
async def test_documentation_keeps_its_own_rules(world: World, path: str, cache: str) -> None:
    """The page must run its script, and its files may be kept; nobody may frame it either."""
    answer = await world.send("GET", path, auth=None)
    policy: Any = answer.headers["Content-Security-Policy"]

    assert ("script-src 'self'" in policy) is (path == "/docs")
    assert "frame-ancestors 'none'" in policy
    assert is_safe(answer.headers, cache=cache, policy=policy)
