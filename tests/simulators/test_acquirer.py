"""The acquirer: one attempt moves money once, and its journal is the judge of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from simulators import cards
from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.simulators.helpers import Json, a_charge, call, charge, effects, summary, with_card

MOMENT = datetime(2023, 1, 1, 0, 2, tzinfo=UTC)


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served acquirer whose clock stands still."""
    async with serve(AcquirerSim(None, clock=lambda: MOMENT)) as url:
        yield url


async def test_an_approved_charge_moves_money_once_and_shows_in_the_journal(
    http: aiohttp.ClientSession, base: str
) -> None:
    answer = await charge(http, base, "attempt-1")
    assert answer.status == 200
    transaction = answer.body["id"]
    assert transaction.startswith("txn-")
    assert answer.body == {
        "id": transaction,
        "attempt": "attempt-1",
        "status": "approved",
        "amount_minor": 7548,
        "currency": "USD",
    }
    assert await effects(http, base) == [
        {
            "seq": 1,
            "attempt": "attempt-1",
            "reference": "pay-456",
            "kind": "charge",
            "charge": transaction,
            "amount_minor": 7548,
            "currency": "USD",
            "id": transaction,
            "at": "2023-01-01T00:02:00.000Z",
        }
    ]


async def test_the_same_attempt_again_gets_the_same_answer_and_moves_nothing(
    http: aiohttp.ClientSession, base: str
) -> None:
    first = await charge(http, base, "attempt-1")
    reordered = dict(reversed(a_charge().items()))
    again = [await charge(http, base, "attempt-1", body) for body in (a_charge(), reordered)]
    assert [(answer.status, answer.body) for answer in again] == [(200, first.body)] * 2
    assert len(await effects(http, base)) == 1


async def test_racing_copies_of_one_attempt_move_money_once(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None, latency_s=0.05)) as base:
        answers = await asyncio.gather(*(charge(http, base, "attempt-1") for _ in range(20)))
        assert {answer.body["id"] for answer in answers} == {answers[0].body["id"]}
        assert len(await effects(http, base)) == 1


@pytest.mark.parametrize(
    "other",
    [
        a_charge(amount_minor=7549),
        a_charge(currency="EUR"),
        a_charge(reference="pay-457"),
        with_card(number=cards.APPROVED_VISA),
        with_card(expiry_month=11),
        with_card(expiry_year=2031),
        with_card(cvv=None),
        a_charge(card=None, wallet_token="tok-1"),
    ],
)
async def test_the_same_attempt_with_another_body_is_409(http: aiohttp.ClientSession, base: str, other: Json) -> None:
    first = await charge(http, base, "attempt-1")
    answer = await charge(http, base, "attempt-1", other)
    assert (answer.status, answer.body) == (409, {"error": "this Idempotency-Key was used with another body"})
    assert (await call(http, "GET", f"{base}/charges/attempt-1")).body == first.body
    assert len(await effects(http, base)) == 1


async def test_a_wallet_token_is_charged_like_a_card(http: aiohttp.ClientSession, base: str) -> None:
    answer = await charge(http, base, "attempt-1", a_charge(card=None, wallet_token="tok-1"))
    assert (answer.status, answer.body["status"]) == (200, "approved")
    assert len(await effects(http, base)) == 1


@pytest.mark.parametrize(
    "body",
    [
        [],
        a_charge(amount_minor=0),
        a_charge(amount_minor=-1),
        a_charge(amount_minor=75.48),
        a_charge(amount_minor=True),
        a_charge(currency="usd"),
        a_charge(currency="USD\n"),
        a_charge(reference=""),
        a_charge(card=None),
        a_charge(wallet_token="tok-1"),
        with_card(number="4242424242424241"),
        with_card(number="4242 4242 4242 4242"),
        with_card(number="42424242424"),
        with_card(expiry_month=13),
        with_card(expiry_year=30),
        with_card(cvv="12"),
        with_card(cvv=123),
    ],
)
async def test_an_invalid_charge_is_400_and_moves_nothing(http: aiohttp.ClientSession, base: str, body: Json) -> None:
    answer = await call(http, "POST", f"{base}/charges", body, headers={"Idempotency-Key": "attempt-1"})
    assert answer.status == 400 and isinstance(answer.body["error"], str)
    assert (await call(http, "GET", f"{base}/charges/attempt-1")).status == 404
    assert await effects(http, base) == []


