"""Payments that are settled outside: we are told what became of them, and keep it with its ledger rows and events.

Pure rules: what a payment is when it is recorded, which moves its status may make, and what each one writes. There
is no acquirer, no job and no attempt; the rail that settles them has an account of its own among the acquirers'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from engine import ledger
from engine.changes import Change
from engine.errors import IllegalMove
from engine.events import with_body
from engine.ids import rfc3339
from engine.money import Money
from engine.payment import Failure, Payment, Refund, RefundState, Status

RAIL: Final = "external"
CREATED: Final = "payment.created"
STATUS_UPDATED: Final = "payment.status.updated"

_CANCELLED: Final = "cancelled"
_FAILED: Final = Failure("PAYMENT_FAILED", "PAYMENT_FAILED", "reported as failed")
_encode = msgspec.json.Encoder().encode


class Recorded(StrEnum):
    """Where a recorded payment stands, in its users' words."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Final[Mapping[Recorded, tuple[Recorded, ...]]] = {
    Recorded.PENDING: (Recorded.SUCCESS, Recorded.FAILED, Recorded.CANCELLED),
    Recorded.SUCCESS: (Recorded.CANCELLED,),
    Recorded.FAILED: (),
    Recorded.CANCELLED: (),
}

_WORDS: Final = {
    Status.PENDING: Recorded.PENDING,
    Status.COMPLETED: Recorded.SUCCESS,
    Status.FAILED: Recorded.FAILED,
    Status.CANCELLED: Recorded.CANCELLED,
}


def status_of(payment: Payment) -> Recorded:
    """Where the payment stands."""
    return _WORDS[payment.status]


def updated_ms(payment: Payment) -> int:
    """When it last changed."""
    return payment.refunds[-1].ended_ms if payment.refunds else payment.ended_ms or payment.created_ms


def recorded(payment: Payment, begins: Recorded) -> Change:
    """The change that makes a payment: still `PENDING`, or a `SUCCESS` at once."""
    assert begins in (Recorded.PENDING, Recorded.SUCCESS), "a payment does not begin at its end"
    if begins is Recorded.PENDING:
        return _told(payment, CREATED)
    return _told(_captured(payment, now_ms=payment.created_ms), CREATED, captured=True)


def moved(payment: Payment, to: Recorded, *, now_ms: int) -> Change:
    """The change of a payment whose status is set to `to`. Raises `IllegalMove`.

    Two equal moves of one version are the same record, so of two that race both are told yes and one event is told.
    """
    status = status_of(payment)
    if to not in MOVES[status]:
        raise IllegalMove(status, to, MOVES[status])
    # Whichever clock is behind: what was recorded last must not look older than what was there before.
    now_ms = max(now_ms, updated_ms(payment))
    newer = msgspec.structs.replace(payment, version=payment.version + 1)
    match to:
        case Recorded.SUCCESS:
            return _told(_captured(newer, now_ms=now_ms), STATUS_UPDATED, captured=True)
        case Recorded.FAILED:
            return _told(msgspec.structs.replace(newer, failure=_FAILED, ended_ms=now_ms), STATUS_UPDATED)
        case _:
            return _cancelled(newer, now_ms=now_ms)


def _captured(payment: Payment, *, now_ms: int) -> Payment:
    minor = payment.amount.minor
    return msgspec.structs.replace(payment, authorized_minor=minor, captured_minor=minor, ended_ms=now_ms)


def _cancelled(payment: Payment, *, now_ms: int) -> Change:
    """What was captured goes back as one refund of all of it; what was not needs no rows."""
    cancelled = msgspec.structs.replace(payment, cancelling=_CANCELLED, cancelled=True)
    if not payment.captured_minor:
        return _told(msgspec.structs.replace(cancelled, ended_ms=now_ms), STATUS_UPDATED)
    # The id is the payment's own: it is refunded once and whole.
    refund = Refund(
        f"ref-{payment.id[4:30]}", payment.captured_minor, _CANCELLED, RefundState.COMPLETED, now_ms, ended_ms=now_ms
    )
    return _told(msgspec.structs.replace(cancelled, refunds=(refund,)), STATUS_UPDATED, refund=refund)


def _told(payment: Payment, event_type: str, *, captured: bool = False, refund: Refund | None = None) -> Change:
    told, event = with_body(payment, event_type, _body(payment, event_type), time_ms=updated_ms(payment))
    rows = (ledger.refund_of(told, refund),) if refund else (ledger.capture_of(told),) if captured else ()
    # A payment that failed or was cancelled gives the order free: another one may be recorded.
    ended = status_of(told) in (Recorded.FAILED, Recorded.CANCELLED)
    return Change(told, due_ms=None, transactions=rows, events=(event,), release_order=ended, needs_room=True)


def _body(payment: Payment, event_type: str) -> bytes:
    """The contract's JSON."""
    data: dict[str, object] = {
        "paymentId": payment.public_number,
        "userId": int(payment.user_id),
        "orderId": int(payment.order_id),
    }
    if event_type == CREATED:
        data["amount"] = msgspec.Raw(Money(payment.amount.minor, payment.amount.currency).text.encode())
    data["status"] = status_of(payment)
    return _encode({"eventType": event_type, "timestamp": rfc3339(updated_ms(payment)), "data": data})


def contradictions(payment: Payment, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the events of a payment say against it: one for its making, one for each move, the last as it stands."""
    types = Counter(event.get("eventType") for event in events)
    if types != +Counter({CREATED: 1, STATUS_UPDATED: payment.version - 1}):
        yield f"has made {payment.version - 1} moves, but told {dict(types)}"
    told = [event.get("data", {}) for event in events]
    if any(data.get("paymentId") != payment.public_number for data in told):
        yield "has an event of another payment"
    if told and told[-1].get("status") != status_of(payment):
        yield f"is {status_of(payment)}, but told {told[-1].get('status')}"
