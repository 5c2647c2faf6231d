"""Authorizations: they hold money without moving it, and end once, in a capture, in a void or by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.simulators.helpers import (
    HandClock,
    a_charge,
    call,
    charge,
    decline_code,
    effects,
    eventually,
    follow_up,
    opened,
    summary,
)

WEEK_S = 7 * 24 * 3600


@pytest.fixture
def clock() -> HandClock:
    """The acquirer's clock."""
    return HandClock()


@pytest.fixture
async def base(clock: HandClock) -> AsyncIterator[str]:
    """A served acquirer whose clock stands still."""
    async with serve(AcquirerSim(None, clock=clock)) as url:
        yield url


async def test_an_authorization_is_approved_until_a_week_later_and_moves_no_money(
    http: aiohttp.ClientSession, base: str
) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(capture=False))
    assert answer.status == 200
    assert answer.body == {
        "id": answer.body["id"],
        "attempt": "attempt-1",
        "status": "approved",
        "amount_minor": 7548,
        "currency": "USD",
        "authorized_until": "2023-01-08T00:02:00.000Z",
    }
    assert (await call(http, "GET", f"{base}/charges/attempt-1")).body == answer.body
    assert await effects(http, base) == []
    found = await summary(http, base)
    assert (found["effects"], found["attempts_approved"]) == (0, 1)


async def test_a_charge_that_says_capture_is_a_charge_and_the_same_as_one_that_does_not(
    http: aiohttp.ClientSession, base: str
) -> None:
    said = await charge(http, base, "attempt-1", a_charge(capture=True))
    assert "authorized_until" not in said.body
    assert await charge(http, base, "attempt-1", a_charge()) == said
    assert len(await effects(http, base)) == 1


async def test_one_attempt_cannot_both_charge_and_authorize(http: aiohttp.ClientSession, base: str) -> None:
    await charge(http, base, "attempt-1", a_charge(capture=False))
    assert (await charge(http, base, "attempt-1", a_charge())).status == 409
    await charge(http, base, "attempt-2", a_charge())
    assert (await charge(http, base, "attempt-2", a_charge(capture=False))).status == 409


@pytest.mark.parametrize("capture", [None, 0, "false"])
async def test_a_capture_flag_that_is_no_boolean_is_400(
    http: aiohttp.ClientSession, base: str, capture: object
) -> None:
    assert (await charge(http, base, "attempt-1", a_charge(capture=capture))).status == 400
    assert await effects(http, base) == []


@pytest.mark.parametrize("path", ["captures", "voids", "refunds"])
async def test_a_card_declines_an_authorization_too_and_nothing_can_follow(
    http: aiohttp.ClientSession, base: str, path: str
) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(cards.INSUFFICIENT_FUNDS, capture=False))
    assert decline_code(answer) == "insufficient_funds" and "authorized_until" not in answer.body
    after = await follow_up(http, base, path, "attempt-2", answer.body["id"])
    assert decline_code(after) == "charge_declined"
    assert await effects(http, base) == []


async def test_the_silent_card_authorizes_and_only_a_query_tells(http: aiohttp.ClientSession, base: str) -> None:
    body = a_charge(cards.SILENT_BUT_CHARGES, capture=False)
    waiting = asyncio.create_task(charge(http, base, "attempt-1", body))

    async def is_held() -> bool:
        asked = await call(http, "GET", f"{base}/charges/attempt-1")
        return asked.status == 200 and "authorized_until" in asked.body

    await eventually(is_held)
    assert not waiting.done()
    waiting.cancel()
    assert await effects(http, base) == []


@pytest.mark.parametrize("amount_minor", [1, 7547, 7548])
async def test_a_capture_of_up_to_the_authorized_amount_moves_that_much(
    http: aiohttp.ClientSession, base: str, amount_minor: int
) -> None:
    transaction = await opened(http, base, capture=False)
    answer = await follow_up(http, base, "captures", "attempt-2", transaction, amount_minor=amount_minor)
    assert answer.status == 200
    assert answer.body == {
        "id": answer.body["id"],
        "attempt": "attempt-2",
        "status": "approved",
        "amount_minor": amount_minor,
        "currency": "USD",
    }
    assert answer.body["id"] != transaction
    assert (await call(http, "GET", f"{base}/captures/attempt-2")).body == answer.body
    assert await effects(http, base) == [
        {
            "seq": 1,
            "attempt": "attempt-2",
            "reference": "pay-456",
            "kind": "capture",
            "charge": transaction,
            "amount_minor": amount_minor,
            "currency": "USD",
            "id": answer.body["id"],
            "at": "2023-01-01T00:02:00.000Z",
        }
    ]


async def test_a_capture_of_more_than_was_authorized_is_declined_and_a_smaller_one_still_goes(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base, capture=False)
    declined = await follow_up(http, base, "captures", "attempt-2", transaction, amount_minor=7549)
    assert declined.status == 402
    assert declined.body == {
        "id": declined.body["id"],
        "attempt": "attempt-2",
        "status": "declined",
        "decline_code": "amount_too_large",
        "reason": "More than what is left",
        "retryable": False,
    }
    asked = await call(http, "GET", f"{base}/captures/attempt-2")
    assert (asked.status, asked.body) == (200, declined.body)
    assert decline_code(await follow_up(http, base, "captures", "attempt-3", transaction)) is None


