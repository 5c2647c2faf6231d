"""The rounds of the orders surface: payments recorded, recorded and told, and read."""

from __future__ import annotations

import time
from typing import Final

import redis

from bench import processes
from bench.engines import Engine, engine
from bench.loading import CONNECTIONS, Load, Wrong
from bench.measuring import Others, Used, used
from bench.processes import info
from bench.rounds import Bench, Case, Measured, drained

_WARM_UP_S: Final = 1
_QUIET_S: Final = 0.3
_AMOUNT_MINOR: Final = 9999
_ACCOUNT: Final = "merchant:orders|USD"


def orders_round(bench: Bench, case: Case) -> Measured:
    """Measure the orders surface. Raises `Wrong` when a payment is missing, twice, or not booked."""
    port = processes.free_port()
    base = f"http://127.0.0.1:{port}"
    with processes.redis_server(bench.folder) as store, processes.upstreams(bench.folder) as gateway:
        settings = {
            "PAYMENTS__ORDERS_API__ENABLED": "true",
            "PAYMENTS__ORDERS_API__PORT": str(port),
            "PAYMENTS__ORDERS_API__USERS_URL": gateway.base + "/internal/users/{id}",
            "PAYMENTS__ORDERS_API__ORDERS_URL": gateway.base + "/internal/orders/{id}",
            "PAYMENTS__REDIS__OUTBOX_MAX": "10000000",
        }
        with engine(
            bench.folder, store, gateway, gateway,
            full=case.path == "recorded", processes_count=1, kafka=bench.kafka, more=settings,
        ) as started:  # fmt: skip
            bench.loader.run_orders(base, seconds=_WARM_UP_S, read=0)
            time.sleep(_QUIET_S)
            return _measure(bench, case, started, base)


def _measure(bench: Bench, case: Case, started: Engine, base: str) -> Measured:
    redis_pid = info(started.store, "server")["process_id"]
    if case.path == "recorded":
        drained(started.store)
    before, redis_before, gateway_before = used(started.server.pid), used(redis_pid), used(started.services.pid)
    there = _recorded(started.store)
    others, began_at = Others(started.server.pid, redis_pid, started.services.pid), time.monotonic()
    load = bench.loader.run_orders(base, seconds=bench.seconds, read=there if case.path == "read" else 0)
    loaded_at = time.monotonic()
    ended_at = drained(started.store) if case.path == "recorded" else loaded_at
    foreign = others.share()
    time.sleep(_QUIET_S)  # wrk has hung up on requests that are still under way
    requests = _checked(case, started, load, there)
    after = used(started.server.pid)

    def each_us(late: Used, early: Used) -> float:
        return (late.cpu_s - early.cpu_s) * 1e6 / requests

    return Measured(
        case=case.name,
        payments=requests,
        per_second=requests / (ended_at - began_at) if case.path == "recorded" else load.requests_a_second,
        p50_ms=load.p50_us / 1e3,
        p99_ms=load.p99_us / 1e3,
        cpu_us=each_us(after, before),
        redis_us=each_us(used(redis_pid), redis_before),
        upstreams_us=each_us(used(started.services.pid), gateway_before),
        rss_mib=after.rss_mib,
        rss_peak_mib=after.rss_peak_mib,
        redis_bytes=0.0,
        drain_s=ended_at - loaded_at,
        foreign=foreign,
    )


def _checked(case: Case, started: Engine, load: Load, there: int) -> int:
    """How many requests there were, when what was written says the same."""
    if case.path == "read":
        return load.requests
    made = _recorded(started.store) - there
    if not load.requests <= made <= load.requests + CONNECTIONS:
        raise Wrong(f"wrk saw {load.requests} payments made, the store {made}")
    numbers = int(started.store.get("payments:numbers:orders") or 0)
    if numbers != there + made:
        raise Wrong(f"{there + made} payments were made, but {numbers} numbers taken")
    if case.path == "recorded" and started.events is not None:
        counts = started.counts()
        if (counts.events, counts.events_distinct) != (numbers, numbers):
            raise Wrong(f"{numbers} payments were made, but {counts.events} events told")
    return made


def _recorded(store: redis.Redis) -> int:
    """How many payments are booked, by the balance of their account."""
    with store.pipeline(transaction=False) as pipeline:
        for shard in range(16):
            pipeline.hget(f"{{p{shard:02x}}}:balances", _ACCOUNT)
        return -sum(int(balance or 0) for balance in pipeline.execute()) // _AMOUNT_MINOR
