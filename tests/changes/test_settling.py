"""What each definite answer makes of a payment, and which wishes each status allows."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest

from engine.changes import Change
from engine.errors import IllegalMove, RefundNotAllowed, RefundTooLarge
from engine.events import history
from engine.facts import MOVES, REFUNDS_MAX, AttemptState, Failure, Kind, Operation, RefundState, Status
from engine.payment import Payment, attempt_id
from engine.settling import Approved, Declined, given_up, settled
from tests.changes.making import APPROVED, DECLINED, UNTIL_MS, Story, a_story
from tests.engine.making import NOW_MS, PAYMENT_ID, a_payment

AT_MS = NOW_MS + 40
HOUR_MS = 3_600_000


class Made(NamedTuple):
    """What a change must be."""

    status: Status
    event: str | None
    rows: dict[str, int]
    due_ms: int | None
    forgets_card: bool = False
    frees_order: bool = False


TAKEN = {"acquirer:bank": 7548, "merchant:core": -7548}
TABLE: dict[tuple[Kind, Approved | Declined], Made] = {
    (Kind.CHARGE, APPROVED): Made(Status.COMPLETED, "payment_completed", TAKEN, None, forgets_card=True),
    (Kind.CHARGE, DECLINED): Made(Status.FAILED, "payment_failed", {}, None, forgets_card=True, frees_order=True),
    (Kind.AUTHORIZE, Approved("txn-1", UNTIL_MS)): Made(
        Status.AUTHORIZED, "payment_authorized", {}, UNTIL_MS, forgets_card=True
    ),
    (Kind.AUTHORIZE, APPROVED): Made(
        Status.AUTHORIZED, "payment_authorized", {}, AT_MS + 7 * 24 * HOUR_MS, forgets_card=True
    ),
    (Kind.AUTHORIZE, DECLINED): Made(Status.FAILED, "payment_failed", {}, None, forgets_card=True, frees_order=True),
    (Kind.CAPTURE, APPROVED): Made(
        Status.COMPLETED, "payment_completed", {"acquirer:bank": 5000, "merchant:core": -5000}, None, forgets_card=True
    ),
    (Kind.CAPTURE, DECLINED): Made(Status.AUTHORIZED, None, {}, AT_MS + HOUR_MS),
    (Kind.VOID, APPROVED): Made(Status.CANCELLED, "payment_cancelled", {}, None, frees_order=True),
    (Kind.VOID, DECLINED): Made(Status.AUTHORIZED, None, {}, AT_MS + HOUR_MS),
    (Kind.REFUND, APPROVED): Made(
        Status.PARTIALLY_REFUNDED, "payment_refunded", {"acquirer:bank": -2000, "merchant:core": 2000}, None
    ),
    (Kind.REFUND, DECLINED): Made(Status.COMPLETED, "payment_refund_failed", {}, None),
}


def test_the_table_knows_every_kind_with_both_answers() -> None:
    assert {(kind, type(answer)) for kind, answer in TABLE} == {
        (kind, answer) for kind in Kind for answer in (Approved, Declined)
    }


@pytest.mark.parametrize(("kind", "answer"), TABLE)
def test_an_answer_makes_exactly_this_change(kind: Kind, answer: Approved | Declined) -> None:
    """Status, event, rows, when to look again, what is forgotten and freed: all in one change."""
    before = a_story(kind).payment
    change = settled(before, answer, now_ms=AT_MS)
    assert _made(change) == TABLE[kind, answer]
    after = change.payment
    assert after.version == before.version + 1
    assert after.sequence == before.sequence + len(change.events)
    state = AttemptState.APPROVED if isinstance(answer, Approved) else AttemptState.REJECTED
    assert (after.attempts[-1].state, after.attempts[-1].ended_ms) == (state, AT_MS)
    assert not change.unknown


def test_a_declined_capture_or_void_stands_as_before_it_was_asked() -> None:
    """It can be asked again, under another id: the acquirer has decided about this one."""
    for kind, ask in ((Kind.CAPTURE, "ask_capture"), (Kind.VOID, "ask_cancel")):
        story = a_story(kind).answered(DECLINED, AT_MS)
        payment = story.payment
        assert (payment.capture_minor, payment.cancelling, payment.operation) == (0, "", None)
        again = story._replace(payment=getattr(payment, ask)(*((100,) if kind is Kind.CAPTURE else ("again",))))
        assert attempt_id(again.sending(AT_MS + 1).payment) == f"{PAYMENT_ID}-a3"


def test_every_request_that_was_refused_is_remembered_up_to_a_bound() -> None:
    """Repeated, it must not take the money that it was refused."""
    story = a_story(Kind.CAPTURE).answered(DECLINED, AT_MS)
    for number in range(20):
        asked = story.payment.ask_capture(100, f"ref-{number}")
        story = story._replace(payment=asked).sending(AT_MS).answered(DECLINED, AT_MS)
    remembered = [number for number in range(20) if story.payment.was_asked_by(f"ref-{number}")]
    assert remembered == list(range(3, 20))
    expired = story.payment.ask_cancel("expired")
    assert expired.was_asked_by("ref-19"), "also when the engine itself asks"


def test_an_authorization_that_is_not_released_is_asked_for_ever_more_rarely() -> None:
    """Else its record would grow by an attempt an hour, for ever."""
    story, pauses = a_story(Kind.VOID), []
    for _ in range(14):
        change = settled(story.payment, DECLINED, now_ms=AT_MS)
        pauses.append((change.due_ms or 0) - AT_MS)
        story = story._replace(payment=change.payment.ask_cancel("expired")).sending(AT_MS)
    assert pauses == [HOUR_MS << min(number, 9) for number in range(14)]


def test_a_declined_refund_frees_its_reservation_and_the_next_one_is_due_at_once() -> None:
    first = a_story(Kind.REFUND).payment
    assert (first.refundable_minor, first.refund_pending_minor) == (5548, 2000)
    both = first.ask_refund("ref-2", 5548, "rest", now_ms=AT_MS)
    assert both.refundable_minor == 0
    change = settled(both, DECLINED, now_ms=AT_MS)
    after = change.payment
    assert (after.refundable_minor, after.refund_pending_minor) == (2000, 5548)
    assert change.due_ms == AT_MS
    assert after.operation == Operation(Kind.REFUND, 5548, "ref-2")
    assert [refund.state for refund in after.refunds] == [RefundState.FAILED, RefundState.PENDING]


def test_a_charge_that_cannot_be_sent_is_given_up_as_not_sent() -> None:
    failure = Failure("INSTRUMENT_UNREADABLE", "INSTRUMENT_UNREADABLE", "unreadable")
    change = given_up(a_story(Kind.CHARGE).payment, failure, now_ms=AT_MS)
    assert _made(change) == TABLE[Kind.CHARGE, DECLINED]
    assert change.payment.attempts[-1].state is AttemptState.NOT_SENT


def _each_status() -> dict[Status, Payment]:
    completed = a_story(Kind.CHARGE).answered(APPROVED, AT_MS).payment
    part = a_story(Kind.REFUND).answered(APPROVED, AT_MS)
    rest = part._replace(payment=part.payment.ask_refund("ref-2", 5548, "rest", now_ms=AT_MS)).sending(AT_MS)
    return {
        Status.PENDING: msgspec.structs.replace(a_payment(), held_until_ms=UNTIL_MS),
        Status.PROCESSING: a_payment(),
        Status.AUTHORIZED: a_story(Kind.AUTHORIZE).answered(Approved("t", UNTIL_MS), AT_MS).payment,
        Status.COMPLETED: completed,
        Status.FAILED: a_story(Kind.CHARGE).answered(DECLINED, AT_MS).payment,
        Status.CANCELLED: a_story(Kind.VOID).answered(APPROVED, AT_MS).payment,
        Status.PARTIALLY_REFUNDED: part.payment,
        Status.REFUNDED: rest.answered(APPROVED, AT_MS).payment,
    }


@pytest.mark.parametrize("status", Status)
def test_each_status_allows_its_own_wishes_only(status: Status) -> None:
    """Capture and cancel when authorized, refund when there is captured money left; nothing else."""
    payment = _each_status()[status]
    assert payment.status is status
    if status is Status.AUTHORIZED:
        assert payment.ask_capture(1).operation == Operation(Kind.CAPTURE, 1)
        assert payment.ask_cancel("why").operation == Operation(Kind.VOID, 7548)
    else:
        with pytest.raises(IllegalMove) as refused:
            payment.ask_capture(1)
        assert refused.value.details["status"] == status.value
        with pytest.raises(IllegalMove) as refused:
            payment.ask_cancel("why")
        assert refused.value.details["status"] == status.value
    if status in (Status.COMPLETED, Status.PARTIALLY_REFUNDED):
        assert payment.ask_refund("ref-9", 1, "why", now_ms=AT_MS).refund_pending_minor == 1
        for minor in (0, -1, payment.refundable_minor + 1):
            with pytest.raises(RefundTooLarge):
                payment.ask_refund("ref-9", minor, "why", now_ms=AT_MS)
    else:
        with pytest.raises(RefundNotAllowed) as refused_refund:
            payment.ask_refund("ref-9", 1, "why", now_ms=AT_MS)
        allowed = ", ".join(MOVES[status])
        assert refused_refund.value.details == {"status": status.value, "allowed": allowed}


def test_while_one_is_asked_neither_capture_nor_cancel_can_be_asked() -> None:
    authorized = _each_status()[Status.AUTHORIZED]
    for asked in (authorized.ask_capture(5), authorized.ask_cancel("why")):
        with pytest.raises(IllegalMove, match="and being"):
            asked.ask_capture(5)
        with pytest.raises(IllegalMove, match="and being"):
            asked.ask_cancel("why")


def test_two_requests_that_race_never_write_the_same_record() -> None:
    """The store takes an equal record for an earlier try of the same step; then both would be told yes."""
    authorized = _each_status()[Status.AUTHORIZED]
    assert authorized.ask_capture(5, "one") != authorized.ask_capture(5, "two")
    assert authorized.ask_cancel("why", "one") != authorized.ask_cancel("why", "two")


def test_a_payment_takes_a_bounded_number_of_refunds() -> None:
    payment = _each_status()[Status.COMPLETED]
    for number in range(REFUNDS_MAX):
        payment = payment.ask_refund(f"ref-{number}", 1, "why", now_ms=AT_MS)
    with pytest.raises(RefundNotAllowed, match=f"{REFUNDS_MAX} refunds already"):
        payment.ask_refund("ref-more", 1, "why", now_ms=AT_MS)


@pytest.mark.parametrize(("kind", "answer"), TABLE)
def test_the_history_is_what_was_published(kind: Kind, answer: Approved | Declined) -> None:
    """Ids, sequence, times, hashes, trace and bodies, read back from the bodies alone."""
    story: Story = a_story(kind).answered(answer, AT_MS)
    stored = msgspec.json.decode(msgspec.json.encode(story.payment), type=Payment)
    assert history(stored, [event.body for event in story.events]) == list(story.events)
    assert all(event.time_ms for event in story.events)


def _made(change: Change) -> Made:
    assert len(change.events) <= 1
    assert len(change.transactions) <= 1
    rows = {row.account: row.minor for transaction in change.transactions for row in transaction.rows}
    return Made(
        change.payment.status,
        change.events[0].type if change.events else None,
        rows,
        change.due_ms,
        change.forget_instrument,
        change.release_order,
    )
