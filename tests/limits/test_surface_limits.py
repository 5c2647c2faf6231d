"""The limits of a surface over real HTTP and a real Redis. Windows of an hour: no test waits, none depends on speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from app.settings import Settings
from app.wiring import Parts
from handlers.envelopes import FLAT, NESTED, Envelope
from handlers.openapi import openapi_document
from tests.faults.proxy import Fate, proxy_to
from tests.limits.world import Client, Shop, shop
from tests.store.servers import one_server
from tests.support import RedisServer, token

THREE = {"requests": 3, "window_s": 3600, "per": "address"}
PATIENT = {"timeout_s": 10.0}
"""A machine that is busy must not make these tests fail open."""


def limits(**rules: Any) -> dict[str, Any]:
    return {"limits": {**PATIENT, **rules}}


async def get(client: Client, path: str = "/things", **headers: str) -> aiohttp.ClientResponse:
    response = await client.get(path, headers=headers)
    await response.read()
    return response


def standing(response: aiohttp.ClientResponse) -> tuple[int, int, int]:
    headers = response.headers
    return int(headers["RateLimit-Limit"]), int(headers["RateLimit-Remaining"]), int(headers["RateLimit-Reset"])


def metric(parts: Parts, name: str, **labels: str) -> float:
    return parts.instruments.registry.get_sample_value(name, labels) or 0.0


async def test_accepted_answers_tell_what_is_left_and_the_one_too_many_when_to_come_back(
    redis_server: RedisServer,
) -> None:
    async with shop(redis_server.url, **limits(gateway=THREE)) as (client, parts):
        answers = [await get(client) for _ in range(4)]

        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [standing(answer)[:2] for answer in answers] == [(3, 2), (3, 1), (3, 0), (3, 0)]
        assert all(0 < standing(answer)[2] <= 3600 for answer in answers)
        assert "Retry-After" not in answers[2].headers
        assert 0 < int(answers[3].headers["Retry-After"]) <= 3600
        assert metric(parts, "rate_limited_total", surface="gateway", rule="gateway") == 1


@pytest.mark.parametrize("envelope", [NESTED, FLAT], ids=["nested", "flat"])
async def test_a_429_is_in_the_surfaces_envelope(redis_server: RedisServer, envelope: Envelope) -> None:
    one = {**THREE, "requests": 1}
    async with shop(redis_server.url, envelope=envelope, **limits(gateway=one)) as (client, _):
        await get(client)
        refused = await get(client)
        body = await refused.json()

    error = body["error"] if envelope is NESTED else body
    assert (error["code"], error["retry"], error["details"]) == ("RATE_LIMITED", "after", {"rule": "gateway"})
    assert error["request_id"] == refused.headers["X-Request-Id"]
    assert "too many requests" in (error["message"] if envelope is NESTED else error["error"])


async def test_every_kind_of_answer_counts_and_tells(redis_server: RedisServer) -> None:
    """Also of requests for nothing: whoever tries paths out is counted."""
    many = {**THREE, "requests": 10}
    async with shop(redis_server.url, **limits(gateway=many)) as (client, _):
        answers = [await get(client, path) for path in ("/things", "/things/a", "/refused", "/broken", "/nothing")]
        answers.append(await client.delete("/things"))

    assert [answer.status for answer in answers] == [200, 200, 404, 500, 404, 405]
    assert [standing(answer)[1] for answer in answers] == [9, 8, 7, 6, 5, 4]


async def test_operators_documentation_and_what_a_route_excepts_are_free(redis_server: RedisServer) -> None:
    """Else a balancer's probes would lock a node out, and nobody could read why."""
    one = {**THREE, "requests": 1}
    free = ["/health", "/ready", "/metrics", "/docs", "/docs/init.js", "/docs/swagger-ui.css", "/openapi.json"]
    async with shop(redis_server.url, **limits(gateway=one)) as (client, _):
        for _ in range(3):
            answers = [await get(client, path) for path in free]
            answers.append(await client.post("/callback"))
            answers.append(await client.head("/health"))
            assert all(answer.status in (200, 503) and "RateLimit-Limit" not in answer.headers for answer in answers)
        assert (await get(client)).status == 200
        assert (await get(client)).status == 429


