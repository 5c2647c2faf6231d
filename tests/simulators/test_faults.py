"""Scripted faults: each kind is seen to fire, acts or does not act as it says, and is counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from simulators.acquirer import AcquirerSim
from simulators.faults import ACTIVE_FAULTS_MAX, Kind
from simulators.orders import OrderServiceSim
from simulators.server import serve
from simulators.users import UserServiceSim
from tests.simulators.helpers import (
    a_user,
    an_order,
    call,
    charge,
    effects,
    eventually,
    fired,
    follow_up,
    has_charged,
    has_fired,
    opened,
    script,
)


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served acquirer: its journal says whether it acted."""
    async with serve(AcquirerSim(None)) as url:
        yield url


async def attempts_charged(http: aiohttp.ClientSession, base: str) -> list[str]:
    return [row["attempt"] for row in await effects(http, base)]


async def first_bytes(base: str, path: str) -> bytes:
    """Ask on a bare socket, where a reset and a polite close look different."""
    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return await reader.read(100)
    finally:
        writer.close()


async def test_delay_acts_at_once_and_answers_late(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="delay", times=1, delay_s=3600)
    waiting = asyncio.create_task(charge(http, base, "attempt-1"))
    await eventually(lambda: has_fired(http, base))
    await eventually(lambda: has_charged(http, base))
    assert not waiting.done()
    assert await fired(http, base) == {"delay": 1}
    await call(http, "DELETE", f"{base}/_faults")
    assert (await waiting).status == 200, "who clears the faults ends the delay"
    await script(http, base, kind="delay", times=1, delay_s=0.8)
    sent = time.monotonic()
    assert (await charge(http, base, "attempt-2")).status == 200
    assert time.monotonic() - sent >= 0.8
    assert await fired(http, base) == {"delay": 2}


@pytest.mark.parametrize(("kind", "charged"), [("silence", []), ("silence_after", ["attempt-1"])])
async def test_silence_never_answers(http: aiohttp.ClientSession, base: str, kind: str, charged: list[str]) -> None:
    await script(http, base, kind=kind, times=1)
    waiting = asyncio.create_task(charge(http, base, "attempt-1"))
    await eventually(lambda: has_fired(http, base))
    _, silent = await asyncio.wait([waiting], timeout=0.3)
    assert silent == {waiting}
    waiting.cancel()
    assert await attempts_charged(http, base) == charged
    assert await fired(http, base) == {kind: 1}


@pytest.mark.parametrize(("kind", "charged"), [("error_before", []), ("error_after", ["attempt-1"])])
async def test_an_error_is_500(http: aiohttp.ClientSession, base: str, kind: str, charged: list[str]) -> None:
    await script(http, base, kind=kind, times=1)
    answer = await charge(http, base, "attempt-1")
    assert (answer.status, answer.body) == (500, {"error": "scripted fault: 500"})
    assert await attempts_charged(http, base) == charged
    assert await fired(http, base) == {kind: 1}


@pytest.mark.parametrize(("kind", "charged"), [("reset", []), ("reset_after", ["attempt-1"])])
async def test_a_reset_breaks_the_call(http: aiohttp.ClientSession, base: str, kind: str, charged: list[str]) -> None:
    await script(http, base, kind=kind, times=1)
    with pytest.raises(aiohttp.ClientOSError, match="reset by peer"):
        await charge(http, base, "attempt-1")
    assert await attempts_charged(http, base) == charged
    assert await fired(http, base) == {kind: 1}


@pytest.mark.parametrize("kind", ["reset", "reset_after"])
async def test_a_reset_is_a_tcp_rst_not_a_close(http: aiohttp.ClientSession, base: str, kind: str) -> None:
    await script(http, base, kind=kind, times=1)
    with pytest.raises(ConnectionResetError):
        await first_bytes(base, "/charges/attempt-1")
    assert (await first_bytes(base, "/charges/attempt-1")).startswith(b"HTTP/1.1 404")


async def test_wrong_json_acts_and_answers_200_with_garbage(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="wrong_json", times=1)
    response = await http.get(f"{base}/charges/attempt-1")
    assert (response.status, response.content_type) == (200, "application/json")
    with pytest.raises(UnicodeDecodeError):
        await response.json()
    await script(http, base, kind="wrong_json", times=1)
    with pytest.raises(UnicodeDecodeError):
        await charge(http, base, "attempt-1")
    assert await attempts_charged(http, base) == ["attempt-1"]
    assert await fired(http, base) == {"wrong_json": 2}


@pytest.mark.parametrize("status", [200, 204, 302, 429, 503, 599])
async def test_status_answers_the_scripted_status_without_acting(
    http: aiohttp.ClientSession, base: str, status: int
) -> None:
    await script(http, base, kind="status", status=status, times=1)
    response = await http.post(f"{base}/charges", headers={"Idempotency-Key": "attempt-1"}, allow_redirects=False)
    assert response.status == status
    assert await attempts_charged(http, base) == []
    assert await fired(http, base) == {"status": 1}


async def test_a_fault_fires_as_often_as_asked_and_then_all_is_well(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="error_before", times=3)
    statuses = [(await charge(http, base, f"attempt-{n}")).status for n in range(5)]
    assert statuses == [500, 500, 500, 200, 200]
    assert (await call(http, "GET", f"{base}/_faults")).body["faults"] == []


