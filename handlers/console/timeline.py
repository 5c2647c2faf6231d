"""A payment's life in order: what was asked for, what was tried, what was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from engine.events import PaymentEvent
from engine.facts import Attempt, Refund
from engine.ids import from_rfc3339, rfc3339
from engine.money import Money
from engine.notifications import Notification
from engine.payment import Payment, attempt_id
from handlers.console.snapshot import PaymentLine, payment_line
from handlers.core_views import PaymentView, RefundView, payment_view, refund_view

# What an event's body may show here; the rest, a phone for example, is for those whom it was sent to.
_SHOWN: Final = (
    "amount", "currency", "transaction_id", "transactionId", "reason", "error_code", "errorCode", "refund_id",
    "refundId", "status", "oldStatus", "newStatus", "expires_at",
)  # fmt: skip

# An amount stays as it was written: 20.00 is not 20.0.
_decode: Final = msgspec.json.Decoder(dict[str, Any], float_hook=str).decode


class Moment(msgspec.Struct):
    """One thing that happened."""

    at: str
    kind: Literal["payment", "attempt", "refund", "event", "notification"]
    title: str
    state: str
    facts: dict[str, str]


class PaymentPage(msgspec.Struct):
    """Everything about one payment that an operator may see."""

    line: PaymentLine
    payment: PaymentView
    refunds: list[RefundView]
    timeline: list[Moment]


def payment_page(
    payment: Payment, events: Sequence[PaymentEvent], told: Sequence[tuple[Notification, Mapping[str, str]]]
) -> PaymentPage:
    """The payment with its timeline, oldest first; `told` are the notifications of the events, with their channels."""
    moments = [(payment.created_ms, _accepted(payment))]
    moments += [(attempt.started_ms, _attempt(payment, attempt)) for attempt in payment.attempts]
    moments += [(refund.created_ms, _refund(payment, refund)) for refund in payment.refunds]
    moments += [(event.time_ms, _event(event)) for event in events]
    moments += [(from_rfc3339(each.time), _notification(each, states)) for each, states in told]
    # Stable: what happened in one millisecond stays in the order of cause and effect.
    moments.sort(key=lambda each: each[0])
    return PaymentPage(
        payment_line(payment),
        payment_view(payment),
        [refund_view(payment, refund) for refund in payment.refunds],
        [moment for _, moment in moments],
    )


def _accepted(payment: Payment) -> Moment:
    facts = {"surface": payment.surface, "order": payment.order_id, "user": payment.user_id, "rail": payment.rail}
    return Moment(rfc3339(payment.created_ms), "payment", "accepted", "", _present(facts))


def _attempt(payment: Payment, attempt: Attempt) -> Moment:
    currency = payment.amount.currency
    facts = {
        "id": attempt_id(payment, attempt),
        "acquirer": attempt.acquirer,
        "amount": f"{Money(attempt.minor, currency).text} {currency}" if attempt.minor else "",
        "ended": rfc3339(attempt.ended_ms) if attempt.ended_ms else "",
        "took": f"{attempt.ended_ms - attempt.started_ms} ms" if attempt.ended_ms else "",
        "asked": str(attempt.asked) if attempt.asked else "",
        "settled by": attempt.settled_by,
        "refund": attempt.refund_id,
    }
    return Moment(rfc3339(attempt.started_ms), "attempt", attempt.kind.value, attempt.state.value, _present(facts))


def _refund(payment: Payment, refund: Refund) -> Moment:
    amount = f"{Money(refund.minor, payment.amount.currency).text} {payment.amount.currency}"
    facts = {"id": refund.id, "amount": amount, "reason": refund.reason}
    return Moment(rfc3339(refund.created_ms), "refund", "refund asked for", refund.state.value, _present(facts))


def _event(event: PaymentEvent) -> Moment:
    body = _decode(event.body)
    data: dict[str, Any] = {**body, **(body["data"] if isinstance(body.get("data"), dict) else {})}
    facts = {"id": event.id, "sequence": str(event.sequence)}
    facts |= {name: str(data[name]) for name in _SHOWN if isinstance(data.get(name), (str, int))}
    return Moment(rfc3339(event.time_ms), "event", event.type, "", facts)


def _notification(notification: Notification, states: Mapping[str, str]) -> Moment:
    """At the time of its event: when each channel told it is in the log."""
    facts = {"text": notification.text, **{name: states.get(name, "waiting") for name in notification.channels}}
    return Moment(notification.time, "notification", notification.title, "", facts)


def _present(facts: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in facts.items() if text}
