"""Events: what the world is told, in the JSON that it was promised.

The body is exactly the contract's. Everything else (id, sequence, hash of the event before) travels as
CloudEvents headers, so that a consumer can dedupe by `ce_id` and see gaps by `ce_sequence`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from engine.facts import Failure, Refund
from engine.ids import from_rfc3339, rfc3339
from engine.money import Money
from engine.payment import Payment

_encode = msgspec.json.Encoder().encode

AUTHORIZED = "payment_authorized"
COMPLETED = "payment_completed"
FAILED = "payment_failed"
CANCELLED = "payment_cancelled"
REFUNDED = "payment_refunded"
REFUND_FAILED = "payment_refund_failed"


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


class Refused(NamedTuple):
    """The broker's word that it will never take an event as it is. Not an acknowledgement, so it counts as no."""

    reason: str
    """One of a few: `message_too_large`, `record_invalid`."""

    def __bool__(self) -> bool:
        return False


Answer = bool | Refused
"""What became of an event: `True`, the broker has it; `False`, it may not; or it never will."""


def with_event(payment: Payment, event_type: str, refund: Refund | None = None) -> tuple[Payment, PaymentEvent]:
    """The event of this type about the payment as it stands (and one of its refunds), and the payment one further."""
    assert payment.ended, "an event tells of something that has happened"
    time_ms = payment.attempts[-1].ended_ms if payment.attempts else payment.ended_ms
    return with_body(payment, event_type, _encode(_body(payment, event_type, refund)), time_ms=time_ms)


def with_body(payment: Payment, event_type: str, body: bytes, *, time_ms: int) -> tuple[Payment, PaymentEvent]:
    """An event with this body about the payment as it stands, and the payment one further."""
    sequence = payment.sequence + 1
    event = PaymentEvent(
        type=event_type,
        id=f"{payment.id}-{sequence}",
        sequence=sequence,
        time_ms=time_ms,
        previous_hash=payment.last_event_hash,
        traceparent=payment.traceparent,
        body=body,
    )
    return payment.with_event(event_hash(body)), event


def outgoing(event: PaymentEvent, *, topic: str, surface: str, payment_id: str) -> OutgoingEvent:
    """An event with its CloudEvents headers, as the broker gets it, however often."""
    headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", event.id),
        ("ce_type", event.type),
        ("ce_source", f"/payments/{surface}"),
        ("ce_time", rfc3339(event.time_ms)),
        ("ce_subject", payment_id),
        ("ce_sequence", str(event.sequence)),
        ("ce_prevhash", event.previous_hash),
        ("content-type", "application/json"),
    ]
    if event.traceparent:
        headers.append(("traceparent", event.traceparent))
    # A surface without a topic of its own has one for each type of event, named by it.
    return OutgoingEvent(topic or event.type, payment_id, event.body, tuple(headers))


def history(payment: Payment, bodies: Sequence[bytes]) -> list[PaymentEvent]:
    """A payment's events again from the bodies in its history: the same ids, hashes and times as the first time."""
    events: list[PaymentEvent] = []
    previous_hash = ""
    for sequence, body in enumerate(bodies, start=1):
        event_type, moment = _decode(body).type_and_time()
        events.append(
            PaymentEvent(
                event_type, f"{payment.id}-{sequence}", sequence, from_rfc3339(moment), previous_hash,
                payment.traceparent, body,
            )
        )  # fmt: skip
        previous_hash = event_hash(body)
    return events


class _Told(msgspec.Struct):
    """What can be read back of any event's body."""

    data: dict[str, Any] = {}
    event_type: str = ""
    recorded_type: str = msgspec.field(default="", name="eventType")
    timestamp: str = ""

    def type_and_time(self) -> tuple[str, str]:
        """Its type and the body's own time: written beside it, or the last `…_at` that is not an end to come."""
        if self.recorded_type:
            return self.recorded_type, self.timestamp
        moment = next(text for name, text in self.data.items() if name.endswith("_at") and name != "expires_at")
        return self.event_type, str(moment)


_decode = msgspec.json.Decoder(_Told).decode


def event_hash(body: bytes) -> str:
    """What the next event of the same payment carries as `ce_prevhash`: SHA-256 of the body, in hex."""
    return hashlib.sha256(body).hexdigest()


def _body(payment: Payment, event_type: str, refund: Refund | None) -> dict[str, object]:
    body: dict[str, object] = {
        "event_type": event_type,
        "payment_id": payment.id,
        "order_id": payment.order_id,
        "user_id": payment.user_id,
        "data": _data(payment, event_type, refund),
    }
    if not payment.order_id:
        del body["order_id"]
    if payment.subject:
        body["package_id"] = payment.subject
    if event_type == FAILED:
        # The contract's payment_failed names no user.
        del body["user_id"]
    return body


def _data(payment: Payment, event_type: str, refund: Refund | None) -> dict[str, object]:
    currency = payment.amount.currency
    if refund is not None:
        about = {"refund_id": refund.id, "amount": _number(refund.minor, currency), "currency": currency}
        if refund.failure is None:
            return {**about, "transaction_id": refund.transaction_id, "refunded_at": rfc3339(refund.ended_ms)}
        return {**about, **_failure(refund.failure), "failed_at": rfc3339(refund.ended_ms)}
    if payment.failure is not None:
        return {**_failure(payment.failure), "failed_at": rfc3339(payment.ended_ms)}
    if event_type == CANCELLED:
        return {"reason": payment.cancelling, "cancelled_at": rfc3339(payment.ended_ms)}
    if event_type == AUTHORIZED:
        return {
            "amount": _number(payment.authorized_minor, currency),
            "currency": currency,
            "transaction_id": payment.transaction_id,
            "authorized_at": rfc3339(payment.attempts[-1].ended_ms),
            "expires_at": rfc3339(payment.authorized_until_ms),
        }
    return {
        "amount": _number(payment.captured_minor, currency),
        "currency": currency,
        "transaction_id": payment.transaction_id,
        "completed_at": rfc3339(payment.ended_ms),
    }


def _failure(failure: Failure) -> dict[str, object]:
    return {"reason": failure.reason, "error_code": failure.event_code}


def _number(minor: int, currency: str) -> msgspec.Raw:
    return msgspec.Raw(Money(minor, currency).text.encode())
