"""Readiness: every required part, and no other."""

from __future__ import annotations

from app.readiness import OK, ReadinessBoard


def test_a_process_is_ready_when_every_required_part_is() -> None:
    board = ReadinessBoard(("store", "process"))
    assert not board.ready() and board.parts() == {"store": "starting", "process": "starting"}
    board.report("store")
    assert not board.ready()
    board.report("process")
    assert board.ready() and board.parts() == {"store": OK, "process": OK}


def test_a_part_that_falls_ill_says_why_and_takes_the_readiness_with_it() -> None:
    board = ReadinessBoard(("store",))
    board.report("store")
    board.report("store", "redis does not answer")
    assert not board.ready() and board.parts()["store"] == "redis does not answer"
    board.report("store")
    assert board.ready()


def test_a_part_that_is_not_required_is_shown_and_decides_nothing() -> None:
    """A counterparty that is down would take all replicas away at once."""
    board = ReadinessBoard(("store",))
    board.report("store")
    board.report("kafka", "no broker answers")
    assert board.ready() and board.parts()["kafka"] == "no broker answers"


def test_two_boards_know_nothing_of_each_other() -> None:
    one, other = ReadinessBoard(("store",)), ReadinessBoard(("store",))
    one.report("store")
    assert one.ready() and not other.ready()
