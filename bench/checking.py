"""Is the result right? A wrong result is not a fast one."""

from __future__ import annotations

from typing import NamedTuple

from bench.loading import CONNECTIONS, Load, Wrong
from bench.upstreams import TOTAL_MINOR


class Counts(NamedTuple):
    """What each side has counted since it was started. `events` is None where they go to Kafka."""

    accepted: int
    settled: int
    published: int
    booked_minor: int
    attempts: int
    attempts_twice: int
    questions: int
    events: int | None
    events_distinct: int | None


def check(before: Counts, after: Counts, load: Load, *, full: bool) -> None:
    """Raise `Wrong` unless every accepted payment was charged, booked and told exactly once."""
    accepted = after.accepted - before.accepted
    # wrk hangs up on the requests that are under way when its time is over; the engine finishes them.
    if not load.requests <= accepted <= load.requests + CONNECTIONS:
        raise Wrong(f"wrk saw {load.requests} payments accepted, the engine {accepted}")
    if after.attempts_twice:
        raise Wrong(f"{after.attempts_twice} attempts were sent twice")
    if not full:
        return
    told = {
        "settled": after.settled,
        "charged at the acquirer": after.attempts,
        "booked in the ledger": after.booked_minor / TOTAL_MINOR,
        "published": after.published,
    }
    if after.events is not None:
        told |= {"events in the file": after.events, "distinct events": after.events_distinct or 0}
    wrong = {name: count for name, count in told.items() if count != after.accepted}
    if wrong:
        raise Wrong(f"{after.accepted} payments were accepted, but: {wrong}")
