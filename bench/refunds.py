"""Refunds against payments: the same engine pays for some seconds and then gives a little back for as long."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from bench.engines import Engine
from bench.loading import CONNECTIONS, Wrong
from bench.processes import counter, fetch, stats
from bench.rounds import Bench, Case, drained, load_and_measure, running


class Rates(NamedTuple):
    """Settled and told a second, the drain included."""

    payments: float
    refunds: float


class _Counts(NamedTuple):
    accepted: int
    completed: int
    published: int
    attempts: int


def refund_round(bench: Bench) -> Rates:
    """Measure both. Raises `Wrong` when a refund is missing, or was sent or told twice."""
    case = Case("refund", "full")
    with running(bench, case) as started:
        load_and_measure(bench, case, started, seconds=1)
        payments = load_and_measure(bench, case, started, seconds=bench.seconds).per_second
        ids = _payments(started, bench.folder)
        before, began_at = _counts(started), time.monotonic()
        load = bench.loader.refund(started.server.base, ids, seconds=bench.seconds)
        took_s = drained(started.store) - began_at
        after = _counts(started)
    made = [now - then for now, then in zip(after, before, strict=True)]
    # wrk hangs up on the requests that are under way when its time is over; the engine finishes them.
    if len(set(made)) != 1 or not load.requests <= made[0] <= load.requests + CONNECTIONS:
        raise Wrong(f"wrk saw {load.requests} refunds accepted, the others: {_Counts(*made)}")
    return Rates(payments, made[0] / took_s)


def _payments(started: Engine, folder: Path) -> Path:
    ids = [name.rpartition(b":")[2] for name in started.store.scan_iter(match="{p*}:payment:*", count=10_000)]
    path = folder / "payments.txt"
    path.write_bytes(b"\n".join(ids) + b"\n")
    return path


def _counts(started: Engine) -> _Counts:
    page = fetch(started.server.base + "/metrics")
    acquirer = stats(started.acquirer)
    if acquirer.attempts_twice:
        raise Wrong(f"{acquirer.attempts_twice} attempts were sent twice")
    return _Counts(
        counter(page, "http_requests_total", route="/api/payments/{payment_id}/refund", status="201"),
        counter(page, "refunds_processed_total", status="completed"),
        counter(page, "events_published_total", event_type="payment_refunded"),
        acquirer.attempts,
    )
