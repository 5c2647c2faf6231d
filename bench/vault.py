"""The rounds of the vault surface: checkouts paid with stored cards."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Final

import redis

from bench import processes
from bench.engines import Engine, engine, token
from bench.loading import CONNECTIONS, Load, Wrong
from bench.measuring import Others, Used, used
from bench.processes import info
from bench.rounds import Bench, Case, Measured, drained

_WARM_UP_S: Final = 1
_QUIET_S: Final = 0.3
_CARDS: Final = 256
_MONEY: Final = 9_000_000_000
_AMOUNT_MINOR: Final = 7548
_ACCOUNT: Final = "merchant:vault|USD"
_USER: Final = "user-1"


def vault_round(bench: Bench, case: Case) -> Measured:
    """Measure the vault surface. Raises `Wrong` when a payment is missing, twice, or not booked."""
    port = processes.free_port()
    base = f"http://127.0.0.1:{port}"
    with processes.redis_server(bench.folder) as store, processes.upstreams(bench.folder) as nobody:
        settings = {
            "PAYMENTS__VAULT__ENABLED": "true",
            "PAYMENTS__VAULT__PORT": str(port),
            "PAYMENTS__REDIS__OUTBOX_MAX": "10000000",
        }
        with engine(
            bench.folder, store, nobody, nobody,
            full=case.path == "vault told", processes_count=1, kafka=bench.kafka, more=settings,
        ) as started:  # fmt: skip
            cards = [_add_card(base, number) for number in range(_CARDS)]
            bench.loader.run_vault(base, cards, _USER, seconds=_WARM_UP_S)
            time.sleep(_QUIET_S)
            return _measure(bench, case, started, base, cards)


def _add_card(base: str, number: int) -> str:
    digits = f"4{number:014d}"
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if at % 2 == 0 else int(d) for at, d in enumerate(reversed(digits))]
    body = {
        "cardUserId": _USER, "cardHolderName": "Jo Doe", "cardNumber": f"{digits}{-sum(doubled) % 10}",
        "expireDate": "12/40", "cvv": "123", "money": _MONEY,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{base}/api/payment/add",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token()}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["card"]["id"])


def _measure(bench: Bench, case: Case, started: Engine, base: str, cards: list[str]) -> Measured:
    told = case.path == "vault told"
    redis_pid = info(started.store, "server")["process_id"]
    if told:
        drained(started.store)
    before, redis_before, there = used(started.server.pid), used(redis_pid), _paid(started.store)
    others, began_at = Others(started.server.pid, redis_pid), time.monotonic()
    load = bench.loader.run_vault(base, cards, _USER, seconds=bench.seconds)
    loaded_at = time.monotonic()
    ended_at = drained(started.store) if told else loaded_at
    foreign = others.share()
    time.sleep(_QUIET_S)  # wrk has hung up on requests that are still under way
    requests = _checked(load, _paid(started.store) - there)
    after = used(started.server.pid)

    def each_us(late: Used, early: Used) -> float:
        return (late.cpu_s - early.cpu_s) * 1e6 / requests

    return Measured(
        case=case.name,
        payments=requests,
        per_second=requests / (ended_at - began_at) if told else load.requests_a_second,
        p50_ms=load.p50_us / 1e3,
        p99_ms=load.p99_us / 1e3,
        cpu_us=each_us(after, before),
        redis_us=each_us(used(redis_pid), redis_before),
        upstreams_us=0.0,
        rss_mib=after.rss_mib,
        rss_peak_mib=after.rss_peak_mib,
        redis_bytes=0.0,
        drain_s=ended_at - loaded_at,
        foreign=foreign,
    )


def _checked(load: Load, made: int) -> int:
    if not load.requests <= made <= load.requests + CONNECTIONS:
        raise Wrong(f"wrk saw {load.requests} checkouts paid, the store {made}")
    return made


def _paid(store: redis.Redis) -> int:
    """How many payments are booked, by the balance of their account."""
    with store.pipeline(transaction=False) as pipeline:
        for shard in range(16):
            pipeline.hget(f"{{p{shard:02x}}}:balances", _ACCOUNT)
        return -sum(int(balance or 0) for balance in pipeline.execute()) // _AMOUNT_MINOR
