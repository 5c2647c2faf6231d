"""A statement held against payments, without a process: what is read, refused, matched and missed."""

from __future__ import annotations

import io

import msgspec
import pytest

from engine.facts import Kind
from engine.ids import rfc3339
from engine.settling import Approved
from engine.statement import Difference, Reconciliation, read_statement
from tests.changes.making import APPROVED, UNTIL_MS, Story, a_story
from tests.engine.making import NOW_MS, PAYMENT_ID

HEAD = "attempt,reference,kind,amount_minor,currency,id,at"
MOMENT = rfc3339(NOW_MS)
GOOD = f"{PAYMENT_ID}-a1,{PAYMENT_ID},charge,7548,USD,txn-1,{MOMENT}"
SEEN = a_story(Kind.CHARGE).answered(APPROVED, NOW_MS + 20).payment


def line(attempt: str, at_ms: int, *, kind: str = "charge", minor: int = 7548, currency: str = "USD") -> str:
    """A line of a statement."""
    return f"{attempt},{attempt.rpartition('-')[0]},{kind},{minor},{currency},txn,{rfc3339(at_ms)}"


def reconciliation(*lines: str, acquirer: str = "bank") -> Reconciliation:
    """Of a statement with these lines, of the acquirer `bank`."""
    return Reconciliation(read_statement(io.StringIO("\n".join([HEAD, *lines]))), acquirer)


def test_columns_may_stand_in_any_order_and_others_are_ignored() -> None:
    text = f"note,at,id,currency,amount_minor,kind,reference,attempt\nx,{MOMENT},t,USD,1,charge,r,a\n"
    assert read_statement(io.StringIO(text))["a"] == ("a", "r", "charge", 1, "USD", "t", NOW_MS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no column attempt, reference"),
        (HEAD.replace(",kind", ""), "has no column kind"),
        (f"{HEAD}\n{GOOD}\ngarbage", "line 3 of the statement cannot be read"),
        (f"{HEAD}\n\n{GOOD}\n\n{GOOD}x", "line 5 of the statement cannot be read"),
        (f"{HEAD}\n{GOOD.replace('7548', '75.48')}", "line 2 of the statement cannot be read"),
        (f"{HEAD}\n{GOOD.replace('Z', '')}", "line 2 of the statement cannot be read"),
        (f"{HEAD}\n{GOOD}\n{GOOD}", f"line 3 of the statement states {PAYMENT_ID}-a1 a second time"),
        (f"{HEAD}\n{'x' * 200_000}", "line 2 of the statement cannot be read"),
        ("x" * 200_000, "the statement cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_line(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_statement(io.StringIO(text))


def test_a_payment_that_a_scan_shows_twice_is_matched_once_and_missing_nowhere() -> None:
    """Redis may show a key twice while it resizes; that is no difference."""
    held = reconciliation(line(f"{PAYMENT_ID}-a1", NOW_MS + 15), line("later-a1", NOW_MS + 999))
    assert [*held.payment(SEEN), *held.payment(SEEN)] == []
    assert held.matched == 1
    assert [difference.attempt for difference in held.rest()] == ["later-a1"]


@pytest.mark.parametrize(
    ("first_ms", "last_ms", "missing"),
    [(0, 999, True), (11, 999, False), (0, 19, False), (500, 999, False), (-99, 5, False)],
    ids=["within", "began before", "ended after", "long before", "long after"],
)
def test_only_what_certainly_happened_in_the_statements_time_is_missing_there(
    first_ms: int, last_ms: int, missing: bool
) -> None:
    """Sent at +10, answered at +20: when the acquirer acted lies between, and a statement may begin or end there."""
    held = reconciliation(line("x-a1", NOW_MS + first_ms), line("y-a1", NOW_MS + last_ms))
    expected = Difference("missing_there", f"{PAYMENT_ID}-a1", PAYMENT_ID, "", "charge 7548 USD")
    assert list(held.payment(SEEN)) == ([expected] if missing else [])


def test_an_attempt_of_the_first_version_stands_for_the_whole_payment() -> None:
    """0.1.0 wrote no amount into attempts."""
    attempts = tuple(msgspec.structs.replace(attempt, minor=0) for attempt in SEEN.attempts)
    held = reconciliation(line(f"{PAYMENT_ID}-a1", NOW_MS + 15))
    assert list(held.payment(msgspec.structs.replace(SEEN, attempts=attempts))) == []
    assert held.matched == 1


def test_holds_and_their_release_and_other_acquirers_are_not_on_a_statement() -> None:
    around = (line("x-a1", NOW_MS), line("y-a1", NOW_MS + 999))
    for story in (_held(), a_story(Kind.VOID).answered(APPROVED, NOW_MS + 40)):
        assert list(reconciliation(*around).payment(story.payment)) == []
    assert list(reconciliation(*around, acquirer="another bank").payment(SEEN)) == []


@pytest.mark.parametrize(
    ("stated", "what"),
    [({"minor": 7547}, "different"), ({"kind": "capture"}, "different"), ({"currency": "EUR"}, "different")],
)
def test_amount_currency_and_kind_must_all_agree(stated: dict[str, str], what: str) -> None:
    held = reconciliation(line(f"{PAYMENT_ID}-a1", NOW_MS + 15, **stated))  # type: ignore[arg-type]
    assert [difference.what for difference in held.payment(SEEN)] == [what]
    assert (held.matched, list(held.rest())) == (0, [])


def _held() -> Story:
    return a_story(Kind.AUTHORIZE).answered(Approved("txn-1", UNTIL_MS), NOW_MS + 40)
