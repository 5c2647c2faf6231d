"""One round of a surface: the load, what it used, and whether what was made is what was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import redis

from bench.engines import Engine
from bench.loading import CONNECTIONS, Load, Wrong
from bench.measuring import Others, Used, used
from bench.processes import Server, info
from bench.rounds import Case, Measured, drained

_QUIET_S: Final = 0.3


def surface_round(
    case: Case,
    started: Engine,
    asked: Server,
    load: Callable[[], Load],
    made: Callable[[], int] | None,
    *,
    told: bool,
) -> Measured:
    """Load a surface, and check it. Raises `Wrong` when more or less was made than was answered.

    `asked` is whom the engine asks meanwhile. `made` counts what there is by now; None: nothing is made. `told`: the
    rate includes the time until every event is told.
    """
    time.sleep(_QUIET_S)  # whoever warmed it up has hung up on requests that are still under way
    if told:
        drained(started.store)
    redis_pid = info(started.store, "server")["process_id"]
    there = made() if made else 0
    before, redis_before, asked_before = used(started.server.pid), used(redis_pid), used(asked.pid)
    others, began_at = Others(started.server.pid, redis_pid, asked.pid), time.monotonic()
    seen = load()
    loaded_at = time.monotonic()
    ended_at = drained(started.store) if told else loaded_at
    foreign = others.share()
    time.sleep(_QUIET_S)
    requests = made() - there if made else seen.requests
    if not seen.requests <= requests <= seen.requests + CONNECTIONS:
        raise Wrong(f"wrk saw {seen.requests} answers of {case.name}, but {requests} were made")
    after = used(started.server.pid)

    def each_us(late: Used, early: Used) -> float:
        return (late.cpu_s - early.cpu_s) * 1e6 / requests

    return Measured(
        case=case.name,
        payments=requests,
        per_second=requests / (ended_at - began_at) if told else seen.requests_a_second,
        p50_ms=seen.p50_us / 1e3,
        p99_ms=seen.p99_us / 1e3,
        cpu_us=each_us(after, before),
        redis_us=each_us(used(redis_pid), redis_before),
        upstreams_us=each_us(used(asked.pid), asked_before),
        rss_mib=after.rss_mib,
        rss_peak_mib=after.rss_peak_mib,
        redis_bytes=0.0,
        drain_s=ended_at - loaded_at,
        foreign=foreign,
    )


def booked(store: redis.Redis, account: str, amount_minor: int) -> int:
    """How many payments of one amount are booked, by the balance of their account."""
    with store.pipeline(transaction=False) as pipeline:
        for shard in range(16):
            pipeline.hget(f"{{p{shard:02x}}}:balances", account)
        return -sum(int(balance or 0) for balance in pipeline.execute()) // amount_minor
