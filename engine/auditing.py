"""What must hold of every payment, whatever happened: rules over all that is kept of one, read at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from engine import events as told
from engine import purchase as bought
from engine.events import event_hash
from engine.facts import AttemptState, Kind, RefundState, Status
from engine.ids import shard_of_payment
from engine.ledger import Transaction
from engine.payment import Payment
from engine.recorded import contradictions

RULES: Final[Mapping[int, str]] = {
    1: "lifecycle", 2: "late", 3: "ledger", 4: "events", 5: "amounts", 6: "order", 7: "unknown", 11: "card",
}  # fmt: skip
"""The invariants that one payment can break, by their number in docs/architecture.md, as metrics name them."""

UNREADABLE: Final = (msgspec.MsgspecError, ValueError)
"""What `audited` raises for a record, a ledger or an event that is none."""

_REFUND_TOLD: Final = {RefundState.COMPLETED: told.REFUNDED, RefundState.FAILED: told.REFUND_FAILED}
_PLACELESS: Final = (Status.FAILED, Status.CANCELLED)


class Finding(NamedTuple):
    """A broken invariant: which one of the list in docs/architecture.md, where, and what is wrong."""

    invariant: int
    key: str
    problem: str


class Snapshot(NamedTuple):
    """All that belongs to one payment, at one moment."""

    payment: bytes | None
    order: bytes | None
    due: Any
    unknown: Any
    card: int
    cvv: int
    ledger: Sequence[bytes]
    events: Sequence[bytes]


class Audited(NamedTuple):
    """A payment that could be read, with its ledger, and what is wrong with it: invariant and problem."""

    payment: Payment
    transactions: Sequence[Transaction]
    problems: Sequence[tuple[int, str]]


class _Told(msgspec.Struct):
    """What the rules ask of an event's body."""

    event_type: str = ""
    payment_id: str = ""


_decode_payment = msgspec.json.Decoder(Payment).decode
_decode_transaction = msgspec.json.Decoder(Transaction).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_event = msgspec.json.Decoder(_Told).decode


def audited(payment_id: str, shard: int, snapshot: Snapshot) -> Audited | None:
    """Hold a payment against the rules; None when there is none. Raises `UNREADABLE`."""
    if snapshot.payment is None:
        return None
    payment = _decode_payment(snapshot.payment)
    transactions = [_decode_transaction(raw) for raw in snapshot.ledger]
    events = [_decode_event(raw) for raw in snapshot.events]
    problems = [
        *_place(payment, payment_id, shard),
        *_life(payment, snapshot),
        *_late(payment),
        *_rows(payment, transactions),
        *_events(payment, events, snapshot.events),
    ]
    return Audited(payment, transactions, problems)


def unreadable(error: Exception) -> str:
    """The problem of a payment that cannot be read, without any of its text."""
    return f"cannot be read: {type(error).__name__}: {error}"


def _place(payment: Payment, payment_id: str, shard: int) -> Iterator[tuple[int, str]]:
    if payment.id != payment_id or shard_of_payment(payment.id) != shard:
        yield 1, "lies under another payment's name, or in another's shard"
    taken, given = payment.captured_minor, payment.refunded_minor + payment.refund_pending_minor
    if not 0 <= given <= taken <= payment.authorized_minor <= payment.amount.minor:
        yield 5, f"refunds {given}, captured {taken}, authorized {payment.authorized_minor} of {payment.amount.minor}"


def _life(payment: Payment, snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    status = payment.status
    if payment.at_rest:
        if snapshot.due is not None:
            yield 1, "is at rest, but still due"
        if snapshot.unknown is not None:
            yield 7, "is at rest, but counts as unknown"
    elif snapshot.due is None:
        yield 1, "is not at rest, and nobody will look at it again"
    if payment.ended and (snapshot.card or snapshot.cvv):
        yield 11, "its charge has ended, but its sealed card is still there"
    claimed = snapshot.order == payment.id.encode()
    if payment.order_key and claimed is (status in _PLACELESS):
        yield 6, f"is {status.value}, but holds its order" if claimed else "does not hold its order"
    attempt = payment.attempt
    if attempt is not None and attempt.state is AttemptState.UNKNOWN and snapshot.unknown is None:
        yield 7, "has an unknown attempt that is not listed as one"


def _late(payment: Payment) -> Iterator[tuple[int, str]]:
    """What was taken too late is known as that, and goes back once."""
    states = (AttemptState.LATE, AttemptState.REVERSED)
    marked = sorted(attempt.number for attempt in payment.attempts if attempt.state in states)
    if marked != sorted(late.number for late in payment.late):
        yield 2, f"its attempts {marked} took money too late, its record says {payment.late}"
        return
    for late in payment.late:
        attempt = payment.numbered(late.number)
        back = [a for a in payment.attempts if a.reverses == late.number and a.state is AttemptState.APPROVED]
        reversed_ = attempt.state is AttemptState.REVERSED
        given_back = len(back) + bool(reversed_ and late.refused and attempt.settled_by)
        if given_back != reversed_:
            yield 2, f"attempt {late.number} is {attempt.state.value}, and was given back {given_back} times"


def _rows(payment: Payment, transactions: Sequence[Transaction]) -> Iterator[tuple[int, str]]:
    if len({transaction.id for transaction in transactions}) != len(transactions):
        yield 3, "a ledger transaction was written twice"
    held: Counter[str] = Counter()
    for transaction in transactions:
        for row in transaction.rows:
            if row.currency == payment.amount.currency:
                held[row.account.partition(":")[0]] += row.minor
    late = sum(a.minor for a in payment.attempts if a.state is AttemptState.LATE and a.kind is Kind.CHARGE)
    if held["acquirer"] != payment.captured_minor - payment.refunded_minor + late:
        facts = f"captured {payment.captured_minor}, refunded {payment.refunded_minor}, {late} to be reversed"
        yield 3, f"{facts}, but its rows say {held['acquirer']}"
    if held["suspense"] != -late:
        yield 3, f"{late} to be reversed, but its rows in suspense say {-held['suspense']}"


def _events(payment: Payment, events: Sequence[_Told], bodies: Sequence[bytes]) -> Iterator[tuple[int, str]]:
    if len(events) != payment.sequence:
        yield 4, f"has {len(events)} events, its sequence says {payment.sequence}"
    if bodies and event_hash(bodies[-1]) != payment.last_event_hash:
        yield 4, "its last event is not the one that its hash names"
    if payment.rail:
        said = bought.contradictions if payment.surface == bought.SURFACE else contradictions
        yield from ((4, problem) for problem in said(payment, [_decode_any(body) for body in bodies]))
        return
    types = [event.event_type for event in events]
    if sorted(types) != _owed(payment):
        yield 4, f"is {payment.status.value}, but told {types}"
    if any(event.payment_id != payment.id for event in events):
        yield 4, "has an event of another payment"


def _owed(payment: Payment) -> list[str]:
    """The events that the facts of a payment call for, sorted by name."""
    owed = []
    if payment.manual and payment.authorized_minor > 0:
        owed.append(told.AUTHORIZED)
    if payment.captured_minor > 0:
        owed.append(told.COMPLETED)
    if payment.failure is not None:
        owed.append(told.FAILED)
    if payment.cancelled:
        owed.append(told.CANCELLED)
    owed += [_REFUND_TOLD[refund.state] for refund in payment.refunds if refund.state in _REFUND_TOLD]
    return sorted(owed)
