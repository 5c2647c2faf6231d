"""Payments and what may become of them, as the use cases ask the store to write it."""

from __future__ import annotations

import itertools
from typing import Final

import msgspec

from engine.cards import SealedInstrument
from engine.changes import Change
from engine.events import COMPLETED, FAILED, PaymentEvent, event_hash, with_event
from engine.facts import AttemptState, Failure, Method
from engine.ids import PaymentId, PaymentIds, shard_of
from engine.ledger import capture_of
from engine.money import Money
from engine.payment import Payment

NOW: Final = 1_772_000_000_000
LEASE_MS: Final = 30_000
USER: Final = "550e8400-e29b-41d4-a716-446655440001"
SEALED: Final = SealedInstrument(b"\x00sealed card\xff", b"\x00sealed cvv\xff")

_numbers = itertools.count(1)


def accepted(
    order_id: str = "ord-1", *, user_id: str = USER, at_ms: int = NOW, minor: int = 7548, shards: int = 16
) -> Payment:
    """A payment as it is created."""
    return Payment(
        version=1,
        id=PaymentIds(lambda: at_ms).mint(shard_of(order_id, shards)),
        surface="core",
        order_id=order_id,
        user_id=user_id,
        amount=Money(minor, "USD"),
        method=Method("credit_card", "visa", "4242"),
        created_ms=at_ms,
        request_id="req-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def order_in(shard: int, shards: int = 16) -> str:
    """An order that belongs to this shard, another one each time."""
    return next(order for number in _numbers if shard_of(order := f"ord-{number}", shards) == shard)


def sending(payment: Payment, *, at_ms: int = NOW, token: str = "") -> Payment:
    """The intent to charge."""
    operation = payment.operation
    assert operation is not None
    return payment.begin(operation, "card", now_ms=at_ms, lease_ms=LEASE_MS, token=token)


def completed(payment: Payment, transaction_id: str = "tx-1", *, at_ms: int = NOW) -> Change:
    """The acquirer took the money."""
    ended, event = with_event(payment.charged(transaction_id, now_ms=at_ms), COMPLETED)
    return Change(ended, None, transactions=(capture_of(ended),), events=(event,), forget_instrument=True)


def failed(payment: Payment, *, at_ms: int = NOW) -> Change:
    """The acquirer said no."""
    failure = Failure("PAY_002", "INSUFFICIENT_FUNDS", "Insufficient funds")
    ended, event = with_event(payment.fail(failure, now_ms=at_ms), FAILED)
    return Change(ended, None, events=(event,), forget_instrument=True, release_order=True)


def left_open(payment: Payment, state: AttemptState, *, due_ms: int = NOW + 1000) -> Change:
    """No outcome: not sent, or nobody knows."""
    return Change(payment.leave_open(state, now_ms=NOW), due_ms, unknown=state is AttemptState.UNKNOWN)


def told(payment: Payment, *, traceparent: str = "") -> Change:
    """The payment's next version with one more event, whatever it says."""
    sequence = payment.sequence + 1
    body = msgspec.json.encode({"payment_id": payment.id, "number": sequence})
    event = PaymentEvent(
        "payment_told", f"{payment.id}-{sequence}", sequence, NOW, payment.last_event_hash, traceparent, body
    )
    newer = msgspec.structs.replace(payment, version=payment.version + 1).with_event(event_hash(body))
    return Change(newer, NOW, events=(event,))


def foreign_ids() -> list[PaymentId]:
    """Ids that this dataset has not made."""
    zeros = "0" * 26
    texts = ("", "pay-1", "x" * 400, f"pay-{zeros}ff", f"pay-{zeros}1", f"pay-{'i' * 26}00")
    return [PaymentId(text) for text in texts]
