"""A store and an acquirer in memory, with a pause before and behind everything that they do."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry

from app.observing import PaymentObserver
from app.sampling import SuccessRate
from engine.cards import SealedInstrument
from engine.changes import Change, Conflict, Job
from engine.charging import AcquirerRequest, Acquirers, Charging, NeverSeen, NotSent, Outcome, Unknown
from engine.events import PaymentEvent
from engine.facts import AttemptState, Kind, Status
from engine.ids import PaymentId
from engine.items import Item
from engine.ledger import Transaction
from engine.money import Money
from engine.payment import Payment, attempt_id
from engine.settling import Approved, Declined
from engine.waking import Changed
from metrics.instruments import Instruments
from tests.engine.making import PAYMENT_ID, FakeClock, a_card, a_payment, a_sealer
from tests.engine.stepping import Crash, Pause, Run, drive

LEASE_S = 20.0
RECHECK_AFTER_S = 300.0
REDRIVE_MS = 120_000
INSTRUMENTS = Instruments(CollectorRegistry())
"""For tests that do not look at it: making one takes longer than the test."""


class MemoryStore:
    """Keeps records as the JSON that Redis would hold, and compares versions before it sets."""

    def __init__(self) -> None:
        self.records: dict[PaymentId, bytes] = {}
        self.sealed: dict[PaymentId, SealedInstrument] = {}
        self.orders: dict[str, PaymentId] = {}
        self.due: dict[PaymentId, int] = {}
        self.jobs: list[Job] = []
        self.unknown: set[PaymentId] = set()
        self.transactions: list[Transaction] = []
        self.events: list[PaymentEvent] = []
        self.history: list[Payment] = []
        self.items: dict[str, Item] = {}

    def add(self, payment: Payment, sealed: SealedInstrument) -> Job:
        """What accepting leaves behind."""
        self._write(payment)
        self.sealed[payment.id] = sealed
        self.orders[payment.order_id] = payment.id
        self.due[payment.id] = payment.created_ms + REDRIVE_MS
        return self.add_job(payment.id, payment)

    def add_job(self, payment_id: PaymentId, hint: Payment | None = None) -> Job:
        job = Job(payment_id, hint, f"{len(self.history)}-{len(self.jobs)}")
        self.jobs.append(job)
        return job

    def now(self, payment_id: PaymentId = PAYMENT_ID) -> Payment:
        """The record, without a pause."""
        return msgspec.json.decode(self.records[payment_id], type=Payment)

    async def get(self, payment_id: PaymentId) -> Payment | None:
        await Pause()
        record = self.records.get(payment_id)
        await Pause()
        return None if record is None else msgspec.json.decode(record, type=Payment)

    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict:
        await Pause()
        conflict = self._compare(payment)
        if conflict is None:
            self._write(payment)
            self.due[payment.id] = due_ms
        sealed = self.sealed.get(payment.id, SealedInstrument(b"", None))
        await Pause()
        return sealed if conflict is None or self._is_own_trace(conflict, payment) else conflict

    async def apply(self, change: Change, job: Job | None = None) -> Conflict | None:
        await Pause()
        conflict = self._compare(change.payment)
        if conflict is None:
            self._apply(change)
            self.drop(job)
        await Pause()
        return None if conflict is None or self._is_own_trace(conflict, change.payment) else conflict

    async def end_job(self, job: Job) -> None:
        await Pause()
        self.drop(job)
        await Pause()

    async def put_off(self, payment_id: PaymentId, job: Job | None, *, due_ms: int) -> None:
        await Pause()
        if payment_id in self.due:
            self.due[payment_id] = due_ms
        self.drop(job)
        await Pause()

    def _apply(self, change: Change) -> None:
        payment = change.payment
        self._write(payment)
        self.transactions += change.transactions
        self.events += change.events
        for item in change.items:
            self.items[item.id] = item.over(self.items.get(item.id)) or self.items[item.id]
        if change.due_ms is None:
            del self.due[payment.id]
        else:
            self.due[payment.id] = change.due_ms
        (self.unknown.add if change.unknown else self.unknown.discard)(payment.id)
        if change.forget_instrument:
            self.sealed.pop(payment.id, None)
        if change.release_order:
            del self.orders[payment.order_id]

    def _compare(self, payment: Payment) -> Conflict | None:
        record = self.records.get(payment.id)
        current = None if record is None else msgspec.json.decode(record, type=Payment)
        version = 0 if current is None else current.version
        return None if version == payment.version - 1 else Conflict(current)

    def _is_own_trace(self, conflict: Conflict, payment: Payment) -> bool:
        """As in Redis: an equal record is taken for an earlier try of the same step, whose answer was lost."""
        return conflict.current is not None and msgspec.json.encode(conflict.current) == msgspec.json.encode(payment)

    def _write(self, payment: Payment) -> None:
        self.records[payment.id] = msgspec.json.encode(payment)
        self.history.append(payment)

    def drop(self, job: Job | None) -> None:
        """Take the job off the stream."""
        if job in self.jobs:
            self.jobs.remove(job)


class Say(Enum):
    """What the acquirer does with one request."""

    APPROVE = auto()
    DECLINE = auto()
    TAKE_SILENTLY = auto()
    """The money moves, no answer comes."""
    DECLINE_SILENTLY = auto()
    LOSE = auto()
    """Nothing arrives, no answer comes."""
    NOT_SENT = auto()
    TELL = auto()
    """Questions only: the truth."""


class Bank:
    """An acquirer that dedupes by attempt id. It plays its script request by request, the last line for ever."""

    def __init__(
        self, store: MemoryStore, *charges: Say, questions: tuple[Say, ...] = (Say.TELL,), name: str = "bank"
    ) -> None:
        self.name = name
        self._store = store
        self._charges = list(charges) or [Say.APPROVE]
        self._questions = list(questions)
        self.decided: dict[str, Outcome] = {}
        self.effects: list[str] = []
        """The attempt id of every time that money moved."""
        self.requests: list[AcquirerRequest] = []
        self.asked: list[str] = []
        self.intents: list[Payment] = []
        """The record as it stood when a charge was about to leave."""
        self.in_flight = self.in_flight_max = 0

    async def send(self, request: AcquirerRequest) -> Outcome:
        self.requests.append(request)
        self.intents.append(self._store.now(request.payment_id))
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            return await self._send(request)
        finally:
            self.in_flight -= 1

    async def _send(self, request: AcquirerRequest) -> Outcome:
        say = self._next(self._charges)
        await Pause()
        if say is Say.NOT_SENT:
            return NotSent("connection refused", 3.0)
        if say is not Say.LOSE:
            self._decide(request, say)
        await Pause()
        return self.decided[request.attempt_id] if say in (Say.APPROVE, Say.DECLINE) else Unknown("silence")

    async def find(self, kind: Kind, attempt_id: str, amount: Money, transaction_id: str) -> Outcome | NeverSeen:
        assert amount == self._store.now().amount
        self.asked.append(attempt_id)
        say = self._next(self._questions)
        await Pause()
        truth = self.decided.get(attempt_id, NeverSeen())
        await Pause()
        match say:
            case Say.TELL:
                return truth
            case Say.NOT_SENT:
                return NotSent("the circuit is open", 9.0)
            case _:
                return Unknown("silence")

    def _decide(self, request: AcquirerRequest, say: Say) -> None:
        if request.attempt_id in self.decided:
            return
        if say in (Say.APPROVE, Say.TAKE_SILENTLY):
            self.effects.append(request.attempt_id)
            self.decided[request.attempt_id] = Approved(f"txn-{len(self.effects)}")
        else:
            self.decided[request.attempt_id] = Declined("insufficient_funds", "Insufficient funds")

    def _next(self, script: list[Say]) -> Say:
        return script.pop(0) if len(script) > 1 else script[0]


class Script(NamedTuple):
    """How an acquirer behaves in a test."""

    charges: tuple[Say, ...]
    questions: tuple[Say, ...] = (Say.TELL,)


APPROVES = Script((Say.APPROVE,))


class Outcomes(SuccessRate):
    """Whether each payment that ended was completed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def count(self, completed: bool) -> None:
        self.seen.append(completed)
        super().count(completed)


