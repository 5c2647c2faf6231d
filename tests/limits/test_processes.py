"""Whole engines: two share one window, and behind a real balancer each client is counted as itself."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.limits.haproxy import haproxy_before, needs_haproxy
from tests.support import EngineProcess, RedisServer, Sims, token

ANY_PAYMENT = "/api/payments/pay-01kqxw3v5n8t2r7d9m4c6b1hzj2a"
FIVE = {
    "PAYMENTS__LIMITS__CORE__REQUESTS": "5",
    "PAYMENTS__LIMITS__CORE__WINDOW_S": "3600",
    "PAYMENTS__LIMITS__TIMEOUT_S": "10",
}


@contextlib.asynccontextmanager
async def engines(
    redis: RedisServer, sims: Sims, folder: Path, count: int, **settings: str
) -> AsyncIterator[list[EngineProcess]]:
    """So many engines on one Redis."""
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for number in range(count):
            (folder / str(number)).mkdir()
            engine = EngineProcess(redis.url, sims, folder / str(number), **{**FIVE, **settings})
            stack.push_async_callback(engine.close)
            await engine.start()
            started.append(engine)
        yield started


async def ask(session: aiohttp.ClientSession, base: str, **headers: str) -> aiohttp.ClientResponse:
    headers.setdefault("Authorization", f"Bearer {token()}")
    async with session.get(base + ANY_PAYMENT, headers=headers) as response:
        await response.read()
        return response


async def test_two_processes_share_one_window(redis_server: RedisServer, sims: Sims, tmp_path: Path) -> None:
    async with engines(redis_server, sims, tmp_path, 2) as (here, there):
        answers = [await ask(sims.session, engine.base) for engine in (here, there) * 3]
        other = await ask(sims.session, there.base, Authorization=f"Bearer {token('somebody-else')}")

    assert [answer.status for answer in answers] == [404, 404, 404, 404, 404, 429]
    assert [int(answer.headers["RateLimit-Remaining"]) for answer in answers] == [4, 3, 2, 1, 0, 0]
    assert other.status == 404


@needs_haproxy
@pytest.mark.parametrize("trusted", [True, False])
async def test_behind_a_balancer_a_forged_header_makes_nobody_somebody_else(
    redis_server: RedisServer, sims: Sims, tmp_path: Path, trusted: bool
) -> None:
    """The client says that it is another one with every request; haproxy adds who it is."""
    settings = {"PAYMENTS__LIMITS__CORE__PER": "address"}
    if trusted:
        settings["PAYMENTS__SERVER__TRUSTED_PROXIES"] = '["127.0.0.1/32"]'
    async with (
        engines(redis_server, sims, tmp_path, 1, **settings) as (engine,),
        haproxy_before(engine.port) as balancer,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as jo,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.3", 0))) as ada,
    ):
        forged = [await ask(jo, balancer, **{"X-Forwarded-For": f"198.51.100.{n}, 127.0.0.1"}) for n in range(6)]
        other = await ask(ada, balancer)

    assert [answer.status for answer in forged] == [404, 404, 404, 404, 404, 429]
    # Unless the balancer is believed, all its clients are one.
    assert other.status == (404 if trusted else 429)
