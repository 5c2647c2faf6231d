"""An acquirer that was passed over has charged after all: the money goes back there once, and the books say so."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from app.observing import PaymentObserver
from app.sampling import SuccessRate
from engine.charging import Acquirers, Charging
from engine.facts import Attempt, AttemptState, Kind, Status
from engine.payment import Payment
from engine.settling import Approved, Declined
from engine.waking import Changed
from tests.engine.charging_world import INSTRUMENTS, LEASE_S, RECHECK_AFTER_S, Bank, MemoryStore, Say, crash_at
from tests.engine.making import PAYMENT_ID, FakeClock, a_card, a_payment, a_sealer
from tests.engine.stepping import Run

RECHECK_MS = int(RECHECK_AFTER_S * 1000)
PLACES_MAX = 40
A1, A3 = f"{PAYMENT_ID}-a1", f"{PAYMENT_ID}-a3"


class Two:
    """One accepted payment and two acquirers; the first could not be reached."""

    def __init__(
        self, *south: Say, north: tuple[Say, ...] = (Say.NOT_SENT, Say.APPROVE), manual: bool = False, **told: Any
    ) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.north = Bank(self.store, *north, name="north", **told)
        self.south = Bank(self.store, *(south or (Say.APPROVE,)), name="south")
        self._tokens = 0
        payment = msgspec.structs.replace(a_payment(), manual=manual)
        self.store.add(payment, a_sealer().seal(payment.id, a_card()))

    def run(self) -> Run:
        """A worker with the payment's job."""
        job = self.store.jobs[-1]._replace(hint=None)
        self.store.jobs[-1] = job
        banks = {bank.name: bank for bank in (self.north, self.south)}
        charging = Charging(
            self.store, Acquirers(banks, {"credit_card": list(banks)}), a_sealer(),
            PaymentObserver(INSTRUMENTS, SuccessRate(), Changed()), self.clock,
            lease_s=LEASE_S, recheck_after_s=RECHECK_AFTER_S, new_token=self._token,
        )  # fmt: skip
        return Run(charging.process(job))

    def work(self) -> Payment:
        """Do the job."""
        self.run().finish()
        return self.payment

    def when_due(self) -> Payment:
        """Let time pass until the payment is looked at, and do that."""
        self.wait()
        return self.work()

    def wait(self) -> None:
        """Let time pass until the reconciler gives the payment a job."""
        self.clock.now_ms = max(self.clock.now_ms, self.store.due[PAYMENT_ID])
        self.store.jobs = []
        self.store.add_job(PAYMENT_ID)

    def deliver_late(self) -> None:
        """What the first acquirer was never sent, as everybody thought, gets there."""
        self.north.effects.append(A1)
        self.north.decided[A1] = Approved("north-txn")

    def rest(self) -> Payment:
        """Go on until nothing is left to do."""
        for _ in range(12):
            if not self.store.due:
                return self.payment
            self.when_due()
        raise AssertionError(f"does not come to rest: {self.payment}")

    def sums(self) -> dict[str, int]:
        """The ledger, by account."""
        found: Counter[str] = Counter()
        for transaction in self.store.transactions:
            for row in transaction.rows:
                found[row.account] += row.minor
        return {account: minor for account, minor in found.items() if minor}

    @property
    def payment(self) -> Payment:
        return self.store.now()

    def _token(self) -> str:
        self._tokens += 1
        return str(self._tokens)


def tries(payment: Payment) -> list[tuple[int, str, str, str, int]]:
    """The attempts: number, acquirer, kind, state, and whose money each gives back."""
    return [(a.number, a.acquirer, a.kind.value, a.state.value, a.reverses) for a in payment.attempts]


