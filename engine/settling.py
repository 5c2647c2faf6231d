"""Settling: what an acquirer's definite answer makes of a payment. Pure rules, one change per answer."""

from __future__ import annotations

from typing import Final, NamedTuple, assert_never

from engine import events, ledger
from engine.changes import Change
from engine.facts import AttemptState, Failure, Kind, Refund
from engine.payment import Payment

_AUTHORIZED_MS: Final = 7 * 24 * 3_600_000
"""How long an authorization is used when the acquirer names no end: seven days, as card schemes grant."""

_AGAIN_MS: Final = 3_600_000


class Approved(NamedTuple):
    """The acquirer did it."""

    transaction_id: str
    until_ms: int = 0
    """When an authorization ends; 0 when the acquirer does not say."""


class Declined(NamedTuple):
    """The acquirer said no, and no money moved. `code` is its own word, for example `insufficient_funds`."""

    code: str
    reason: str
    retryable: bool = False
    """Whether it says that another acquirer may approve."""


def settled(payment: Payment, answer: Approved | Declined, *, now_ms: int) -> Change:
    """The change that a definite answer to the latest attempt makes."""
    kind = payment.attempts[-1].kind
    if isinstance(answer, Approved):
        return _approved(payment, kind, answer, now_ms)
    return _declined(payment, kind, answer, now_ms)


def given_up(payment: Payment, failure: Failure, *, now_ms: int) -> Change:
    """The change of a charge that was never sent and never can be."""
    return _failed(payment.fail(failure, now_ms=now_ms, state=AttemptState.NOT_SENT))


def _approved(payment: Payment, kind: Kind, answer: Approved, now_ms: int) -> Change:
    match kind:
        case Kind.CHARGE:
            return _completed(payment.charged(answer.transaction_id, now_ms=now_ms))
        case Kind.AUTHORIZE:
            until_ms = answer.until_ms or now_ms + _AUTHORIZED_MS
            authorized = payment.authorized(answer.transaction_id, now_ms=now_ms, until_ms=until_ms)
            told, event = events.with_event(authorized, events.AUTHORIZED)
            return Change(told, due_ms=until_ms, events=(event,), forget_instrument=True)
        case Kind.CAPTURE:
            return _completed(payment.captured(now_ms=now_ms))
        case Kind.VOID:
            told, event = events.with_event(payment.voided(now_ms=now_ms), events.CANCELLED)
            return Change(told, due_ms=None, events=(event,), release_order=True)
        case Kind.REFUND:
            refunded, refund = _refund_ended(payment, answer.transaction_id, None, now_ms)
            told, event = events.with_event(refunded, events.REFUNDED, refund)
            return Change(
                told, due_ms=_next_due(told, now_ms), transactions=(ledger.refund_of(told, refund),), events=(event,)
            )
        case _:
            assert_never(kind)


def _declined(payment: Payment, kind: Kind, answer: Declined, now_ms: int) -> Change:
    failure = _failure(answer)
    match kind:
        case Kind.CHARGE | Kind.AUTHORIZE:
            return _failed(payment.fail(failure, now_ms=now_ms))
        case Kind.CAPTURE | Kind.VOID:
            # It stays authorized; an authorization that is over is looked at again in a while.
            due_ms = max(payment.authorized_until_ms, now_ms + _AGAIN_MS)
            return Change(payment.refused(now_ms=now_ms), due_ms=due_ms)
        case Kind.REFUND:
            refused, refund = _refund_ended(payment, "", failure, now_ms)
            told, event = events.with_event(refused, events.REFUND_FAILED, refund)
            return Change(told, due_ms=_next_due(told, now_ms), events=(event,))
        case _:
            assert_never(kind)


def _completed(payment: Payment) -> Change:
    told, event = events.with_event(payment, events.COMPLETED)
    return Change(told, due_ms=None, transactions=(ledger.capture_of(told),), events=(event,), forget_instrument=True)


def _failed(payment: Payment) -> Change:
    told, event = events.with_event(payment, events.FAILED)
    # A failed payment gives the order free: another payment may be tried.
    return Change(told, due_ms=None, events=(event,), forget_instrument=True, release_order=True)


def _refund_ended(
    payment: Payment, transaction_id: str, failure: Failure | None, now_ms: int
) -> tuple[Payment, Refund]:
    ended = payment.refund_ended(transaction_id, failure, now_ms=now_ms)
    refund = ended.refund(payment.attempts[-1].refund_id)
    assert refund is not None, "the attempt names a refund of the payment"
    return ended, refund


def _next_due(payment: Payment, now_ms: int) -> int | None:
    """At once when more waits to be done, else never."""
    return now_ms if payment.operation else None


def _failure(declined: Declined) -> Failure:
    event_code = declined.code.upper()
    code = "PAY_002" if event_code == "INSUFFICIENT_FUNDS" else event_code
    return Failure(code, event_code, declined.reason)
