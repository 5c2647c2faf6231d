"""Charging: everything a payment needs done at an acquirer, one written step at a time.

Between any two lines the process may die. What is written then leads to a question at the acquirer, never to a
second charge and never to a failure that nobody knows of.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from engine import context
from engine.cards import Instrument, SealBroken, SealedInstrument, Sealer
from engine.changes import Change, Conflict, Job
from engine.errors import StoreUnavailable, TryLater
from engine.facts import OPENING, REFUNDS_MAX, Attempt, AttemptState, Failure, Kind, Operation, Status
from engine.ids import Clock, PaymentId
from engine.money import Money
from engine.payment import Payment, attempt_id
from engine.settling import Approved, Declined, given_up, late_success, let_go, settled


class Unknown(NamedTuple):
    """The request may have arrived; nobody here knows what became of it."""

    why: str
    retry_after_s: float = 0.0
    """No sooner is there any use in asking."""


class Waiting(NamedTuple):
    """The counterparty has the request and waits for the payer, who may take minutes."""

    retry_after_s: float
    """When to ask."""


class NotSent(NamedTuple):
    """Nothing left: no connection, an open circuit, or our own bound."""

    why: str
    retry_after_s: float


class NeverSeen(NamedTuple):
    """The acquirer answers for certain that it has never seen the attempt."""


Outcome = Approved | Declined | Waiting | Unknown | NotSent


class AcquirerRequest(NamedTuple):
    """One thing to do. `attempt_id` is the idempotency key.

    A charge or an authorization has an `instrument`; what follows one names its `transaction_id`.
    """

    attempt_id: str
    payment_id: PaymentId
    kind: Kind
    amount: Money
    instrument: Instrument | None
    transaction_id: str


class Acquirer(Protocol):
    """Somebody who moves money. Neither method raises for trouble with the counterparty."""

    @property
    def name(self) -> str: ...
    async def send(self, request: AcquirerRequest) -> Outcome: ...
    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen: ...


class Acquirers(NamedTuple):
    """All acquirers by name, and which ones to try for a method's type, in order."""

    by_name: Mapping[str, Acquirer]
    order: Mapping[str, Sequence[str]]


class Observer(Protocol):
    """Is told what became of attempts and payments."""

    def attempt(self, payment: Payment, outcome: str) -> None: ...
    def late_success(self) -> None: ...
    def settled(self, payment: Payment) -> None: ...


class ChargeStore(Protocol):
    """The steps of a charge."""

    async def get(self, payment_id: PaymentId) -> Payment | None: ...
    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict: ...
    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None: ...
    async def end_job(self, job: Job) -> None: ...
    async def put_off(self, payment_id: PaymentId, job: Job | None, *, due_ms: int) -> None: ...


_CONFLICTS_MAX: Final = 8
_LEASE_MARGIN_MS: Final = 2_000
_PAUSE_FIRST_MS: Final = 1_000
_PAUSE_DOUBLINGS_MAX: Final = {AttemptState.UNKNOWN: 8, AttemptState.NOT_SENT: 5}
_RECHECK_PAUSE_MAX_MS: Final = 3_600_000
_TROUBLE_PAUSE_MS: Final = 300_000
_EXPIRED: Final = "authorization expired"
_NEVER_ASKED_FOR: Final = "never processed"
_UNREADABLE: Final = Failure("INSTRUMENT_UNREADABLE", "INSTRUMENT_UNREADABLE", "The payment method could not be read")


log = structlog.get_logger()