def test_what_the_first_took_too_late_goes_back_there_and_is_booked_in_and_out() -> None:
    two = Two()
    charged = two.work()
    assert charged.status is Status.COMPLETED and not charged.at_rest
    assert two.store.due[PAYMENT_ID] == two.clock() + RECHECK_MS
    two.deliver_late()
    with capture_logs() as logs:
        payment = two.when_due()
    assert tries(payment) == [
        (1, "north", "charge", "reversed", 0),
        (2, "south", "charge", "approved", 0),
        (3, "north", "refund", "approved", 1),
    ]  # fmt: skip
    (request,) = two.north.requests[1:]
    assert (request.attempt_id, request.transaction_id, request.instrument) == (A3, "north-txn", None)
    assert request.amount == payment.amount
    assert (payment.status, payment.captured_minor, payment.refunded_minor) == (Status.COMPLETED, 7548, 0)
    assert payment.charged_by == "south" and payment.refundable_minor == 7548
    assert two.sums() == {"acquirer:south": 7548, "merchant:core": -7548}
    assert [each.id.removeprefix(PAYMENT_ID) for each in two.store.transactions] == [
        "-capture",
        "-a1-late",
        "-a1-reversed",
    ]
    (item,) = two.store.items.values()
    assert (item.attempt, item.stated, item.believed, item.open) == (A1, "charge 7548 USD", "not_sent", False)
    assert (logs[0]["log_level"], logs[0]["event"], logs[0]["item"]) == ("error", "late success", item.id)
    assert two.rest().at_rest


def test_who_never_saw_it_is_asked_once_and_not_again() -> None:
    two = Two()
    two.work()
    payment = two.when_due()
    assert two.north.asked == [A1] and payment.at_rest and not two.store.due
    assert tries(payment)[0][3] == "not_sent" and not payment.late and not two.store.items


def test_a_single_acquirer_that_declines_is_not_asked_again() -> None:
    """Nobody was passed over: its word stands, and a statement tells if it was wrong."""
    two = Two(north=(Say.DECLINE,))
    payment = two.work()
    assert payment.status is Status.FAILED and payment.at_rest and not two.store.due


def test_while_the_first_does_not_tell_it_is_asked_with_growing_pauses() -> None:
    two = Two(questions=(Say.LOSE, Say.NOT_SENT, Say.LOSE, Say.TELL))
    two.work()
    pauses = []
    for _ in range(3):
        two.when_due()
        pauses.append(two.store.due[PAYMENT_ID] - two.clock())
    assert pauses == [RECHECK_MS, 2 * RECHECK_MS, 4 * RECHECK_MS]
    two.deliver_late()
    assert tries(two.rest())[0][3] == "reversed"


def test_a_failed_payment_stays_failed_and_its_money_goes_back() -> None:
    two = Two(Say.DECLINE)
    failed = two.work()
    two.deliver_late()
    payment = two.rest()
    assert payment.status is failed.status is Status.FAILED
    assert (payment.failure, payment.sequence) == (failed.failure, failed.sequence)
    assert [row[3] for row in tries(payment)] == ["reversed", "rejected", "approved"]
    assert two.sums() == {} and two.store.orders == {} and len(two.store.events) == 1


def test_a_retryable_decline_that_was_none_is_found_too() -> None:
    two = Two(north=(Say.APPROVE,))
    two.north.decided[A1] = Declined("try_another", "Try another", retryable=True)
    two.work()
    two.deliver_late()
    assert [row[3] for row in tries(two.rest())] == ["reversed", "approved", "approved"]


def test_a_hold_that_came_too_late_is_released_and_moves_no_money() -> None:
    two = Two(manual=True)
    two.work()
    two.deliver_late()
    payment = two.when_due()
    assert payment.status is Status.AUTHORIZED
    assert tries(payment)[0] == (1, "north", "authorize", "reversed", 0)
    assert tries(payment)[2] == (3, "north", "void", "approved", 1)
    assert two.store.transactions == [] and not any(item.open for item in two.store.items.values())
    assert two.store.due[PAYMENT_ID] == payment.rests_until_ms


