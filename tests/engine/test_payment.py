"""A payment's record: what its JSON promises, and single moves that matter."""

from __future__ import annotations

import re

import msgspec
import pytest

from engine.errors import IllegalMove
from engine.facts import MOVES, Attempt, AttemptState, Kind, Method, Operation, Outcome, Status
from engine.ids import PaymentId
from engine.money import Money
from engine.payment import Payment, attempt_id
from tests.engine.making import DECLINED, NOW_MS, PAYMENT_ID, a_payment, begun

LEASE_MS = 20_000


def test_the_json_begins_with_the_version_and_nothing_else() -> None:
    """The store's compare-and-set reads the version with this very pattern."""
    for version in (1, 9, 10, 123_456):
        payment = msgspec.structs.replace(a_payment(), version=version)
        found = re.match(rb'^{"v":(\d+)', msgspec.json.encode(payment))
        assert found is not None and int(found[1]) == version


def test_a_new_payment_is_written_as_it_is_kept_in_redis() -> None:
    """Records live for years: a renamed field would be read as its default."""
    assert msgspec.json.encode(a_payment()) == (
        b'{"v":1,"id":"pay-01kdvnqg0000000000000000000a","order":"order-123",'
        b'"user":"550e8400-e29b-41d4-a716-446655440001","amount":[7548,"USD"],'
        b'"method":["credit_card","visa","4242"],"created":1767225600000,"rid":"req-1",'
        b'"tp":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
    )


def test_a_record_written_before_a_field_was_added_is_still_read() -> None:
    old = b'{"v":2,"id":"pay-x","order":"o","user":"u","amount":[5,"JPY"],"method":["wallet"],\
"created":1,"attempts":[[1,"bank","sending",1,2]]}'
    payment = msgspec.json.decode(old, type=Payment)
    assert payment.method == Method("wallet") and payment.amount == Money(5, "JPY")
    assert payment.attempts == (Attempt(1, "bank", AttemptState.SENDING, 1, 2),)
    assert payment.status is Status.PROCESSING and payment.sequence == 0
    assert payment.operation == Operation(Kind.CHARGE, 5)


def test_a_payment_completed_before_there_were_authorizations_is_not_charged_again() -> None:
    """0.1.0 wrote what was captured and nothing of an authorization."""
    old = b'{"v":3,"id":"pay-x","order":"o","user":"u","amount":[5,"JPY"],"method":["wallet"],\
"created":1,"captured":5,"ended":9,"txn":"txn-1",\
"attempts":[[1,"bank","approved",1,2,9]],"sequence":1}'
    payment = msgspec.json.decode(old, type=Payment)
    assert payment.status is Status.COMPLETED and payment.outcome is Outcome.SUCCEEDED
    assert payment.operation is None and payment.at_rest
    refunding = payment.ask_refund("ref-1", 3, "broken", now_ms=10)
    assert refunding.operation == Operation(Kind.REFUND, 3, "ref-1") and refunding.charged_by == "bank"


@pytest.mark.parametrize("minor", [1, 10**12 - 1])
def test_a_completed_payment_has_captured_all_of_it(minor: int) -> None:
    done = begun(a_payment(minor=minor)).charged("txn-1", now_ms=NOW_MS + 5)
    assert done.status is Status.COMPLETED and done.ended and done.at_rest
    assert (done.captured_minor, done.transaction_id, done.ended_ms) == (minor, "txn-1", NOW_MS + 5)
    assert done.attempts[-1].state is AttemptState.APPROVED and done.unsettled is None


def test_a_failed_payment_has_captured_nothing() -> None:
    done = begun().fail(DECLINED, now_ms=NOW_MS + 5)
    assert done.status is Status.FAILED and done.ended and done.at_rest
    assert (done.captured_minor, done.failure, done.ended_ms) == (0, DECLINED, NOW_MS + 5)
    assert done.attempts[-1].state is AttemptState.REJECTED


