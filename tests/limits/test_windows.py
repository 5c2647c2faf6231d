"""Moving windows on every kind of Redis, on a clock of the test's own: nothing here depends on a machine's speed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.embedded import fake_client
from engine.store.batch import RedisClient
from engine.store.connect import RedisSettings, connect
from engine.store.windows import RedisWindows
from tests.limits.world import Clock, windows_on
from tests.store.servers import cluster_of, one_server, sentinel_of
from tests.support import RedisServer, temporary_folder

HOUR_S = 3600


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisClient]:
    """A client, closed at the end."""
    client = connect(RedisSettings(url=url))
    try:
        yield client
    finally:
        await client.aclose()


async def fill(windows: RedisWindows, key: str, requests: int) -> list[bool]:
    return [(await windows.take(key, requests=3, window_s=HOUR_S))[0] for _ in range(requests)]


async def test_a_place_comes_free_when_the_request_that_took_it_is_a_window_old(redis_server: RedisServer) -> None:
    """Not at the turn of some hour, where a caller would get twice as many."""
    clock = Clock()
    async with connected(redis_server.url) as client, windows_on(client, clock) as windows:
        first = await windows.take("jo", requests=2, window_s=HOUR_S)
        clock.now += 600
        second = await windows.take("jo", requests=2, window_s=HOUR_S)
        clock.now += HOUR_S - 600 - 1
        too_early = await windows.take("jo", requests=2, window_s=HOUR_S)
        clock.now += 1.001
        third = await windows.take("jo", requests=2, window_s=HOUR_S)
        fourth = await windows.take("jo", requests=2, window_s=HOUR_S)

    answers = [first, second, too_early, third, fourth]
    assert [accepted for accepted, *_ in answers] == [True, True, False, True, False]
    assert [count for _, count, _ in answers] == [1, 2, 2, 2, 2]
    # The second request is the oldest from the third on.
    left = [HOUR_S, HOUR_S - 600, 1, 599.999, 599.999]
    assert [reset_s for *_, reset_s in answers] == pytest.approx(left, abs=0.01)


async def test_a_refused_request_does_not_prolong_the_wait(redis_server: RedisServer) -> None:
    """Else a client that goes on asking would never come in again."""
    clock = Clock()
    async with connected(redis_server.url) as client, windows_on(client, clock) as windows:
        assert await fill(windows, "jo", 3) == [True, True, True]
        for _ in range(50):
            clock.now += 60
            assert await fill(windows, "jo", 1) == [False]
        clock.now += 601
        assert await fill(windows, "jo", 4) == [True, True, True, False]


async def test_keys_are_short_tell_nobodys_name_expire_and_stay_apart_from_payments(redis_server: RedisServer) -> None:
    """An account's name is of any length, and the audit reads every key that begins like a payment's."""
    async with connected(redis_server.url) as client, windows_on(client, Clock()) as windows:
        for key in ("login:jo@example.com", "login:" + "x" * 10_000, "login:\ud800{p00}:payment:1"):
            await fill(windows, key, 5)

    looking = redis_server.client()
    keys = list(looking.scan_iter())
    lengths = [looking.llen(key) for key in keys]
    lives = [looking.ttl(key) for key in keys]
    looking.close()
    assert len(keys) == 3
    assert all(key.startswith("payments:limits:") and len(key) == 48 and "jo" not in key for key in keys), keys
    assert lengths == [3, 3, 3], "no more times than the limit"
    assert all(0 < life <= HOUR_S for life in lives), lives


async def test_fifty_at_once_get_no_more_than_the_limit(redis_server: RedisServer) -> None:
    """Over two connections, as two processes have them."""
    clock = Clock()
    async with (
        connected(redis_server.url) as one, connected(redis_server.url) as other,
        windows_on(one, clock) as here, windows_on(other, clock) as there,
    ):  # fmt: skip
        taken = await asyncio.gather(*(each.take("jo", requests=10, window_s=HOUR_S) for each in (here, there) * 25))

    assert sum(accepted for accepted, *_ in taken) == 10
    assert max(count for _, count, _ in taken) == 10


async def test_a_clock_that_is_ahead_elsewhere_makes_nobody_wait_longer_than_the_window(
    redis_server: RedisServer,
) -> None:
    ahead, behind = Clock(), Clock()
    ahead.now += 120
    async with connected(redis_server.url) as client:
        async with windows_on(client, ahead) as windows:
            await fill(windows, "jo", 3)
        async with windows_on(client, behind) as windows:
            assert await windows.take("jo", requests=3, window_s=HOUR_S) == (False, 3, HOUR_S)


async def test_a_redis_that_has_lost_its_scripts_is_given_them_again(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as client, windows_on(client, Clock()) as windows:
        assert await fill(windows, "jo", 2) == [True, True]
        await client.script_flush()
        assert await fill(windows, "jo", 2) == [True, False]


@pytest.mark.parametrize("form", ["unix", "sentinel", "cluster", "fake"])
async def test_every_form_of_redis_counts(form: str) -> None:
    """The demo's private Redis listens on a Unix socket only."""
    with contextlib.ExitStack() as servers:
        match form:
            case "unix":
                socket = Path(servers.enter_context(temporary_folder())) / "redis.sock"
                servers.enter_context(one_server(unixsocket=str(socket)))
                url = f"unix://{socket}"
            case "sentinel":
                primary = servers.enter_context(one_server())
                port = servers.enter_context(sentinel_of(primary.port, "payments"))
                url = f"redis+sentinel://127.0.0.1:{port}/payments"
            case "cluster":
                url = servers.enter_context(cluster_of(3)).url
            case _:
                url = ""
        client = connect(RedisSettings(url=url)) if url else fake_client()
        try:
            async with windows_on(client, Clock()) as windows:
                await windows.open()
                for key in ("jo", "ada", "sam", "eve"):
                    assert await fill(windows, key, 4) == [True, True, True, False], key
        finally:
            await client.aclose()