class Charging:
    """Drives payments to their outcome. Safe to run twice for one job, at once or after each other."""

    def __init__(
        self,
        store: ChargeStore,
        acquirers: Acquirers,
        sealer: Sealer,
        observer: Observer,
        clock: Clock,
        *,
        lease_s: float,
        recheck_after_s: float,
        new_token: Callable[[], str] = lambda: os.urandom(6).hex(),
    ) -> None:
        self._store = store
        self._acquirers = acquirers
        self._sealer = sealer
        self._observer = observer
        self._clock = clock
        self._lease_ms = int(lease_s * 1000)
        self._recheck_after_ms = int(recheck_after_s * 1000)
        self._new_token = new_token

    async def process(self, job: Job) -> None:
        """Take a payment one attempt further. Raises `StoreUnavailable`; the job is then still there."""
        payment = job.hint or await self._store.get(job.payment_id)
        if payment is not None:
            context.enter(payment.request_id, payment.traceparent)
        for _ in range(_CONFLICTS_MAX):
            try:
                conflict = await self._advance(payment, job)
            except TryLater:
                raise
            except Exception:
                # A bug. Left in the stream, the job would be taken over again and again, and new ones come beside it.
                await self._store.put_off(job.payment_id, job, due_ms=self._clock() + _TROUBLE_PAUSE_MS)
                raise
            if conflict is None:
                return
            payment = conflict.current
        raise StoreUnavailable(f"{job.payment_id} changed {_CONFLICTS_MAX} times while it was worked on")

    async def _advance(self, payment: Payment | None, job: Job) -> Conflict | None:
        if payment is None:
            await self._store.end_job(job)
            return None
        operation = payment.operation
        if operation is None:
            return await self._rest(payment, job)
        attempt = payment.unsettled
        if attempt is None:
            return await self._send(payment, operation, job)
        if attempt.state is AttemptState.SENDING and self._clock() < attempt.lease_until_ms:
            # Its worker may be alive and waiting for the answer: asking now could hear "never seen" too early.
            await self._store.put_off(payment.id, job, due_ms=attempt.lease_until_ms + _LEASE_MARGIN_MS)
            # It may just have settled this and made what is next due at once, which would now wait for the lease.
            current = await self._store.get(payment.id)
            return None if current is None or current.version == payment.version else Conflict(current)
        return await self._ask(payment, operation, attempt, job)

    async def _rest(self, payment: Payment, job: Job) -> Conflict | None:
        """Nothing is to be done; but who was passed over is asked again, and nothing is held for ever."""
        now = self._clock()
        if not payment.rests_until_ms:
            await self._store.end_job(job)
        elif now < payment.rests_until_ms:
            await self._store.put_off(payment.id, job, due_ms=payment.rests_until_ms)
        elif 0 < payment.recheck_ms <= now:
            return await self._look_again(payment, job)
        elif payment.status is Status.PENDING:
            return await self._store.apply(let_go(payment, _NEVER_ASKED_FOR, now_ms=now), job)
        else:
            asked = payment.ask_cancel(_EXPIRED)
            conflict = await self._store.apply(Change(asked, due_ms=now))
            return conflict or Conflict(asked)
        return None

    async def _look_again(self, payment: Payment, job: Job) -> Conflict | None:
        """Ask every acquirer that was passed over whether it charged after all. What it took is given back then."""
        again_ms = 0
        for attempt in payment.passed:
            match await self._find(payment, attempt):
                case Approved() as approved:
                    return await self._too_late(payment, attempt, approved)
                case Waiting():
                    again_ms = self._clock() + self._recheck_after_ms
                case Unknown(why=why) | NotSent(why=why):
                    log.warning("passed over and not known yet", payment_id=payment.id, attempt=attempt.number, why=why)
                    waited_ms = self._clock() - attempt.ended_ms
                    pause_ms = max(self._recheck_after_ms, min(waited_ms, _RECHECK_PAUSE_MAX_MS))
                    again_ms = max(again_ms, self._clock() + pause_ms)
                case Declined() | NeverSeen():
                    pass
        looked = payment.look_again(again_ms)
        return await self._store.apply(Change(looked, due_ms=looked.rests_until_ms or None), job)

    async def _too_late(self, payment: Payment, attempt: Attempt, approved: Approved) -> Conflict | None:
        # Written before it is reversed: whoever dies now leaves a payment that still has its reversal to do.
        change = late_success(payment, attempt.number, approved, now_ms=self._clock())
        conflict = await self._store.apply(change)
        if conflict is not None:
            return conflict
        self._observer.late_success()
        log.error(
            "late success",
            payment_id=payment.id,
            request_id=payment.request_id,
            attempt=attempt.number,
            acquirer=attempt.acquirer,
            status=payment.status.value,
            believed=attempt.state.value,
            item=change.items[0].id,
        )
        return Conflict(change.payment)

    async def _ask(self, payment: Payment, operation: Operation, attempt: Attempt, job: Job) -> Conflict | None:
        match await self._find(payment, attempt):
            case NeverSeen():
                return await self._send(payment, operation, job, only=attempt.acquirer)
            case NotSent(why=why):
                # The question did not get out; what became of the attempt is as open as before.
                return await self._settle(payment, Unknown(why), job)
            case outcome:
                return await self._heard(payment, operation, outcome, job)

    async def _find(self, payment: Payment, attempt: Attempt) -> Outcome | NeverSeen:
        acquirer = self._acquirers.by_name.get(attempt.acquirer)
        if acquirer is None:
            return Unknown(f"{attempt.acquirer} is not configured any more")
        # An attempt of 0.1.0 does not say how much: it was all.
        amount = Money(attempt.minor or payment.amount.minor, payment.amount.currency)
        return await acquirer.find(
            attempt.kind, attempt_id(payment, attempt), amount, _transaction_of(payment, attempt)
        )

    async def _heard(self, payment: Payment, operation: Operation, outcome: Outcome, job: Job) -> Conflict | None:
        """Settle what was heard of the latest attempt, unless it leaves room for an acquirer behind its own."""
        if isinstance(outcome, Declined) and outcome.retryable and self._others_left(payment, operation):
            passed = await self._pass_over(payment, outcome)
            return passed if isinstance(passed, Conflict) else Conflict(passed)
        return await self._settle(payment, outcome, job)

    async def _send(
        self, payment: Payment, operation: Operation, job: Job, *, only: str | None = None
    ) -> Conflict | None:
        """Send to the first acquirer; to the next one only when it is certain that nothing moved at this one."""
        candidates = [only] if only else self._candidates(payment, operation)
        if not candidates:
            log.warning("nobody takes this method now", payment_id=payment.id, method=payment.method.type)
            await self._store.put_off(payment.id, job, due_ms=self._clock() + _TROUBLE_PAUSE_MS)
            return None
        for place, name in enumerate(candidates, start=1):
            sending = payment.begin(
                operation, name, now_ms=self._clock(), lease_ms=self._lease_ms, token=self._new_token()
            )
            sealed = await self._store.begin(sending, due_ms=sending.attempts[-1].lease_until_ms + _LEASE_MARGIN_MS)
            if isinstance(sealed, Conflict):
                return sealed
            try:
                request = self._request(sending, operation, sealed)
            except SealBroken:
                return await self._cannot_open(payment, sending, job)
            outcome = await self._send_to(name, request, began_ms=sending.attempts[-1].started_ms)
            if only is not None and isinstance(outcome, NotSent):
                # An earlier sending of this attempt may still be on its way: only this acquirer can tell.
                outcome = Unknown(outcome.why)
            if place == len(candidates) or not _leaves_room(outcome):
                return await self._heard(sending, operation, outcome, job)
            passed = await self._pass_over(sending, outcome)
            if isinstance(passed, Conflict):
                return passed
            payment = passed
        raise AssertionError("there is always a candidate")

    async def _pass_over(self, payment: Payment, outcome: Outcome) -> Payment | Conflict:
        """Write that nothing moved at the latest attempt's acquirer, before another one is tried."""
        now = self._clock()
        passed = payment.passed_over(_state_of(outcome), now_ms=now, recheck_ms=now + self._recheck_after_ms)
        conflict = await self._store.apply(Change(passed, due_ms=now + self._lease_ms))
        if conflict is not None:
            return conflict
        self._observer.attempt(passed, _state_of(outcome).value)
        return passed

    def _others_left(self, payment: Payment, operation: Operation) -> bool:
        """Whether an acquirer stands behind the latest attempt's own in the order, and has not said no already."""
        if operation.kind not in OPENING:
            return False
        order, name = self._acquirers.order.get(payment.method.type, ()), payment.attempts[-1].acquirer
        behind = order[order.index(name) + 1 :] if name in order else order
        return any(other not in _refused_by(payment) for other in behind)

    def _candidates(self, payment: Payment, operation: Operation) -> Sequence[str]:
        if operation.reverses:
            return (payment.numbered(operation.reverses).acquirer,)
        if operation.kind not in OPENING:
            return (payment.charged_by,)
        order = self._acquirers.order.get(payment.method.type, ())
        return [name for name in order if name not in _refused_by(payment)] or order[-1:]

    def _request(self, sending: Payment, operation: Operation, sealed: SealedInstrument) -> AcquirerRequest:
        first = operation.kind in OPENING
        charge = sending.late_success(operation.reverses) if operation.reverses else sending
        return AcquirerRequest(
            attempt_id(sending),
            sending.id,
            operation.kind,
            Money(operation.minor, sending.amount.currency),
            self._sealer.open(sending.id, sealed) if first else None,
            charge.transaction_id,
        )

    async def _send_to(self, name: str, request: AcquirerRequest, *, began_ms: int) -> Outcome:
        acquirer = self._acquirers.by_name.get(name)
        if acquirer is None:
            return NotSent(f"{name} is not configured any more", 0.0)
        if self._clock() > began_ms + _LEASE_MARGIN_MS:
            # We were stopped since the intent was written: too late to send within the lease.
            return NotSent("the worker was paused", 0.0)
        return await acquirer.send(request)

    async def _cannot_open(self, before: Payment, sending: Payment, job: Job) -> Conflict | None:
        log.error("sealed instrument cannot be opened", payment_id=before.id)
        if before.attempts:
            # Something may have been sent once. Without the card it cannot be sent again, only asked about.
            return await self._settle(sending, Unknown("the sealed instrument cannot be opened"), job)
        return await self._write(given_up(sending, _UNREADABLE, now_ms=self._clock()), job)

    async def _settle(self, payment: Payment, outcome: Outcome, job: Job) -> Conflict | None:
        conflict = await self._settle_once(payment, outcome, job)
        for _ in range(REFUNDS_MAX):
            current = conflict.current if conflict is not None else None
            if current is None or current.attempt != payment.attempt:
                break
            # A user has asked for more meanwhile. What was heard about the attempt still holds; thrown away, it
            # would be asked for again only after the lease.
            payment = current
            conflict = await self._settle_once(payment, outcome, job)
        return conflict

    async def _settle_once(self, payment: Payment, outcome: Outcome, job: Job) -> Conflict | None:
        now = self._clock()
        match outcome:
            case Approved() | Declined():
                return await self._write(settled(payment, outcome, now_ms=now), job)
            case NotSent(why=why, retry_after_s=retry_after_s):
                opened = payment.leave_open(AttemptState.NOT_SENT, now_ms=now)
                due_ms = now + max(_pause_ms(opened), int(retry_after_s * 1000))
            case Unknown(why=why, retry_after_s=retry_after_s):
                opened = payment.leave_open(AttemptState.UNKNOWN, now_ms=now)
                due_ms = now + max(_pause_ms(opened), int(retry_after_s * 1000))
            case Waiting(retry_after_s=retry_after_s):
                why = "the payer has not decided yet"
                opened = payment.leave_open(AttemptState.WAITING, now_ms=now)
                due_ms = now + int(retry_after_s * 1000)
        attempt = opened.attempts[-1]
        unknown = attempt.state is AttemptState.UNKNOWN
        conflict = await self._store.apply(Change(opened, due_ms, unknown=unknown), job)
        if conflict is None:
            self._observer.attempt(opened, attempt.state.value)
            (log.info if attempt.state is AttemptState.WAITING else log.warning)(
                "attempt has no outcome yet",
                payment_id=opened.id,
                request_id=opened.request_id,
                attempt=attempt.number,
                kind=attempt.kind.value,
                state=attempt.state.value,
                why=why,
                again_in_ms=due_ms - now,
            )
        return conflict

    async def _write(self, change: Change, job: Job) -> Conflict | None:
        conflict = await self._store.apply(change, job)
        if conflict is None:
            payment = change.payment
            attempt = payment.attempts[-1]
            self._observer.attempt(payment, attempt.state.value)
            self._observer.settled(payment)
            # Only people can get back what an acquirer took too late and keeps.
            kept = attempt.reverses and attempt.state is AttemptState.REJECTED
            (log.error if kept else log.info)(
                "reversal refused" if kept else "attempt settled",
                payment_id=payment.id,
                request_id=payment.request_id,
                attempt=attempt.number,
                kind=attempt.kind.value,
                outcome=attempt.state.value,
                status=payment.status.value,
                reason=payment.failure.event_code if payment.failure else None,
            )
        return conflict


def _refused_by(payment: Payment) -> set[str]:
    return {attempt.acquirer for attempt in payment.attempts if attempt.state is AttemptState.REJECTED}


def _transaction_of(payment: Payment, attempt: Attempt) -> str:
    """The acquirer's transaction that an attempt follows; empty for one that opens."""
    if attempt.kind in OPENING:
        return ""
    return (payment.late_success(attempt.reverses) if attempt.reverses else payment).transaction_id


def _leaves_room(outcome: Outcome) -> bool:
    """Whether another acquirer may be tried: never while money may have moved here."""
    return isinstance(outcome, NotSent) or (isinstance(outcome, Declined) and outcome.retryable)


def _state_of(outcome: Outcome) -> AttemptState:
    return AttemptState.NOT_SENT if isinstance(outcome, NotSent) else AttemptState.REJECTED


def _pause_ms(payment: Payment) -> int:
    """Growing pauses: 1 s, 2 s, 4 s, … up to about 4 minutes between questions, half a minute between tries to send."""
    attempt = payment.attempts[-1]
    return int(_PAUSE_FIRST_MS * 2 ** min(attempt.asked - 1, _PAUSE_DOUBLINGS_MAX[attempt.state]))
