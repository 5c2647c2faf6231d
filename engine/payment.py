"""A payment: frozen facts, and the status that they add up to.

Nothing here does I/O. A change returns a new payment with the next version; the store writes it only if the
version it replaces is still the current one.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from engine.errors import IllegalMove, RefundNotAllowed, RefundTooLarge
from engine.facts import (
    MOVES,
    OPENING,
    REFUNDS_MAX,
    Attempt,
    AttemptState,
    Failure,
    Kind,
    LateSuccess,
    Method,
    Operation,
    Outcome,
    Refund,
    RefundState,
    Status,
)
from engine.ids import PaymentId, qualified
from engine.money import Money

_UNSETTLED: Final = (AttemptState.SENDING, AttemptState.WAITING, AttemptState.UNKNOWN)
_OPEN: Final = (AttemptState.WAITING, AttemptState.UNKNOWN)
_ASKED_KEPT_MAX: Final = 16


class Payment(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    # A dataset keeps millions of these: every record pays for the length of its names.
    rename={
        "version": "v",
        "order_id": "order",
        "user_id": "user",
        "transaction_id": "txn",
        "last_event_hash": "hash",
        "request_id": "rid",
        "traceparent": "tp",
        "authorized_minor": "authorized",
        "captured_minor": "captured",
        "created_ms": "created",
        "ended_ms": "ended",
        "recheck_ms": "recheck",
        "public_number": "n",
    },
):
    """The record of one payment. `version` stands first: the store's compare-and-set reads it there."""

    version: int
    id: PaymentId
    order_id: str
    user_id: str
    amount: Money
    method: Method
    created_ms: int
    surface: str = "core"
    public_number: int = 0
    """What users call it where they do not use its id; 0: they do."""
    rail: str = ""
    """Who settles it outside: we record what we are told, and there are no attempts. Empty: we charge it."""
    held_until_ms: int = 0
    """Until then it waits to be asked for, and nothing is charged; 0 once it was asked for."""
    manual: bool = False
    """Authorized first, captured or cancelled by a request of its own."""
    authorized_minor: int = 0
    authorized_until_ms: int = 0
    capture_minor: int = 0
    """Asked to be captured."""
    captured_minor: int = 0
    cancelling: str = ""
    """Asked to be cancelled, and why."""
    cancelled: bool = False
    asked_by: str = ""
    """The latest request to capture or cancel: two that race must not write the same record and both be told yes."""
    asked_before: tuple[str, ...] = ()
    """Those before it, which the acquirer has refused: repeated, they ask for nothing new."""
    refunds: tuple[Refund, ...] = ()
    failure: Failure | None = None
    ended_ms: int = 0
    """When the charge ended: completed, failed or cancelled."""
    transaction_id: str = ""
    attempts: tuple[Attempt, ...] = ()
    recheck_ms: int = 0
    """From when on acquirers that were passed over are asked once more; 0 when nothing is left to ask."""
    late: tuple[LateSuccess, ...] = ()
    sequence: int = 0
    """Events written so far; the next one is this plus one."""
    last_event_hash: str = ""
    request_id: str = ""
    traceparent: str = ""
    subject: str = ""
    """What it is for, where that is no order: a package."""
    payer: str = ""
    """The phone that is asked to pay, 2547XXXXXXXX; its client is told it again. Not for logs."""

    @property
    def status(self) -> Status:
        """The status that the facts add up to."""
        if self.failure is not None:
            return Status.FAILED
        if self.cancelled:
            return Status.CANCELLED
        if self.held_until_ms or (self.rail and not self.captured_minor):
            return Status.PENDING
        if not self.captured_minor:
            return Status.AUTHORIZED if self.authorized_minor else Status.PROCESSING
        refunded = self.refunded_minor
        if not refunded:
            return Status.COMPLETED
        return Status.REFUNDED if refunded == self.captured_minor else Status.PARTIALLY_REFUNDED

    @property
    def order_key(self) -> str:
        """The order's name among those of all surfaces; empty when the payment is for no order."""
        return qualified(self.surface, self.order_id) if self.order_id else ""

    @property
    def user_key(self) -> str:
        """The user's name among those of all surfaces."""
        return qualified(self.surface, self.user_id)

    @property
    def ended(self) -> bool:
        """Whether the charge is decided: it is neither waiting nor under way."""
        return self.status not in (Status.PENDING, Status.PROCESSING)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left to do or to watch. What is settled outside is told to us, however late."""
        return self.operation is None and not self.rests_until_ms

    @property
    def rests_until_ms(self) -> int:
        """When to look at it again though nothing is to be done: 0 is never."""
        moments = [self.recheck_ms] if self.recheck_ms else []
        if self.held_until_ms:
            moments.append(self.held_until_ms)
        if self.status is Status.AUTHORIZED:
            moments.append(self.authorized_until_ms)
        return min(moments, default=0)

    @property
    def passed(self) -> tuple[Attempt, ...]:
        """Tries to charge of which the acquirer said, or we believed, that nothing moved."""
        states = (AttemptState.NOT_SENT, AttemptState.REJECTED)
        return tuple(attempt for attempt in self.attempts if attempt.kind in OPENING and attempt.state in states)

    @property
    def refunded_minor(self) -> int:
        """What has gone back."""
        return sum(refund.minor for refund in self.refunds if refund.state is RefundState.COMPLETED)

    @property
    def refund_pending_minor(self) -> int:
        """What is reserved for refunds under way."""
        return sum(refund.minor for refund in self.refunds if refund.state is RefundState.PENDING)

    @property
    def refundable_minor(self) -> int:
        """What may still be asked back."""
        return self.captured_minor - self.refunded_minor - self.refund_pending_minor

    @property
    def attempt(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def charged_by(self) -> str:
        """The acquirer that holds or took the money: what follows goes there. Empty when none does."""
        return next((a.acquirer for a in self.attempts if a.kind in OPENING and a.state is AttemptState.APPROVED), "")

    @property
    def outcome(self) -> Outcome:
        """What is certain about the money."""
        if self.failure is not None or self.cancelled:
            return Outcome.FAILED if self.failure is not None else Outcome.NONE
        last = self.attempt
        if last is not None and last.state in _OPEN and not last.reverses:
            return Outcome.UNKNOWN
        return Outcome.SUCCEEDED if self._charged else Outcome.NONE

    @property
    def unsettled(self) -> Attempt | None:
        """The attempt that may have moved money without us knowing."""
        last = self.attempt
        return last if last is not None and last.state in _UNSETTLED else None

    @property
    def operation(self) -> Operation | None:
        """What is to be done next at the acquirer; None when nothing is."""
        # First, because it is only found when nothing else is under way, and may then be under way itself.
        if late := next((late for late in self.late if self._to_reverse(late)), None):
            taken = self.numbered(late.number)
            return Operation(
                Kind.VOID if taken.kind is Kind.AUTHORIZE else Kind.REFUND, taken.minor, reverses=late.number
            )
        if self.failure is not None or self.cancelled or self.held_until_ms or self.rail:
            return None
        if not self._charged:
            return Operation(Kind.AUTHORIZE if self.manual else Kind.CHARGE, self.amount.minor)
        if not self.captured_minor:
            if self.capture_minor:
                return Operation(Kind.CAPTURE, self.capture_minor)
            return Operation(Kind.VOID, self.authorized_minor) if self.cancelling else None
        pending = next((refund for refund in self.refunds if refund.state is RefundState.PENDING), None)
        return Operation(Kind.REFUND, pending.minor, pending.id) if pending else None

    def refund_outcome(self, refund: Refund) -> Outcome:
        """What is certain about one refund's money."""
        if refund.state is not RefundState.PENDING:
            return Outcome.SUCCEEDED if refund.state is RefundState.COMPLETED else Outcome.FAILED
        last = self.attempt
        unknown = last is not None and last.refund_id == refund.id and last.state is AttemptState.UNKNOWN
        return Outcome.UNKNOWN if unknown else Outcome.NONE

    def numbered(self, number: int) -> Attempt:
        """The attempt of this number. Raises `StopIteration` when there is none."""
        return next(attempt for attempt in self.attempts if attempt.number == number)

    def late_success(self, number: int) -> LateSuccess:
        """What is known of the late success of this attempt. Raises `StopIteration` when it had none."""
        return next(late for late in self.late if late.number == number)

    def refund(self, refund_id: str) -> Refund | None:
        """The refund of this id."""
        return next((refund for refund in self.refunds if refund.id == refund_id), None)

    # What users ask for.

    def ask_charge(self) -> Payment:
        """Charge what was held until now. Raises `IllegalMove`."""
        self._require(Status.PROCESSING)
        return self._next(held_until_ms=0)

    def let_go(self, reason: str, *, now_ms: int) -> Payment:
        """Give up what was never asked for. Raises `IllegalMove`."""
        if self.status is not Status.PENDING:
            raise IllegalMove(self._standing(), Status.CANCELLED, MOVES[self.status])
        return self._next(held_until_ms=0, cancelling=reason, cancelled=True, ended_ms=now_ms)

    def ask_capture(self, minor: int, asked_by: str = "") -> Payment:
        """Take `minor` of what is authorized; the rest is released. Raises `IllegalMove`."""
        self._require(Status.COMPLETED)
        if self.status is not Status.AUTHORIZED or self.capture_minor or self.cancelling:
            raise IllegalMove(self._standing(), Status.COMPLETED, ())
        return self._next(capture_minor=minor, **self._asked(asked_by))

    def ask_cancel(self, reason: str, asked_by: str = "") -> Payment:
        """Release what is authorized. Raises `IllegalMove`."""
        self._require(Status.CANCELLED)
        if self.status is not Status.AUTHORIZED or self.capture_minor or self.cancelling:
            raise IllegalMove(self._standing(), Status.CANCELLED, ())
        return self._next(cancelling=reason, **self._asked(asked_by))

    def was_asked_by(self, request: str) -> bool:
        """Whether the request with this name, which a refund shares, has asked for a change."""
        return request == self.asked_by or request in self.asked_before or self.refund(request) is not None

    def _asked(self, request: str) -> dict[str, Any]:
        before = (*self.asked_before, self.asked_by) if self.asked_by else self.asked_before
        return {"asked_by": request, "asked_before": before[-_ASKED_KEPT_MAX:]}

    def ask_refund(self, refund_id: str, minor: int, reason: str, *, now_ms: int) -> Payment:
        """Reserve a refund before anything is sent, so that racing ones cannot exceed what was captured.

        Raises `RefundNotAllowed` or `RefundTooLarge`.
        """
        standing = {"status": self.status.value, "allowed": ", ".join(MOVES[self.status])}
        if Status.REFUNDED not in MOVES[self.status]:
            raise RefundNotAllowed(f"a payment that is {self.status.value} cannot be refunded", **standing)
        if len(self.refunds) >= REFUNDS_MAX:
            raise RefundNotAllowed(f"the payment has {REFUNDS_MAX} refunds already", **standing)
        if not 0 < minor <= self.refundable_minor:
            left = Money(self.refundable_minor, self.amount.currency)
            raise RefundTooLarge(f"{left} is left to refund", **standing, left=left.text)
        refund = Refund(refund_id, minor, reason, RefundState.PENDING, now_ms)
        return self._next(refunds=(*self.refunds, refund))

    # What happens at the acquirer.

    def begin(self, operation: Operation, acquirer: str, *, now_ms: int, lease_ms: int, token: str = "") -> Payment:
        """The intent to send: written before a byte leaves, so that a crash leads to a question, not a second charge.

        An attempt that is known not to have left, or that the acquirer has never seen, keeps its number and so its
        idempotency key.
        """
        self._require_work()
        open_at = self.unsettled
        assert open_at is None or open_at.acquirer == acquirer, f"only {open_at.acquirer} knows what became of it"
        again = next((attempt for attempt in self.attempts if _same(attempt, operation, acquirer)), None)
        sending = Attempt(
            again.number if again else len(self.attempts) + 1,
            acquirer,
            AttemptState.SENDING,
            now_ms,
            now_ms + lease_ms,
            asked=again.asked if again else 0,
            kind=operation.kind,
            minor=operation.minor,
            refund_id=operation.refund_id,
            token=token,
            reverses=operation.reverses,
        )
        return self._next(attempts=(*(attempt for attempt in self.attempts if attempt is not again), sending))

    def leave_open(self, state: AttemptState, *, now_ms: int) -> Payment:
        """The latest attempt has no outcome: it was not sent, or nobody knows."""
        self._require_work()
        return self._next(attempts=self._attempts(state, now_ms, asked=1))

    def passed_over(self, state: AttemptState, *, now_ms: int, recheck_ms: int) -> Payment:
        """Certainly nothing moved at the latest attempt's acquirer; another one is tried next.

        From `recheck_ms` on it is asked once more: it may have been wrong, or a network may have delivered late.
        """
        self._require_work()
        return self._next(attempts=self._attempts(state, now_ms), recheck_ms=recheck_ms)

    def look_again(self, recheck_ms: int) -> Payment:
        """Ask the acquirers that were passed over once more, from then on; 0 when all have answered."""
        return self._next(recheck_ms=recheck_ms)

    def found_late(self, number: int, transaction_id: str, *, now_ms: int) -> Payment:
        """An acquirer that was passed over, or whose refusal ended the payment, took the money after all."""
        assert self.ended, "before its end it could still be the one success of the payment"
        assert self.numbered(number) in self.passed, "this attempt has another outcome"
        # An attempt of 0.1.0 does not say how much: it was all.
        minor = self.numbered(number).minor or self.amount.minor
        attempts = self._marked(number, AttemptState.LATE, minor=minor)
        return self._next(attempts=attempts, late=(*self.late, LateSuccess(number, transaction_id, now_ms)))

    def reversed(self, *, now_ms: int) -> Payment:
        """The acquirer gave back what it took too late."""
        number = self.attempts[-1].reverses
        ended = self._settled(AttemptState.APPROVED, now_ms)
        return msgspec.structs.replace(ended, attempts=ended._marked(number, AttemptState.REVERSED))

    def reversal_refused(self, word: str, *, now_ms: int) -> Payment:
        """The acquirer will not give back what it took too late."""
        number = self.attempts[-1].reverses
        late = tuple(
            msgspec.structs.replace(late, refused=word) if late.number == number else late for late in self.late
        )
        return self._settled(AttemptState.REJECTED, now_ms, late=late)

    def reversed_by_hand(self, number: int, settled_by: str) -> Payment:
        """People got back what the acquirer had refused to give back."""
        assert self.late_success(number).refused, "until then the engine gives it back by itself"
        return self._next(attempts=self._marked(number, AttemptState.REVERSED, settled_by=settled_by))

    def charged(self, transaction_id: str, *, now_ms: int) -> Payment:
        """The acquirer took the money at once."""
        self._require(Status.COMPLETED)
        minor = self.amount.minor
        return self._settled(
            AttemptState.APPROVED, now_ms,
            authorized_minor=minor, captured_minor=minor, transaction_id=transaction_id, ended_ms=now_ms,
        )  # fmt: skip

    def authorized(self, transaction_id: str, *, now_ms: int, until_ms: int) -> Payment:
        """The acquirer holds the money for us until `until_ms`."""
        self._require(Status.AUTHORIZED)
        return self._settled(
            AttemptState.APPROVED, now_ms,
            authorized_minor=self.amount.minor, authorized_until_ms=until_ms, transaction_id=transaction_id,
        )  # fmt: skip

    def captured(self, *, now_ms: int) -> Payment:
        """The acquirer took what was asked of it, and released the rest."""
        self._require(Status.COMPLETED)
        return self._settled(AttemptState.APPROVED, now_ms, captured_minor=self.capture_minor, ended_ms=now_ms)

    def voided(self, *, now_ms: int) -> Payment:
        """The acquirer released everything."""
        self._require(Status.CANCELLED)
        return self._settled(AttemptState.APPROVED, now_ms, cancelled=True, ended_ms=now_ms)

    def refused(self, *, now_ms: int) -> Payment:
        """The acquirer said no to a capture or a void: the payment stands as before it was asked."""
        return self._settled(AttemptState.REJECTED, now_ms, capture_minor=0, cancelling="")

    def fail(self, failure: Failure, *, now_ms: int, state: AttemptState = AttemptState.REJECTED) -> Payment:
        """The acquirer said no, or (`NOT_SENT`) the payment provably was not and cannot be sent."""
        self._require(Status.FAILED)
        return self._settled(state, now_ms, failure=failure, ended_ms=now_ms)

    def refund_ended(self, transaction_id: str, failure: Failure | None, *, now_ms: int) -> Payment:
        """The refund under way has its outcome; after a refusal its reservation is free again."""
        refund_id = self.attempts[-1].refund_id
        state = RefundState.COMPLETED if failure is None else RefundState.FAILED
        refunds = tuple(
            msgspec.structs.replace(
                refund, state=state, ended_ms=now_ms, transaction_id=transaction_id, failure=failure
            )
            if refund.id == refund_id
            else refund
            for refund in self.refunds
        )
        outcome = AttemptState.APPROVED if failure is None else AttemptState.REJECTED
        return self._settled(outcome, now_ms, refunds=refunds)

    def sign(self, settled_by: str) -> Payment:
        """The same version, its latest attempt marked as settled by hand."""
        signed = msgspec.structs.replace(self.attempts[-1], settled_by=settled_by)
        return msgspec.structs.replace(self, attempts=(*self.attempts[:-1], signed))

    def with_event(self, event_hash: str) -> Payment:
        """The same version, one event further."""
        return msgspec.structs.replace(self, sequence=self.sequence + 1, last_event_hash=event_hash)

    def _next(self, **changes: object) -> Payment:
        return msgspec.structs.replace(self, version=self.version + 1, **changes)

    def _settled(self, state: AttemptState, now_ms: int, **changes: object) -> Payment:
        return self._next(attempts=self._attempts(state, now_ms), **changes)

    def _attempts(self, state: AttemptState, now_ms: int, *, asked: int = 0) -> tuple[Attempt, ...]:
        if not self.attempts:
            return ()
        last = self.attempts[-1]
        # Lease and token have done their work, and every record pays for its length.
        ended = msgspec.structs.replace(
            last, state=state, ended_ms=now_ms, asked=last.asked + asked, lease_until_ms=0, token=""
        )
        return (*self.attempts[:-1], ended)

    def _marked(self, number: int, state: AttemptState, **changes: object) -> tuple[Attempt, ...]:
        return tuple(
            msgspec.structs.replace(attempt, state=state, **changes) if attempt.number == number else attempt
            for attempt in self.attempts
        )

    def _to_reverse(self, late: LateSuccess) -> bool:
        return not late.refused and self.numbered(late.number).state is AttemptState.LATE

    @property
    def _charged(self) -> bool:
        """Whether an acquirer holds or took the money. Records of 0.1.0 name only what was captured."""
        return bool(self.authorized_minor or self.captured_minor)

    def _standing(self) -> str:
        """The status, with what is already asked for."""
        if self.capture_minor and not self.captured_minor:
            return f"{self.status.value} and being captured"
        return f"{self.status.value} and being cancelled" if self.cancelling else self.status.value

    def _require_work(self) -> None:
        if self.operation is None:
            raise IllegalMove(self._standing(), Status.PROCESSING, MOVES[self.status])

    def _require(self, wanted: Status) -> None:
        allowed = MOVES[self.status]
        if wanted not in allowed:
            raise IllegalMove(self.status, wanted, allowed)


def attempt_id(payment: Payment, attempt: Attempt | None = None) -> str:
    """The id of an attempt (the latest if none is given): its idempotency key at the acquirer.

    Raises `IndexError` when there is no attempt.
    """
    return f"{payment.id}-a{(attempt or payment.attempts[-1]).number}"


def _same(attempt: Attempt, operation: Operation, acquirer: str) -> bool:
    """Whether a new try belongs to an earlier attempt: the same thing, at the same acquirer, still without outcome."""
    return (
        attempt.acquirer == acquirer
        and attempt.kind is operation.kind
        and attempt.refund_id == operation.refund_id
        and attempt.reverses == operation.reverses
        and attempt.state in (*_UNSETTLED, AttemptState.NOT_SENT)
    )