async def test_a_caller_is_its_token_and_everybody_else_an_address(redis_server: RedisServer) -> None:
    two = {"requests": 2, "window_s": 3600, "per": "caller"}
    async with shop(redis_server.url, name="orders", **limits(orders=two)) as (client, _):

        async def statuses(**headers: str) -> list[int]:
            return [(await get(client, **headers)).status for _ in range(3)]

        assert await statuses(Authorization=f"Bearer {token('jo')}") == [200, 200, 429]
        assert await statuses(Authorization=f"Bearer {token('ada')}") == [200, 200, 429]
        assert await statuses(Authorization=f"Bearer {token('jo', hours=2)}") == [429] * 3, "another token of the same"
        # With a token of its own for each request, a forger would never meet the limit.
        forged = [f"Bearer {token(f'forger-{n}', secret='x' * 32)}" for n in range(3)]
        answers = [await get(client, Authorization=one) for one in forged]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert await statuses() == [429] * 3, "no token: the same address"


async def test_by_address_tokens_make_no_difference(redis_server: RedisServer) -> None:
    """Whoever can get many tokens, at a gateway where anybody registers, is still one place."""
    async with shop(redis_server.url, **limits(gateway=THREE)) as (client, _):
        tokens = [f"Bearer {token(f'user-{n}')}" for n in range(4)]
        answers = [await get(client, Authorization=one) for one in tokens]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]


async def test_an_ipv6_customer_is_one_client_with_all_its_addresses(redis_server: RedisServer) -> None:
    """Behind a proxy of ours, which the test plays."""
    two = {**THREE, "requests": 2}
    proxies = {"trusted_proxies": ["127.0.0.0/8"]}
    clients = ["2001:db8:1:1::1", "2001:db8:1:1:ffff::2", "2001:db8:1:1::3", "2001:db8:1:2::1"]
    async with shop(redis_server.url, server=proxies, **limits(gateway=two)) as (client, _):
        answers = [await get(client, **{"X-Forwarded-For": address}) for address in clients]

    assert [answer.status for answer in answers] == [200, 200, 429, 200]


async def test_a_surface_without_a_rule_says_nothing_and_asks_nobody() -> None:
    """The core surface is so by default: no Redis is there, and nothing is missed."""
    async with shop("redis://127.0.0.1:1/0", name="core") as (client, parts):
        answer = await get(client)

        assert answer.status == 200
        assert "RateLimit-Limit" not in answer.headers
        assert metric(parts, "rate_limiter_failures_total", policy="open") == 0


async def test_a_handlers_own_rule_counts_its_own_key(redis_server: RedisServer) -> None:
    """Guesses at one account end, and others still come in; guesses from one place end, whichever the account."""
    rules = limits(login_by_account={"requests": 2, "window_s": 3600}, login_by_address={"requests": 6})
    async with shop(redis_server.url, name="core", **rules) as (client, parts):
        jo = [(await client.post("/login/jo")).status for _ in range(3)]
        ada = [await client.post("/login/ada") for _ in range(2)]
        sam = [await client.post("/login/sam") for _ in range(2)][-1]

        assert jo == [200, 200, 429]
        assert [answer.status for answer in ada] == [200, 200]
        assert [standing(answer)[:2] for answer in ada] == [(2, 1), (2, 0)], "the rule that is nearest to its end"
        assert (sam.status, (await sam.json())["error"]["details"]) == (429, {"rule": "login_by_address"})
        assert metric(parts, "rate_limited_total", surface="core", rule="login_by_account") == 1
        assert metric(parts, "rate_limited_total", surface="core", rule="login_by_address") == 1


