"""The invariants of the design, held by code that shares nothing with the engine but its records' form.

Each complaint begins with the invariant's number there.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.events import OutgoingEvent
from engine.facts import Attempt, AttemptState, Kind, RefundState
from engine.ids import PaymentId
from engine.items import Item
from engine.ledger import Transaction
from engine.payment import Payment
from tests.simulation.customers import PAN, Diary
from tests.simulation.memory import MemoryRedis
from tests.simulation.outside import AcquirerBooks

_decode = msgspec.json.Decoder(Payment).decode
_decode_item = msgspec.json.Decoder(Item).decode
_decode_transaction = msgspec.json.Decoder(Transaction).decode

_OPENING: Final = (Kind.CHARGE, Kind.AUTHORIZE)
_LATE: Final = (AttemptState.LATE, AttemptState.REVERSED)
_NEVER_ASKED: Final = (AttemptState.NOT_SENT,)
_ENDS: Final = ("completed", "failed", "cancelled", "partially_refunded", "refunded")
_FOLLOWS: Final[Mapping[str, tuple[str, ...]]] = {
    "": ("processing",),
    "processing": ("processing", "authorized", "completed", "failed"),
    "authorized": ("authorized", "completed", "cancelled"),
    "completed": ("completed", "partially_refunded", "refunded"),
    "partially_refunded": ("partially_refunded", "refunded"),
    "refunded": ("refunded",),
    # What an acquirer that was passed over has taken is still given back.
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}


def check_write(before: bytes | None, after: bytes) -> Iterator[str]:
    """What must hold whenever a record is written."""
    old = _decode(before) if before else None
    new = _decode(after)
    if new.version != (old.version if old else 0) + 1:
        yield f"1: {new.id} went from version {old.version if old else 0} to {new.version}"
    then = old.status.value if old else ""
    if new.status.value not in _FOLLOWS[then]:
        yield f"1: {new.id} went from {then or 'nothing'} to {new.status.value}"
    if then in ("failed", "cancelled") and old and old.sequence != new.sequence:
        yield f"4: {new.id} tells more after its end"
    given = sum(refund.minor for refund in new.refunds if refund.state is not RefundState.FAILED)
    if not 0 <= given <= new.captured_minor <= new.authorized_minor <= new.amount.minor:
        yield f"5: {new.id} gives back {given} of {new.captured_minor} captured of {new.authorized_minor} authorized"
    if new.sequence < (old.sequence if old else 0):
        yield f"4: {new.id} tells fewer events than before"


class Checker:
    """Everything that was written, told and done, after all has come to rest."""

    def __init__(
        self, redis: MemoryRedis, acquirers: Sequence[AcquirerBooks], topic: Sequence[OutgoingEvent], diary: Diary
    ) -> None:
        self._redis = redis
        self._acquirers = acquirers
        self._topic = topic
        self._diary = diary
        records = [redis.execute(("GET", name)) for name in redis.names("payment")]
        self._payments = {payment.id: payment for payment in map(_decode, records)}
        self._items = [_decode_item(redis.execute(("GET", name))) for name in redis.names("item")]
        self._listed = {
            member
            for name in redis.names("items")
            for member in redis.execute(("ZRANGEBYSCORE", name, "-inf", "+inf", "LIMIT", 0, 10_000))
        }

    def complaints(self) -> Iterator[str]:
        """All that is wrong."""
        yield from self._rest()
        yield from self._keys()
        yield from self._money()
        yield from self._balances()
        yield from self._delivered()
        for payment in self._payments.values():
            yield from self._payment(payment)
            yield from self._late_successes(payment)
            yield from self._events(payment)
            yield from self._answers(payment)

    def _rest(self) -> Iterator[str]:
        for kind in ("jobs", "outbox"):
            for name in self._redis.names(kind):
                if left := self._redis.execute(("XLEN", name)):
                    yield f"9: {left} entries are left in {name}"
        for kind in ("due", "unknown"):
            for name in self._redis.names(kind):
                if left := self._redis.execute(("ZCARD", name)):
                    yield f"9: {left} payments are left in {name}"
        if left := self._redis.unacknowledged():
            yield f"9: {left} entries were never acknowledged"
        if self._redis.entries_lost:
            yield f"9: {self._redis.entries_lost} pending entries were deleted"
        for kind in ("card", "cvv"):
            for name in self._redis.names(kind):
                yield f"11: {name} is left"
        if any(PAN.encode() in value for value in (*self._redis.values(), *(event.value for event in self._topic))):
            yield "11: a card number is readable"

    def _keys(self) -> Iterator[str]:
        for key, ids in self._diary.by_key.items():
            if len(ids) != 1:
                yield f"6: the key {key} made {sorted(ids)}"
        for payment_id, wanted in self._diary.accepted.items():
            payment = self._payments.get(payment_id)
            if payment is None:
                yield f"1: {payment_id} was accepted and is gone"
            elif (payment.order_id, payment.amount, payment.manual) != (wanted.order_id, wanted.amount, wanted.manual):
                yield f"6: {payment_id} is not what was asked for"
        live: Counter[str] = Counter(
            payment.order_id for payment in self._payments.values() if payment.status not in ("failed", "cancelled")
        )
        for order_id, count in live.items():
            if count > 1:
                yield f"6: the order {order_id} is paid {count} times"

    def _money(self) -> Iterator[str]:
        tried: dict[tuple[str, str], tuple[Payment, Attempt]] = {
            (attempt.acquirer, f"{payment.id}-a{attempt.number}"): (payment, attempt)
            for payment in self._payments.values()
            for attempt in payment.attempts
        }
        opened: Counter[str] = Counter()
        moved: defaultdict[tuple[str, Kind], int] = defaultdict(int)
        for books in self._acquirers:
            for attempt_id, count in Counter(effect[0] for effect in books.effects).items():
                if count > 1:
                    yield f"2: {attempt_id} moved money {count} times at {books.name}"
            for _, kind, payment_id, minor in books.effects:
                moved[payment_id, kind] += minor
            for attempt_id, decision in books.decisions.items():
                approved = type(decision.answer).__name__ == "Approved"
                opened[decision.payment_id] += int(approved and decision.kind in _OPENING)
                found = tried.pop((books.name, attempt_id), None)
                if found is None:
                    if approved:
                        yield f"2: {books.name} did {decision.kind.value} {attempt_id}, which no payment tried"
                    continue
                payment, attempt = found
                believed = (attempt.kind, attempt.minor, attempt.state)
                state = AttemptState.APPROVED if approved else AttemptState.REJECTED
                if attempt_id in books.lied_about and attempt.state in (_LATE if approved else _NEVER_ASKED):
                    # We were told that it had not left. Only so may a success be late.
                    state = attempt.state
                if believed != (decision.kind, decision.minor, state):
                    yield f"2: {attempt_id} is {state.value} at {books.name}, here {attempt.state.value}"
                    if approved and payment.failure is not None:
                        yield f"7: {payment.id} is reported as failed, but {books.name} did {decision.kind.value}"
        for (name, attempt_id), (_, attempt) in tried.items():
            if attempt.state is not AttemptState.NOT_SENT:
                yield f"2: {attempt_id} is {attempt.state.value} here, but {name} has never seen it"
        yield from self._sums_of_money(opened, moved)

    def _late_successes(self, payment: Payment) -> Iterator[str]:
        """Each ends reversed by one approved void or refund at the same acquirer; or refused, and open for people."""
        items = {item.attempt: item for item in self._items}
        for late in payment.late:
            attempt = payment.attempts[[each.number for each in payment.attempts].index(late.number)]
            ways = [each for each in payment.attempts if each.reverses == late.number]
            if [(each.acquirer, each.minor) for each in ways] != [(attempt.acquirer, attempt.minor)]:
                yield f"2: the late success {late.number} of {payment.id} is reversed by {ways}"
                continue
            ended = (attempt.state, ways[0].state, bool(late.refused))
            refused = ended == (AttemptState.LATE, AttemptState.REJECTED, True)
            if not refused and ended != (AttemptState.REVERSED, AttemptState.APPROVED, False):
                yield f"2: the late success {late.number} of {payment.id} ended as {ended}"
            item = items.get(f"{payment.id}-a{late.number}")
            if item is None or item.open is not refused or (item.id.encode() in self._listed) is not refused:
                yield f"2: the late success {late.number} of {payment.id} has the item {item}"

    def _sums_of_money(self, opened: Mapping[str, int], moved: Mapping[tuple[str, Kind], int]) -> Iterator[str]:
        for payment in self._payments.values():
            late, gone_back = _late(payment)
            if opened[payment.id] != (payment.authorized_minor > 0) + len(payment.late):
                yield f"2: {payment.id} was charged or authorized {opened[payment.id]} times"
            taken = moved[payment.id, Kind.CHARGE] + moved[payment.id, Kind.CAPTURE] - late
            back = moved[payment.id, Kind.REFUND] - gone_back
            if (taken, back) != (payment.captured_minor, payment.refunded_minor):
                yield f"2: {payment.id} moved {taken} and {back} back, here {_sums(payment)}"

    def _payment(self, payment: Payment) -> Iterator[str]:
        if payment.status.value not in _ENDS or payment.refund_pending_minor:
            yield f"1: {payment.id} has no end: {payment.status.value}, {payment.refund_pending_minor} pending"
        for attempt in payment.attempts:
            if attempt.state in (AttemptState.SENDING, AttemptState.UNKNOWN):
                yield f"7: the attempt {attempt.number} of {payment.id} is still {attempt.state.value}"
        shard = f"{{p{payment.id[-2:]}}}"
        holder = self._redis.execute(("GET", f"{shard}:order:{payment.order_id}"))
        holds = holder == payment.id.encode()
        if holds is (payment.status.value in ("failed", "cancelled")):
            yield f"6: {payment.id} is {payment.status.value} and {'holds' if holds else 'does not hold'} its order"
        rows = [
            row
            for raw in self._redis.execute(("LRANGE", f"{shard}:ledger:{payment.id}", 0, -1))
            for row in _decode_transaction(raw).rows
        ]
        taken = sum(row.minor for row in rows if row.account.startswith("acquirer:") and row.minor > 0)
        back = -sum(row.minor for row in rows if row.account.startswith("acquirer:") and row.minor < 0)
        late, gone_back = _late(payment)
        booked = (payment.captured_minor + late, payment.refunded_minor + gone_back)
        if (taken, back) != booked or sum(row.minor for row in rows) != 0:
            yield f"3: the rows of {payment.id} say {taken} and {back} back, the record {_sums(payment)}"

    def _balances(self) -> Iterator[str]:
        replayed: Counter[bytes] = Counter()
        for name in self._redis.names("ledger"):
            for raw in self._redis.execute(("LRANGE", name, 0, -1)):
                for row in _decode_transaction(raw).rows:
                    replayed[f"{row.account}|{row.currency}".encode()] += row.minor
        kept: Counter[bytes] = Counter()
        for name in self._redis.names("balances"):
            for account, minor in self._redis.execute(("HGETALL", name)).items():
                kept[account] += int(minor)
        if {a: m for a, m in kept.items() if m} != {a: m for a, m in replayed.items() if m}:
            yield f"3: the balances {dict(kept)} are not the sums of the rows {dict(replayed)}"
        if sum(kept.values()):
            yield "3: the balances do not sum to 0"

    def _events(self, payment: Payment) -> Iterator[str]:
        bodies = self._bodies(payment.id)
        if len(bodies) != payment.sequence:
            yield f"4: {payment.id} has {len(bodies)} events, its sequence says {payment.sequence}"
        told = Counter(msgspec.json.decode(body)["event_type"] for body in bodies)
        owed = Counter(
            payment_authorized=int(payment.manual and payment.authorized_minor > 0),
            payment_completed=int(payment.captured_minor > 0),
            payment_failed=int(payment.failure is not None),
            payment_cancelled=int(payment.cancelled),
            payment_refunded=sum(refund.state is RefundState.COMPLETED for refund in payment.refunds),
            payment_refund_failed=sum(refund.state is RefundState.FAILED for refund in payment.refunds),
        )
        if told != +owed:
            yield f"4: {payment.id} told {dict(told)}, not {dict(+owed)}"

    def _delivered(self) -> Iterator[str]:
        first: defaultdict[str, list[int]] = defaultdict(list)
        for event in self._topic:
            headers = dict(event.headers)
            sequence, subject = int(headers["ce_sequence"]), headers["ce_subject"]
            bodies = self._bodies(subject)
            if not 0 < sequence <= len(bodies) or bodies[sequence - 1] != event.value:
                yield f"4: {headers['ce_id']} was told, but is not what was committed"
                continue
            before = hashlib.sha256(bodies[sequence - 2]).hexdigest() if sequence > 1 else ""
            if headers["ce_prevhash"] != before or headers["ce_id"] != f"{subject}-{sequence}":
                yield f"4: {headers['ce_id']} does not follow the event before it"
            if sequence not in first[subject]:
                first[subject].append(sequence)
        for payment in self._payments.values():
            if first[payment.id] != list(range(1, payment.sequence + 1)):
                yield f"4: {payment.id} told the topic {first[payment.id]} of {payment.sequence}"

    def _answers(self, payment: Payment) -> Iterator[str]:
        """What customers were told is what is."""
        askings = [asking for asking in self._diary.askings if asking.payment_id == payment.id]
        told = {asking.refund_id for asking in askings if asking.refund_id}
        made = {refund.id for refund in payment.refunds}
        untold = sum(asking.what == "refund" and asking.answer == "unknown" for asking in askings)
        if missing := told - made:
            yield f"1: the refunds {sorted(missing)} of {payment.id} were accepted and are gone"
        if len(made - told) > untold:
            yield f"7: {len(made - told)} refunds of {payment.id} were made, but reported as refused"
        captures = {asking.minor for asking in askings if asking.what == "capture" and asking.answer != "refused"}
        if payment.manual and payment.captured_minor and payment.captured_minor not in captures:
            yield f"7: {payment.id} was captured, but every capture of that amount was reported as refused"
        cancelled = any(asking.what == "cancel" and asking.answer != "refused" for asking in askings)
        if payment.cancelled and payment.cancelling != "authorization expired" and not cancelled:
            yield f"7: {payment.id} was cancelled, but every cancel was reported as refused"

    def _bodies(self, payment_id: str) -> list[Any]:
        bodies: list[Any] = self._redis.execute(("LRANGE", f"{{p{payment_id[-2:]}}}:events:{payment_id}", 0, -1))
        return bodies


def _late(payment: Payment) -> tuple[int, int]:
    """What acquirers charged too late, and what of it has gone back. A hold is no money."""
    charges = [attempt for attempt in payment.attempts if attempt.state in _LATE and attempt.kind is Kind.CHARGE]
    back = [attempt for attempt in charges if attempt.state is AttemptState.REVERSED]
    return sum(attempt.minor for attempt in charges), sum(attempt.minor for attempt in back)


def payments_in(redis: MemoryRedis) -> list[PaymentId]:
    """The ids of all payments."""
    return [PaymentId(name.rpartition(":")[2]) for name in redis.names("payment")]


def _sums(payment: Payment) -> str:
    return f"{payment.captured_minor} and {payment.refunded_minor} back"
