"""Charging: what is written when, what is told, and what happens when nobody knows."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from engine import context
from engine.cards import SealedInstrument
from engine.changes import Conflict, Job
from engine.charging import AcquirerRequest, Outcome
from engine.errors import StoreUnavailable
from engine.facts import Attempt, AttemptState, Failure, Kind, Status
from engine.ids import PaymentId
from engine.payment import Payment
from engine.settling import Approved, Declined
from metrics.instruments import Instruments
from tests.engine.charging_world import LEASE_S, Bank, MemoryStore, Say, Script, World
from tests.engine.making import CVV, DECLINED, NOW_MS, PAN, PAYMENT_ID, a_card, a_payment, a_sealer
from tests.engine.stepping import Run, drive
from tests.support import shown

LEASE_MS = int(LEASE_S * 1000)
MARGIN_MS = 2_000
SILENT = Script((Say.TAKE_SILENTLY,), (Say.LOSE,))


def the_attempt(payment: Payment) -> Attempt:
    assert len(payment.attempts) == 1
    return payment.attempts[0]


def test_an_approved_charge_completes_the_payment_in_one_step() -> None:
    world = World()
    payment = world.process()
    assert (payment.status, payment.version, payment.transaction_id) == (Status.COMPLETED, 3, "txn-1")
    assert payment.captured_minor == 7548 and payment.ended_ms == NOW_MS
    assert world.outcomes == [True]
    world.check()


def test_a_declined_charge_fails_the_payment_and_frees_its_order() -> None:
    world = World(Script((Say.DECLINE,)))
    payment = world.process()
    assert payment.status is Status.FAILED and payment.failure == DECLINED
    assert payment.attempts[0].state is AttemptState.REJECTED and world.store.orders == {}
    assert world.outcomes == [False]
    world.check()


@pytest.mark.parametrize(
    ("word", "code"), [("insufficient_funds", "PAY_002"), ("lost_card", "LOST_CARD"), ("Do_Not_Honor", "DO_NOT_HONOR")]
)
def test_the_acquirers_word_becomes_the_error_code(word: str, code: str) -> None:
    world = World()
    world.bank.decided[f"{PAYMENT_ID}-a1"] = Declined(word, "No")
    assert world.process().failure == Failure(code, word.upper(), "No")


def test_the_intent_is_written_before_the_acquirer_is_called() -> None:
    world = World()
    world.process()
    (intent,) = world.bank.intents
    assert the_attempt(intent) == Attempt(
        1, "bank", AttemptState.SENDING, NOW_MS, NOW_MS + LEASE_MS, kind=Kind.CHARGE, minor=7548, token="1"
    )
    assert intent.version == 2


def test_the_acquirer_is_sent_the_card_the_amount_and_the_attempt_id() -> None:
    world = World()
    world.process()
    (request,) = world.bank.requests
    assert request == (f"{PAYMENT_ID}-a1", PAYMENT_ID, Kind.CHARGE, a_payment().amount, a_card(), "")
    assert PAN not in repr(request) and CVV not in repr(request)


def test_a_charge_without_an_answer_stays_unresolved_not_declined() -> None:
    """Silence from the acquirer may mean that the money moved, so we must ask later."""
    world = World(SILENT)
    payment = world.process()
    assert payment.status is Status.PROCESSING and the_attempt(payment).state is AttemptState.UNKNOWN
    assert world.store.unknown == {PAYMENT_ID} and world.due_in_ms == 1_000
    assert not world.store.jobs and not world.store.events and world.outcomes == []
    assert world.store.sealed and world.store.orders


@pytest.mark.parametrize("silent", [Say.TAKE_SILENTLY, Say.DECLINE_SILENTLY])
def test_an_unknown_outcome_is_asked_for_and_not_charged_again(silent: Say) -> None:
    world = World(Script((silent,)))
    world.process()
    world.process_when_due()
    assert world.bank.asked == [f"{PAYMENT_ID}-a1"] and len(world.bank.requests) == 1
    world.check()


def test_an_attempt_that_the_acquirer_has_never_seen_is_sent_again_under_the_same_id() -> None:
    world = World(Script((Say.LOSE, Say.APPROVE)))
    world.process()
    payment = world.process_when_due()
    assert [request.attempt_id for request in world.bank.requests] == [f"{PAYMENT_ID}-a1"] * 2
    assert the_attempt(payment).state is AttemptState.APPROVED and world.intents_were_sending()
    world.check()


def test_an_attempt_of_an_older_version_is_asked_about_with_the_payments_amount() -> None:
    """0.1.0 wrote neither kind nor amount into an attempt; the bank here refuses a question about another amount."""
    world = World(SILENT)
    payment = world.process()
    old = msgspec.structs.replace(the_attempt(payment), minor=0)
    world.store.records[PAYMENT_ID] = msgspec.json.encode(msgspec.structs.replace(payment, attempts=(old,)))
    world.bank = Bank(world.store)
    world.bank.decided, world.bank.effects = {f"{PAYMENT_ID}-a1": Approved("txn-1")}, [f"{PAYMENT_ID}-a1"]
    assert world.process_when_due().status is Status.COMPLETED


def test_a_question_that_does_not_get_out_leaves_the_attempt_unknown() -> None:
    """Not `not_sent`: that the question was not sent says nothing about the charge."""
    world = World(Script((Say.TAKE_SILENTLY,), (Say.NOT_SENT, Say.TELL)))
    world.process()
    assert the_attempt(world.process_when_due()).state is AttemptState.UNKNOWN
    assert world.store.unknown == {PAYMENT_ID} and world.due_in_ms == 2_000
    world.process_when_due()
    world.check()


def test_a_charge_that_did_not_leave_is_tried_again_without_a_question() -> None:
    world = World(Script((Say.NOT_SENT, Say.APPROVE)))
    payment = world.process()
    assert payment.status is Status.PROCESSING and the_attempt(payment).state is AttemptState.NOT_SENT
    assert world.store.unknown == set() and world.due_in_ms == 3_000, "as long as the acquirer's guard asked for"
    world.process_when_due()
    assert world.bank.asked == []
    world.check()


def test_pauses_between_questions_grow_to_about_four_minutes() -> None:
    world = World(SILENT)
    world.process()
    pauses_ms = [world.due_in_ms]
    for _ in range(11):
        world.process_when_due()
        pauses_ms.append(world.due_in_ms)
    assert pauses_ms == [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 256_000, 256_000, 256_000]
    assert world.payment.status is Status.PROCESSING, "time alone never turns unknown into failed"
    assert len(world.bank.requests) == 1


def test_pauses_between_tries_to_send_grow_to_half_a_minute() -> None:
    world = World(Script((Say.NOT_SENT,)))
    world.process()
    pauses_ms = [world.due_in_ms]
    for _ in range(7):
        world.process_when_due()
        pauses_ms.append(world.due_in_ms)
    assert pauses_ms == [3000, 3000, 4000, 8000, 16_000, 32_000, 32_000, 32_000], "the guard asks for 3 s at least"


def test_a_charge_whose_worker_may_still_be_sending_is_left_alone() -> None:
    world = World(Script((Say.LOSE, Say.APPROVE)))
    crashed = Run(world.charging().process(world.job))
    while not world.bank.requests:
        crashed.step()
    crashed.crash(KeyboardInterrupt())
    world.clock.advance(LEASE_MS - 1)
    before = world.payment
    world.process(world.store.add_job(PAYMENT_ID))
    assert world.payment == before and world.bank.asked == []
    assert world.due_in_ms == 1 + MARGIN_MS, "looked at again when the lease is over"
    assert world.store.jobs == [world.job], "the job that looked is done, the crashed worker's is not ours to end"


def test_a_charge_whose_worker_is_gone_is_asked_about_when_its_lease_is_over() -> None:
    world = World(Script((Say.TAKE_SILENTLY,)))
    crashed = Run(world.charging().process(world.job))
    while not world.bank.effects:
        crashed.step()
    crashed.crash(KeyboardInterrupt())
    world.clock.advance(LEASE_MS)
    world.process()
    assert world.bank.asked == [f"{PAYMENT_ID}-a1"] and len(world.bank.requests) == 1
    world.check()


def test_a_worker_that_was_paused_before_sending_does_not_send() -> None:
    """Its lease may be over; another may have asked, heard "never seen", and be sending now."""
    world = World()
    paused = Run(world.charging().process(world.job))
    while len(world.store.history) < 2:
        paused.step()
    world.clock.advance(MARGIN_MS + 1)
    paused.finish()
    assert world.bank.requests == [] and the_attempt(world.payment).state is AttemptState.NOT_SENT
    world.process_when_due()
    world.check()


def test_a_worker_that_was_only_slow_sends() -> None:
    world = World()
    slow = Run(world.charging().process(world.job))
    while len(world.store.history) < 2:
        slow.step()
    world.clock.advance(MARGIN_MS)
    slow.finish()
    assert len(world.bank.requests) == 1
    world.check()


def test_a_card_that_cannot_be_opened_before_any_attempt_fails_the_payment() -> None:
    world = World()
    world.store.sealed[PAYMENT_ID] = SealedInstrument(b"", None)
    payment = world.process()
    assert payment.failure == Failure(
        "INSTRUMENT_UNREADABLE", "INSTRUMENT_UNREADABLE", "The payment method could not be read"
    )
    assert the_attempt(payment).state is AttemptState.NOT_SENT and world.bank.requests == []
    assert world.store.orders == {} and [event.type for event in world.store.events] == ["payment_failed"]


@pytest.mark.parametrize("charge", [Say.LOSE, Say.NOT_SENT])
def test_a_card_that_cannot_be_opened_after_an_attempt_leaves_the_payment_unknown(charge: Say) -> None:
    """Something may have been sent once: not to know the card is not to know that nothing was charged."""
    world = World(Script((charge, Say.APPROVE)))
    world.process()
    world.store.sealed.clear()
    payment = world.process_when_due()
    assert payment.status is Status.PROCESSING and the_attempt(payment).state is AttemptState.UNKNOWN
    assert len(world.bank.requests) == 1 and world.store.unknown == {PAYMENT_ID} and world.store.events == []


def test_an_attempt_at_another_acquirer_is_left_to_that_one() -> None:
    """After a change of acquirers the new one has truly never seen it; charging there would charge twice."""
    world = World(SILENT)
    world.process()
    new = Bank(world.store, name="new bank")
    world.clock.advance(world.due_in_ms)
    drive(world.charging(new).process(world.store.add_job(PAYMENT_ID)))
    assert (new.asked, new.requests) == ([], [])
    assert world.payment.status is Status.PROCESSING and world.store.unknown == {PAYMENT_ID}
    world.bank = Bank(world.store)
    world.bank.decided, world.bank.effects = {f"{PAYMENT_ID}-a1": Approved("txn-1")}, [f"{PAYMENT_ID}-a1"]
    assert world.process_when_due().status is Status.COMPLETED


def test_a_charge_that_was_not_sent_may_be_sent_to_another_acquirer() -> None:
    world = World(Script((Say.NOT_SENT,)))
    world.process()
    new = Bank(world.store, name="new bank")
    world.clock.advance(world.due_in_ms)
    drive(world.charging(new).process(world.store.add_job(PAYMENT_ID)))
    assert world.payment.status is Status.COMPLETED
    assert [request.attempt_id for request in new.requests] == [f"{PAYMENT_ID}-a2"]


@pytest.mark.parametrize("hint", [True, False])
@pytest.mark.parametrize("charge", [Say.APPROVE, Say.DECLINE])
def test_a_job_that_comes_again_changes_nothing(hint: bool, charge: Say) -> None:
    world = World(Script((charge,)), hint=hint)
    world.process()
    before, records = world.payment, dict(world.store.records)
    for job in (world.job, world.store.add_job(PAYMENT_ID), world.store.add_job(PAYMENT_ID, world.store.history[0])):
        world.process(job)
    assert world.payment == before and world.store.records == records and len(world.bank.requests) == 1
    assert len(world.outcomes) == 1
    world.check()


def test_a_job_of_a_payment_that_does_not_exist_is_ended() -> None:
    world = World()
    job = world.store.add_job(PaymentId("pay-of-nobody"))
    drive(world.charging().process(job))
    assert world.store.jobs == [world.job] and world.bank.requests == []


def test_a_stale_hint_is_corrected_by_the_record() -> None:
    world = World(Script((Say.TAKE_SILENTLY,)))
    world.process()
    world.clock.advance(60_000)
    world.process(world.store.add_job(PAYMENT_ID, world.store.history[0]))
    assert world.bank.asked == [f"{PAYMENT_ID}-a1"] and len(world.bank.requests) == 1
    world.check()


class RestlessStore(MemoryStore):
    """Somebody else always writes first."""

    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict:
        self._write(msgspec.structs.replace(self.now(), version=self.now().version + 1))
        return await super().begin(payment, due_ms=due_ms)


def test_a_payment_that_changes_all_the_time_is_given_up_for_now_and_keeps_its_job() -> None:
    world = World()
    store = RestlessStore()
    job = store.add(a_payment(), a_sealer().seal(PAYMENT_ID, a_card()))
    world.store = store
    with pytest.raises(StoreUnavailable, match="changed 8 times"):
        drive(world.charging().process(job))
    assert store.jobs == [job] and world.bank.requests == []


def test_a_payment_that_vanished_is_not_charged() -> None:
    world = World()
    world.store.records.clear()
    drive(world.charging().process(world.job))
    assert world.bank.requests == [] and world.store.jobs == []


class ClosedStore(MemoryStore):
    """Does not answer."""

    async def get(self, payment_id: PaymentId) -> Payment | None:
        raise StoreUnavailable("redis is away")

    async def begin(self, payment: Payment, *, due_ms: int) -> SealedInstrument | Conflict:
        raise StoreUnavailable("redis is away")


@pytest.mark.parametrize("hint", [a_payment(), None])
def test_nothing_is_sent_while_the_intent_cannot_be_written(hint: Payment | None) -> None:
    world = World()
    world.store = ClosedStore()
    with pytest.raises(StoreUnavailable):
        drive(world.charging().process(Job(PAYMENT_ID, hint, "1-1")))
    assert world.bank.requests == []


async def test_calls_go_out_in_the_name_of_the_request_that_was_accepted() -> None:
    seen: list[context.RequestContext] = []

    class LookingBank(Bank):
        async def send(self, request: AcquirerRequest) -> Outcome:
            seen.append(context.current())
            return await super().send(request)

    world = World()
    await world.charging(LookingBank(world.store)).process(world.job)
    assert seen == [(a_payment().request_id, a_payment().traceparent)]


def test_each_outcome_is_counted_once() -> None:
    instruments = Instruments(CollectorRegistry())
    for charges in ((Say.APPROVE,), (Say.DECLINE,), (Say.LOSE, Say.APPROVE), (Say.NOT_SENT, Say.DECLINE)):
        world = World(Script(charges), instruments=instruments)
        world.process()
        world.heal()
        world.process()

    def attempts(outcome: str) -> float | None:
        labels = {"acquirer": "bank", "kind": "charge", "outcome": outcome}
        return instruments.registry.get_sample_value("payment_attempts_total", labels)

    assert [attempts(outcome) for outcome in ("approved", "rejected", "unknown", "not_sent")] == [2, 2, 1, 1]
    for status in ("completed", "failed"):
        assert instruments.registry.get_sample_value("payments_processed_total", {"status": status}) == 2


def test_a_job_that_breaks_is_put_off_and_does_not_stay_in_the_stream() -> None:
    """There it would be taken over for ever, and a new one beside it every few minutes."""
    world = World()

    class Broken(Bank):
        async def send(self, request: AcquirerRequest) -> Outcome:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        drive(world.charging(Broken(world.store, Say.APPROVE)).process(world.job))
    assert world.store.jobs == []
    assert world.due_in_ms == 300_000
    world.process_when_due()
    world.heal()
    world.check()


def test_a_payment_whose_method_nobody_takes_here_waits() -> None:
    """As one by phone does where M-Pesa was switched off."""
    world = World()
    charging = world.charging()
    charging._acquirers = charging._acquirers._replace(order={})
    drive(charging.process(world.job))
    assert (world.payment.attempts, world.store.jobs, world.due_in_ms) == ((), [], 300_000)
    world.process_when_due()
    assert world.payment.status is Status.COMPLETED


@pytest.mark.parametrize("charge", list(Say)[:-1])
def test_one_line_is_logged_per_outcome_and_never_the_card(
    charge: Say, log_lines: list[MutableMapping[str, Any]]
) -> None:
    world = World(Script((charge,)))
    world.process()
    (line,) = log_lines
    settled = charge in (Say.APPROVE, Say.DECLINE)
    assert line["event"] == ("attempt settled" if settled else "attempt has no outcome yet")
    assert (line["payment_id"], line["request_id"], line["attempt"]) == (PAYMENT_ID, "req-1", 1)
    assert PAN not in repr(log_lines) and not shown(CVV, repr(log_lines))