async def test_a_rule_that_nobody_knows_is_a_mistake_and_not_a_limit_that_is_off(redis_server: RedisServer) -> None:
    async with shop(redis_server.url) as (_, parts):
        with pytest.raises(KeyError):
            await parts.limiting.of("gateway").check(None, "login_by_acount", "jo")  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def counted_with_trouble(url: str, **options: Any) -> AsyncIterator[tuple[Client, Parts]]:
    """A surface that fails open, and logins that fail closed, as by default; no failure leads to a rest."""
    settings = {"timeout_s": 0.2, "failures_to_rest": 1000, **options}
    async with shop(url, name="gateway", limits=settings) as served:
        yield served


async def counted(client: Client, *, path: str = "/things", within_s: float = 20) -> None:
    """Assert that an answer is counted; on a machine that stands still, not necessarily the first."""
    ends_at = time.monotonic() + within_s
    while "RateLimit-Limit" not in (await get(client, path)).headers:
        assert time.monotonic() < ends_at


async def opened_and_closed(client: Client, parts: Parts) -> None:
    """Assert what becomes of requests that cannot be counted."""
    before = {policy: metric(parts, "rate_limiter_failures_total", policy=policy) for policy in ("open", "closed")}
    for _ in range(3):
        taken = await get(client)
        assert taken.status == 200
        assert "RateLimit-Limit" not in taken.headers
    refused = await client.post("/login/jo")
    error = (await refused.json())["error"]
    assert (refused.status, error["code"], error["retry"]) == (503, "RATE_LIMITER_UNAVAILABLE", "after")
    assert refused.headers["Retry-After"] == "1"
    after = {policy: metric(parts, "rate_limiter_failures_total", policy=policy) for policy in before}
    assert after["open"] - before["open"] == 4, "the surface's own rule for the login too"
    assert after["closed"] - before["closed"] == 1


async def test_a_redis_that_is_gone_opens_or_closes_as_the_rule_says_and_comes_back() -> None:
    with one_server() as server:
        async with counted_with_trouble(server.url) as (client, parts):
            await counted(client)
            server.stop()
            await opened_and_closed(client, parts)
            server.start()
            await counted(client)


async def test_a_redis_that_is_silent_costs_a_request_no_more_than_the_limiters_time(
    redis_server: RedisServer,
) -> None:
    """The answers are held until this test ends: were they waited for, it would never end."""
    async with proxy_to(redis_server.url) as (proxy, url), counted_with_trouble(url) as (client, parts):
        await counted(client)
        proxy.on(b"EVALSHA", Fate.HOLD_REPLY, times=None)
        await opened_and_closed(client, parts)


async def test_in_an_outage_requests_soon_stop_to_ask(redis_server: RedisServer) -> None:
    """Three pay for finding out; the rest are answered at once."""
    async with proxy_to(redis_server.url) as (proxy, url):
        options = {"failures_to_rest": 3, "rest_s": 60.0}
        async with counted_with_trouble(url, **options) as (client, parts):
            held = proxy.on(b"EVALSHA", Fate.HOLD_REPLY, times=None)
            assert [(await get(client)).status for _ in range(20)] == [200] * 20
            assert 1 <= held.fired <= 3
            assert metric(parts, "rate_limiter_failures_total", policy="open") == 20


def test_the_document_tells_of_limits_where_they_apply() -> None:
    def responses(path: str, method: str, **rules: Any) -> dict[str, Any]:
        settings = msgspec.convert({"limits": rules}, Settings)
        surface = Shop("core", NESTED, None)  # type: ignore[arg-type]
        rule = settings.limits.rules()["core"]
        document = msgspec.json.decode(openapi_document(surface, surface.routes(), rule=rule))
        found: dict[str, Any] = document["paths"][path][method]["responses"]
        return found

    counted = responses("/things", "get", core={"requests": 5})
    assert "RATE_LIMITED" in counted["429"]["description"]
    assert {"Retry-After", "RateLimit-Limit"} <= set(counted["429"]["headers"])
    assert {"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} <= set(counted["200"]["headers"])
    assert "503" not in counted
    assert "503" in responses("/things", "get", core={"requests": 5, "on_failure": "closed"})
    assert "429" not in responses("/callback", "post", core={"requests": 5})
    assert "429" not in responses("/things", "get")
    assert {"429", "503"} <= set(responses("/login/{account}", "post"))
