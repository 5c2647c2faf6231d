"""The rounds: each starts what it needs anew, warms it up, measures, and checks that the result is right."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import redis

from bench import processes
from bench.checking import Counts, check
from bench.engines import Engine, engine
from bench.loading import Load, Loader, Wrong
from bench.logins import logging_in
from bench.measuring import Others, Used, used

_WARM_UP_S = 1
_POLL_S = 0.02
_QUIET_S = 0.3
_DRAIN_S = 120.0


class Case(NamedTuple):
    """One thing to measure. `floor`: bare aiohttp; `accept`: the engine takes payments; `full`: it charges them too.

    Of the orders surface: `record`, `recorded` with the events told as well, and `read`. Of the vault
    surface: `vault`, checkouts paid, and `vault told`. Of the M-Pesa surface: `push`, phones asked.

    `notify`: the notification worker tells of events by log lines.
    `webhooks`: a thousand endpoints are told of events; then with one of them dead.
    `full watched`: with somebody at the console, and without.
    """

    name: str
    path: Literal[
        "floor", "accept", "full", "record", "recorded", "read", "vault", "vault told", "push", "notify",
        "webhooks", "webhooks, dead", "full watched"
    ]  # fmt: skip
    keyed: bool = False
    processes: int = 1
    logins: int = 0
    """People who log in meanwhile, a second."""


class Measured(msgspec.Struct, frozen=True):
    """One round. Times are microseconds of CPU a payment; `per_second` of the full path includes the drain.

    `foreign` is the share of the machine that programs outside of the benchmark took meanwhile.
    """

    case: str
    payments: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    redis_us: float
    upstreams_us: float
    rss_mib: float
    rss_peak_mib: float
    redis_bytes: float
    drain_s: float
    foreign: float
    logins: int = 0
    """People who were let in meanwhile."""
    worst_ms: float = 0.0
    """Of webhooks: the longest that one took to arrive."""


class Bench(NamedTuple):
    """What all rounds share."""

    folder: Path
    loader: Loader
    seconds: int
    kafka: str


def floor_round(bench: Bench, case: Case) -> Measured:
    """Measure bare aiohttp."""
    with processes.floor(bench.folder) as server:
        bench.loader.run(server.base, seconds=_WARM_UP_S, keyed=False)
        before, others = used(server.pid), Others(server.pid)
        load = bench.loader.run(server.base, seconds=bench.seconds, keyed=False)
        after, foreign = used(server.pid), others.share()
    return Measured(
        case.name, load.requests, load.requests_a_second, load.p50_us / 1e3, load.p99_us / 1e3,
        (after.cpu_s - before.cpu_s) * 1e6 / load.requests, 0, 0, after.rss_mib, after.rss_peak_mib, 0, 0, foreign,
    )  # fmt: skip


def engine_round(bench: Bench, case: Case) -> Measured:
    """Measure the engine. Raises `Wrong` when a payment is missing, or was charged or told twice."""
    with running(bench, case) as started:
        load_and_measure(bench, case, started, seconds=_WARM_UP_S)
        return load_and_measure(bench, case, started, seconds=bench.seconds)


@contextlib.contextmanager
def running(bench: Bench, case: Case) -> Iterator[Engine]:
    """An engine on an empty Redis, with its counterparties."""
    with (
        processes.redis_server(bench.folder) as store,
        processes.upstreams(bench.folder) as services,
        processes.upstreams(bench.folder) as acquirer,
        engine(
            bench.folder, store, services, acquirer,
            full=case.path == "full", processes_count=case.processes, kafka=bench.kafka,
        ) as started,
    ):  # fmt: skip
        yield started


class _Snapshot(NamedTuple):
    counts: Counts
    engine: Used
    redis: Used
    upstreams_s: float
    memory: int
    redis_pid: int


def load_and_measure(bench: Bench, case: Case, started: Engine, *, seconds: int) -> Measured:
    """Load a running engine for some seconds, wait until everything is settled, and check it."""
    full = case.path == "full"
    before = _snapshot(started)
    others = Others(started.server.pid, before.redis_pid, started.services.pid, started.acquirer.pid)
    began_at = time.monotonic()
    try:
        with logging_in(started.gateway, case.logins) as logins:
            load = bench.loader.run(started.server.base, seconds=seconds, keyed=case.keyed)
            loaded_at = time.monotonic()
            drained_at = drained(started.store) if full else loaded_at
    except Wrong as wrong:
        raise Wrong(f"{wrong}; the engine's last words:\n{started.server.last_words()}") from None
    foreign = others.share()
    if not full:
        time.sleep(_QUIET_S)  # wrk has hung up on requests that are still under way
    after = _snapshot(started)
    check(before.counts, after.counts, load, full=full)
    measured = _measured(
        case, load, before, after, took_s=drained_at - began_at, drain_s=drained_at - loaded_at, foreign=foreign
    )
    return msgspec.structs.replace(measured, logins=logins.done)


def _measured(
    case: Case, load: Load, before: _Snapshot, after: _Snapshot, *, took_s: float, drain_s: float, foreign: float
) -> Measured:
    full = case.path == "full"
    payments = after.counts.accepted - before.counts.accepted

    def each_us(seconds: float) -> float:
        return seconds * 1e6 / payments

    return Measured(
        case=case.name,
        payments=payments,
        per_second=payments / took_s if full else load.requests_a_second,
        p50_ms=load.p50_us / 1e3,
        p99_ms=load.p99_us / 1e3,
        cpu_us=each_us(after.engine.cpu_s - before.engine.cpu_s),
        redis_us=each_us(after.redis.cpu_s - before.redis.cpu_s),
        upstreams_us=each_us(after.upstreams_s - before.upstreams_s),
        rss_mib=after.engine.rss_mib,
        rss_peak_mib=after.engine.rss_peak_mib,
        # Not drained, the store holds jobs and sealed cards that will be gone.
        redis_bytes=(after.memory - before.memory) / payments if full else 0.0,
        drain_s=drain_s,
        foreign=foreign,
    )


def _snapshot(started: Engine) -> _Snapshot:
    facts = processes.info(started.store, "memory")
    # What connections and the append-only file's buffer take does not grow with the payments.
    memory = facts["used_memory"] - facts["mem_clients_normal"] - facts["mem_aof_buffer"]
    redis_pid = processes.info(started.store, "server")["process_id"]
    return _Snapshot(
        counts=started.counts(),
        engine=used(started.server.pid),
        redis=used(redis_pid),
        upstreams_s=used(started.services.pid).cpu_s + used(started.acquirer.pid).cpu_s,
        memory=memory,
        redis_pid=redis_pid,
    )


def drained(store: redis.Redis) -> float:
    """Wait until no job and no event waits, and stays so. Returns since when."""
    ends_at = time.monotonic() + _DRAIN_S
    since: float | None = None
    while (now := time.monotonic()) < ends_at:
        if _waiting(store):
            since = None
        elif since is None:
            since = now
        elif now - since > _QUIET_S:
            return since
        time.sleep(_POLL_S)
    raise TimeoutError(f"{_waiting(store)} jobs and events still wait after {_DRAIN_S:.0f} s")


def _waiting(store: redis.Redis) -> int:
    with store.pipeline(transaction=False) as pipeline:
        # Jobs first: a job that ends between the two looks leaves its event for the second.
        for stream in ("jobs", "outbox"):
            for shard in range(16):
                pipeline.xlen(f"{{p{shard:02x}}}:{stream}")
        return sum(pipeline.execute())
