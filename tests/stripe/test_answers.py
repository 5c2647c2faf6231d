"""Answers of Stripe that localstripe never gives, one by one, over a real socket: what each means for the money."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from clients.http import open_session
from clients.stripe import StripeAcquirer
from clients.stripe_line import ApiKey, StripeLine
from engine.cards import Card, Pan
from engine.charging import AcquirerRequest, NeverSeen, NotSent, Outcome, Unknown
from engine.facts import Kind
from engine.ids import PaymentIds, now_ms
from engine.money import Money
from engine.settling import Approved, Declined
from tests.clients.test_counterparties import Line, Wire, wire

PAYMENT = PaymentIds().mint(0)
ATTEMPT = f"{PAYMENT}-a1"
USD = Money(7548, "USD")
CARD = Card(Pan("4242424242424242"), 12, 2030, None)


def intent(status: str = "requires_payment_method", **fields: Any) -> dict[str, Any]:
    """An intent of the attempt."""
    return {
        "id": "pi_1", "object": "payment_intent", "status": status, "amount": 7548, "currency": "usd",
        "created": now_ms() // 1000, "amount_received": 7548 if status == "succeeded" else 0,
        "metadata": {"attempt_id": ATTEMPT, "payment_id": PAYMENT}, "last_payment_error": None,
        "latest_charge": None, "client_secret": "pi_1_secret_2", **fields,
    }  # fmt: skip


def refund(status: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """A refund of the attempt."""
    return {
        "id": "re_1",
        "status": status,
        "amount": 7548,
        "currency": "usd",
        "metadata": {"attempt_id": ATTEMPT},
        **fields,
    }


def error(**fields: Any) -> dict[str, Any]:
    """A body above 399."""
    return {"error": {"type": "invalid_request_error", "message": "No.", **fields}}


@asynccontextmanager
async def stripe(*answers: tuple[int, Any]) -> AsyncIterator[tuple[StripeAcquirer, Wire]]:
    """An acquirer whose Stripe gives these answers in this order; the last one for ever."""
    left = list(answers)

    async def answer(_: web.Request) -> web.StreamResponse:
        status, body = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=status, text=json.dumps(body), content_type="application/json")

    async with wire(answer) as (server, url), open_session(client_id="tests") as session:
        line = StripeLine(Line(session, "stripe").counterparty, url, ApiKey("sk_test_1"))
        yield StripeAcquirer(line, now_ms, patience_s=20.0), server


def request(kind: Kind) -> AcquirerRequest:
    card = CARD if kind in (Kind.CHARGE, Kind.AUTHORIZE) else None
    return AcquirerRequest(ATTEMPT, PAYMENT, kind, USD, card, "" if card else "pi_1")


async def sent(kind: Kind, *answers: tuple[int, Any]) -> Outcome:
    async with stripe(*answers) as (acquirer, _):
        return await acquirer.send(request(kind))


MADE = (200, intent())
DECLINED = intent(last_payment_error={"type": "card_error", "code": "card_declined", "decline_code": "do_not_honor"})

CONFIRMED: dict[str, tuple[tuple[int, Any], type | Outcome]] = {
    "succeeded": ((200, intent("succeeded")), Approved("pi_1")),
    "processing": ((200, intent("processing")), Unknown),
    "a state nobody knows": ((200, intent("settling\n4242424242424242")), Unknown),
    "not confirmed": ((200, intent("requires_confirmation")), Unknown),
    "another amount": ((200, intent("succeeded", amount=7547)), Unknown),
    "another currency": ((200, intent("succeeded", currency="eur")), Unknown),
    "another intent": ((200, intent("succeeded", id="pi_2")), Unknown),
    "held instead of taken": ((200, intent("requires_capture")), Unknown),
    "no JSON": ((200, "<html>"), Unknown),
    "declined, with the intent": (
        (402, error(type="card_error", code="card_declined", decline_code="do_not_honor", payment_intent=DECLINED)),
        Declined("do_not_honor", "Declined"),
    ),
    "a wrong number, without the intent": (
        (402, error(type="card_error", code="incorrect_number", message="Your card number is incorrect.")),
        Declined("incorrect_number", "Your card number is incorrect."),
    ),
    "a refusal that quotes the card": (
        (402, error(type="card_error", code="card_declined", message="4242 4242 4242 4242 is bad")),
        Declined("card_declined", "Declined"),
    ),
    "try again later": (
        (402, error(type="card_error", code="card_declined", decline_code="try_again_later")),
        Declined("try_again_later", "No.", retryable=True),
    ),
    "declined, but the intent says paid": (
        (402, error(type="card_error", code="card_declined", payment_intent=intent("succeeded"))), Approved("pi_1"),
    ),
    "paid before": (
        (400, error(code="payment_intent_unexpected_state", payment_intent=intent("succeeded"))), Approved("pi_1"),
    ),
    "in no state to be paid": ((400, error(code="payment_intent_unexpected_state")), Unknown),
    "card numbers are not enabled": (
        (400, error(message="Sending card numbers is unsafe")),
        Declined("declined", "Sending card numbers is unsafe", retryable=True),
    ),
    "the key is not accepted": ((401, error()), NotSent),
    "the key may not do this": ((403, error()), NotSent),
    "no such intent": ((404, error(code="resource_missing")), Unknown),
    "being worked on": ((409, error(code="idempotency_key_in_use")), Unknown),
    "the key was used for something else": ((400, error(type="idempotency_error")), Unknown),
    "too many": ((429, error(code="lock_timeout")), Unknown),
    "broken": ((500, error(type="api_error")), Unknown),
    "a redirect": ((302, {}), Unknown),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIRMED)
async def test_every_answer_to_a_confirmation(case: str) -> None:
    answer, expected = CONFIRMED[case]
    outcome = await sent(Kind.CHARGE, MADE, answer)
    assert outcome == expected or (isinstance(expected, type) and isinstance(outcome, expected)), outcome
    assert "4242424242424242" not in repr(outcome)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((400, error(code="amount_too_small", message="Too small.")), Declined("amount_too_small", "Too small.", True)),
        ((200, intent(metadata={})), NotSent), ((200, []), NotSent), ((500, error()), NotSent),
        ((429, error()), NotSent), ((401, error()), NotSent), ((404, error()), Unknown),
        ((409, error(code="idempotency_key_in_use")), Unknown), ((400, error(type="idempotency_error")), Unknown),
    ],
)  # fmt: skip
async def test_without_an_intent_no_card_is_sent(answer: tuple[int, Any], expected: Any) -> None:
    async with stripe(answer) as (acquirer, server):
        outcome = await acquirer.send(request(Kind.CHARGE))
    assert outcome == expected or (isinstance(expected, type) and isinstance(outcome, expected)), outcome
    assert not any(b"4242" in body for _, _, _, body in server.requests)


async def test_an_authorization_without_a_charge_to_look_at_ends_when_the_schemes_say() -> None:
    for latest in (None, "ch_1", {"id": "ch_1"}, {"payment_method_details": {"card": {"capture_before": None}}}):
        held = (200, intent("requires_capture", latest_charge=latest))
        assert await sent(Kind.AUTHORIZE, MADE, held) == Approved("pi_1", 0)
    known = {"payment_method_details": {"card": {"capture_before": 1_790_000_000}}}
    held = (200, intent("requires_capture", latest_charge=known))
    assert await sent(Kind.AUTHORIZE, MADE, held) == Approved("pi_1", 1_790_000_000_000)


FOLLOWED: list[tuple[Kind, tuple[int, Any], type | Outcome]] = [
    (Kind.CAPTURE, (200, intent("succeeded", amount_received=7000)), Unknown),
    (Kind.CAPTURE, (200, intent("processing")), Unknown),
    (
        Kind.CAPTURE,
        (400, error(payment_intent=intent("canceled"))),
        Declined("authorization_over", "The authorization had ended"),
    ),
    (Kind.CAPTURE, (400, error(code="amount_too_large")), Declined("amount_too_large", "No.", retryable=True)),
    (Kind.CAPTURE, (400, error()), Unknown),
    (Kind.VOID, (400, error(payment_intent=intent("canceled"))), Approved("pi_1")),
    (
        Kind.VOID,
        (400, error(payment_intent=intent("succeeded"))),
        Declined("already_captured", "The authorization was captured"),
    ),
    (Kind.VOID, (200, intent("requires_capture")), Unknown),
    (Kind.VOID, (200, intent("processing")), Unknown),
    (Kind.REFUND, (200, refund("pending")), Unknown),
    (Kind.REFUND, (200, refund("requires_action")), Unknown),
    (
        Kind.REFUND,
        (200, refund("failed", failure_reason="lost_or_stolen_card")),
        Declined("lost_or_stolen_card", "The refund failed"),
    ),
    (Kind.REFUND, (200, refund("canceled")), Declined("canceled", "The refund canceled")),
    (Kind.REFUND, (200, refund(amount=1)), Unknown),
    (Kind.REFUND, (200, refund(metadata={})), Unknown),
    (Kind.REFUND, (400, error(code="charge_already_refunded")), Declined("charge_already_refunded", "No.")),
    (Kind.REFUND, (400, error()), Unknown),
    *[
        (kind, (status, error()), outcome)
        for kind in (Kind.CAPTURE, Kind.VOID, Kind.REFUND)
        for status, outcome in (
            (401, NotSent),
            (403, NotSent),
            (404, Unknown),
            (409, Unknown),
            (429, Unknown),
            (503, Unknown),
        )
    ],
]


@pytest.mark.parametrize(("kind", "answer", "expected"), FOLLOWED)
async def test_every_answer_to_what_follows_a_charge(kind: Kind, answer: tuple[int, Any], expected: Any) -> None:
    outcome = await sent(kind, answer)
    assert outcome == expected or (isinstance(expected, type) and isinstance(outcome, expected)), outcome


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        (Kind.CHARGE, [MADE, (404, error())], Unknown),
        (Kind.CHARGE, [MADE, (200, DECLINED)], Declined("do_not_honor", "Declined")),
        (
            Kind.CHARGE,
            [MADE, (200, intent("canceled"))],
            Declined("canceled", "The payment was cancelled at the acquirer", True),
        ),
        (Kind.CHARGE, [MADE, (200, intent("processing"))], Unknown),
        (Kind.CHARGE, [(409, error()), (200, {"data": []})], Unknown),
        (
            Kind.CHARGE,
            [(409, error()), (200, {"data": [intent("succeeded")]}), (200, intent("succeeded"))],
            Approved("pi_1"),
        ),
        (
            Kind.CHARGE,
            [(409, error()), (200, {"data": [intent("succeeded"), intent("succeeded", id="pi_2")]})],
            Unknown,
        ),
        (Kind.CHARGE, [(409, error()), (404, error()), (403, error())], Unknown),
        (Kind.CAPTURE, [(200, intent("succeeded", amount_received=1))], Unknown),
        (Kind.CAPTURE, [(500, error())], Unknown),
        (Kind.REFUND, [(200, {"data": [], "has_more": True})], Unknown),
        (Kind.REFUND, [(404, error())], Unknown),
        (Kind.REFUND, [(200, {"data": [refund(metadata={}), refund("pending")]})], Unknown),
        (Kind.REFUND, [(200, {"data": [refund(metadata={})]})], NeverSeen()),
    ],
)
async def test_every_answer_to_a_question(kind: Kind, answers: list[tuple[int, Any]], expected: Any) -> None:
    async with stripe(*answers) as (acquirer, _):
        outcome = await acquirer.find(kind, ATTEMPT, USD, "pi_1")
    assert outcome == expected or (isinstance(expected, type) and isinstance(outcome, expected)), outcome


async def test_an_attempt_of_another_form_is_not_asked_about() -> None:
    async with stripe(MADE) as (acquirer, server):
        assert isinstance(await acquirer.find(Kind.CHARGE, "order-1-a1", USD, ""), Unknown)
    assert server.requests == []
