"""The rounds of the orders surface: payments recorded, recorded and told, and read."""

from __future__ import annotations

from typing import Final

from bench import processes
from bench.engines import Engine, engine
from bench.loading import Wrong
from bench.rounds import Bench, Case, Measured
from bench.surface import booked, surface_round

_WARM_UP_S: Final = 1
_AMOUNT_MINOR: Final = 9999
_ACCOUNT: Final = "merchant:orders|USD"


def orders_round(bench: Bench, case: Case) -> Measured:
    """Measure the orders surface. Raises `Wrong` when a payment is missing, twice, or not booked."""
    port = processes.free_port()
    base = f"http://127.0.0.1:{port}"
    told = case.path == "recorded"
    with processes.redis_server(bench.folder) as store, processes.upstreams(bench.folder) as gateway:
        settings = {
            "PAYMENTS__ORDERS_API__ENABLED": "true",
            "PAYMENTS__ORDERS_API__PORT": str(port),
            "PAYMENTS__ORDERS_API__USERS_URL": gateway.base + "/internal/users/{id}",
            "PAYMENTS__ORDERS_API__ORDERS_URL": gateway.base + "/internal/orders/{id}",
            "PAYMENTS__REDIS__OUTBOX_MAX": "10000000",
        }
        with engine(
            bench.folder, store, gateway, gateway, full=told, processes_count=1, kafka=bench.kafka, more=settings
        ) as started:
            bench.loader.run_orders(base, seconds=_WARM_UP_S, read=0)
            if case.path == "read":
                # As many as every one of them has: the warm-up's last may still be under way.
                there = _recorded(started)
                return surface_round(
                    case, started, gateway,
                    lambda: bench.loader.run_orders(base, seconds=bench.seconds, read=there), None, told=False,
                )  # fmt: skip
            measured = surface_round(
                case, started, gateway,
                lambda: bench.loader.run_orders(base, seconds=bench.seconds, read=0), lambda: _recorded(started),
                told=told,
            )  # fmt: skip
            _check(started, told=told)
            return measured


def _check(started: Engine, *, told: bool) -> None:
    made = _recorded(started)
    numbers = int(started.store.get("payments:numbers:orders") or 0)
    if numbers != made:
        raise Wrong(f"{made} payments were made, but {numbers} numbers taken")
    if told and started.events is not None:
        counts = started.counts()
        if (counts.events, counts.events_distinct) != (numbers, numbers):
            raise Wrong(f"{numbers} payments were made, but {counts.events} events told")


def _recorded(started: Engine) -> int:
    return booked(started.store, _ACCOUNT, _AMOUNT_MINOR)