@pytest.mark.parametrize(
    "headers", [{}, {"Idempotency-Key": ""}, {"Idempotency-Key": "a b"}, {"Idempotency-Key": "a" * 256}]
)
async def test_a_charge_without_a_usable_key_is_400(
    http: aiohttp.ClientSession, base: str, headers: dict[str, str]
) -> None:
    answer = await call(http, "POST", f"{base}/charges", a_charge(), headers=headers)
    assert answer.status == 400 and "Idempotency-Key" in answer.body["error"]
    assert await effects(http, base) == []


@pytest.mark.parametrize("attempt", ["attempt-1", "a/b", "p01-x:1", "a" * 255])
async def test_a_query_by_attempt_repeats_the_answer(http: aiohttp.ClientSession, base: str, attempt: str) -> None:
    approved = await charge(http, base, attempt)
    assert (await call(http, "GET", f"{base}/charges/{attempt}")).body == approved.body


async def test_an_unknown_attempt_is_404(http: aiohttp.ClientSession, base: str) -> None:
    answer = await call(http, "GET", f"{base}/charges/attempt-1")
    assert (answer.status, answer.body) == (404, {"error": "unknown attempt"})


async def test_the_journal_can_be_read_from_where_one_stopped(http: aiohttp.ClientSession, base: str) -> None:
    for n in range(1, 6):
        await charge(http, base, f"attempt-{n}")
    after = (await call(http, "GET", f"{base}/journal?after=3")).body["effects"]
    assert [(row["seq"], row["attempt"]) for row in after] == [(4, "attempt-4"), (5, "attempt-5")]
    assert (await call(http, "GET", f"{base}/journal?after=5")).body == {"effects": []}
    assert len((await call(http, "GET", f"{base}/journal")).body["effects"]) == 5


@pytest.mark.parametrize("after", ["-1", "x", "", "1.5", "²"])
async def test_a_journal_position_that_is_no_number_is_400(http: aiohttp.ClientSession, base: str, after: str) -> None:
    assert (await call(http, "GET", f"{base}/journal", params={"after": after})).status == 400


async def test_the_summary_counts_attempts_effects_and_money(http: aiohttp.ClientSession, base: str) -> None:
    await charge(http, base, "attempt-1")
    await charge(http, base, "attempt-1")
    await charge(http, base, "attempt-2", a_charge(amount_minor=2, reference="pay-2"))
    await charge(http, base, "attempt-3", a_charge(currency="KES", amount_minor=1500, reference="pay-3"))
    await charge(http, base, "attempt-4", a_charge(cards.DECLINED, reference="pay-4"))
    assert await summary(http, base) == {
        "effects": 3,
        "amount_minor_by_currency": {"USD": 7550, "KES": 1500},
        "attempts_seen": 4,
        "attempts_approved": 3,
        "attempts_declined": 1,
        "attempts_with_more_than_one_effect": [],
        "references_with_more_than_one_effect": [],
    }


async def test_one_payment_charged_through_two_attempts_is_named(http: aiohttp.ClientSession, base: str) -> None:
    await charge(http, base, "attempt-1", a_charge(reference="pay-1"))
    await charge(http, base, "attempt-2", a_charge(reference="pay-1"))
    found = await summary(http, base)
    assert found["attempts_with_more_than_one_effect"] == []
    assert found["references_with_more_than_one_effect"] == ["pay-1"]


async def test_latency_holds_back_the_answer(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None, latency_s=0.2)) as base:
        sent = time.monotonic()
        assert (await charge(http, base, "attempt-1")).status == 200
        assert time.monotonic() - sent >= 0.2