class World:
    """One accepted payment, a worker, an acquirer, and a clock."""

    def __init__(self, script: Script = APPROVES, *, instruments: Instruments = INSTRUMENTS, hint: bool = True) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.bank = Bank(self.store, *script.charges, questions=script.questions)
        rate = Outcomes()
        self.outcomes = rate.seen
        self._observer = PaymentObserver(instruments, rate, Changed())
        self._tokens = 0
        payment = a_payment()
        job = self.store.add(payment, a_sealer().seal(payment.id, a_card()))
        self.job = job if hint else job._replace(hint=None)
        self.store.jobs = [self.job]

    def charging(self, bank: Bank | None = None, clock: Callable[[], int] | None = None) -> Charging:
        """A worker's hands, as after a restart."""
        bank = bank or self.bank
        return Charging(
            self.store,
            Acquirers({bank.name: bank}, {"credit_card": [bank.name]}),
            a_sealer(),
            self._observer,
            clock or self.clock,
            lease_s=LEASE_S,
            recheck_after_s=RECHECK_AFTER_S,
            new_token=self._token,
        )

    def _token(self) -> str:
        self._tokens += 1
        return str(self._tokens)

    @property
    def payment(self) -> Payment:
        return self.store.now()

    @property
    def due_in_ms(self) -> int:
        """How long until the reconciler looks again."""
        return self.store.due[PAYMENT_ID] - self.clock()

    def process(self, job: Job | None = None) -> Payment:
        """Process one job without trouble."""
        drive(self.charging().process(job or self.job))
        return self.payment

    def process_when_due(self) -> Payment:
        """Let time pass until the reconciler gives the payment a job again, and process that."""
        self.clock.advance(max(0, self.due_in_ms))
        return self.process(self.store.add_job(PAYMENT_ID))

    def heal(self, rounds_max: int = 12) -> None:
        """Go on as a live system would: jobs left behind are claimed, what is due is driven again."""
        for _ in range(rounds_max):
            for job in list(self.store.jobs):
                self.process(job._replace(hint=None))
                self.store.drop(job)
            if self.payment.ended:
                return
            self.process_when_due()
        raise AssertionError(f"not healed: {self.payment}")

    def check(self) -> None:
        """All that must be true of a payment that has ended, whatever happened on the way."""
        payment, store, bank = self.payment, self.store, self.bank
        assert payment.ended and payment.at_rest
        assert not store.jobs and not store.due and not store.unknown and not store.sealed
        assert len(bank.effects) <= 1, "charged twice"
        completed = payment.status is Status.COMPLETED
        assert completed is bool(bank.effects), "the record and the acquirer disagree"
        assert completed or isinstance(bank.decided[attempt_id(payment)], Declined), "failed without a refusal"
        assert payment.transaction_id == ("txn-1" if completed else "")
        assert [transaction.id for transaction in store.transactions] == [f"{payment.id}-capture"] * completed
        assert [event.id for event in store.events] == [f"{payment.id}-1"]
        assert store.events[0].type == ("payment_completed" if completed else "payment_failed")
        assert store.orders == ({payment.order_id: payment.id} if completed else {})
        self.check_history()

    def check_history(self) -> None:
        """Versions without gaps, one attempt id for ever, no move out of an end, an intent before every charge."""
        history = self.store.history
        assert [payment.version for payment in history] == list(range(1, len(history) + 1))
        assert not any(payment.ended for payment in history[:-1])
        assert {request.attempt_id for request in self.bank.requests} <= {f"{PAYMENT_ID}-a1"}
        for request, intent in zip(self.bank.requests, self.bank.intents, strict=True):
            assert attempt_id(intent) == request.attempt_id
            assert request.payment_id == PAYMENT_ID and request.amount == intent.amount
            assert request.kind is Kind.CHARGE and request.transaction_id == ""

    def intents_were_sending(self) -> bool:
        """Whether every charge found its intent written and unanswered."""
        return all(intent.attempts[-1].state is AttemptState.SENDING for intent in self.bank.intents)


def crash_at(run: Run, place: int, error: type[BaseException] = Crash) -> bool:
    """Crash at the await number `place` (from 0). False when the run ended before it."""
    for _ in range(place + 1):
        run.step()
        if run.done:
            return False
    run.crash(error())
    return True
