"""Charging: one payment's way from accepted to settled, one written step at a time.

Between any two lines the process may die. What is written then leads to a question at the acquirer, never to a
second charge and never to a failure that nobody knows of.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, assert_never

import structlog

from engine import context
from engine.cards import Instrument, SealBroken, SealedInstrument, Sealer
from engine.changes import Change, Conflict, Job
from engine.errors import StoreUnavailable
from engine.events import outcome_event
from engine.ids import Clock, PaymentId
from engine.ledger import capture_of
from engine.money import Money
from engine.payment import Attempt, AttemptState, Failure, Payment, attempt_id
from metrics.instruments import Instruments


class Approved(NamedTuple):
    """The acquirer took the money."""

    transaction_id: str


class Declined(NamedTuple):
    """The acquirer said no, and no money moved. `code` is its own word, for example `insufficient_funds`."""

    code: str
    reason: str


class Unknown(NamedTuple):
    """The request may have arrived; nobody here knows what became of it."""

    why: str


class NotSent(NamedTuple):
    """Nothing left: no connection, an open circuit, or our own bound."""

    why: str
    retry_after_s: float


class NeverSeen(NamedTuple):
    """The acquirer answers for certain that it has never seen the attempt."""


Outcome = Approved | Declined | Unknown | NotSent


class ChargeRequest(NamedTuple):
    """One charge. `attempt_id` is the idempotency key."""

    attempt_id: str
    payment_id: PaymentId
    amount: Money
    instrument: Instrument


class Acquirer(Protocol):
    """Somebody who charges. Neither method raises for trouble with the counterparty."""

    @property
    def name(self) -> str: ...
    async def charge(self, request: ChargeRequest) -> Outcome: ...
    async def find(self, attempt_id: str, amount: Money) -> Outcome | NeverSeen: ...


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


class Charging:
    """Drives payments to their outcome. Safe to run twice for one job, at once or after each other."""

    def __init__(
        self,
        store: ChargeStore,
        acquirer: Acquirer,
        sealer: Sealer,
        instruments: Instruments,
        clock: Clock,
        *,
        lease_s: float,
        on_outcome: Callable[[bool], None],
        new_token: Callable[[], str] = lambda: os.urandom(6).hex(),
    ) -> None:
        self._store = store
        self._acquirer = acquirer
        self._sealer = sealer
        self._instruments = instruments
        self._clock = clock
        self._lease_ms = int(lease_s * 1000)
        self._on_outcome = on_outcome
        self._new_token = new_token

    async def process(self, job: Job) -> None:
        """Take a payment one attempt further. Raises `StoreUnavailable`; the job is then still there."""
        payment = job.hint or await self._store.get(job.payment_id)
        if payment is not None:
            context.set_current(payment.request_id, payment.traceparent)
        for _ in range(_CONFLICTS_MAX):
            conflict = await self._advance(payment, job)
            if conflict is None:
                return
            payment = conflict.current
        raise StoreUnavailable(f"{job.payment_id} changed {_CONFLICTS_MAX} times while it was worked on")

    async def _advance(self, payment: Payment | None, job: Job) -> Conflict | None:
        if payment is None or payment.ended:
            await self._store.end_job(job)
            return None
        attempt = payment.unsettled
        if attempt is None:
            return await self._send(payment, job)
        if attempt.state is AttemptState.SENDING and self._clock() < attempt.lease_until_ms:
            # Its worker may be alive and waiting for the answer: asking now could hear "never seen" too early.
            await self._store.put_off(payment.id, job, due_ms=attempt.lease_until_ms + _LEASE_MARGIN_MS)
            return None
        if attempt.acquirer != self._acquirer.name:
            # Another acquirer would truly say "never seen", and then the same payment would be charged there too.
            return await self._settle(payment, Unknown(f"only {attempt.acquirer} knows"), job)
        return await self._ask(payment, attempt, job)

    async def _ask(self, payment: Payment, attempt: Attempt, job: Job) -> Conflict | None:
        match await self._acquirer.find(attempt_id(payment), payment.amount):
            case NeverSeen():
                return await self._send(payment, job)
            case NotSent(why=why):
                # The question did not get out; what became of the charge is as open as before.
                return await self._settle(payment, Unknown(why), job)
            case outcome:
                return await self._settle(payment, outcome, job)

    async def _send(self, payment: Payment, job: Job) -> Conflict | None:
        now = self._clock()
        sending = payment.begin(self._acquirer.name, now_ms=now, lease_ms=self._lease_ms, token=self._new_token())
        lease_until = now + self._lease_ms
        sealed = await self._store.begin(sending, due_ms=lease_until + _LEASE_MARGIN_MS)
        if isinstance(sealed, Conflict):
            return sealed
        try:
            instrument = self._sealer.open(payment.id, sealed)
        except SealBroken:
            return await self._cannot_open(payment, sending, job)
        if self._clock() > now + _LEASE_MARGIN_MS:
            # We were stopped since the intent was written: too late to send within the lease.
            return await self._settle(sending, NotSent("the worker was paused", 0.0), job)
        request = ChargeRequest(attempt_id(sending), payment.id, payment.amount, instrument)
        return await self._settle(sending, await self._acquirer.charge(request), job)

    async def _cannot_open(self, before: Payment, sending: Payment, job: Job) -> Conflict | None:
        structlog.get_logger().error("sealed instrument cannot be opened", payment_id=before.id)
        if before.attempts:
            # Something may have been sent once. Without the card it cannot be sent again, only asked about.
            return await self._settle(sending, Unknown("the sealed instrument cannot be opened"), job)
        failure = Failure("INSTRUMENT_UNREADABLE", "INSTRUMENT_UNREADABLE", "The payment method could not be read")
        failed = sending.fail(failure, now_ms=self._clock(), state=AttemptState.NOT_SENT)
        return await self._end(failed, job)

    async def _settle(self, payment: Payment, outcome: Outcome, job: Job) -> Conflict | None:
        now = self._clock()
        match outcome:
            case Approved(transaction_id=transaction_id):
                return await self._end(payment.complete(transaction_id, now_ms=now), job)
            case Declined() as declined:
                return await self._end(payment.fail(_failure(declined), now_ms=now), job)
            case NotSent(why=why, retry_after_s=retry_after_s):
                opened = payment.leave_open(AttemptState.NOT_SENT, now_ms=now)
                due_ms = now + max(_pause_ms(opened), int(retry_after_s * 1000))
                return await self._leave_open(opened, why, due_ms, job)
            case Unknown(why=why):
                opened = payment.leave_open(AttemptState.UNKNOWN, now_ms=now)
                return await self._leave_open(opened, why, now + _pause_ms(opened), job)
            case _:
                assert_never(outcome)

    async def _leave_open(self, payment: Payment, why: str, due_ms: int, job: Job) -> Conflict | None:
        attempt = payment.attempts[-1]
        unknown = attempt.state is AttemptState.UNKNOWN
        conflict = await self._store.apply(Change(payment, due_ms, unknown=unknown), job)
        if conflict is None:
            self._instruments.attempts.labels(attempt.acquirer, attempt.state.value).inc()
            structlog.get_logger().warning(
                "payment has no outcome yet",
                payment_id=payment.id,
                request_id=payment.request_id,
                attempt=attempt.number,
                state=attempt.state.value,
                why=why,
                again_in_ms=due_ms - self._clock(),
            )
        return conflict

    async def _end(self, payment: Payment, job: Job) -> Conflict | None:
        payment, event = outcome_event(payment)
        completed = payment.failure is None
        change = Change(
            payment,
            due_ms=None,
            transactions=(capture_of(payment),) if completed else (),
            events=(event,),
            forget_instrument=True,
            # A failed payment gives the order free: another payment may be tried.
            release_order=not completed,
        )
        conflict = await self._store.apply(change, job)
        if conflict is None:
            self._told(payment)
        return conflict

    def _told(self, payment: Payment) -> None:
        attempt = payment.attempts[-1]
        outcome = {AttemptState.APPROVED: "approved", AttemptState.REJECTED: "declined"}.get(attempt.state, "not_sent")
        self._instruments.attempts.labels(attempt.acquirer, outcome).inc()
        self._instruments.payments_processed.labels(payment.status.value).inc()
        self._on_outcome(payment.failure is None)
        structlog.get_logger().info(
            "payment settled",
            payment_id=payment.id,
            request_id=payment.request_id,
            status=payment.status.value,
            attempt=attempt.number,
            reason=payment.failure.event_code if payment.failure else None,
        )


def _failure(declined: Declined) -> Failure:
    event_code = declined.code.upper()
    code = "PAY_002" if event_code == "INSUFFICIENT_FUNDS" else event_code
    return Failure(code, event_code, declined.reason)


def _pause_ms(payment: Payment) -> int:
    """Growing pauses: 1 s, 2 s, 4 s, … up to about 4 minutes between questions, half a minute between tries to send."""
    attempt = payment.attempts[-1]
    return int(_PAUSE_FIRST_MS * 2 ** min(attempt.asked - 1, _PAUSE_DOUBLINGS_MAX[attempt.state]))
