"""A payment against a plain model of it, under any moves in any order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import IllegalMove
from engine.facts import AttemptState, Failure, Kind, Operation, Status
from engine.payment import Payment, attempt_id
from tests.engine.making import NOW_MS, PAYMENT_ID, a_payment, next_operation

OPEN = st.sampled_from([AttemptState.NOT_SENT, AttemptState.UNKNOWN])
ACQUIRERS = st.sampled_from(["bank", "other bank"])
CHARGE = Operation(Kind.CHARGE, a_payment().amount.minor)
FAILURES = st.builds(Failure, st.text(max_size=5), st.text(max_size=5), st.text(max_size=9))


class PaymentMachine(RuleBasedStateMachine):
    """The model is a status, a version, and a list of [number, acquirer, state, asked]."""

    def __init__(self) -> None:
        super().__init__()
        self.payment = a_payment()
        self.status = "processing"
        self.version = 1
        self.attempts: list[list[Any]] = []
        self.ids: list[str] = []
        self.now_ms = NOW_MS
        self.end: Payment | None = None
        self.passed_over_once = False

    @property
    def may_have_charged(self) -> bool:
        return bool(self.attempts) and self.attempts[-1][2] in ("sending", "unknown")

    @rule(acquirer=ACQUIRERS, lease_ms=st.integers(1, 10**6))
    def begin(self, acquirer: str, lease_ms: int) -> None:
        last = self.attempts[-1] if self.attempts else None
        if self.status != "processing":
            assert self.payment.operation is None
            self.refused(lambda: self.payment.begin(CHARGE, acquirer, now_ms=self.now_ms, lease_ms=lease_ms))
            return
        operation = next_operation(self.payment)
        assert operation == CHARGE
        if last and last[1] != acquirer and self.may_have_charged:
            with pytest.raises(AssertionError):
                self.payment.begin(operation, acquirer, now_ms=self.now_ms, lease_ms=lease_ms)
            return
        self.now_ms += 1
        self.payment = self.payment.begin(operation, acquirer, now_ms=self.now_ms, lease_ms=lease_ms)
        self.version += 1
        again = [attempt for attempt in self.attempts if attempt[1] == acquirer and attempt[2] != "rejected"]
        if again:
            (attempt_again,) = again
            attempt_again[2] = "sending"
            self.attempts.remove(attempt_again)
            self.attempts.append(attempt_again)
            assert attempt_id(self.payment) == self.ids[attempt_again[0] - 1]
        else:
            self.attempts.append([len(self.attempts) + 1, acquirer, "sending", 0])
            self.ids.append(attempt_id(self.payment))
        attempt = self.payment.attempts[-1]
        assert (attempt.started_ms, attempt.lease_until_ms) == (self.now_ms, self.now_ms + lease_ms)

    @precondition(lambda self: self.attempts)
    @rule(state=OPEN)
    def leave_open(self, state: AttemptState) -> None:
        if self.status != "processing":
            self.refused(lambda: self.payment.leave_open(state, now_ms=self.now_ms))
            return
        self.payment = self.payment.leave_open(state, now_ms=self.now_ms)
        self.version += 1
        self.attempts[-1][2] = state.value
        self.attempts[-1][3] += 1

    @precondition(lambda self: self.attempts)
    @rule(state=st.sampled_from([AttemptState.NOT_SENT, AttemptState.REJECTED]))
    def passed_over(self, state: AttemptState) -> None:
        if self.status != "processing":
            self.refused(lambda: self.payment.passed_over(state, now_ms=self.now_ms, recheck_ms=self.now_ms + 9))
            return
        if self.attempts[-1][2] == "rejected":
            return
        self.payment = self.payment.passed_over(state, now_ms=self.now_ms, recheck_ms=self.now_ms + 9)
        self.version += 1
        self.attempts[-1][2] = state.value
        self.passed_over_once = True

    @precondition(lambda self: self.attempts)
    @rule(transaction_id=st.text(min_size=1, max_size=5))
    def charged(self, transaction_id: str) -> None:
        if self.status != "processing":
            self.refused(lambda: self.payment.charged(transaction_id, now_ms=self.now_ms))
            return
        self.payment = self.payment.charged(transaction_id, now_ms=self.now_ms)
        self.ended("completed", "approved")

    @precondition(lambda self: self.attempts)
    @rule(failure=FAILURES, state=st.sampled_from([AttemptState.REJECTED, AttemptState.NOT_SENT]))
    def fail(self, failure: Failure, state: AttemptState) -> None:
        if self.status != "processing":
            self.refused(lambda: self.payment.fail(failure, now_ms=self.now_ms, state=state))
            return
        self.payment = self.payment.fail(failure, now_ms=self.now_ms, state=state)
        self.ended("failed", state.value)

    def ended(self, status: str, attempt: str) -> None:
        self.status = status
        self.version += 1
        self.attempts[-1][2] = attempt
        self.end = self.payment

    def refused(self, move: Any) -> None:
        with pytest.raises(IllegalMove):
            move()

    @invariant()
    def is_as_the_model_says(self) -> None:
        payment = self.payment
        assert (payment.status.value, payment.version) == (self.status, self.version)
        found = [[attempt.number, attempt.acquirer, attempt.state.value, attempt.asked] for attempt in payment.attempts]
        assert found == self.attempts
        assert (payment.unsettled is not None) is self.may_have_charged
        assert (payment.operation is None) is payment.ended is (self.status != "processing")
        assert payment.at_rest is (payment.ended and not self.passed_over_once)
        assert payment.captured_minor == (payment.amount.minor if self.status == "completed" else 0)

    @invariant()
    def an_attempt_keeps_its_id(self) -> None:
        assert self.ids == [f"{PAYMENT_ID}-a{number + 1}" for number in range(len(self.attempts))]
        assert sorted(attempt[0] for attempt in self.attempts) == list(range(1, len(self.attempts) + 1))

    @invariant()
    def an_end_is_kept(self) -> None:
        assert self.end is None or (self.payment == self.end and self.payment.status is not Status.PROCESSING)

    @invariant()
    def its_json_keeps_everything_and_begins_with_the_version(self) -> None:
        text = msgspec.json.encode(self.payment)
        assert text.startswith(b'{"v":%d,' % self.version)
        assert msgspec.json.decode(text, type=Payment) == self.payment


PaymentMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=15, deadline=None)
TestPayment = PaymentMachine.TestCase