async def test_racing_requests_take_a_fault_exactly_as_often_as_asked(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="error_after", times=7)
    answers = await asyncio.gather(*(charge(http, base, f"attempt-{n}") for n in range(30)))
    assert sum(answer.status == 500 for answer in answers) == 7
    assert await fired(http, base) == {"error_after": 7}


async def test_a_fault_without_times_lasts_until_it_is_cleared_and_the_totals_stay(
    http: aiohttp.ClientSession, base: str
) -> None:
    view = await script(http, base, kind="status", times=None)
    assert [(await charge(http, base, "attempt-1")).status for _ in range(4)] == [503] * 4
    shown = (await call(http, "GET", f"{base}/_faults")).body
    assert shown["faults"] == [{**view, "fired": 4}]
    assert set(shown["fired"]) == set(Kind)
    cleared = await call(http, "DELETE", f"{base}/_faults")
    assert (cleared.status, cleared.body) == (200, {"cleared": 1})
    assert (await charge(http, base, "attempt-1")).status == 200
    assert await fired(http, base) == {"status": 4}


async def test_a_fault_hits_only_its_path_and_method(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="error_before", path_contains="/charges/a")
    await script(http, base, kind="status", path_contains="/charges", method="get")
    assert (await charge(http, base, "abc")).status == 200
    assert (await call(http, "GET", f"{base}/charges/abc")).status == 500
    assert (await call(http, "GET", f"{base}/charges/xyz")).status == 503
    assert await fired(http, base) == {"error_before": 1, "status": 1}


@pytest.mark.parametrize("path", ["captures", "voids", "refunds"])
@pytest.mark.parametrize(("kind", "done"), [("error_before", False), ("error_after", True)])
async def test_captures_voids_and_refunds_can_be_broken_each_for_itself(
    http: aiohttp.ClientSession, base: str, path: str, kind: str, done: bool
) -> None:
    transaction = await opened(http, base, capture=path == "refunds")
    await script(http, base, kind=kind, path_contains=f"/{path}", method="POST")
    answer = await follow_up(http, base, path, "attempt-2", transaction)
    assert (answer.status, answer.body) == (500, {"error": "scripted fault: 500"})
    asked = await call(http, "GET", f"{base}/{path}/attempt-2")
    assert asked.status == (200 if done else 404)
    assert (await charge(http, base, "attempt-3")).status == 200
    await call(http, "DELETE", f"{base}/_faults")
    again = await follow_up(http, base, path, "attempt-2", transaction)
    assert again.status == 200 and (not done or again.body == asked.body)


async def test_the_statement_can_be_broken_the_judges_journal_not(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="status", times=1)
    assert (await call(http, "GET", f"{base}/journal")).status == 200
    assert (await call(http, "GET", f"{base}/statement.csv")).status == 503
    assert (await http.get(f"{base}/statement.csv")).status == 200


async def test_the_oldest_matching_fault_takes_the_request_alone(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="status", status=429, path_contains="/nothing-like-it")
    await script(http, base, kind="status", status=502, times=1)
    await script(http, base, kind="status", status=504)
    assert [(await charge(http, base, "attempt-1")).status for _ in range(3)] == [502, 504, 504]


async def test_health_the_journal_and_the_hooks_are_never_broken(http: aiohttp.ClientSession, base: str) -> None:
    await script(http, base, kind="error_before")
    for path in ("/health", "/journal", "/journal/summary", "/_faults"):
        assert (await call(http, "GET", f"{base}{path}")).status == 200
    assert await fired(http, base) == {}


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "explode"},
        {},
        {"kind": "delay", "times": 0},
        {"kind": "delay", "delay_s": -1},
        {"kind": "status", "status": 99},
        {"kind": "status", "path_contain": "/a-typo"},
    ],
)
async def test_a_fault_that_makes_no_sense_is_refused(
    http: aiohttp.ClientSession, base: str, fault: dict[str, Any]
) -> None:
    assert (await call(http, "POST", f"{base}/_faults", fault)).status == 400
    assert (await charge(http, base, "attempt-1")).status == 200


async def test_too_many_faults_are_refused(http: aiohttp.ClientSession, base: str) -> None:
    for _ in range(ACTIVE_FAULTS_MAX):
        await script(http, base, kind="delay")
    assert (await call(http, "POST", f"{base}/_faults", {"kind": "delay"})).status == 409


async def test_users_and_orders_can_be_broken_too_in_their_own_envelope(http: aiohttp.ClientSession) -> None:
    async with serve(UserServiceSim(None)) as users, serve(OrderServiceSim(None)) as orders:
        for base, path, body in ((users, "/api/users", a_user()), (orders, "/api/orders", an_order())):
            await script(http, base, kind="error_before", times=1)
            broken = await call(http, "POST", f"{base}{path}", body)
            assert (broken.status, broken.body["error"]["code"]) == (500, "SCRIPTED_FAULT")
            assert (await call(http, "POST", f"{base}{path}", body)).status == 201
            assert await fired(http, base) == {"error_before": 1}
