"""Histories against the topic: what is missing, what nobody has told, what is another event under the same id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.comparing import Comparison, Missing, Unknown, Unlike
from engine.events import OutgoingEvent


def event(number: int, payment: str = "pay-1", *, body: bytes = b"{}", **headers: str) -> OutgoingEvent:
    given = {"ce_id": f"{payment}-{number}", "ce_sequence": str(number), "ce_prevhash": "", "ce_type": "x", **headers}
    return OutgoingEvent("topic", payment, body, tuple(given.items()))


def compared(
    folder: Path, expected: Sequence[OutgoingEvent], records: Sequence[OutgoingEvent]
) -> tuple[Comparison, list[Missing | Unknown | Unlike]]:
    with Comparison(folder) as comparison:
        for each in expected:
            comparison.expect(each)
        for each in records:
            comparison.read(each)
        results = list(comparison.results())
    assert list(folder.iterdir()) == [], "nothing stays behind"
    return comparison, results


def test_the_same_in_any_order_and_however_often_is_no_difference(tmp_path: Path) -> None:
    told = [event(n, f"pay-{p}") for p in range(200) for n in (1, 2, 3)]
    comparison, results = compared(tmp_path, told + told[:5], list(reversed(told)) + told[:7])
    assert results == []
    assert (comparison.events, comparison.records) == (600, 607)
    assert (comparison.distinct, comparison.duplicates) == (600, 7)


def test_what_is_missing_and_what_nobody_has_told_is_named(tmp_path: Path) -> None:
    _, results = compared(tmp_path, [event(1), event(2)], [event(2), event(9)])
    assert {(type(each), each.event_id) for each in results} == {(Missing, "pay-1-1"), (Unknown, "pay-1-9")}


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (event(1, body=b"{ }"), ["body"]),
        (event(1, ce_sequence="2"), ["ce_sequence"]),
        (event(1, ce_prevhash="ab"), ["ce_prevhash"]),
        (event(1, ce_type="y"), ["other headers"]),
        (event(1)._replace(key="pay-2"), ["key"]),
        (event(1)._replace(headers=event(1).headers + event(1).headers[-1:]), ["other headers"]),
    ],
)
def test_another_event_under_the_same_id_says_what_differs(
    tmp_path: Path, other: OutgoingEvent, parts: list[str]
) -> None:
    """A copy that is right does not excuse one that is wrong."""
    comparison, results = compared(tmp_path, [event(1)], [event(1), other])
    assert results == [Unlike("pay-1-1", parts)] and comparison.duplicates == 0


def test_a_record_without_an_id_is_unknown(tmp_path: Path) -> None:
    _, results = compared(tmp_path, [], [OutgoingEvent("topic", "", b"\xff\n", ())])
    assert [type(each) for each in results] == [Unknown]