def test_a_payment_that_failed_unsent_does_not_claim_that_the_acquirer_refused_it() -> None:
    done = begun().fail(DECLINED, now_ms=NOW_MS, state=AttemptState.NOT_SENT)
    assert done.status is Status.FAILED and done.attempts[-1].state is AttemptState.NOT_SENT


@pytest.mark.parametrize("state", [AttemptState.NOT_SENT, AttemptState.UNKNOWN])
def test_an_open_attempt_is_begun_again_under_its_own_number(state: AttemptState) -> None:
    """Its number is in the acquirer's idempotency key: another one could charge twice."""
    first = begun()
    again = begun(first.leave_open(state, now_ms=NOW_MS + 1), now_ms=NOW_MS + 9)
    assert attempt_id(again) == attempt_id(first) == f"{PAYMENT_ID}-a1"
    assert len(again.attempts) == 1 and again.attempts[0].asked == 1
    assert again.attempts[0].lease_until_ms == NOW_MS + 9 + LEASE_MS


def test_a_crashed_attempt_is_begun_again_under_its_own_number() -> None:
    assert attempt_id(begun(begun())) == f"{PAYMENT_ID}-a1"


def test_another_acquirer_gets_another_attempt_after_one_that_was_not_sent() -> None:
    unsent = begun().leave_open(AttemptState.NOT_SENT, now_ms=NOW_MS)
    other = begun(unsent, "other bank")
    assert attempt_id(other) == f"{PAYMENT_ID}-a2"
    assert [attempt.state for attempt in other.attempts] == [AttemptState.NOT_SENT, AttemptState.SENDING]


@pytest.mark.parametrize("state", [AttemptState.SENDING, AttemptState.UNKNOWN])
def test_another_acquirer_is_never_tried_while_the_first_may_have_charged(state: AttemptState) -> None:
    first = begun()
    unsettled = first if state is AttemptState.SENDING else first.leave_open(state, now_ms=NOW_MS)
    with pytest.raises(AssertionError, match="bank"):
        begun(unsettled, "other bank")


def test_two_beginnings_in_one_millisecond_write_different_records() -> None:
    """The store takes an equal record for its own earlier try, and both workers would send."""
    one = begun(token="one")
    other = begun(token="other")
    assert msgspec.json.encode(one) != msgspec.json.encode(other)


@pytest.mark.parametrize(
    ("ended", "allowed"),
    [
        (begun().charged("txn-1", now_ms=NOW_MS), "partially_refunded, refunded"),
        (begun().fail(DECLINED, now_ms=NOW_MS), ""),
    ],
)
def test_a_refused_move_names_the_status_and_what_is_allowed(ended: Payment, allowed: str) -> None:
    with pytest.raises(IllegalMove) as refused:
        ended.charged("txn-2", now_ms=NOW_MS)
    assert refused.value.details == {"status": ended.status.value, "allowed": allowed}
    assert f"a payment that is {ended.status.value} cannot become completed" in str(refused.value)


def test_every_status_has_its_row_in_the_table_of_moves_and_ends_have_none() -> None:
    assert set(MOVES) == set(Status)
    assert [status for status, ways in MOVES.items() if not ways] == [
        Status.FAILED,
        Status.CANCELLED,
        Status.REFUNDED,
    ]


def test_there_is_no_attempt_id_before_the_first_attempt() -> None:
    with pytest.raises(IndexError):
        attempt_id(a_payment(PaymentId("pay-x")))


def test_an_event_moves_the_sequence_and_not_the_version() -> None:
    told = a_payment().with_event("hash")
    assert (told.version, told.sequence, told.last_event_hash) == (1, 1, "hash")


def test_a_record_holds_no_more_of_a_card_than_brand_and_last_four() -> None:
    assert set(Method.__struct_fields__) == {"type", "brand", "last4"}
    assert not {"pan", "card", "cvv", "number", "instrument"} & set(Payment.__struct_fields__)
