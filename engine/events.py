"""Events: what the world is told, in the JSON that it was promised.

The body is exactly the contract's. Everything else (id, sequence, hash of the event before) travels as
CloudEvents headers, so that a consumer can dedupe by `ce_id` and see gaps by `ce_sequence`.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from engine.ids import rfc3339
from engine.payment import Payment, Status

_encode = msgspec.json.Encoder().encode

COMPLETED = "payment_completed"
FAILED = "payment_failed"


class PaymentEvent(NamedTuple):
    """An event as the script that changes the state writes it: into the payment's history and the outbox."""

    type: str
    id: str
    sequence: int
    time_ms: int
    previous_hash: str
    traceparent: str
    body: bytes


class OutgoingEvent(NamedTuple):
    """One event on its way to the broker.

    `value` is the contract's JSON body, byte for byte. `headers` are the CloudEvents extras
    (`ce_id`, `ce_type`, `ce_source`, `ce_time`, `ce_subject`, `ce_sequence`, `ce_prevhash`, `traceparent`).
    `key` is the payment id, so that one payment's events stay in order.
    """

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]

    @property
    def event_id(self) -> str:
        """The id that consumers dedupe by."""
        return dict(self.headers)["ce_id"]

    @property
    def event_type(self) -> str:
        """The contract's event name, for example `payment_completed`."""
        return dict(self.headers)["ce_type"]


def outcome_event(payment: Payment) -> tuple[Payment, PaymentEvent]:
    """The event that tells how a payment ended, and the payment one event further."""
    event_type, body = _body(payment)
    sequence = payment.sequence + 1
    event = PaymentEvent(
        type=event_type,
        id=f"{payment.id}-{sequence}",
        sequence=sequence,
        time_ms=payment.ended_ms,
        previous_hash=payment.last_event_hash,
        traceparent=payment.traceparent,
        body=body,
    )
    return payment.with_event(event_hash(body)), event


def event_hash(body: bytes) -> str:
    """What the next event of the same payment carries as `ce_prevhash`: SHA-256 of the body, in hex."""
    return hashlib.sha256(body).hexdigest()


def _body(payment: Payment) -> tuple[str, bytes]:
    ended_at = rfc3339(payment.ended_ms)
    if payment.status is Status.COMPLETED:
        return COMPLETED, _encode(
            {
                "event_type": COMPLETED,
                "payment_id": payment.id,
                "order_id": payment.order_id,
                "user_id": payment.user_id,
                "data": {
                    "amount": msgspec.Raw(payment.amount.text.encode()),
                    "currency": payment.amount.currency,
                    "transaction_id": payment.transaction_id,
                    "completed_at": ended_at,
                },
            }
        )
    assert payment.failure is not None, "only a payment that ended has an outcome event"
    return FAILED, _encode(
        {
            "event_type": FAILED,
            "payment_id": payment.id,
            "order_id": payment.order_id,
            "data": {
                "reason": payment.failure.reason,
                "error_code": payment.failure.event_code,
                "failed_at": ended_at,
            },
        }
    )