def test_a_refused_reversal_is_not_tried_again_and_stays_open_for_people() -> None:
    two = Two(north=(Say.NOT_SENT, Say.DECLINE))
    two.work()
    two.deliver_late()
    with capture_logs() as logs:
        payment = two.rest()
    assert [row[3] for row in tries(payment)] == ["late", "approved", "rejected"]
    assert payment.late[0].refused == "insufficient_funds" and payment.at_rest
    assert len(two.north.requests) == 2
    assert two.sums() == {
        "acquirer:north": 7548, "suspense:late": -7548, "acquirer:south": 7548, "merchant:core": -7548,
    }  # fmt: skip
    assert [item.open for item in two.store.items.values()] == [True]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["late success", "reversal refused"]
    by_hand = payment.reversed_by_hand(1, "ann: they paid by wire")
    assert by_hand.attempts[0].state is AttemptState.REVERSED and by_hand.attempts[0].settled_by
    with pytest.raises(AssertionError):
        by_hand.found_late(2, "txn", now_ms=0)


def test_refunds_wait_for_a_reversal_under_way_and_go_to_whom_holds_the_money() -> None:
    """One thing at a time: the open attempt is asked about before anything else is sent."""
    two = Two(north=(Say.NOT_SENT, Say.TAKE_SILENTLY), questions=(Say.TELL, Say.LOSE, Say.TELL))
    two.work()
    two.deliver_late()
    unknown = two.when_due()
    assert unknown.attempts[-1].state is AttemptState.UNKNOWN and PAYMENT_ID in two.store.unknown
    assert unknown.outcome == "succeeded", "the payment's own money is certain"
    asked = unknown.ask_refund("ref-1", 1000, "", now_ms=two.clock())
    two.store._write(asked)
    payment = two.rest()
    assert [row[:4] for row in tries(payment)][2:] == [
        (3, "north", "refund", "approved"), (4, "south", "refund", "approved"),
    ]  # fmt: skip
    assert not two.store.unknown and payment.refunded_minor == 1000
    assert two.sums() == {"acquirer:south": 6548, "merchant:core": -6548}


@pytest.mark.parametrize("reversal", [Say.APPROVE, Say.TAKE_SILENTLY, Say.LOSE, Say.NOT_SENT], ids=lambda say: say.name)
@pytest.mark.parametrize("south", [Say.APPROVE, Say.DECLINE], ids=lambda say: say.name)
def test_a_crash_at_any_await_ends_in_one_reversal(south: Say, reversal: Say) -> None:
    """Wherever the worker dies while it looks again and reverses, the next one ends what it has begun."""
    crashed = 0
    for place in range(PLACES_MAX):
        two = Two(south, north=(Say.NOT_SENT, reversal, Say.APPROVE))
        two.work()
        two.deliver_late()
        two.wait()
        if not crash_at(two.run(), place):
            break
        crashed += 1
        payment = two.rest()
        assert two.north.effects == [A1, A3] and Counter(two.south.effects) == Counter(
            [f"{PAYMENT_ID}-a2"] * (south is Say.APPROVE)
        )
        assert [row[3] for row in tries(payment)] == [
            "reversed", "approved" if south is Say.APPROVE else "rejected", "approved",
        ]  # fmt: skip
        assert [each.id.removeprefix(PAYMENT_ID) for each in two.store.transactions if "-a1" in each.id] == [
            "-a1-late", "-a1-reversed",
        ]  # fmt: skip
        assert not any(item.open for item in two.store.items.values()) and not two.store.unknown
    assert 8 <= crashed < PLACES_MAX - 1, "every await was tried"


def test_two_workers_that_look_again_at_once_reverse_once() -> None:
    for first in range(PLACES_MAX):
        two = Two()
        two.work()
        two.deliver_late()
        two.wait()
        one, other = two.run(), two.run()
        for _ in range(first):
            if not one.done:
                one.step()
        while not other.done:
            other.step()
        one.finish()
        two.rest()
        assert two.north.effects == [A1, A3]


def test_the_record_keeps_everything() -> None:
    two = Two()
    two.work()
    two.deliver_late()
    payment = two.when_due()
    assert msgspec.json.decode(msgspec.json.encode(payment), type=Payment) == payment
    assert isinstance(payment.numbered(1), Attempt) and payment.numbered(3).kind is Kind.REFUND