async def test_an_authorization_is_captured_once_and_its_rest_is_gone(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base, capture=False)
    await follow_up(http, base, "captures", "attempt-2", transaction, amount_minor=500)
    again = await follow_up(http, base, "captures", "attempt-3", transaction, amount_minor=500)
    assert decline_code(again) == "already_captured"
    assert [row["amount_minor"] for row in await effects(http, base)] == [500]


async def test_a_direct_charge_is_captured_already(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base)
    for path in ("captures", "voids"):
        assert decline_code(await follow_up(http, base, path, path, transaction)) == "already_captured"
    assert len(await effects(http, base)) == 1


async def test_an_authorization_can_be_captured_until_the_moment_at_which_it_ends(
    http: aiohttp.ClientSession, base: str, clock: HandClock
) -> None:
    early, late = [await opened(http, base, f"attempt-{n}", capture=False) for n in (1, 2)]
    clock.forward(WEEK_S - 0.001)
    assert decline_code(await follow_up(http, base, "captures", "attempt-3", early)) is None
    clock.forward(0.001)
    assert decline_code(await follow_up(http, base, "captures", "attempt-4", late)) == "authorization_expired"
    assert decline_code(await follow_up(http, base, "refunds", "attempt-5", early)) is None


async def test_how_long_an_authorization_holds_can_be_set(http: aiohttp.ClientSession, clock: HandClock) -> None:
    async with serve(AcquirerSim(None, clock=clock, authorized_for_s=1.5)) as base:
        answer = await charge(http, base, "attempt-1", a_charge(capture=False))
        assert answer.body["authorized_until"] == "2023-01-01T00:02:01.500Z"
        clock.forward(2)
        late = await follow_up(http, base, "captures", "attempt-2", answer.body["id"])
        assert decline_code(late) == "authorization_expired"


async def test_a_void_releases_the_hold_for_good_and_moves_no_money(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base, capture=False)
    answer = await follow_up(http, base, "voids", "attempt-2", transaction)
    assert (answer.status, answer.body["status"], answer.body["amount_minor"]) == (200, "approved", 7548)
    assert (await call(http, "GET", f"{base}/voids/attempt-2")).body == answer.body
    codes = {
        path: decline_code(await follow_up(http, base, path, path, transaction))
        for path in ("captures", "voids", "refunds")
    }
    assert codes == {"captures": "authorization_voided", "voids": "authorization_voided", "refunds": "not_captured"}
    assert await effects(http, base) == []


@pytest.mark.parametrize("amount_minor", [1, 7547, 7549])
async def test_a_void_is_for_the_whole_amount(http: aiohttp.ClientSession, base: str, amount_minor: int) -> None:
    transaction = await opened(http, base, capture=False)
    answer = await follow_up(http, base, "voids", "attempt-2", transaction, amount_minor=amount_minor)
    assert decline_code(answer) == "amount_mismatch"
    assert decline_code(await follow_up(http, base, "captures", "attempt-3", transaction)) is None


async def test_a_captured_authorization_cannot_be_voided(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base, capture=False)
    await follow_up(http, base, "captures", "attempt-2", transaction, amount_minor=500)
    assert decline_code(await follow_up(http, base, "voids", "attempt-3", transaction)) == "already_captured"


async def test_an_expired_authorization_may_still_be_voided(
    http: aiohttp.ClientSession, base: str, clock: HandClock
) -> None:
    transaction = await opened(http, base, capture=False)
    clock.forward(2 * WEEK_S)
    assert decline_code(await follow_up(http, base, "voids", "attempt-2", transaction)) is None


async def test_of_racing_captures_and_voids_exactly_one_wins(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None, latency_s=0.05)) as base:
        transaction = await opened(http, base, capture=False)
        answers = await asyncio.gather(
            *(
                follow_up(http, base, path, f"{path}-{n}", transaction)
                for n in range(20)
                for path in ("captures", "voids")
            )
        )
        winners = [answer.body["attempt"] for answer in answers if answer.status == 200]
        captured = [row["attempt"] for row in await effects(http, base)]
    assert len(winners) == 1
    assert captured == [name for name in winners if name.startswith("captures")]


async def test_latency_holds_back_the_answer_to_a_capture_not_the_capture(http: aiohttp.ClientSession) -> None:
    sim = AcquirerSim(None)
    async with serve(sim) as base:
        transaction = await opened(http, base, capture=False)
        sim._latency_s = 3600
        waiting = asyncio.create_task(follow_up(http, base, "captures", "attempt-2", transaction))

        async def has_moved() -> bool:
            return bool(await effects(http, base))

        await eventually(has_moved)
        assert not waiting.done()
    assert (await waiting).status == 200, "a stop ends every wait, with the answer"
