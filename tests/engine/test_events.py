"""Events: exactly the JSON that the contract shows, with ids that a repetition makes again."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from engine.events import COMPLETED, FAILED, OutgoingEvent, PaymentEvent, event_hash, with_event
from engine.facts import Failure
from engine.payment import Payment
from tests.engine.making import DECLINED, NOW_MS, a_payment, begun


def completed(minor: int = 7548, currency: str = "USD") -> Payment:
    sending = begun(a_payment(minor=minor, currency=currency))
    return sending.charged("txn-789", now_ms=NOW_MS + 30_000)


def failed(failure: Failure = DECLINED) -> Payment:
    return begun().fail(failure, now_ms=NOW_MS + 30_000)


def test_a_completed_payment_is_told_in_exactly_the_contracts_json() -> None:
    _, event = with_event(completed(), COMPLETED)
    assert event.body == (
        b'{"event_type":"payment_completed","payment_id":"pay-01kdvnqg0000000000000000000a","order_id":"order-123",'
        b'"user_id":"550e8400-e29b-41d4-a716-446655440001",'
        b'"data":{"amount":75.48,"currency":"USD","transaction_id":"txn-789","completed_at":"2026-01-01T00:00:30.000Z"}}'
    )


def test_a_failed_payment_is_told_in_exactly_the_contracts_json() -> None:
    _, event = with_event(failed(), FAILED)
    assert event.body == (
        b'{"event_type":"payment_failed","payment_id":"pay-01kdvnqg0000000000000000000a","order_id":"order-123",'
        b'"data":{"reason":"Insufficient funds","error_code":"INSUFFICIENT_FUNDS",'
        b'"failed_at":"2026-01-01T00:00:30.000Z"}}'
    )


@pytest.mark.parametrize(
    ("minor", "currency", "amount"),
    [(100, "USD", b"1.00"), (5, "JPY", b"5"), (1, "KWD", b"0.001"), (10**12 - 1, "USD", b"9999999999.99")],
)
def test_amounts_are_json_numbers_with_the_currencys_decimals(minor: int, currency: str, amount: bytes) -> None:
    _, event = with_event(completed(minor, currency), COMPLETED)
    assert b'"amount":' + amount + b"," in event.body


def test_what_the_acquirer_wrote_cannot_break_out_of_the_json() -> None:
    reason = 'no", "error_code": "OK"}\n\u2028 ünï \\'
    _, event = with_event(failed(Failure("X", "X", reason)), FAILED)
    assert json.loads(event.body)["data"]["reason"] == reason


@pytest.mark.parametrize(("payment", "kind"), [(completed(), COMPLETED), (failed(), FAILED)])
def test_the_event_of_a_payment_is_the_same_whenever_it_is_made(payment: Payment, kind: str) -> None:
    """A step that is repeated after a crash must write the same event, which consumers dedupe."""
    assert with_event(payment, kind) == with_event(payment, kind)


def test_an_event_carries_its_place_in_the_payments_history() -> None:
    payment = completed()
    after, event = with_event(payment, COMPLETED)
    assert event._replace(body=b"") == PaymentEvent(
        type="payment_completed",
        id=f"{payment.id}-1",
        sequence=1,
        time_ms=NOW_MS + 30_000,
        previous_hash="",
        traceparent=payment.traceparent,
        body=b"",
    )
    assert after == msgspec.structs.replace(payment, sequence=1, last_event_hash=hashlib.sha256(event.body).hexdigest())


def test_every_event_carries_the_hash_of_the_one_before() -> None:
    payment, first = with_event(completed(), COMPLETED)
    payment, second = with_event(payment, COMPLETED)
    _, third = with_event(payment, COMPLETED)
    assert [event.sequence for event in (first, second, third)] == [1, 2, 3]
    assert [event.id for event in (first, second, third)] == [f"{payment.id}-{number}" for number in (1, 2, 3)]
    assert first.previous_hash == ""
    assert second.previous_hash == event_hash(first.body) and third.previous_hash == event_hash(second.body)


@pytest.mark.parametrize("payment", [a_payment(), begun()])
@pytest.mark.parametrize("kind", [COMPLETED, FAILED])
def test_a_payment_that_has_not_ended_has_nothing_to_tell(payment: Payment, kind: str) -> None:
    with pytest.raises(AssertionError):
        with_event(payment, kind)


def test_an_outgoing_event_knows_its_id_and_type_from_its_headers() -> None:
    event = OutgoingEvent("topic", "pay-1", b"{}", (("ce_type", "payment_failed"), ("ce_id", "pay-1-1")))
    assert (event.event_id, event.event_type) == ("pay-1-1", "payment_failed")
