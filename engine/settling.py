"""Settling: what an acquirer's definite answer makes of a payment. Pure rules, one change per answer."""

from __future__ import annotations

from typing import Final, NamedTuple, assert_never

from engine import events, ledger
from engine.changes import Change
from engine.facts import AttemptState, Failure, Kind, Refund
from engine.ids import shard_of_payment
from engine.items import Item, item_id
from engine.payment import Payment, attempt_id

_AUTHORIZED_MS: Final = 7 * 24 * 3_600_000
"""How long an authorization is used when the acquirer names no end: seven days, as card schemes grant."""

_AGAIN_MS: Final = 3_600_000
_AGAIN_DOUBLINGS_MAX: Final = 9

REVERSED_BY: Final = "engine: reversed at the acquirer"


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
    if payment.attempts[-1].reverses:
        return _reversal_ended(payment, answer, now_ms)
    if isinstance(answer, Approved):
        return _approved(payment, kind, answer, now_ms)
    return _declined(payment, kind, answer, now_ms)


def given_up(payment: Payment, failure: Failure, *, now_ms: int) -> Change:
    """The change of a charge that was never sent and never can be."""
    return _failed(payment.fail(failure, now_ms=now_ms, state=AttemptState.NOT_SENT), now_ms)


def late_success(payment: Payment, number: int, answer: Approved, *, now_ms: int) -> Change:
    """The change when an attempt that had been passed over, or had failed the payment, took the money after all.

    What was taken is booked against suspense and will be given back; until it is, an item is open.
    """
    told = payment.found_late(number, answer.transaction_id, now_ms=now_ms)
    taken = told.numbered(number)
    transactions = (ledger.late_success_of(told, taken, at_ms=now_ms),) if taken.kind is Kind.CHARGE else ()
    item = late_item(payment, number, answer.transaction_id, now_ms=now_ms)
    return Change(told, due_ms=now_ms, transactions=transactions, items=(item,))


def reversed_by_hand(payment: Payment, number: int, by: str, *, now_ms: int) -> Change:
    """The change when people got back what an acquirer had taken too late and refused to give back."""
    return _reversed(payment.reversed_by_hand(number, by), number, by, now_ms)


def late_item(payment: Payment, number: int, transaction_id: str, *, now_ms: int) -> Item:
    """The item of a late success, whoever finds it."""
    attempt = payment.numbered(number)
    identity = attempt_id(payment, attempt)
    stated = f"{attempt.kind.value} {attempt.minor or payment.amount.minor} {payment.amount.currency}"
    return Item(
        item_id(attempt.acquirer, identity, stated, shard=shard_of_payment(payment.id)),
        attempt.acquirer, identity, payment.id, stated, attempt.state.value, transaction_id, "question", now_ms,
    )  # fmt: skip


def let_go(payment: Payment, reason: str, *, now_ms: int) -> Change:
    """The change of a payment that waited to be asked for until its time was over."""
    told, event = events.with_event(payment.let_go(reason, now_ms=now_ms), events.CANCELLED)
    return Change(told, due_ms=None, events=(event,), forget_instrument=True, release_order=True)


def _approved(payment: Payment, kind: Kind, answer: Approved, now_ms: int) -> Change:
    match kind:
        case Kind.CHARGE:
            return _completed(payment.charged(answer.transaction_id, now_ms=now_ms), now_ms)
        case Kind.AUTHORIZE:
            until_ms = answer.until_ms or now_ms + _AUTHORIZED_MS
            authorized = payment.authorized(answer.transaction_id, now_ms=now_ms, until_ms=until_ms)
            told, event = events.with_event(authorized, events.AUTHORIZED)
            return Change(told, due_ms=_next_due(told, now_ms), events=(event,), forget_instrument=True)
        case Kind.CAPTURE:
            return _completed(payment.captured(now_ms=now_ms), now_ms)
        case Kind.VOID:
            told, event = events.with_event(payment.voided(now_ms=now_ms), events.CANCELLED)
            return Change(told, due_ms=_next_due(told, now_ms), events=(event,), release_order=True)
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
            return _failed(payment.fail(failure, now_ms=now_ms), now_ms)
        case Kind.CAPTURE | Kind.VOID:
            # It stays authorized; an authorization that is over is looked at again in a while, and ever more rarely:
            # each look asks the acquirer to release it, and is an attempt more in the record.
            refused = payment.refused(now_ms=now_ms)
            before = sum(attempt.kind is Kind.VOID for attempt in payment.attempts[:-1])
            pause_ms = _AGAIN_MS << min(before, _AGAIN_DOUBLINGS_MAX)
            due_ms = max(payment.authorized_until_ms, now_ms + pause_ms)
            return Change(refused, due_ms=min(due_ms, refused.recheck_ms or due_ms))
        case Kind.REFUND:
            refused, refund = _refund_ended(payment, "", failure, now_ms)
            told, event = events.with_event(refused, events.REFUND_FAILED, refund)
            return Change(told, due_ms=_next_due(told, now_ms), events=(event,))
        case _:
            assert_never(kind)


def _reversal_ended(payment: Payment, answer: Approved | Declined, now_ms: int) -> Change:
    number = payment.attempts[-1].reverses
    if isinstance(answer, Declined):
        # Asking again would only hear the same. The item stays open, for people.
        refused = payment.reversal_refused(answer.code, now_ms=now_ms)
        return Change(refused, due_ms=_next_due(refused, now_ms))
    return _reversed(payment.reversed(now_ms=now_ms), number, REVERSED_BY, now_ms)


def _reversed(payment: Payment, number: int, by: str, now_ms: int) -> Change:
    taken = payment.numbered(number)
    transactions = (ledger.reversal_of(payment, taken, at_ms=now_ms),) if taken.kind is Kind.CHARGE else ()
    item = late_item(payment, number, payment.late_success(number).transaction_id, now_ms=now_ms)
    return Change(
        payment,
        due_ms=_next_due(payment, now_ms),
        transactions=transactions,
        # By hand it may be done while something else of the payment is unknown.
        unknown=payment.attempts[-1].state is AttemptState.UNKNOWN,
        items=(item.closed(by, now_ms=now_ms),),
    )


def _completed(payment: Payment, now_ms: int) -> Change:
    told, event = events.with_event(payment, events.COMPLETED)
    return Change(
        told,
        due_ms=_next_due(told, now_ms),
        transactions=(ledger.capture_of(told),),
        events=(event,),
        forget_instrument=True,
    )


def _failed(payment: Payment, now_ms: int) -> Change:
    told, event = events.with_event(payment, events.FAILED)
    # A failed payment gives the order free: another payment may be tried.
    return Change(told, due_ms=_next_due(told, now_ms), events=(event,), forget_instrument=True, release_order=True)


def _refund_ended(
    payment: Payment, transaction_id: str, failure: Failure | None, now_ms: int
) -> tuple[Payment, Refund]:
    ended = payment.refund_ended(transaction_id, failure, now_ms=now_ms)
    refund = ended.refund(payment.attempts[-1].refund_id)
    assert refund is not None, "the attempt names a refund of the payment"
    return ended, refund


def _next_due(payment: Payment, now_ms: int) -> int | None:
    """At once when more waits to be done, else when it is to be looked at again, if ever."""
    return now_ms if payment.operation else payment.rests_until_ms or None


def _failure(declined: Declined) -> Failure:
    event_code = declined.code.upper()
    code = "PAY_002" if event_code == "INSUFFICIENT_FUNDS" else event_code
    return Failure(code, event_code, declined.reason)
