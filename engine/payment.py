"""A payment: frozen facts, and the status that they add up to.

Nothing here does I/O. A change returns a new payment with the next version; the store writes it only if the
version it replaces is still the current one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from engine.errors import IllegalMove
from engine.ids import PaymentId
from engine.money import Money


class Status(StrEnum):
    """Where a payment stands, as users see it."""

    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


MOVES: Final[dict[Status, tuple[Status, ...]]] = {
    Status.PROCESSING: (Status.COMPLETED, Status.FAILED),
    Status.COMPLETED: (),
    Status.FAILED: (),
}


class AttemptState(StrEnum):
    """What is known of one try at an acquirer."""

    SENDING = "sending"
    """The intent is written; the request may or may not have left."""
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    APPROVED = "approved"
    REJECTED = "rejected"


_UNSETTLED: Final = (AttemptState.SENDING, AttemptState.UNKNOWN)


class Method(msgspec.Struct, frozen=True, array_like=True):
    """What of a payment method may be shown: its type, and a card's brand and last four digits."""

    type: str
    brand: str = ""
    last4: str = ""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why a payment failed: the API's code, the event's code, and a sentence."""

    code: str
    event_code: str
    reason: str


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """One try at one acquirer. Its id is the idempotency key there, for ever."""

    number: int
    acquirer: str
    state: AttemptState
    started_ms: int
    lease_until_ms: int
    """Until then its worker may still be sending; nobody else touches it."""
    ended_ms: int = 0
    asked: int = 0
    """How often the acquirer was asked for, or refused us, an outcome; the pauses grow with it."""
    token: str = ""
    """Made anew by whoever begins: two workers that begin in one millisecond must not write the same record."""


class Payment(msgspec.Struct, frozen=True, omit_defaults=True, rename={"version": "v"}):
    """The record of one payment. `version` stands first: the store's compare-and-set reads it there."""

    version: int
    id: PaymentId
    surface: str
    order_id: str
    user_id: str
    amount: Money
    method: Method
    created_ms: int
    captured_minor: int = 0
    failure: Failure | None = None
    ended_ms: int = 0
    transaction_id: str = ""
    attempts: tuple[Attempt, ...] = ()
    sequence: int = 0
    """Events written so far; the next one is this plus one."""
    last_event_hash: str = ""
    request_id: str = ""
    traceparent: str = ""

    @property
    def status(self) -> Status:
        """The status that the facts add up to."""
        if self.failure is not None:
            return Status.FAILED
        return Status.COMPLETED if self.captured_minor else Status.PROCESSING

    @property
    def ended(self) -> bool:
        """Whether the status is terminal for the charge."""
        return self.status is not Status.PROCESSING

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def unsettled(self) -> Attempt | None:
        """The attempt that may have moved money without us knowing."""
        last = self.attempt
        return last if last is not None and last.state in _UNSETTLED else None

    def begin(self, acquirer: str, *, now_ms: int, lease_ms: int, token: str = "") -> Payment:
        """The intent to send: written before a byte leaves, so that a crash leads to a question, not a second charge.

        An attempt that is known not to have left, or that the acquirer has never seen, keeps its number and so its
        idempotency key.
        """
        self._require(Status.COMPLETED)
        last = self.attempt
        again = last is not None and last.acquirer == acquirer and last.state is not AttemptState.REJECTED
        assert again or last is None or self.unsettled is None, f"only {last.acquirer} knows what became of the attempt"
        number = last.number if last is not None and again else len(self.attempts) + 1
        asked = last.asked if last is not None and again else 0
        sending = Attempt(number, acquirer, AttemptState.SENDING, now_ms, now_ms + lease_ms, asked=asked, token=token)
        kept = self.attempts[:-1] if again else self.attempts
        return self._next(attempts=(*kept, sending))

    def leave_open(self, state: AttemptState, *, now_ms: int) -> Payment:
        """The latest attempt has no outcome: it was not sent, or nobody knows."""
        self._require(Status.COMPLETED)
        return self._next(attempts=self._attempts(state, now_ms, asked=1))

    def complete(self, transaction_id: str, *, now_ms: int) -> Payment:
        """The acquirer took the money."""
        self._require(Status.COMPLETED)
        return self._next(
            attempts=self._attempts(AttemptState.APPROVED, now_ms),
            captured_minor=self.amount.minor,
            transaction_id=transaction_id,
            ended_ms=now_ms,
        )

    def fail(self, failure: Failure, *, now_ms: int, state: AttemptState = AttemptState.REJECTED) -> Payment:
        """The acquirer said no, or (`NOT_SENT`) the payment provably was not and cannot be sent."""
        self._require(Status.FAILED)
        return self._next(attempts=self._attempts(state, now_ms), failure=failure, ended_ms=now_ms)

    def with_event(self, event_hash: str) -> Payment:
        """The same version, one event further."""
        return msgspec.structs.replace(self, sequence=self.sequence + 1, last_event_hash=event_hash)

    def _next(self, **changes: object) -> Payment:
        return msgspec.structs.replace(self, version=self.version + 1, **changes)

    def _attempts(self, state: AttemptState, now_ms: int, *, asked: int = 0) -> tuple[Attempt, ...]:
        if not self.attempts:
            return ()
        last = self.attempts[-1]
        ended = msgspec.structs.replace(last, state=state, ended_ms=now_ms, asked=last.asked + asked)
        return (*self.attempts[:-1], ended)

    def _require(self, wanted: Status) -> None:
        allowed = MOVES[self.status]
        if wanted not in allowed:
            raise IllegalMove(self.status, wanted, allowed)


def attempt_id(payment: Payment) -> str:
    """The latest attempt's id: the acquirer's idempotency key. Raises `IndexError` when there is no attempt."""
    return f"{payment.id}-a{payment.attempts[-1].number}"
