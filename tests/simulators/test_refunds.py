"""Refunds, and what captures, voids and refunds have in common: one attempt, one effect, never too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from simulators.acquirer import AcquirerSim
from simulators.server import serve
from tests.simulators.helpers import HandClock, call, charge, decline_code, effects, follow_up, opened, summary

EVERY_PATH = pytest.mark.parametrize("path", ["captures", "voids", "refunds"])


@pytest.fixture
async def base() -> AsyncIterator[str]:
    """A served acquirer whose clock stands still."""
    async with serve(AcquirerSim(None, clock=HandClock())) as url:
        yield url


async def followed(http: aiohttp.ClientSession, base: str, path: str) -> str:
    """A fresh transaction that may be followed by what this path does."""
    return await opened(http, base, capture=path == "refunds")


async def test_a_refund_is_an_effect_of_its_own_and_its_amount_stays_positive(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base)
    answer = await follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=500)
    assert answer.status == 200
    assert answer.body == {
        "id": answer.body["id"],
        "attempt": "attempt-2",
        "status": "approved",
        "amount_minor": 500,
        "currency": "USD",
    }
    assert (await effects(http, base))[1:] == [
        {
            "seq": 2,
            "attempt": "attempt-2",
            "reference": "pay-456",
            "kind": "refund",
            "charge": transaction,
            "amount_minor": 500,
            "currency": "USD",
            "id": answer.body["id"],
            "at": "2023-01-01T00:02:00.000Z",
        }
    ]
    assert (await call(http, "GET", f"{base}/refunds/attempt-2")).body == answer.body


async def test_refunds_in_parts_end_at_what_was_charged(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base)
    codes = [
        decline_code(await follow_up(http, base, "refunds", f"refund-{n}", transaction, amount_minor=amount_minor))
        for n, amount_minor in enumerate([7000, 549, 548, 1])
    ]
    assert codes == [None, "amount_too_large", None, "amount_too_large"]


async def test_only_what_was_captured_can_be_refunded_not_what_was_authorized(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base, capture=False)
    assert decline_code(await follow_up(http, base, "refunds", "attempt-2", transaction)) == "not_captured"
    await follow_up(http, base, "captures", "attempt-3", transaction, amount_minor=500)
    too_much = await follow_up(http, base, "refunds", "attempt-4", transaction, amount_minor=501)
    assert decline_code(too_much) == "amount_too_large"
    whole = await follow_up(http, base, "refunds", "attempt-5", transaction, amount_minor=500)
    assert decline_code(whole) is None


@pytest.mark.parametrize(
    ("amount_minor", "code"), [(13, "refund_declined"), (7513, "refund_declined"), (131, None), (1300, None)]
)
async def test_a_refund_whose_amount_ends_in_thirteen_is_declined(
    http: aiohttp.ClientSession, base: str, amount_minor: int, code: str | None
) -> None:
    transaction = await opened(http, base)
    answer = await follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=amount_minor)
    assert decline_code(answer) == code
    assert code is None or answer.body["retryable"] is False
    assert [row["kind"] for row in await effects(http, base)] == ["charge", *(["refund"] if code is None else [])]


async def test_a_declined_refund_takes_nothing_off_what_is_left(http: aiohttp.ClientSession, base: str) -> None:
    transaction = await opened(http, base)
    await follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=7513)
    assert decline_code(await follow_up(http, base, "refunds", "attempt-3", transaction)) is None


async def test_charges_and_captures_whose_amount_ends_in_thirteen_are_approved(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base, capture=False, amount_minor=7513)
    assert decline_code(await follow_up(http, base, "captures", "attempt-2", transaction, amount_minor=13)) is None


async def test_refunds_of_one_charge_leave_the_next_one_alone(http: aiohttp.ClientSession, base: str) -> None:
    first, second = await opened(http, base, "attempt-1"), await opened(http, base, "attempt-2")
    for transaction in (first, second):
        assert decline_code(await follow_up(http, base, "refunds", f"of-{transaction}", transaction)) is None
    assert [row["charge"] for row in await effects(http, base)] == [first, second, first, second]


async def test_fifty_racing_refunds_give_back_no_more_than_was_captured(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None, latency_s=0.05)) as base:
        transaction = await opened(http, base)
        answers = await asyncio.gather(
            *(follow_up(http, base, "refunds", f"refund-{n}", transaction, amount_minor=200) for n in range(50))
        )
        codes = [decline_code(answer) for answer in answers]
        assert (codes.count(None), codes.count("amount_too_large")) == (37, 13)
        refunded = [row["amount_minor"] for row in await effects(http, base) if row["kind"] == "refund"]
        assert refunded == [200] * 37
        assert (await summary(http, base))["amount_minor_by_currency"] == {"USD": 7548 - 37 * 200}


async def test_racing_copies_of_one_refund_give_back_once(http: aiohttp.ClientSession) -> None:
    async with serve(AcquirerSim(None, latency_s=0.05)) as base:
        transaction = await opened(http, base)
        answers = await asyncio.gather(
            *(follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=200) for _ in range(20))
        )
        assert {(answer.status, answer.body["id"]) for answer in answers} == {(200, answers[0].body["id"])}
        assert [row["kind"] for row in await effects(http, base)] == ["charge", "refund"]


@EVERY_PATH
async def test_the_same_attempt_again_gets_the_same_answer_and_does_nothing(
    http: aiohttp.ClientSession, base: str, path: str
) -> None:
    transaction = await followed(http, base, path)
    first = await follow_up(http, base, path, "attempt-2", transaction)
    before = await effects(http, base)
    assert await follow_up(http, base, path, "attempt-2", transaction) == first
    assert await effects(http, base) == before


async def test_a_declined_attempt_stays_declined_when_it_could_be_done_by_now(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base, capture=False)
    declined = await follow_up(http, base, "refunds", "attempt-2", transaction)
    await follow_up(http, base, "captures", "attempt-3", transaction)
    again = await follow_up(http, base, "refunds", "attempt-2", transaction)
    assert (again.status, again.body) == (402, declined.body)


@EVERY_PATH
@pytest.mark.parametrize(
    "other", [{"amount_minor": 7547}, {"currency": "EUR"}, {"reference": "pay-457"}, {"charge": "txn-other"}]
)
async def test_the_same_attempt_with_another_body_is_409(
    http: aiohttp.ClientSession, base: str, path: str, other: dict[str, Any]
) -> None:
    transaction = await followed(http, base, path)
    first = await follow_up(http, base, path, "attempt-2", transaction)
    before = await effects(http, base)
    answer = await follow_up(http, base, path, "attempt-2", transaction, **other)
    assert (answer.status, answer.body) == (409, {"error": "this Idempotency-Key was used with another body"})
    assert (await call(http, "GET", f"{base}/{path}/attempt-2")).body == first.body
    assert await effects(http, base) == before


async def test_the_same_attempt_at_another_path_is_409_and_unknown_there(
    http: aiohttp.ClientSession, base: str
) -> None:
    transaction = await opened(http, base, "attempt-1", capture=False)
    await follow_up(http, base, "captures", "attempt-2", transaction)
    assert (await follow_up(http, base, "refunds", "attempt-2", transaction)).status == 409
    assert (await follow_up(http, base, "refunds", "attempt-1", transaction)).status == 409
    assert (await charge(http, base, "attempt-2")).status == 409
    found = {
        path: [(await call(http, "GET", f"{base}/{path}/attempt-{n}")).status for n in (1, 2)]
        for path in ("charges", "captures", "voids", "refunds")
    }
    assert found == {"charges": [200, 404], "captures": [404, 200], "voids": [404, 404], "refunds": [404, 404]}
    assert len(await effects(http, base)) == 1


@EVERY_PATH
async def test_another_currency_than_the_charges_is_400_and_no_decision(
    http: aiohttp.ClientSession, base: str, path: str
) -> None:
    transaction = await followed(http, base, path)
    answer = await follow_up(http, base, path, "attempt-2", transaction, currency="EUR")
    assert (answer.status, answer.body) == (400, {"error": "the charge is in USD"})
    assert (await call(http, "GET", f"{base}/{path}/attempt-2")).status == 404
    assert decline_code(await follow_up(http, base, path, "attempt-2", transaction)) is None


@EVERY_PATH
async def test_a_charge_that_nobody_made_is_unknown(http: aiohttp.ClientSession, base: str, path: str) -> None:
    transaction = await followed(http, base, path)
    done = await follow_up(http, base, path, "attempt-2", transaction, amount_minor=7548)
    for n, name in enumerate(["txn-nothing", "attempt-1", done.body["id"]]):
        answer = await follow_up(http, base, path, f"wrong-{n}", name, amount_minor=1)
        assert decline_code(answer) == "unknown_charge"
        assert (await call(http, "GET", f"{base}/{path}/wrong-{n}")).body == answer.body


@EVERY_PATH
@pytest.mark.parametrize(
    "wrong",
    [
        {"amount_minor": 0},
        {"amount_minor": -1},
        {"amount_minor": 75.48},
        {"amount_minor": True},
        {"amount_minor": None},
        {"currency": "usd"},
        {"reference": ""},
        {"reference": None},
        {"charge": ""},
        {"charge": None},
    ],
)
async def test_an_invalid_body_is_400_and_does_nothing(
    http: aiohttp.ClientSession, base: str, path: str, wrong: dict[str, Any]
) -> None:
    transaction = await followed(http, base, path)
    before = await effects(http, base)
    assert (await follow_up(http, base, path, "attempt-2", transaction, **wrong)).status == 400
    assert (await call(http, "GET", f"{base}/{path}/attempt-2")).status == 404
    assert await effects(http, base) == before


@EVERY_PATH
async def test_a_request_without_a_usable_key_is_400(http: aiohttp.ClientSession, base: str, path: str) -> None:
    transaction = await followed(http, base, path)
    before = await effects(http, base)
    answer = await follow_up(http, base, path, "", transaction)
    assert answer.status == 400 and "Idempotency-Key" in answer.body["error"]
    assert await effects(http, base) == before


async def test_an_acquirer_that_ignores_keys_refunds_twice_within_the_captured_amount(
    http: aiohttp.ClientSession,
) -> None:
    async with serve(AcquirerSim(None, dedupe=False)) as base:
        transaction = await opened(http, base)
        answers = [
            await follow_up(http, base, "refunds", "attempt-2", transaction, amount_minor=3000) for _ in range(3)
        ]
        assert [decline_code(answer) for answer in answers] == [None, None, "amount_too_large"]
        assert (await call(http, "GET", f"{base}/refunds/attempt-2")).body == answers[2].body
        refunds = [(row["attempt"], row["kind"]) for row in await effects(http, base)][1:]
        assert refunds == [("attempt-2", "refund")] * 2
        found = await summary(http, base)
        assert found["attempts_with_more_than_one_effect"] == ["attempt-2"]
        assert found["references_with_more_than_one_effect"] == []


async def test_an_acquirer_that_ignores_keys_still_tells_the_paths_of_one_attempt_apart(
    http: aiohttp.ClientSession,
) -> None:
    async with serve(AcquirerSim(None, dedupe=False)) as base:
        transaction = await opened(http, base, "attempt-1")
        refund = await follow_up(http, base, "refunds", "attempt-1", transaction)
        assert (await call(http, "GET", f"{base}/charges/attempt-1")).body["id"] == transaction
        assert (await call(http, "GET", f"{base}/refunds/attempt-1")).body == refund.body
        assert (await summary(http, base))["attempts_with_more_than_one_effect"] == ["attempt-1"]


async def test_the_summary_takes_refunds_off_and_leaves_holds_out(http: aiohttp.ClientSession, base: str) -> None:
    charged = await opened(http, base, "attempt-1", reference="pay-1")
    held = await opened(http, base, "attempt-2", reference="pay-2", capture=False)
    await opened(http, base, "attempt-3", reference="pay-3", capture=False)
    await opened(http, base, "attempt-4", reference="pay-4", currency="KES", amount_minor=100)
    await follow_up(http, base, "captures", "attempt-5", held, amount_minor=5000, reference="pay-2")
    await follow_up(http, base, "refunds", "attempt-6", charged, amount_minor=48, reference="pay-1")
    await follow_up(http, base, "refunds", "attempt-7", charged, amount_minor=500, reference="pay-1")
    await follow_up(http, base, "refunds", "attempt-8", charged, amount_minor=7548, reference="pay-1")
    assert await summary(http, base) == {
        "effects": 5,
        "amount_minor_by_currency": {"USD": 7548 + 5000 - 548, "KES": 100},
        "attempts_seen": 8,
        "attempts_approved": 7,
        "attempts_declined": 1,
        "attempts_with_more_than_one_effect": [],
        "references_with_more_than_one_effect": [],
    }


async def test_one_payment_that_was_charged_and_captured_is_named(http: aiohttp.ClientSession, base: str) -> None:
    await opened(http, base, "attempt-1", reference="pay-1")
    held = await opened(http, base, "attempt-2", reference="pay-1", capture=False)
    assert (await summary(http, base))["references_with_more_than_one_effect"] == []
    await follow_up(http, base, "captures", "attempt-3", held, reference="pay-1")
    assert (await summary(http, base))["references_with_more_than_one_effect"] == ["pay-1"]
