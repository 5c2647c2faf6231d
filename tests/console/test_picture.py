"""What processes tell of themselves, and how it becomes one picture."""

from __future__ import annotations

import msgspec
import pytest

from app.activity import Activity
from engine.circuits import Action, CircuitOrder
from engine.facts import AttemptState
from engine.payment import Payment
from handlers.console.merging import picture
from handlers.console.snapshot import (
    OUTCOMES,
    RECENTS_MAX,
    SECONDS_MAX,
    CircuitTold,
    DepthTold,
    PaymentLine,
    Snapshot,
    decode,
    encode,
    payment_line,
)  # fmt: skip
from tests.store.making import NOW, accepted, completed, failed, left_open, sending

NOW_S = NOW // 1000


class Clock:
    """Seconds that move when told."""

    now_s = float(NOW_S)

    def __call__(self) -> float:
        return self.now_s


def snapshot(owner: str = "one", **fields: object) -> Snapshot:
    return msgspec.structs.replace(Snapshot(owner, "host", 1, ("http",), "0", NOW), **fields)


def test_counts_are_by_the_second_and_two_minutes_long() -> None:
    clock = Clock()
    activity = Activity(clock)
    for _ in range(3):
        activity.count("completed")
    activity.count("unknown")
    clock.now_s += 1
    activity.count("failed")
    assert activity.seconds() == [[NOW_S, 3, 0, 0, 0, 1], [NOW_S + 1, 0, 1, 0, 0, 0]]
    clock.now_s += SECONDS_MAX
    assert activity.seconds() == [[NOW_S + 1, 0, 1, 0, 0, 0]]
    for _ in range(SECONDS_MAX * 2):
        clock.now_s += 1
        activity.count("failed")
    assert len(activity.seconds()) == SECONDS_MAX


def test_the_payments_are_the_latest_each_as_it_stands() -> None:
    activity = Activity()
    payments = [accepted(f"ord-{number}", at_ms=NOW + number) for number in range(RECENTS_MAX + 5)]
    for payment in payments:
        activity.seen(payment)
        activity.seen(completed(sending(payment)).payment)
    activity.seen(payments[-2])  # an older word that comes late
    lines = activity.recents()
    assert len(lines) == RECENTS_MAX
    assert {line.status for line in lines} == {"completed"}
    assert {line.id for line in lines} == {payment.id for payment in payments[5:]}


@pytest.mark.parametrize(
    ("payment", "status", "outcome", "failure"),
    [
        (accepted(), "processing", "none", ""),
        (completed(sending(accepted())).payment, "completed", "succeeded", ""),
        (failed(sending(accepted())).payment, "failed", "failed", "PAY_002"),
        (left_open(sending(accepted()), AttemptState.UNKNOWN).payment, "processing", "unknown", ""),
    ],
)
def test_a_line_shows_where_a_payment_stands(payment: Payment, status: str, outcome: str, failure: str) -> None:
    line = payment_line(payment)
    assert (line.status, line.outcome, line.failure) == (status, outcome, failure)
    assert (line.amount, line.currency, line.brand, line.last4) == ("75.48", "USD", "visa", "4242")
    assert line.acquirer == ("card" if payment.attempts else "")


def test_what_one_process_counts_is_added_to_what_the_others_do() -> None:
    last = NOW_S - 2
    rows = [[NOW_S - 500, 9, 9, 9, 9, 9], [last - 1, 1, 0, 0, 0, 0], [last, 2, 1, 0, 0, 0], [NOW_S, 9, 9, 9, 9, 9]]
    merged = picture([snapshot("a", seconds=rows), snapshot("b", seconds=rows)], {}, (), (), now_ms=NOW)
    assert (len(merged.seconds), merged.outcomes) == (SECONDS_MAX, OUTCOMES)
    assert merged.seconds[-2:] == [[2, 0, 0, 0, 0], [4, 2, 0, 0, 0]]
    assert sum(map(sum, merged.seconds)) == 8, "what is too old, and the second that has not ended, is left out"


def test_a_circuit_shows_its_worst_state_and_the_rates_of_all_calls() -> None:
    good = CircuitTold("closed", window_calls=30, window_failure_rate=0.1)
    bad = CircuitTold("open", failure_count=5, retry_at_ms=NOW + 3000, window_calls=10, window_failure_rate=0.9)
    held = CircuitOrder(counterparty="shop", action=Action.FORCE_OPEN, actor="ada", reason="tests", at_ms=NOW)
    told = [snapshot("a", circuits={"bank": good}), snapshot("b", circuits={"bank": bad})]
    bank, mine, shop = picture(told, {"shop": held}, [held], ("bank", "shop", "mine"), now_ms=NOW).circuits
    assert (bank.state, bank.states, bank.failure_count, bank.window_calls) == ("open", {"closed": 1, "open": 1}, 5, 40)
    assert bank.window_failure_rate == pytest.approx(0.3)
    assert bank.retry_at_ms == NOW + 3000
    assert (mine.state, mine.states) == ("closed", {})
    assert shop.held is not None
    assert (shop.held.actor, shop.held.action) == ("ada", Action.FORCE_OPEN)


def test_the_newest_word_on_a_payment_wins_whoever_says_it() -> None:
    old = payment_line(accepted())
    new = msgspec.structs.replace(old, status="completed", version=3, changed_ms=old.changed_ms + 5)
    other = msgspec.structs.replace(old, id="pay-other", changed_ms=old.changed_ms + 9)
    for told in ([snapshot("a", recents=[old]), snapshot("b", recents=[new, other])],
                 [snapshot("a", recents=[new, other]), snapshot("b", recents=[old])]):  # fmt: skip
        assert picture(told, {}, (), (), now_ms=NOW).recents == [other, new]
    many = [msgspec.structs.replace(old, id=f"pay-{number}") for number in range(RECENTS_MAX + 9)]
    assert len(picture([snapshot(recents=many)], {}, (), (), now_ms=NOW).recents) == RECENTS_MAX


def test_what_another_version_tells_does_not_stop_anybody() -> None:
    told = snapshot(depths={"jobs": DepthTold(1, NOW)}, recents=[payment_line(accepted())])
    assert decode(encode(told)) == told
    assert decode(b'{"owner": "x", "all": "else is new"}') is None
    assert decode(b"rubbish") is None
    newer = {**msgspec.to_builtins(told), "new_in_a_later_version": {"a": 1}}
    assert decode(msgspec.json.encode(newer)) == told


def test_a_snapshot_is_small() -> None:
    """It is written every second by every process."""
    lines = [payment_line(completed(sending(accepted(f"order-{number:032}"))).payment) for number in range(RECENTS_MAX)]
    rows = [[NOW_S + number, 1000, 100, 10, 10, 1] for number in range(SECONDS_MAX)]
    circuits = {f"counterparty-{number}": CircuitTold("closed") for number in range(10)}
    assert len(encode(snapshot(recents=lines, seconds=rows, circuits=circuits))) < 32_000
    assert PaymentLine.__struct_config__.omit_defaults
