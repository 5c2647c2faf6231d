"""Refund, capture, cancel, repeat, key reuse, answers and silence in any order, against a plain model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.accepting import Caller
from engine.changes import Change, Conflict
from engine.changing import Changing
from engine.errors import AmountRefused, EngineError, IllegalMove, KeyReused, RefundNotAllowed, RefundTooLarge
from engine.events import history
from engine.facts import AttemptState
from engine.idempotency import Fingerprints, KeyRecord
from engine.ids import PaymentId
from engine.money import Money
from engine.payment import Payment, attempt_id
from engine.settling import Approved, Declined
from tests.changes.making import Story
from tests.engine.making import PAYMENT_ID, FakeClock, a_payment
from tests.engine.stepping import Run

TOTAL = 10
KEYS = st.sampled_from([None, None, "k1", "k2", "k3"])
ANSWERS = st.sampled_from(["approve", "decline", "lose", "act and be silent"])


class Memory:
    """The one payment and its keys, with a compare-and-set."""

    def __init__(self, payment: Payment) -> None:
        self.story = Story(payment)
        self.keys: dict[str, KeyRecord] = {}

    async def get(self, payment_id: PaymentId) -> Payment | None:
        return self.story.payment if payment_id == PAYMENT_ID else None

    async def apply_and_enqueue(self, change: Change) -> Conflict | None:
        assert change.payment.version == self.story.payment.version + 1
        assert change.due_ms is not None
        self.story = self.story.after(change)
        return None

    async def key(self, digest: str) -> KeyRecord | None:
        return self.keys.get(digest)

    async def claim_key(self, digest: str, record: KeyRecord) -> KeyRecord:
        return self.keys.setdefault(digest, record)


class ChangesMachine(RuleBasedStateMachine):
    """The model: a phase, what is asked, what was captured, and a list of [id, minor, state] for refunds."""

    @initialize(manual=st.booleans())
    def create(self, manual: bool) -> None:
        payment = msgspec.structs.replace(a_payment(minor=TOTAL), manual=manual)
        self.clock = FakeClock()
        self.store = Memory(payment)
        numbers = itertools.count(1)
        self.changing = Changing(
            self.store, Fingerprints(b"s" * 32), lambda: f"ref-{next(numbers)}", self.clock, lambda: None
        )
        self.manual, self.phase, self.asked = manual, "processing", ""
        self.asked_keys: set[str] = set()
        self.captured = self.to_capture = 0
        self.refunds: list[list[Any]] = []
        self.keys: dict[str, list[Any]] = {}
        self.effects: dict[str, int] = {}
        self.truth: Approved | Declined | None = None
        self.known, self.unsettled = True, False

    @property
    def payment(self) -> Payment:
        return self.store.story.payment

    @property
    def gone_back(self) -> int:
        return sum(int(minor) for _, minor, state in self.refunds if state == "completed")

    @property
    def left(self) -> int:
        return self.captured - sum(int(minor) for _, minor, state in self.refunds if state != "failed")

    @property
    def status(self) -> str:
        if self.phase != "captured":
            return self.phase
        back = self.gone_back
        return "completed" if not back else "refunded" if back == self.captured else "partially_refunded"

    @rule(minor=st.none() | st.integers(1, TOTAL + 2), key=KEYS)
    def refund(self, minor: int | None, key: str | None) -> None:
        wish = ["refund", minor]
        claimed = self.keys.get(key) if key else None
        replayed = claimed is not None and claimed[0] == wish and claimed[1] is not None
        wanted = self.left if minor is None else minor
        refusal: type[EngineError] | None = None
        if claimed is not None and claimed[0] != wish:
            refusal = KeyReused
        elif not replayed and self.status not in ("completed", "partially_refunded"):
            refusal = RefundNotAllowed
        elif not replayed and not 0 < wanted <= self.left:
            refusal = RefundTooLarge
        done = self.ask(
            lambda: self.changing.refund(PAYMENT_ID, CALLER, amount=_text(minor), reason=None, key=key), refusal
        )
        if done is None:
            return
        if key and claimed is None:
            claimed = self.keys[key] = [wish, None]
        assert done.replayed is (claimed is not None and (replayed or done.replayed))
        if replayed:
            assert claimed is not None
            assert done.refund.id == claimed[1]
            return
        assert done.refund.id not in [refund[0] for refund in self.refunds]
        assert done.refund.minor == wanted
        self.refunds.append([done.refund.id, wanted, "pending"])
        if claimed is not None:
            claimed[1] = done.refund.id

    @rule(minor=st.none() | st.integers(1, TOTAL + 2), key=KEYS)
    def capture(self, minor: int | None, key: str | None) -> None:
        wanted = TOTAL if minor is None else minor
        if wanted > TOTAL:
            self.ask(lambda: self.changing.capture(PAYMENT_ID, CALLER, amount=_text(minor), key=key), AmountRefused)
            return
        if self.move(
            ["capture", wanted],
            key,
            lambda: self.changing.capture(PAYMENT_ID, CALLER, amount=_text(minor), key=key),
        ):
            self.to_capture = wanted

    @rule(reason=st.sampled_from(["a", "b"]), key=KEYS)
    def cancel(self, reason: str, key: str | None) -> None:
        self.move(["cancel", reason], key, lambda: self.changing.cancel(PAYMENT_ID, CALLER, reason=reason, key=key))

    def move(self, wish: list[Any], key: str | None, call: Callable[[], Any]) -> bool:
        """A capture or cancellation; whether it was taken now."""
        claimed = self.keys.get(key) if key else None
        replayed = claimed is not None and claimed[0] == wish and key in self.asked_keys
        refusal: type[EngineError] | None = None
        if claimed is not None and claimed[0] != wish:
            refusal = KeyReused
        elif not replayed and (self.phase != "authorized" or self.asked):
            refusal = IllegalMove
        done = self.ask(call, refusal)
        if done is None:
            return False
        if key and claimed is None:
            self.keys[key] = [wish, None]
        if replayed:
            return False
        self.asked = wish[0]
        self.asked_keys |= {key} if key else set()
        return True

    def ask(self, call: Callable[[], Any], refusal: type[EngineError] | None) -> Any:
        """The answer; a refusal must be the expected one, and leave the payment as it was."""
        before = self.payment
        found: list[Any] = []

        async def asking() -> None:
            try:
                found.append(await call())
            except EngineError as error:
                found.append(error)

        Run(asking()).finish()
        if refusal is not None:
            assert type(found[0]) is refusal, found
            assert self.payment == before
            return None
        assert not isinstance(found[0], EngineError), found
        return found[0]

    @precondition(lambda self: self.payment.operation is not None and self.known)
    @rule(answer=ANSWERS)
    def act(self, answer: str) -> None:
        """What is next is sent. Lost or silent, it is unknown; asked about, it is sent again under the same id."""
        operation = self.payment.operation
        assert operation is not None
        assert (operation.kind.value, operation.minor) == self.next_operation()
        self.clock.advance(1)
        self.store.story = self.store.story.sending(self.clock())
        assert len({attempt.number for attempt in self.payment.attempts}) == len(self.payment.attempts)
        attempt = attempt_id(self.payment)
        approved = answer in ("approve", "act and be silent")
        self.truth = Approved(f"txn of {attempt}") if approved else Declined("no", "No")
        if approved:
            assert attempt not in self.effects, "done twice"
            self.effects[attempt] = operation.minor
        if answer in ("approve", "decline"):
            self.learn()
        else:
            self.truth = self.truth if approved else None
            self.known, self.unsettled = False, True
            opened = self.payment.leave_open(AttemptState.UNKNOWN, now_ms=self.clock())
            self.store.story = self.store.story._replace(payment=opened)

    @precondition(lambda self: not self.known)
    @rule()
    def find_out(self) -> None:
        """The acquirer is asked: it tells the truth, or has never seen it."""
        if self.truth is not None:
            self.learn()
        self.known = True

    def learn(self) -> None:
        """The definite answer, here and in the model."""
        assert self.truth is not None
        kind, minor = self.next_operation()
        approved = isinstance(self.truth, Approved)
        self.unsettled = False
        self.store.story = self.store.story.answered(self.truth, self.clock())
        match kind:
            case "charge" | "authorize":
                self.phase = ("authorized" if self.manual else "captured") if approved else "failed"
                self.captured = minor if approved and not self.manual else 0
            case "capture":
                self.phase, self.captured = ("captured", minor) if approved else ("authorized", 0)
                self.asked = ""
            case "void":
                self.phase, self.asked = ("cancelled" if approved else "authorized"), ""
            case _:
                pending = next(refund for refund in self.refunds if refund[2] == "pending")
                pending[2] = "completed" if approved else "failed"

    def next_operation(self) -> tuple[str, int]:
        """What the model would do next."""
        if self.phase == "processing":
            return ("authorize" if self.manual else "charge"), TOTAL
        if self.asked:
            return ("capture", self.to_capture) if self.asked == "capture" else ("void", TOTAL)
        return "refund", next(minor for _, minor, state in self.refunds if state == "pending")

    @invariant()
    def agrees(self) -> None:
        """Status, refunds, rows, events and the acquirer's effects all tell the same."""
        if not hasattr(self, "store"):
            return
        payment, story = self.payment, self.store.story
        assert payment.status == self.status
        assert [[each.id, each.minor, each.state.value] for each in payment.refunds] == self.refunds
        assert payment.refundable_minor == self.left >= 0
        assert payment.captured_minor == self.captured
        rows = [row for each in story.transactions for row in each.rows if row.account == "acquirer:bank"]
        assert sum(row.minor for row in rows) == self.captured - self.gone_back
        assert history(payment, [event.body for event in story.events]) == list(story.events)
        assert [event.sequence for event in story.events] == list(range(1, payment.sequence + 1))
        pending = any(refund[2] == "pending" for refund in self.refunds)
        assert (payment.operation is None) is (self.phase != "processing" and not self.asked and not pending)
        refunds = [each for each in payment.attempts if each.kind == "refund"]
        back = [each.minor for each in refunds if attempt_id(payment, each) in self.effects]
        assert sum(back) <= self.captured
        assert (payment.outcome == "unknown") is self.unsettled


CALLER = Caller("tests", privileged=True)


def _text(minor: int | None) -> str | None:
    return None if minor is None else Money(minor, "USD").text


TestChanges = ChangesMachine.TestCase
TestChanges.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_refused_request_that_is_repeated_after_another_asks_for_nothing() -> None:
    """A story that the machine tells itself too seldom."""
    machine = ChangesMachine()
    machine.create(manual=True)
    machine.act(answer="approve")
    for key in ("k1", "k2"):
        machine.capture(minor=5, key=key)
        machine.act(answer="decline")
    machine.capture(minor=5, key="k1")
    assert machine.payment.operation is None
    assert machine.effects == {f"{PAYMENT_ID}-a1": TOTAL}
